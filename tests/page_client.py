"""What a browser does with the viewer's server, without a browser: HTTP and websocket clients for tests."""

from __future__ import annotations

import http.client
import socket
from typing import Any

import msgspec
import viser
import websockets.sync.client
from websockets.sync.connection import Connection

from serving import PATIENCE, wait_until

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


def get(server: viser.ViserServer, path: str = "/", **headers: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", server.get_port(), timeout=PATIENCE)
    connection.request("GET", path, headers=headers)
    return connection.getresponse()


def connect(server: viser.ViserServer, path: str = "/", host: str | None = None, **options: Any) -> Connection:
    host = host or f"127.0.0.1:{server.get_port()}"
    usual = {"origin": f"http://{host}", "subprotocols": [f"viser-v{viser.__version__}"]}
    to = socket.create_connection(("127.0.0.1", server.get_port()), timeout=PATIENCE)
    return websockets.sync.client.connect(f"ws://{host}{path}", sock=to, **{**usual, **options})


def send(connection: Connection, **message: Any) -> None:
    connection.send(msgspec.msgpack.encode(message))


def enter(server: viser.ViserServer, connection: Connection) -> viser.ClientHandle:
    """Send a camera, as viser's page does at first; the client that it makes."""
    before = set(server.get_clients())
    send(connection, **CAMERA)
    wait_until(lambda: set(server.get_clients()) - before)
    return server.get_clients()[max(server.get_clients())]


def settled(server: viser.ViserServer, connection: Connection) -> None:
    """Wait until all that was sent has been dealt with: a camera that comes after it has arrived."""
    send(connection, **CAMERA | {"fov": 1.25})
    wait_until(lambda: any(client.camera.fov == 1.25 for client in server.get_clients().values()))
    send(connection, **CAMERA)
    wait_until(lambda: all(client.camera.fov == 1.0 for client in server.get_clients().values()))
