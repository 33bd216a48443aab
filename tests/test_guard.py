"""What the viewer's server gives to whom, and what it takes."""

from __future__ import annotations

import contextlib
import gc
import http.client
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis.strategies as st
import msgspec
import pytest
import viser
import websockets.sync.client
from hypothesis import HealthCheck, given, settings
from viser import _messages as messages
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.connection import Connection

from recon.datasets.errors import InputError
from recon.viewer import channel, guard
from recon.viewer.guard import open_server
from recon.viewer.incoming import KINDS, read, safe_name

TOKEN = "a-secret"
CAMERA = {
    "type": "ViewerCameraMessage",
    "wxyz": (1.0, 0.0, 0.0, 0.0),
    "position": (0.0, 0.0, 0.0),
    "fov": 1.0,
    "near": 0.1,
    "far": 100,
    "image_height": 20,
    "image_width": 30,
    "look_at": (0.0, 0.0, 1.0),
    "up_direction": (0.0, -1.0, 0.0),
}


@pytest.fixture(scope="module")
def server() -> Iterator[viser.ViserServer]:
    opened = open_server("127.0.0.1", 0, label="A <scene>", most_upload=1000)
    yield opened
    opened.stop()


@pytest.fixture(scope="module")
def closed() -> Iterator[viser.ViserServer]:
    opened = open_server("127.0.0.1", 0, token=TOKEN)
    yield opened
    opened.stop()


