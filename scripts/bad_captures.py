"""Take photos badly on purpose, and print what the report says of each: the table of docs/capture.md.

    python scripts/bad_captures.py OUT [--browser chromium]

OUT gets the photos, the scenes and their reports. With a browser, the picture of the report in docs/ is made again.
"""

from __future__ import annotations

import argparse
import subprocess
from pathlib import Path

import _bad_captures
from recon.datasets import advice, capture, doctor
from recon.datasets.errors import NoSceneError
from recon.datasets.survey import Survey
from recon.doctoring import REPORT
from recon.report_page import write
from recon.report_text import headline

PICTURE = Path(__file__).resolve().parent.parent / "docs" / "report.png"
PICTURED = "no overlap"
WINDOW = (1100, 1330)  # px


def survey(photos: Path, scene: Path, threads: int) -> Survey:
    """Capture the photos, and look into what comes of it."""
    failure = ""
    try:
        capture.capture(photos, scene, threads=threads, say=lambda _: None, progress=lambda *_: None)
    except NoSceneError as error:
        failure = error.why
    return doctor.captured(scene, threads=threads, progress=lambda *_: None, failure=failure)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--browser", help="a Chromium that makes the picture of a report")
    options = parser.parse_args()
    print("| photos | result | what the report says |\n|---|---|---|", flush=True)
    for name, pictures in _bad_captures.CASES.items():
        photos = _bad_captures.write(options.out / "photos" / name, pictures())
        scene = options.out / name
        found = survey(photos, scene, options.threads)
        given = advice.give(found)
        write(found, given, scene / REPORT)
        said = "<br>".join(f"**{one.title}.** {one.todo}" for one in given) or "Nothing is wrong with it."
        print(f"| {name} | {headline(found)} | {said} |", flush=True)
        if options.browser and name == PICTURED:
            page = (scene / REPORT).resolve().as_uri()
            size = f"--window-size={WINDOW[0]},{WINDOW[1]}"
            command = [options.browser, "--headless", "--no-sandbox", "--hide-scrollbars", size]
            subprocess.run([*command, f"--screenshot={PICTURE}", page], check=True, capture_output=True)


if __name__ == "__main__":
    main()
