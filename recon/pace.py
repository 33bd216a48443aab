"""Coarse to fine: at which resolution a training works when, and how its time is spent.

The first steps see photos reduced to a quarter and to a half: they are cheap, and find the coarse shape first, as in
DashGaussian (Chen et al. 2025). A shorter training works at low resolution for a larger share of its steps.
"""

from __future__ import annotations

import itertools

QUARTER = 0.375  # of the coarse steps see photos at a quarter of their size, the others at a half

# What a step costs relative to one on full-size photos, the growing number of Gaussians included.
QUARTER_COST, HALF_COST = 0.35, 0.52


def level(progress: float, coarse: float) -> int:
    """What photos are reduced by, if the share `coarse` of the steps sees reduced ones."""
    if progress >= coarse:
        return 1
    return 4 if progress < QUARTER * coarse else 2


def mean_cost(coarse: float) -> float:
    """Of a step over the whole training, relative to one on full-size photos."""
    return 1 - coarse * (1 - QUARTER * QUARTER_COST - (1 - QUARTER) * HALF_COST)


def progress_at(share: float, coarse: float) -> float:
    """The share of the steps that is done after a share of the time.

    A training that goes by the clock moves along its schedules as one of as many steps would.
    """
    if share >= 1:  # exactly at the end, whatever rounding makes of the rest: who waits for 1.0 must see it
        return 1.0
    total = mean_cost(coarse)
    ends = (0.0, QUARTER * coarse, coarse, 1.0)
    began = 0.0
    for (first, last), cost in zip(itertools.pairwise(ends), (QUARTER_COST, HALF_COST, 1.0), strict=True):
        takes = (last - first) * cost / total
        if takes > 0 and share < began + takes:
            return first + (share - began) / takes * (last - first)
        began += takes
    return 1.0
