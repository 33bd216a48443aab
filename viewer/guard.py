"""A viser server that only its own page, opened by who may, can talk to.

viser answers anyone who reaches its port: pages of other sites (which a browser lets open websockets to this machine),
names that lead here by a trick of DNS, and whoever shares the network. `open_server` puts a guard before it: the Host
must be ours, the Origin of a websocket must be the page that we gave out, and where a token is asked for, nothing is
given out without. What pages send is checked in `incoming.py`. viser makes its websocket server in a function that
cannot be reached, by `websockets.asyncio.server.serve`; that name is ours for as long as it starts.
"""

from __future__ import annotations

import asyncio
import errno
import gzip
import hmac
import ipaddress
import logging
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, urlsplit

import rich
import viser
import websockets.asyncio.server
from viser import _messages as messages
from websockets.asyncio.server import ServerConnection
from websockets.datastructures import Headers, MultipleValuesError
from websockets.http11 import Request, Response

from recon.datasets.errors import InputError
from recon.viewer import incoming
from recon.viewer.page import page

CONNECTIONS = 64  # at a time; a browser tab is one
UPLOAD = 2_000_000_000  # bytes; they are held in memory, twice while a file is put together
PORTS = 100  # so many ports are tried

_LOCAL = {"localhost", "127.0.0.1", "::1"}
_QUIET = threading.RLock()  # held while names of other modules are ours
_LOG = logging.getLogger("recon.viewer.connections")
_LOG.propagate = False  # what pages get wrong is nothing to trouble a terminal with
_LOG.addHandler(logging.NullHandler())


class Server(viser.ViserServer):
    """viser's server, which says nothing on the terminal."""

    def stop(self) -> None:
        with _QUIET, _replaced(rich, "print", _nothing):
            super().stop()


def open_server(
    host: str, port: int, *, token: str | None = None, label: str | None = None, most_upload: int = UPLOAD
) -> viser.ViserServer:
    """Serve a page at this address; if the port is taken, at the next that is free (`server.get_port()`).

    Args:
        host: the address to listen at; only with a token may it be one that other machines reach.
        port: 0: any that is free.
        token: must be given as `?token=` once; a cookie remembers it.
        label: the title of the page.
        most_upload: bytes that files from pages may have, together while they are under way.

    Raises:
        InputError: nothing can listen there.
    """
    if token is None and not _loopback(host):
        raise ValueError(f"{host} can be reached by others: a token is needed")
    if token is not None and not re.fullmatch(r"[\w-]+", token, re.ASCII):
        raise ValueError("a token is made of letters, digits, - and _")
    listening = _listen(host, port)
    guard = _Guard(host, listening.getsockname()[1], token, label, most_upload)
    serve = websockets.asyncio.server.serve

    def guarded(handler: Callable[[ServerConnection], Any], host: str, port: int, **options: Any) -> Any:
        asyncio.get_running_loop().set_exception_handler(_failed)
        ours: dict[str, Any] = {
            "sock": listening,
            "process_request": guard.answer,
            "create_connection": guard.connection,
            "server_header": None,
            "logger": _LOG,
        }
        return serve(guard.limited(handler), **options | ours)

    with _QUIET, _replaced(websockets.asyncio.server, "serve", guarded), _replaced(rich, "print", _nothing):
        server = Server(host, guard.port, label=label, verbose=False)
    guard.server = server
    # Nothing here leaves the machine: viser would open a tunnel to the world for whoever asks.
    for kind in (messages.ShareUrlRequest, messages.ShareUrlDisconnect):
        server._websock_server.unregister_handler(kind)
    return server