def get(server: viser.ViserServer, path: str = "/", **headers: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", server.get_port(), timeout=10)
    connection.request("GET", path, headers=headers)
    return connection.getresponse()


def connect(server: viser.ViserServer, path: str = "/", host: str | None = None, **options: Any) -> Connection:
    host = host or f"127.0.0.1:{server.get_port()}"
    usual = {"origin": f"http://{host}", "subprotocols": [f"viser-v{viser.__version__}"]}
    to = socket.create_connection(("127.0.0.1", server.get_port()), timeout=10)
    return websockets.sync.client.connect(f"ws://{host}{path}", sock=to, **{**usual, **options})


def send(connection: Connection, **message: Any) -> None:
    connection.send(msgspec.msgpack.encode(message))


def enter(server: viser.ViserServer, connection: Connection) -> viser.ClientHandle:
    """Send a camera, as viser's page does at first; the client that it makes."""
    before = set(server.get_clients())
    send(connection, **CAMERA)
    eventually(lambda: len(server.get_clients()) > len(before))
    return server.get_clients()[max(server.get_clients())]


def eventually(true: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline, "did not happen"
        time.sleep(0.01)


def settled(server: viser.ViserServer, connection: Connection) -> None:
    """Wait until all that was sent has been dealt with: a camera that comes after it has arrived."""
    send(connection, **CAMERA | {"fov": 1.25})
    eventually(lambda: any(client.camera.fov == 1.25 for client in server.get_clients().values()))
    send(connection, **CAMERA)
    eventually(lambda: all(client.camera.fov == 1.0 for client in server.get_clients().values()))


def test_the_page_is_one_file_with_our_script_before_visers(server: viser.ViserServer) -> None:
    answer = get(server)
    page = answer.read().decode()
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "<title>A &lt;scene&gt;</title>" in page
    assert page.index("window.recon = {") < page.index("data-p=")
    assert page.index("<script") < page.index("window.recon")
    assert "<script src" not in page
    assert get(server, **{"Accept-Encoding": "gzip"}).headers["Content-Encoding"] == "gzip"


def test_a_browser_is_told_to_be_careful(server: viser.ViserServer) -> None:
    headers = get(server).headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    policy = dict(part.strip().partition(" ")[::2] for part in headers["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["frame-ancestors"] == "'self'"
    assert "http" not in policy["connect-src"]


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "/../../../../etc/passwd", "/%2e%2e/_viser.py", "/index.html/..", "//", "/favicon.ico"]
)
def test_there_is_nothing_but_the_page(server: viser.ViserServer, path: str) -> None:
    assert get(server, path).status == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_nothing_can_be_done_but_getting(server: viser.ViserServer, method: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.get_port(), timeout=10)
    try:
        connection.request(method, "/")
        assert connection.getresponse().status >= 400
    except (http.client.HTTPException, OSError):
        pass  # hung up at once
    assert get(server).status == 200


@pytest.mark.parametrize("host", ["localhost", "localhost:9000", "127.0.0.1", "[::1]:8080", "LOCALHOST"])
def test_the_page_is_given_under_names_of_this_machine(server: viser.ViserServer, host: str) -> None:
    assert get(server, Host=host).status == 200


@pytest.mark.parametrize("host", ["example.org", "127.0.0.1.example.org", "localhost.example.org:80", "10.0.0.1"])
def test_a_name_of_others_that_leads_here_gets_nothing(server: viser.ViserServer, host: str) -> None:
    """DNS rebinding: a page of another site whose name comes to mean this machine."""
    assert get(server, Host=host).status == 403
    with pytest.raises(InvalidStatus, match="403"):
        connect(server, host=host)


@pytest.mark.parametrize("host", ["", "a b", "[", "a;b", "x/y"])
def test_a_host_that_is_none_is_refused(server: viser.ViserServer, host: str) -> None:
    assert get(server, Host=host).status in (400, 403)


@pytest.mark.parametrize("origin", [None, "null", "http://example.org", "http://localhost:1", "http://127.0.0.1"])
def test_pages_of_others_cannot_connect(server: viser.ViserServer, origin: str | None) -> None:
    with pytest.raises(InvalidStatus, match="403"):
        connect(server, origin=origin)


def test_our_page_connects_and_is_a_client(server: viser.ViserServer) -> None:
    with connect(server) as connection:
        client = enter(server, connection)
        assert client.camera.image_width == 30
    eventually(lambda: client.client_id not in server.get_clients())


def test_a_page_of_another_version_is_sent_away(server: viser.ViserServer, capfd: Any) -> None:
    with connect(server, subprotocols=["viser-v0.1"]) as connection, pytest.raises(ConnectionClosed) as closing:
        connection.recv(timeout=10)
    assert closing.value.rcvd is not None
    assert closing.value.rcvd.code == 1002  # what viser's page takes for that
    assert capfd.readouterr() == ("", "")


def test_without_the_token_nothing_is_given(closed: viser.ViserServer) -> None:
    for path in ("/", "/?token=", "/?token=a-secreT", "/?other=a-secret", "/a-secret", "/?token=%ff"):
        answer = get(closed, path)
        assert answer.status == 403
        assert answer.read().count(b"\n") == 1
        assert "Set-Cookie" not in answer.headers
    with pytest.raises(InvalidStatus, match="403"):
        connect(closed)
    with pytest.raises(InvalidStatus, match="403"):
        connect(closed, additional_headers={"Cookie": f"recon-{closed.get_port()}=wrong"})


def test_with_the_token_come_page_cookie_and_connection(closed: viser.ViserServer) -> None:
    answer = get(closed, f"/?token={TOKEN}")
    assert answer.status == 200
    name_and_value, *rules = [part.strip() for part in answer.headers["Set-Cookie"].split(";")]
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} == set(rules)
    assert get(closed, Cookie=f"other=1; {name_and_value}").status == 200
    with connect(closed, additional_headers={"Cookie": name_and_value}) as connection:
        enter(closed, connection)
    with connect(closed, f"/?token={TOKEN}") as connection:
        enter(closed, connection)


def test_with_a_token_any_name_will_do_but_the_origin_must_still_match(closed: viser.ViserServer) -> None:
    assert get(closed, f"/?token={TOKEN}", Host="my-machine:8080").status == 200
    path = f"/?token={TOKEN}"
    connect(closed, path, host="my-machine:1").close()
    with pytest.raises(InvalidStatus, match="403"):
        connect(closed, path, origin="http://example.org")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.1", "example.org"])
def test_what_others_can_reach_needs_a_token(host: str) -> None:
    with pytest.raises(ValueError, match="token"):
        open_server(host, 0)


def test_a_port_that_is_taken_leads_to_the_next(server: viser.ViserServer) -> None:
    other = open_server("127.0.0.1", server.get_port())
    assert server.get_port() < other.get_port() <= server.get_port() + guard.PORTS
    assert get(other).status == 200
    other.stop()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", other.get_port()), timeout=1).close()


def test_an_address_that_is_not_ours_is_wrong_input() -> None:
    with pytest.raises(InputError, match=r"192\.0\.2\.1"):
        open_server("192.0.2.1", 8080, token=TOKEN)
    with pytest.raises(InputError, match="no address of this machine"):
        open_server("no-such-host.invalid", 8080, token=TOKEN)


def test_nothing_is_said_on_the_terminal(capfd: Any) -> None:
    opened = open_server("127.0.0.1", 0)
    with connect(opened) as connection:
        enter(opened, connection)
    opened.stop()
    assert capfd.readouterr() == ("", "")


def test_a_page_cannot_open_a_tunnel_to_the_world(server: viser.ViserServer) -> None:
    with connect(server) as connection:
        client = enter(server, connection)
        send(connection, type="ShareUrlRequest")
        send(connection, type="ShareUrlDisconnect")
        settled(server, connection)
        assert server._share_tunnel is None
        # Nor would it where the message came through.
        assert messages.ShareUrlRequest not in server._websock_server._incoming_handlers
        assert client.client_id in server.get_clients()


def test_only_so_many_pages_are_served(server: viser.ViserServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "CONNECTIONS", 2)
    with connect(server) as first, connect(server) as second:
        enter(server, first)
        enter(server, second)
        with pytest.raises(InvalidStatus, match="503"):
            connect(server)
    eventually(lambda: not server.get_clients())
    connect(server).close()


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
        enter(server, connection)
        upload(connection, uuid)
        part(connection, uuid, "a.ply-6", 0, b"abc")
        part(connection, uuid, "a.ply-6", 1, b"def")
        eventually(lambda: button.value.content == b"abcdef")

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
    eventually(lambda: server.gui._current_file_upload_states == {})
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
        eventually(lambda: number.value == 3.0)
    number.remove()


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
    number = server.gui.add_number("Number", 1.0)
    with connect(server) as connection:
        client = enter(server, connection)
        for message in sent:
            connection.send(message)
        # Well-formed, but the button cannot have this value: viser stumbles.
        send(connection, type="GuiUpdateMessage", uuid=number._impl.uuid, updates={"value": "no number"})
        settled(server, connection)
        assert client.client_id in server.get_clients()
    number.remove()
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
            eventually(lambda: huge.client_id not in server.get_clients())
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
        ("mode", {"mode": "first-person"}, True),
        ("mode", {"mode": "drunk"}, False),
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


@given(st.text())
def test_a_name_from_a_page_is_no_path(name: str) -> None:
    safe = safe_name(name)
    assert 0 < len(safe) <= 100
    assert not set(safe) & set("/\\:\0 ")
    assert safe.strip(".") == safe
    assert safe_name(safe) == safe


def test_good_names_stay() -> None:
    assert safe_name("garden-30k_v2.ply") == "garden-30k_v2.ply"
    assert safe_name("C:\\scenes\\my room.spz") == "my_room.spz"
    assert safe_name("/..", "scene") == "scene"
