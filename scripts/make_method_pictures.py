#!/usr/bin/env python
"""Put comparisons of methods into docs/methods.md: their tables, and their pictures beside it.

recon compare syn200 --seconds 300 --output comparison_syn200
python scripts/make_method_pictures.py comparison_syn200

recon compare syn200 --seconds 900 --output comparison_long
python scripts/make_method_pictures.py comparison_long --section long
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from PIL import Image

from _bench_report import ROOT, run, section, table, write_section
from recon import contest, runs

DOCUMENT = ROOT / "docs" / "methods.md"


def on_the_way(row: dict[str, Any], seconds: float | None) -> dict[str, Any]:
    """The curve of a method as a line of a table: after shares of the seconds that it was given, or of its steps."""
    line: dict[str, Any] = {"method": row["method"]}
    for at in row["curve"]:
        done = at["step"] / row["steps"] if seconds is None else at["seconds"] / seconds
        share = min(contest.SHARES, key=lambda each: abs(each - done))
        line[f"{share:.0%}" if seconds is None else f"{share * seconds:g} s"] = at["psnr"]
    return line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparisons", type=Path, nargs="+", help="folders that recon compare wrote")
    parser.add_argument("--section", default="comparisons", help="of the document, to put them into")
    arguments = parser.parse_args()
    prefix = "methods" if arguments.section == "comparisons" else f"methods_{arguments.section}"
    parts = []
    for folder in arguments.comparisons:
        found = runs.read_json(folder / contest.RESULT)
        options = found["options"]
        name = Path(options["scene"]).name
        long = f"{options['budget_seconds']:g} s" if options["steps"] is None else f"{options['steps']:,} steps"
        seconds = options["budget_seconds"] if options["steps"] is None else None
        parts += [f"{name}, {long} each:", contest.table(found["methods"])]
        parts += [
            "PSNR of some views on the way, dB:",
            table([on_the_way(row, seconds) for row in found["methods"] if "error" not in row]),
        ]
        for file, what in ((contest.VIEWS, "Held-out views"), (contest.CURVES_DRAWN, "PSNR over time")):
            picture = f"{prefix}_{name}_{Path(file).stem}.jpg"
            Image.open(folder / file).convert("RGB").save(DOCUMENT.parent / picture, quality=85)
            parts.append(f"![{what}: {name}]({picture})")
    write_section(DOCUMENT, arguments.section, section(*parts))


if __name__ == "__main__":
    run(main)
