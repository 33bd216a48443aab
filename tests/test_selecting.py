"""Each shape of a selection against a slow and obvious loop."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny
from recon.selecting import Cloud, combined, within
from recon.viewer.look import Box, Brush, Fainter, Farther, Floaters, Larger, Shape, Sphere

RNG = np.random.default_rng(3)
COUNT = 200
CLOUD = Cloud(
    RNG.normal(size=(COUNT, 3)).astype("f4"),
    RNG.uniform(0.01, 0.3, (COUNT, 3)).astype("f4"),
    RNG.uniform(0, 1, COUNT).astype("f4"),
)
AMONG = RNG.uniform(size=COUNT) < 0.8

number = st.floats(-1.5, 1.5)
point = st.tuples(number, number, number)
length = st.floats(0.05, 3)


def turned(wxyz: tuple[float, float, float, float], vector: list[float]) -> list[float]:
    """A vector turned by a quaternion, by its formula: v + 2 w (u x v) + 2 u x (u x v)."""
    w, u = wxyz[0], wxyz[1:]

    def cross(a: tuple | list, b: tuple | list) -> list[float]:
        return [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]

    once = cross(u, vector)
    return [v + 2 * w * a + 2 * b for v, a, b in zip(vector, once, cross(u, once), strict=True)]


def assert_found(shape: Shape, margins: list[float]) -> None:
    """What is found are the splats of a positive margin; one of almost none may go either way."""
    found = within(shape, CLOUD, AMONG)
    assert found.dtype == bool
    for row, margin in enumerate(margins):
        if abs(margin) > 1e-4:
            assert found[row] == (AMONG[row] and margin > 0), (row, margin)


@settings(deadline=None, max_examples=30)
@given(centre=point, size=st.tuples(length, length, length), axis=point, angle=st.floats(-4, 4))
def test_a_box(
    centre: tuple[float, float, float], size: tuple[float, float, float], axis: tuple[float, float, float], angle: float
) -> None:
    norm = math.hypot(*axis)
    unit = tuple(value / norm for value in axis) if norm > 1e-3 else (0.0, 0.0, 1.0)
    wxyz = (math.cos(angle / 2), *(math.sin(angle / 2) * value for value in unit))
    assert len(wxyz) == 4
    box = Box(centre, size, (wxyz[0], wxyz[1], wxyz[2], wxyz[3]))
    sides = [turned(box.wxyz, [float(i == k) for k in range(3)]) for i in range(3)]
    margins = []
    for mean in CLOUD.means.tolist():
        offset = [m - c for m, c in zip(mean, centre, strict=True)]
        along = [abs(sum(o * s for o, s in zip(offset, side, strict=True))) for side in sides]
        margins.append(min(length / 2 - way for length, way in zip(size, along, strict=True)))
    assert_found(box, margins)


@settings(deadline=None, max_examples=30)
@given(centre=point, radius=length)
def test_a_ball_and_what_is_farther(centre: tuple[float, float, float], radius: float) -> None:
    distances = [math.dist(mean, centre) for mean in CLOUD.means.tolist()]
    assert_found(Sphere(centre, radius), [radius - distance for distance in distances])
    assert_found(Farther(centre, radius), [distance - radius for distance in distances])


def test_opacity_and_size() -> None:
    assert_found(Fainter(0.3), [0.3 - opacity for opacity in CLOUD.opacities.tolist()])
    assert_found(Larger(0.2), [max(scales) - 0.2 for scales in CLOUD.scales.tolist()])


def to_stroke(position: list[float], stroke: list[list[float]]) -> float:
    """The distance to a stroke, from many points along it."""
    ways = zip(stroke, stroke[1:] or stroke, strict=False)
    return min(
        math.dist(position, [a + (b - a) * step / 400 for a, b in zip(start, end, strict=True)])
        for start, end in ways
        for step in range(401)
    )


@pytest.mark.parametrize(
    ("stroke", "radius"),
    [
        ([[20.0, 16.0]], 14.0),
        ([[5.0, 5.0], [30.0, 20.0]], 9.0),
        ([[2.0, 30.0], [20.0, 3.0], [38.0, 30.0], [38.0, 30.0]], 6.0),
    ],
)
def test_a_brush(stroke: list[list[float]], radius: float) -> None:
    """From amidst the splats, so that some are behind the camera, where the stroke's mirror image is."""
    camera = tiny.ring(1)
    viewmats = camera.viewmats.clone()
    viewmats[:, 2, 3] -= 2.5
    camera = type(camera)(viewmats, camera.Ks, camera.width, camera.height)
    brush = Brush(camera, np.array(stroke, np.float32), radius)
    margins, behind = [], 0
    for mean in torch.from_numpy(CLOUD.means).double():
        x, y, depth = (camera.Ks[0] @ (viewmats[0, :3, :3] @ mean + viewmats[0, :3, 3])).tolist()
        margin = radius - to_stroke([x / depth, y / depth], stroke)
        behind += depth < 0 and margin > 0
        margins.append(min(margin, depth) if abs(margin) > 0.05 else 0.0)
    assert behind > 0
    assert max(margins) > 0
    assert_found(brush, margins)


def test_floaters_are_judged_among_those_that_are_there() -> None:
    """A lone pair on each side of a cloud: each splat of it alone once the cloud is gone."""
    cloud = Cloud(CLOUD.means, CLOUD.scales, CLOUD.opacities)
    means = cloud.means.copy()
    means[0] = 60, 0, 0
    far = Cloud(means, cloud.scales, cloud.opacities)
    everything = np.ones(COUNT, bool)
    assert within(Floaters(0.0), far, everything)[0]
    without = everything.copy()
    without[0] = False
    assert not within(Floaters(0.0), far, without)[0]
    assert within(Floaters(0.0), far, everything)[0]  # what was kept of the other question is not taken for the answer
    assert within(Floaters(1.0), far, everything).sum() > within(Floaters(0.0), far, everything).sum()


def test_a_selection_is_replaced_or_changed() -> None:
    before, found = np.array([True, True, False, False]), np.array([True, False, True, False])
    assert combined(before, found, "replace").tolist() == [True, False, True, False]
    assert combined(before, found, "add").tolist() == [True, True, True, False]
    assert combined(before, found, "subtract").tolist() == [False, True, False, False]
    assert before.tolist() == [True, True, False, False]
