"""The plots of the training benchmarks. Needs matplotlib, which the extra [dev] installs."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from recon.datasets.files import atomic_write

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # told apart by the colour blind too
SMOOTHING = 0.9  # of a loss: the share of what was before


def psnr_over_time(rows: Sequence[Mapping[str, Any]], before: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Held-out PSNR over wall time, a line for each capture; those of an earlier result are dashed, in its colour."""
    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    axes = figure.add_subplot()
    captures = list(dict.fromkeys(row["capture"] for row in (*rows, *before)))
    for number, capture in enumerate(captures):
        colour = COLOURS[number % len(COLOURS)]
        for some, style, width, label in ((rows, "o-", 1.6, capture), (before, "o--", 0.9, f"{capture}, before")):
            points = sorted((row["wall"], row["psnr"]) for row in some if row["capture"] == capture)
            if points:
                seconds, psnr = zip(*points, strict=True)
                axes.plot(seconds, psnr, style, color=colour, markersize=4, linewidth=width, label=label)
    _logarithmic_seconds(axes)
    axes.set_xlabel("seconds from the start of the command to its evaluated result")
    axes.set_ylabel("held-out PSNR, dB")
    if captures:
        axes.legend(frameon=False)
    _finish(figure, path)


def training(logs: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> None:
    """Loss (smoothed) and number of Gaussians over the time in the loop; `logs` are lines of metrics by capture."""
    figure = Figure(figsize=(7.5, 6), layout="constrained")
    losses, counts = figure.subplots(2, 1, sharex=True)
    for number, (capture, lines) in enumerate(logs.items()):
        colour = COLOURS[number % len(COLOURS)]
        seconds = [line["seconds"] for line in lines]
        losses.plot(seconds, smoothed([line["loss"] for line in lines]), color=colour, label=capture)
        counts.plot(seconds, [line["count"] for line in lines], color=colour)
    losses.set_yscale("log")
    losses.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    losses.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    losses.yaxis.set_minor_formatter(NullFormatter())
    losses.set_ylabel("loss, smoothed")
    counts.set_ylabel("Gaussians")
    counts.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    counts.set_xlabel("seconds in the training loop")
    if logs:
        losses.legend(frameon=False)
    _finish(figure, path)


def smoothed(values: Sequence[float]) -> list[float]:
    """The running mean with weights that fall off by SMOOTHING."""
    means: list[float] = []
    for value in values:
        means.append(value if not means else SMOOTHING * means[-1] + (1 - SMOOTHING) * value)
    return means


def _logarithmic_seconds(axes: Axes) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _finish(figure: Figure, path: Path) -> None:
    for axes in figure.axes:
        axes.grid(True, which="major", alpha=0.25, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=130)
    with atomic_write(path) as file:
        file.write(drawn.getvalue())