class _Guard:
    """What is given out, to whom; one for each server."""

    def __init__(self, host: str, port: int, token: str | None, label: str | None, most_upload: int) -> None:
        self.port = port
        self.server: viser.ViserServer | None = None
        self.uploads = incoming.Uploads(most_upload)
        self.count = 0
        self._hosts = _LOCAL | {host.lower()}
        self._token = token
        self._page = page(label)
        self._packed = gzip.compress(self._page)

    def answer(self, connection: ServerConnection, request: Request) -> Response | None:
        """The page, or why not; None for a websocket that may be opened."""
        try:
            host = request.headers["Host"]
            name = urlsplit(f"//{host}").hostname
            origin = urlsplit(request.headers.get("Origin", "")).netloc.lower()
            upgrade = request.headers.get("Upgrade", "").lower()
            path = urlsplit(request.path)
        except (KeyError, MultipleValuesError, ValueError):
            return _plain(HTTPStatus.BAD_REQUEST, "This is no request of a browser.")
        if not re.fullmatch(r"[\w.:\[\]-]+", host, re.ASCII):
            return _plain(HTTPStatus.BAD_REQUEST, "This is no request of a browser.")
        if self._token is None and name not in self._hosts:
            return _plain(HTTPStatus.FORBIDDEN, "This page is served under the address of this machine alone.")
        if not self._known(request, path.query):
            return _plain(HTTPStatus.FORBIDDEN, "The address lacks its token: use the one that was printed.")
        if upgrade == "websocket":
            if origin != host.lower():
                return _plain(HTTPStatus.FORBIDDEN, "Only our own page may connect.")
            if self.count >= CONNECTIONS:
                return _plain(HTTPStatus.SERVICE_UNAVAILABLE, "Too many pages are open.")
            return None
        if path.path not in ("/", "/index.html"):
            return _plain(HTTPStatus.NOT_FOUND, "There is nothing here.")
        return self._give(host, "gzip" in request.headers.get("Accept-Encoding", ""))

    def _known(self, request: Request, query: str) -> bool:
        if self._token is None:
            return True
        shown = parse_qs(query).get("token", [])
        for cookies in request.headers.get_all("Cookie"):
            pairs = (cookie.strip().partition("=") for cookie in cookies.split(";"))
            shown += [value for name, _, value in pairs if name == self._cookie]
        return any(hmac.compare_digest(text.encode(), self._token.encode()) for text in shown)

    @property
    def _cookie(self) -> str:
        return f"recon-{self.port}"  # cookies are shared by all ports of a machine

    def _give(self, host: str, packed: bool) -> Response:
        policy = "; ".join(
            [
                "default-src 'none'",
                # The page is one file with its scripts inside, which unpack more, and the server calls into it.
                "script-src 'unsafe-inline' 'unsafe-eval' 'wasm-unsafe-eval' blob:",
                "worker-src blob: data:",
                "style-src 'unsafe-inline'",
                "img-src data: blob:",
                "font-src data:",
                f"connect-src ws://{host} wss://{host} data: blob:",
                "frame-ancestors 'self'",
                "base-uri 'none'",
                "form-action 'none'",
            ]
        )
        headers = Headers({"Content-Security-Policy": policy, "Vary": "Accept-Encoding"})
        if packed:
            headers["Content-Encoding"] = "gzip"
        if self._token is not None:
            headers["Set-Cookie"] = f"{self._cookie}={self._token}; HttpOnly; SameSite=Strict; Path=/"
        return _response(HTTPStatus.OK, "text/html", self._packed if packed else self._page, headers)

    def limited(self, handler: Callable[[ServerConnection], Any]) -> Callable[[ServerConnection], Any]:
        """viser's handler of a connection; those of another version of the page are sent away, and all are counted."""

        async def handle(connection: ServerConnection) -> None:
            assert isinstance(connection, _Connection)
            if connection.subprotocol != f"viser-v{viser.__version__}":
                await connection.close(1002, "Another version of the page: load it anew")
                return
            self.count += 1
            try:
                await handler(connection)
            finally:
                self.count -= 1
                self.uploads.forget(connection)

        return handle

    def connection(self, *args: Any, **kwargs: Any) -> _Connection:
        """What `serve` makes for each that connects."""
        return _Connection(self, *args, **kwargs)


class _Connection(ServerConnection):
    """A websocket out of which comes only what a page may send."""

    def __init__(self, guard: _Guard, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._guard = guard

    async def recv(self, decode: bool | None = None) -> Any:
        while True:
            raw = await super().recv(decode)
            message = incoming.read(raw)
            if message is not None and self._wanted(message):
                return raw

    def _wanted(self, message: messages.Message) -> bool:
        if isinstance(message, messages.FileTransferStartUpload):
            return self._guard.uploads.start(self, message)
        if isinstance(message, messages.FileTransferPart):
            return self._guard.uploads.part(self, message)
        if isinstance(message, messages.GuiUpdateMessage):
            handles = (gui._gui_input_handle_from_uuid.get(message.uuid) for gui in self.guis())
            return any(handle is not None and incoming.can_be(handle, message.updates["value"]) for handle in handles)
        return True

    def guis(self) -> list[viser.GuiApi]:
        client = self._client()
        return [] if client is None or self._guard.server is None else [self._guard.server.gui, client.gui]

    def tell(self, why: str) -> None:
        client = self._client()
        if client is not None:
            client.add_notification("File not taken", why, color="red")

    def _client(self) -> viser.ClientHandle | None:
        """What viser calls this connection, once it has sent a camera."""
        server = self._guard.server
        if server is None:  # connected before it was complete
            return None
        numbers = [number for number, live in server._websock_server._live_connections.items() if live is self]
        return server._connected_clients.get(numbers[0]) if numbers else None


def _response(status: HTTPStatus, kind: str, body: bytes, headers: Headers | None = None) -> Response:
    headers = Headers() if headers is None else headers
    headers["Content-Type"] = f"{kind}; charset=utf-8"
    headers["Content-Length"] = str(len(body))
    headers["Cache-Control"] = "no-store"
    headers["Connection"] = "close"
    headers["X-Content-Type-Options"] = "nosniff"
    headers["X-Frame-Options"] = "SAMEORIGIN"
    headers["Referrer-Policy"] = "no-referrer"
    headers["Cross-Origin-Resource-Policy"] = "same-origin"
    return Response(status.value, status.phrase, headers, body)


def _plain(status: HTTPStatus, text: str) -> Response:
    return _response(status, "text/plain", f"{text}\n".encode())


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens at this port or at one of the next."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except (OSError, UnicodeError) as error:
        raise InputError(f"{host}: no address of this machine ({error})") from None
    refused = ""
    for attempt in range(port, min(port + PORTS, 65_536) if port else 1):
        try:
            return socket.create_server((str(address[0]), attempt), family=family)
        except OSError as error:
            refused = error.strerror or str(error)
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                break
    raise InputError(f"{host}, port {port}: cannot listen there ({refused})")


def _failed(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What viser stumbles over in a message that is well-formed: no reason to stop, or to fill a terminal."""
    _LOG.error("%s", context.get("message"), exc_info=context.get("exception"))


def _nothing(*_: object, **__: object) -> None:
    pass


@contextmanager
def _replaced(module: Any, name: str, value: Any) -> Iterator[None]:
    """Something else under this name, for a while."""
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)
