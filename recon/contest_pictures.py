"""The pictures of a comparison of methods: the same views by all of them, and how they got there.

Drawn with Pillow, which is always there.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recon import evaluate, held_out, runs
from recon.video import write_png

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # told apart by the colour blind too
MOST_VIEWS = 4
WIDEST = 360  # px, of a picture
SIZE = (900, 540)  # px, of the curves
MARGINS = (70, 30, 30, 60)  # px: left, top, right, bottom
FINER = 2  # times as large that curves are drawn, and then reduced
ROOM = 0.08  # of the range of PSNRs, above and below
GREY, LIGHT, DARK = "#666666", "#dddddd", "#222222"


def save_views(rows: Sequence[dict[str, Any]], output: Path, path: Path) -> None:
    """A row for each of some held-out views: its photo, and what each method makes of it, with its PSNR.

    Args:
        rows: of methods with scores; see `contest`.
        output: the folder in which their runs are.
    """
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(size=14)
    names = [name for name, _ in rows[0]["views"]]
    lines = []
    for number in held_out.some_of(range(len(names)), MOST_VIEWS):
        cells: list[tuple[str, NDArray[np.uint8]]] = []
        for row in rows:
            file = evaluate.comparison_file(runs.Run(output / row["run"]).eval_folder, number, names[number])
            render, photo = evaluate.panels_of(file)
            if not cells:
                cells.append((f"photo  {names[number]}", photo))
            cells.append((f"{row['method']}  {row['views'][number][1]:.2f} dB", render))
        drawn = []
        for caption, pixels in cells:
            height, width = pixels.shape[:2]
            scale = min(1.0, WIDEST / width)
            picture = Image.fromarray(pixels).resize(
                (round(scale * width), round(scale * height)), Image.Resampling.BOX
            )
            cell = Image.new("RGB", (picture.width, picture.height + evaluate.CAPTION), "white")
            ImageDraw.Draw(cell).text((3, 2), caption, fill="black", font=font)
            cell.paste(picture, (0, evaluate.CAPTION))
            drawn.append(cell)
        lines.append(_side_by_side(drawn))
    sheet = Image.new("RGB", (max(line.width for line in lines), sum(line.height for line in lines)), "white")
    top = 0
    for line in lines:
        sheet.paste(line, (0, top))
        top += line.height
    write_png(np.asarray(sheet), path)


def _side_by_side(cells: Sequence[Image.Image]) -> Image.Image:
    from PIL import Image

    gaps = evaluate.GAP * (len(cells) - 1)
    line = Image.new("RGB", (sum(cell.width for cell in cells) + gaps, max(cell.height for cell in cells)), "white")
    left = 0
    for cell in cells:
        line.paste(cell, (left, 0))
        left += cell.width + evaluate.GAP
    return line


def save_curves(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """PSNR of held-out views over the seconds of training, a line for each method; seconds are logarithmic."""
    from PIL import Image, ImageDraw, ImageFont

    curves = {row["method"]: [(line["seconds"], line["psnr"]) for line in row["curve"]] for row in rows}
    points = [point for curve in curves.values() for point in curve]
    if not points:
        return
    seconds, scores = zip(*points, strict=True)
    first, last = math.log10(max(min(seconds), 1e-3)), math.log10(max(*seconds, 2e-3))
    last = max(last, first + 0.1)
    room = ROOM * max(max(scores) - min(scores), 1.0)
    low, high = min(scores) - room, max(scores) + room
    left, top, right, bottom = (FINER * side for side in MARGINS)
    width, height = (FINER * side for side in SIZE)

    def place(second: float, score: float) -> tuple[float, float]:
        x = left + (math.log10(max(second, 1e-3)) - first) / (last - first) * (width - left - right)
        return x, height - bottom - (score - low) / (high - low) * (height - top - bottom)

    sheet = Image.new("RGB", (width, height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=FINER * 14)
    for score in _round_steps(low, high):
        _, y = place(10**first, score)
        draw.line([(left, y), (width - right, y)], fill=LIGHT, width=FINER)
        draw.text((left - 8 * FINER, y), f"{score:g}", fill=DARK, font=font, anchor="rm")
    for second in _round_seconds(first, last):
        x, _ = place(second, low)
        draw.line([(x, top), (x, height - bottom)], fill=LIGHT, width=FINER)
        draw.text((x, height - bottom + 6 * FINER), f"{second:g}", fill=DARK, font=font, anchor="mt")
    draw.text((width / 2, height - 8 * FINER), "seconds of training", fill=GREY, font=font, anchor="mb")
    draw.text((8 * FINER, 6 * FINER), "PSNR of held-out views, dB", fill=GREY, font=font)
    for number, (method, curve) in enumerate(curves.items()):
        _draw_curve(draw, [place(*point) for point in curve], COLOURS[number % len(COLOURS)])
        at = (width - right - 8 * FINER, height - bottom - (8 + 20 * (len(curves) - 1 - number)) * FINER)
        draw.text(at, method, fill=COLOURS[number % len(COLOURS)], font=font, anchor="rb")
    write_png(np.asarray(sheet.resize(SIZE, Image.Resampling.LANCZOS)), path)


def _draw_curve(draw: ImageDraw.ImageDraw, points: Sequence[tuple[float, float]], colour: str) -> None:
    draw.line(list(points), fill=colour, width=2 * FINER, joint="curve")
    for x, y in points:
        draw.ellipse([x - 4 * FINER, y - 4 * FINER, x + 4 * FINER, y + 4 * FINER], fill=colour)


def _round_steps(low: float, high: float) -> list[float]:
    """Round numbers between two, about six."""
    rough = (high - low) / 6
    unit = 10 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough)
    return [number * step for number in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _round_seconds(first: float, last: float) -> list[float]:
    """1, 2, 5, 10, ... between two powers of ten."""
    numbers = range(math.floor(first), math.ceil(last) + 1)
    every = (factor * 10.0**number for number, factor in itertools.product(numbers, (1, 2, 5)))
    return [value for value in every if 10**first * 0.999 <= value <= 10**last * 1.001]
