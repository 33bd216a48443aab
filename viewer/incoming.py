"""What a page may send to the server: known messages with fields of the right kind, and files that are asked for.

viser passes on whatever unpacks, sets any attribute that a page names, and keeps what is uploaded in memory. Here is
decided, message by message, what it gets to see; the rest is dropped without a word, since no page of ours sends it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec
import viser
from viser import _messages as messages

from recon.viewer.channel import PageMessage, fits

LONGEST = 100_000  # characters that somebody may type
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


def can_be(handle: Any, value: Any) -> bool:
    """Could a user have given the element of this handle such a value? viser takes any that converts."""
    now = handle.value
    if getattr(handle, "disabled", True):  # what cannot be disabled, such as a progress bar, shows and takes nothing
        return False
    if isinstance(handle, viser.GuiDropdownHandle | viser.GuiButtonGroupHandle):
        return value in handle.options
    if isinstance(now, bool):
        return isinstance(value, bool)
    if isinstance(now, str):
        return isinstance(value, str) and len(value) <= LONGEST
    if isinstance(now, tuple):
        alike = isinstance(value, list) and len(value) == len(now)
        return alike and all(_between(handle, number, index) for index, number in enumerate(value))
    return isinstance(now, int | float) and _between(handle, value)


def _between(handle: Any, number: Any, index: int = 0) -> bool:
    if isinstance(number, bool) or not isinstance(number, int | float):
        return False
    low, high = (
        limit[index] if isinstance(limit, tuple) else limit
        for limit in (getattr(handle, "min", None), getattr(handle, "max", None))
    )
    slack = 1e-6 * (high - low) if low is not None and high is not None else 0.0  # a page counts in steps
    return (low is None or number >= low - slack) and (high is None or number <= high + slack)


class Sender(Protocol):
    """A page that sends files."""

    def guis(self) -> list[viser.GuiApi]:
        """Where the elements are that it shows: those of all pages, and its own."""
        ...

    def tell(self, why: str) -> None:
        """Show one line to the user."""
        ...


@dataclass
class _Upload:
    sender: Sender
    gui: viser.GuiApi
    button: str  # the identifier of the upload button
    size: int  # bytes
    parts: int
    came: set[int] = field(default_factory=set)
    bytes: int = 0


@dataclass
class Uploads:
    """The files that pages are sending.

    Attributes:
        most: bytes of a file, and of all that are under way together.
    """

    most: int
    open: dict[str, _Upload] = field(default_factory=dict)

    def start(self, sender: Sender, message: messages.FileTransferStartUpload) -> bool:
        """May viser hear of this file?"""
        size, parts, transfer = message.size_bytes, message.part_count, message.transfer_uuid
        gui = _gui_of(sender, message.source_component_uuid)
        if gui is None or transfer in self.open or not 0 <= parts <= size or (parts == 0) != (size == 0):
            return False
        if size > self.most:
            sender.tell(f"The file has {size / 1e9:.1f} GB; {self.most / 1e9:.1f} GB are the most.")
            return False
        if sum(upload.size for upload in self.open.values()) + size > self.most:
            sender.tell("Other files are on their way: try again when they are there.")
            return False
        if parts:
            self.open[transfer] = _Upload(sender, gui, message.source_component_uuid, size, parts)
        return True

    def part(self, sender: Sender, message: messages.FileTransferPart) -> bool:
        """May viser have this part? A part that cannot be ends the whole upload, and nothing of it is kept."""
        upload = self.open.get(message.transfer_uuid)
        if upload is None or upload.sender is not sender:
            return False
        upload.bytes += len(message.content)
        fresh = 0 <= message.part_index < upload.parts and message.part_index not in upload.came
        upload.came.add(message.part_index)
        last = len(upload.came) == upload.parts
        right = upload.bytes == upload.size if last else upload.bytes < upload.size
        good = fresh and right and message.source_component_uuid == upload.button
        if not good:
            upload.gui._current_file_upload_states.pop(message.transfer_uuid, None)
        if last or not good:
            del self.open[message.transfer_uuid]
        return good

    def forget(self, sender: Sender) -> None:
        """The page has gone; viser drops by itself what it sent."""
        self.open = {transfer: upload for transfer, upload in self.open.items() if upload.sender is not sender}


def _gui_of(sender: Sender, button: str) -> viser.GuiApi | None:
    """Where the upload button is that a file is for."""
    for gui in sender.guis():
        handle = gui._gui_input_handle_from_uuid.get(button)
        if isinstance(handle, viser.GuiUploadButtonHandle) and not handle.disabled:
            return gui
    return None
