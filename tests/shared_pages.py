"""What a page that needs no server is made of, and what is in one."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from typing import Any

import msgspec
import zstandard

from recon import sh
from recon.gaussians import Gaussians
from recon.raster.reference import rotations_from_quats
from recon.viewer.subject import Splats


def splats_of(model: Gaussians) -> Splats:
    """All of them, in the colours of the constant harmonic."""
    state = model.state_dict()
    axes = rotations_from_quats(state["quats"]) * model.scales.detach()[:, None]
    return Splats(
        state["means"].numpy(),
        (axes @ axes.transpose(1, 2)).numpy(),
        sh.to_rgb(state["sh0"][:, 0]).clamp(0, 1).numpy(),
        model.opacities.detach()[:, None].numpy(),
    )


class Elements(HTMLParser):
    """The elements of a document as a browser sees them: (tag, attributes, text)."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None], str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs), ""))

    def handle_data(self, data: str) -> None:
        if self.found:
            tag, attributes, text = self.found[-1]
            self.found[-1] = (tag, attributes, text + data)

    def of(self, tag: str) -> list[tuple[dict[str, str | None], str]]:
        return [(attributes, text) for name, attributes, text in self.found if name == tag]


def data_in(text: str) -> dict[str, Any]:
    [found] = [text for attributes, text in Elements(text).of("script") if attributes.get("id") == "recon-data"]
    return json.loads(found)


def recording_in(text: str) -> tuple[list[dict[str, Any]], bytes]:
    """The messages that viser's client gets, and the bytes behind them, as its PlaybackDecode.ts reads them."""
    [embedded] = re.findall(r'__VISER_EMBED_DATA__="([^"]*)"', text)
    raw = base64.b64decode(embedded)
    payload = zstandard.ZstdDecompressor().decompressobj().decompress(raw[8:])
    assert len(payload) == int.from_bytes(raw[:8], "little")
    end = 8 + int.from_bytes(payload[:8], "little")
    values = msgspec.msgpack.decode(payload[8:end])
    assert values["durationSeconds"] == 0
    assert len(values["binaryBufferLengths"]) == 1
    return [message for _, message in values["messages"]], payload[end + (-end % 8) :]
