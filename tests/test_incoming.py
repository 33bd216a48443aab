"""What the viewer's server takes from a page."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from typing import Any

import hypothesis.strategies as st
import msgspec
import pytest
import viser
from hypothesis import HealthCheck, given, settings
from viser import _messages as messages
from websockets.exceptions import ConnectionClosed
from websockets.sync.connection import Connection

from page_client import CAMERA, connect, enter, get, send, settled
from recon.viewer import channel
from recon.viewer.guard import open_server
from recon.viewer.incoming import KINDS, can_be, read
from serving import wait_until


@pytest.fixture(scope="module")
def server() -> Iterator[viser.ViserServer]:
    opened = open_server("127.0.0.1", 0, most_upload=1000)
    yield opened
    opened.stop()


def upload(connection: Connection, button: str, name: str = "a.ply", size: int = 6, parts: int = 2) -> None:
    send(
        connection,
        type="FileTransferStartUpload",
        source_component_uuid=button,
        transfer_uuid=f"{name}-{size}",
        filename=name,
        mime_type="",
        part_count=parts,
        size_bytes=size,
    )


def part(connection: Connection, button: str, transfer: str, index: int, content: bytes) -> None:
    send(
        connection,
        type="FileTransferPart",
        source_component_uuid=button,
        transfer_uuid=transfer,
        part_index=index,
        content=content,
    )


def test_files_are_taken_whole_and_only_where_they_are_asked_for(server: viser.ViserServer) -> None:
    button = server.gui.add_upload_button("Open file")
    text = server.gui.add_text("Name", "")
    uuid = button._impl.uuid
    waiting = server.gui._current_file_upload_states
    with connect(server) as connection:
        client = enter(server, connection)
        upload(connection, uuid)
        part(connection, uuid, "a.ply-6", 0, b"abc")
        part(connection, uuid, "a.ply-6", 1, b"def")
        wait_until(lambda: button.value.content == b"abcdef")

        own = client.gui.add_upload_button("Open file")  # of this browser alone
        with connect(server) as other:
            enter(server, other)
            upload(other, own._impl.uuid)
            settled(server, other)
            assert client.gui._current_file_upload_states == {}
            upload(other, uuid, size=600)
            upload(connection, uuid, size=401)  # together more than the most
            settled(server, connection)
            assert [state["total_bytes"] for state in waiting.values()] == [600]
        wait_until(lambda: waiting == {})
        upload(connection, own._impl.uuid, parts=1)
        part(connection, own._impl.uuid, "a.ply-6", 0, b"ghijkl")
        wait_until(lambda: own.value.content == b"ghijkl")

        for bad in ({"button": text._impl.uuid}, {"button": "no-such"}, {"size": 1001}, {"size": -1}, {"parts": 7}):
            upload(connection, **{"button": uuid, "name": "bad"} | bad)
        upload(connection, uuid, "bad", parts=0)
        settled(server, connection)
        assert waiting == {}
        part(connection, uuid, "bad-6", 0, b"abcdef")
        settled(server, connection)
        assert waiting == {}
        assert button.value.name == "a.ply"
    button.remove()
    text.remove()


@pytest.mark.parametrize(
    "sent",
    [
        [(0, b"abcdefg")],  # more than announced
        [(0, b"abc"), (0, b"def")],  # one part twice
        [(2, b"abc")],  # a part that was not announced
        [(0, b"abcdef")],  # all in the first of two parts
        [(0, b"abc"), (1, b"de")],  # less than announced
    ],
)
def test_nothing_is_kept_of_a_file_that_is_not_what_was_announced(
    server: viser.ViserServer, sent: list[tuple[int, bytes]]
) -> None:
    button = server.gui.add_upload_button("Open file")
    uuid = button._impl.uuid
    with connect(server) as connection:
        enter(server, connection)
        upload(connection, uuid)
        settled(server, connection)
        assert len(server.gui._current_file_upload_states) == 1
        for index, content in sent:
            part(connection, uuid, "a.ply-6", index, content)
        settled(server, connection)
        assert server.gui._current_file_upload_states == {}
        assert button.value.name == ""
    button.remove()


def test_what_a_page_leaves_half_sent_is_forgotten(server: viser.ViserServer) -> None:
    button = server.gui.add_upload_button("Open file")
    with connect(server) as connection:
        enter(server, connection)
        upload(connection, button._impl.uuid)
        settled(server, connection)
        assert len(server.gui._current_file_upload_states) == 1
    wait_until(lambda: server.gui._current_file_upload_states == {})
    button.remove()


def test_a_page_sets_values_and_nothing_else(server: viser.ViserServer) -> None:
    number = server.gui.add_number("Number", 1.0)
    with connect(server) as connection:
        enter(server, connection)
        for updates in ({"update_cb": 3}, {"value": 2.0, "removed": True}, {"value": float("nan")}, {}):
            send(connection, type="GuiUpdateMessage", uuid=number._impl.uuid, updates=updates)
        settled(server, connection)
        assert number.value == 1.0
        assert number._impl.update_cb == []
        send(connection, type="GuiUpdateMessage", uuid=number._impl.uuid, updates={"value": 3})
        wait_until(lambda: number.value == 3.0)
    number.remove()


def test_elements_take_what_a_user_could_give_them(server: viser.ViserServer) -> None:
    gui = server.gui
    cases: list[tuple[Any, list[Any], list[Any]]] = [
        (gui.add_slider("S", 0.0, 1.0, 0.1, 0.5), [0, 0.3, 1, 1 + 1e-9], [-0.1, 1.1, "0.5", True, None, [0.5]]),
        (gui.add_number("N", 3, min=0), [0, 10**6], [-1, "3", None]),
        (gui.add_multi_slider("M", 0, 10, 1, (2, 5)), [[0, 10]], [[0], [0, 11], [0, "1"], 3, "25"]),
        (gui.add_vector3("V", (0.0, 0.0, 0.0), min=(0.0, 0.0, -1.0)), [[1, 2.5, -1]], [[-1, 0, 0], [0, 0, 0, 0]]),
        (gui.add_rgb("C", (1, 2, 3)), [[255, 0, 9]], [[1, 2], "#fff"]),
        (gui.add_checkbox("B", False), [True, False], [1, "yes", None]),
        (gui.add_dropdown("D", ("one", "two")), ["two"], ["three", None, 0]),
        (gui.add_button_group("G", ("one", "two")), ["one"], ["three"]),
        (gui.add_text("T", ""), ["", "hello"], [3, None, "x" * 1_000_000]),
        (gui.add_button("P"), [True], ["yes", 1]),
        (gui.add_upload_button("U"), [], [True, {}, "a"]),
        (gui.add_progress_bar(50.0), [], [10.0]),
        (gui.add_slider("Off", 0.0, 1.0, 0.1, 0.5, disabled=True), [], [0.5]),
    ]
    for handle, good, bad in cases:
        assert [can_be(handle, value) for value in good] == [True] * len(good), type(handle)
        assert [can_be(handle, value) for value in bad] == [False] * len(bad), type(handle)
        handle.remove()


@pytest.mark.parametrize(
    "changed",
    [
        {"fov": 0.0},
        {"fov": "wide"},
        {"image_width": 10**6},
        {"image_height": 0},
        {"position": (0.0, float("inf"), 0.0)},
        {"position": (0.0, 0.0)},
        {"wxyz": (0.0, 0.0, 0.0, 0.0)},
        {"near": 0.0},
        {"type": "SetCameraFovMessage"},
        {"type": 3},
    ],
)
def test_a_camera_that_cannot_be_is_no_camera(changed: dict[str, Any]) -> None:
    assert isinstance(read(msgspec.msgpack.encode(CAMERA)), messages.ViewerCameraMessage)
    assert read(msgspec.msgpack.encode(CAMERA | changed)) is None


FIELDS = sorted({field for kind in KINDS.values() for field in kind.__dataclass_fields__})  # type: ignore[attr-defined]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text(max_size=5) | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
MESSAGES = st.builds(
    lambda kind, fields: msgspec.msgpack.encode({"type": kind} | fields),
    st.sampled_from([*KINDS, "ShareUrlRequest", "RunJavascriptMessage", ""]),
    st.dictionaries(st.sampled_from(FIELDS), VALUES),
)
NESTED = st.integers(100, 100_000).map(lambda depth: b"\x91" * depth + b"\xc0")


@given(st.lists(st.binary() | st.text() | MESSAGES | NESTED, min_size=20, max_size=20))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_nothing_that_is_sent_ends_the_server_or_reaches_the_terminal(
    server: viser.ViserServer, capfd: Any, caplog: pytest.LogCaptureFixture, sent: list[bytes | str]
) -> None:
    with connect(server) as connection:
        client = enter(server, connection)
        for message in sent:
            connection.send(message)
        # Well-formed, but there is nothing of that name to drag: viser stumbles.
        send(connection, type="TransformControlsUpdateMessage", name="/none", wxyz=(1, 0, 0, 0), position=(0, 0, 0))
        settled(server, connection)
        assert client.client_id in server.get_clients()
    assert get(server).status == 200
    gc.collect()  # asyncio complains of tasks that failed once nothing refers to them
    assert capfd.readouterr() == ("", "")
    # But for pytest, what other loggers are told would be on the terminal.
    assert {record.name for record in caplog.records} <= {"recon.viewer.connections"}


def test_a_message_too_large_ends_that_connection_alone(server: viser.ViserServer, capfd: Any) -> None:
    with connect(server) as other:
        client = enter(server, other)
        with connect(server) as connection:
            huge = enter(server, connection)
            with contextlib.suppress(ConnectionClosed):  # it may be before all is sent
                connection.send(bytes(60_000_000))
            wait_until(lambda: huge.client_id not in server.get_clients())
        settled(server, other)
        assert client.client_id in server.get_clients()
    assert capfd.readouterr() == ("", "")


HELLO = {"renderer": "X", "software": True, "touch": False, "width": 10, "height": 10.5, "pixel_ratio": 1}
STROKE = {"points": [[1, 2.5], [-3, 4]], "width": 10, "height": 10}


@pytest.mark.parametrize(
    ("name", "values", "good"),
    [
        ("hello", HELLO, True),
        ("hello", HELLO | {"software": "yes"}, False),
        ("hello", HELLO | {"width": -1}, False),
        ("hello", {}, False),
        ("shown", {"number": 1, "ms": 12.5}, True),
        ("shown", {"number": 0, "ms": 12.5}, False),
        ("brush", STROKE, True),
        ("brush", STROKE | {"points": []}, True),
        ("brush", STROKE | {"points": [[1, 2, 3]]}, False),
        ("brush", STROKE | {"points": [[1, 2]] * 20_001}, False),
        ("brush", STROKE | {"points": [[1, float("nan")]]}, False),
        ("key", {"key": "Delete"}, True),
        ("key", {"key": "x" * 41}, False),
        ("navigation", {"mode": "first-person", "speed": 0.5}, True),
        ("navigation", {"mode": "drunk", "speed": 0.5}, False),
        ("navigation", {"mode": "orbit", "speed": 0}, False),
        ("else", {}, False),
    ],
)
def test_what_our_script_says_is_heard_if_it_makes_sense(
    server: viser.ViserServer, name: str, values: dict[str, Any], good: bool
) -> None:
    heard: list[tuple[int, dict[str, Any]]] = []
    if name in channel.SHAPES:
        channel.listen(server, name, lambda client, values: heard.append((client, values)))
    with connect(server) as connection:
        client = enter(server, connection)
        send(connection, type="PageMessage", name=name, values=values)
        settled(server, connection)
        assert heard == ([(client.client_id, values)] if good else [])


def test_nobody_listens_for_what_is_never_said(server: viser.ViserServer) -> None:
    with pytest.raises(ValueError, match="gossip"):
        channel.listen(server, "gossip", lambda client, values: None)
