"""What our script in the page and the server say to each other, through the connection that viser has open anyway.

A page may send anything: whatever arrives is checked against what it should be, and dropped if it is not that.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Annotated, Any, TypedDict

import msgspec
import viser
from viser._messages import Message, RunJavascriptMessage

Length = Annotated[float, msgspec.Meta(ge=0, le=1e5)]  # CSS px
Place = Annotated[float, msgspec.Meta(ge=-1e5, le=1e5)]  # CSS px; a stroke may leave the canvas


class Hello(TypedDict):
    """Comes once for each connection, right after the first camera.

    Attributes:
        renderer: what draws WebGL, in the browser's words; "" where there is none.
        software: that draws on the CPU, so splats are better drawn by the server.
        touch: fingers are the main pointer.
        width, height: of the canvas, CSS px.
        pixel_ratio: screen pixels to a CSS px.
    """

    renderer: Annotated[str, msgspec.Meta(max_length=500)]
    software: bool
    touch: bool
    width: Length
    height: Length
    pixel_ratio: Annotated[float, msgspec.Meta(gt=0, le=20)]


class Shown(TypedDict):
    """A frame (BackgroundImageMessage) came that has a number; not sent while the tab is hidden.

    Attributes:
        number: what the comment in the JPEG says, in decimal digits, from 1.
        ms: how long the page took from the frame's arrival to its next repaint.
    """

    number: Annotated[int, msgspec.Meta(ge=1)]
    ms: Annotated[float, msgspec.Meta(ge=0, le=1e9)]


class Stroke(TypedDict):
    """What the brush passed over; no points: the user laid the brush down.

    Attributes:
        points: [x, y] CSS px from the upper left corner of the canvas.
        width, height: of the canvas, CSS px.
    """

    points: Annotated[list[tuple[Place, Place]], msgspec.Meta(max_length=20_000)]
    width: Length
    height: Length


class Key(TypedDict):
    """A key that does something to the scene: "Delete", "Control+z", "Control+Shift+z", or what "keys" asked for."""

    key: Annotated[str, msgspec.Meta(max_length=40)]


class Navigation(TypedDict):
    """How the user moves now; sent when it was changed in the page.

    Attributes:
        mode: "orbit" or "first-person".
        speed: world units a second.
    """

    mode: Annotated[str, msgspec.Meta(pattern="^(orbit|first-person)$")]
    speed: Annotated[float, msgspec.Meta(gt=0, le=1e9)]


SHAPES: dict[str, Any] = {"hello": Hello, "shown": Shown, "brush": Stroke, "key": Key, "navigation": Navigation}


@dataclasses.dataclass
class PageMessage(Message, include_in_scene_serialization=False):
    """From our script to the server; `values` has the shape that SHAPES gives for the name."""

    name: str
    values: dict[str, Any]


Message._subclass_from_type_string.cache_clear()  # where viser keeps the kinds it knew of so far


def fits(message: PageMessage) -> bool:
    """Is this something that our script would send?"""
    shape = SHAPES.get(message.name)
    if shape is None:
        return False
    try:
        msgspec.convert(message.values, shape)
    except msgspec.ValidationError:
        return False
    return True


def listen(server: viser.ViserServer, name: str, callback: Callable[[int, dict[str, Any]], None]) -> None:
    """Have `callback(client id, values)` called whenever a page sends a message of this name.

    It runs on the thread that serves all pages, so it must only queue work and return.
    """
    if name not in SHAPES:
        raise ValueError(f"pages send no {name!r}")

    def receive(client: int, message: PageMessage) -> None:
        if message.name == name and fits(message):
            callback(int(client), message.values)

    server._websock_server.register_handler(PageMessage, receive)


def call(client: viser.ClientHandle, function: str, **values: Any) -> None:
    """Call `window.recon.<function>(values)` in the page of a client; js/calls.js says what there is."""
    if not function.isidentifier():
        raise ValueError(f"{function!r} names no function")
    source = f"window.recon?.{function}({json.dumps(values)})"
    client._websock_connection.queue_message(RunJavascriptMessage(source))
