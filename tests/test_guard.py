"""What the viewer's server gives to whom."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator
from typing import Any

import pytest
import viser
from viser import _messages as messages
from websockets.exceptions import ConnectionClosed, InvalidStatus

from page_client import connect, enter, get, send, settled
from recon.datasets.errors import InputError
from recon.viewer import guard
from recon.viewer.guard import open_server
from serving import PATIENCE, wait_until

TOKEN = "a-secret"


@pytest.fixture(scope="module")
def server() -> Iterator[viser.ViserServer]:
    opened = open_server("127.0.0.1", 0, label="A <scene>")
    yield opened
    opened.stop()


@pytest.fixture(scope="module")
def closed() -> Iterator[viser.ViserServer]:
    opened = open_server("127.0.0.1", 0, token=TOKEN)
    yield opened
    opened.stop()


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
    "path",
    ["/etc/passwd", "/../../../../etc/passwd", "/%2e%2e/_viser.py", "/index.html/..", "//", "/favicon.ico"],
)
def test_there_is_nothing_but_the_page(server: viser.ViserServer, path: str) -> None:
    assert get(server, path).status == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_nothing_can_be_done_but_getting(server: viser.ViserServer, method: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.get_port(), timeout=PATIENCE)
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


@pytest.mark.parametrize("origin", [None, "http://example.org", "http://localhost:1", "http://127.0.0.1", "null"])
def test_pages_of_others_cannot_connect(server: viser.ViserServer, origin: str | None) -> None:
    with pytest.raises(InvalidStatus, match="403"):
        connect(server, origin=origin)


def test_our_page_connects_and_is_a_client(server: viser.ViserServer) -> None:
    with connect(server) as connection:
        client = enter(server, connection)
        assert client.camera.image_width == 30
    wait_until(lambda: client.client_id not in server.get_clients())


def test_a_page_of_another_version_is_sent_away(server: viser.ViserServer, capfd: Any) -> None:
    with connect(server, subprotocols=["viser-v0.1"]) as connection, pytest.raises(ConnectionClosed) as closing:
        connection.recv(timeout=PATIENCE)
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


def test_a_token_is_what_a_cookie_can_hold() -> None:
    with pytest.raises(ValueError, match="letters"):
        open_server("127.0.0.1", 0, token="a; Path=/")


def test_a_port_that_is_taken_leads_to_the_next(server: viser.ViserServer) -> None:
    other = open_server("127.0.0.1", server.get_port())
    assert server.get_port() < other.get_port() <= server.get_port() + guard.PORTS
    assert get(other).status == 200
    other.stop()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", other.get_port()), timeout=PATIENCE).close()


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

    def let_in() -> bool:
        try:
            connect(server).close()
        except InvalidStatus:
            return False
        return True

    wait_until(let_in, "let in once others have left")
