"""What a page may send to the server: known messages with fields of the right kind, and files that are asked for.

viser passes on whatever unpacks, sets any attribute that a page names, and keeps what is uploaded in memory. Here is
decided, message by message, what it gets to see; the rest is dropped without a word, since no page of ours sends it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import viser
from viser import _messages as messages

from recon.viewer.channel import PageMessage, fits

WIDEST = 32_768  # px; no screen is wider, and frames are made as large as a page says its window is

KINDS: dict[str, type[messages.Message]] = {
    kind.__name__: kind
    for kind in (
        PageMessage,
        messages.ViewerCameraMessage,
        messages.GuiUpdateMessage,
        messages.GuiButtonHoldMessage,
        messages.GuiFormSubmitMessage,
        messages.GuiFormDirtyMessage,
        messages.CommandTriggerMessage,
        messages.ScenePointerMessage,
        messages.SceneNodeClickMessage,
        messages.SceneNodeDragMessage,
        messages.TransformControlsUpdateMessage,
        messages.TransformControlsDragStartMessage,
        messages.TransformControlsDragEndMessage,
        messages.GetRenderResponseMessage,
        messages.LocalStorageGetItemResponseMessage,
        messages.FileTransferStartUpload,
        messages.FileTransferPart,
    )
}


def read(raw: str | bytes) -> messages.Message | None:
    """The message, if it is one that a page may send; else None."""
    if isinstance(raw, str):
        return None
    try:
        fields = msgspec.msgpack.decode(raw)
        message = msgspec.convert(fields, KINDS[fields.pop("type")]) if _finite(fields) else None
    except (msgspec.MsgspecError, KeyError, TypeError, AttributeError, RecursionError, UnicodeDecodeError):
        return None
    return message if message is not None and _sensible(message) else None


def _finite(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return all(_finite(inner) for inner in value.values())
    return not isinstance(value, list) or all(_finite(inner) for inner in value)


def _sensible(message: messages.Message) -> bool:
    if isinstance(message, messages.ViewerCameraMessage):
        sized = 1 <= message.image_width <= WIDEST and 1 <= message.image_height <= WIDEST
        turned = 0.5 < math.hypot(*message.wxyz) < 2
        return sized and turned and 0 < message.fov < math.pi and 0 < message.near < message.far
    if isinstance(message, messages.GuiUpdateMessage):
        return set(message.updates) == {"value"}  # viser would set whatever else is named
    if isinstance(message, PageMessage):
        return fits(message)
    return True


@dataclass
class _Upload:
    gui: viser.GuiApi
    button: str  # the identifier of the upload button
    size: int  # bytes
    parts: int
    came: set[int] = field(default_factory=set)
    bytes: int = 0


@dataclass
class Uploads:
    """The files that one page is sending.

    Attributes:
        guis: where the upload buttons that files may be for are: all browsers', and this one's.
        most: bytes of a file.
        refused: told in one line why a file is not taken.
    """

    guis: Callable[[], list[viser.GuiApi]]
    most: int
    refused: Callable[[str], None]
    open: dict[str, _Upload] = field(default_factory=dict)

    def start(self, message: messages.FileTransferStartUpload) -> bool:
        """May viser hear of this file?"""
        gui = self._gui(message.source_component_uuid)
        if gui is None or message.transfer_uuid in gui._current_file_upload_states:
            return False
        if any(upload.button == message.source_component_uuid for upload in self.open.values()):
            self.refused("One file at a time.")
            return False
        if message.size_bytes > self.most:
            self.refused(f"The file has {message.size_bytes / 1e9:.1f} GB; {self.most / 1e9:.1f} GB are the most.")
            return False
        if not 0 <= message.part_count <= message.size_bytes or (message.part_count == 0) != (message.size_bytes == 0):
            return False
        if message.part_count:
            self.open[message.transfer_uuid] = _Upload(
                gui, message.source_component_uuid, message.size_bytes, message.part_count
            )
        return True

    def _gui(self, button: str) -> viser.GuiApi | None:
        """Where the upload button is that a file is for."""
        for gui in self.guis():
            handle = gui._gui_input_handle_from_uuid.get(button)
            if isinstance(handle, viser.GuiUploadButtonHandle) and not handle.disabled:
                return gui
        return None

    def part(self, message: messages.FileTransferPart) -> bool:
        """May viser have this part? A part that cannot be ends the whole upload, and nothing of it is kept."""
        upload = self.open.get(message.transfer_uuid)
        if upload is None:
            return False
        upload.bytes += len(message.content)
        fresh = 0 <= message.part_index < upload.parts and message.part_index not in upload.came
        upload.came.add(message.part_index)
        last = len(upload.came) == upload.parts
        right = upload.bytes == upload.size if last else upload.bytes < upload.size
        if not (fresh and right and message.source_component_uuid == upload.button):
            upload.gui._current_file_upload_states.pop(message.transfer_uuid, None)
            del self.open[message.transfer_uuid]
            return False
        if last:
            del self.open[message.transfer_uuid]
        return True


def safe_name(name: str, otherwise: str = "file") -> str:
    """A file name made of what a page calls a file: letters, digits, "-", "_" and single dots within; no path.

    >>> safe_name("../../etc/passwd")
    'passwd'
    """
    last = name.replace("\\", "/").rpartition("/")[2]
    kept = "".join(char if char.isascii() and (char.isalnum() or char in "-_.") else "_" for char in last)
    while ".." in kept:
        kept = kept.replace("..", ".")
    kept = kept.strip("._-")[-100:].lstrip("._-")
    return kept or otherwise
