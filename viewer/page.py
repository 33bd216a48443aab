"""The page: viser's client, as it comes with viser, and our script before it."""

from __future__ import annotations

import html
import json
import re
from importlib import resources

SCRIPTS = ("link", "greet", "overlay", "camera", "brush", "keys", "pointer", "gamepad", "drop", "calls")
"""In this order they become one script, so that each hears of keys and pointers before those after it."""


def page(title: str | None = None) -> bytes:
    """The one file that a browser loads."""
    client = resources.files("viser").joinpath("client/build/index.html").read_text("utf-8")
    own = resources.files("recon.viewer").joinpath("js")
    style = json.dumps(own.joinpath("page.css").read_text("utf-8"))
    script = "\n".join(own.joinpath(f"{name}.js").read_text("utf-8") for name in SCRIPTS)
    client = re.sub(r"<title>.*?</title>", lambda _: f"<title>{html.escape(title or 'recon')}</title>", client, count=1)
    client = re.sub(r'(<link\s+rel="icon"\s+href=")[^"]*', lambda found: found[1] + ICON, client, count=1)
    head, first, rest = client.partition("<script")
    return (
        f'{head}<script>"use strict";(() => {{\nconst CSS = {style};\n{script}\n}})();</script>\n{first}{rest}'.encode()
    )


ICON = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 32 32'%3E"
    "%3Cellipse cx='13' cy='19' rx='11' ry='7' fill='%232b8a7e' transform='rotate(-24 13 19)'/%3E"
    "%3Cellipse cx='21' cy='12' rx='8' ry='5' fill='%23f0a63a' opacity='.85' transform='rotate(30 21 12)'/%3E"
    "%3C/svg%3E"
)
"""Two splats."""
