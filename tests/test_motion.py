"""How far pictures move, and which is sharper: crops of a texture whose places are known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import videos
from recon.datasets.motion import LOST, Grey, motion, sharpness

PICTURE = videos.texture(400, 500, seed=3)
ANGLES = st.floats(0, 2 * np.pi)


def view(x: float, y: float, *, size: tuple[int, int] = (160, 90), noise: float = 0, seed: int = 0) -> Grey:
    grey = videos.crop(PICTURE, x, y, *size).mean(-1).astype(np.float32)
    return grey + np.random.default_rng(seed).normal(0, noise, grey.shape).astype(np.float32)


@settings(max_examples=30, deadline=None)
@given(st.floats(0, 0.05), ANGLES, st.integers(0, 99))
def test_a_shift_is_measured_in_every_direction(moved: float, angle: float, place: int) -> None:
    x, y = 100 + place, 60 + place
    other = view(x + 160 * moved * np.cos(angle), y + 160 * moved * np.sin(angle), noise=2, seed=1)
    assert motion(view(x, y, noise=2, seed=2), other) == pytest.approx(moved, abs=0.002 + 0.12 * moved)


def test_a_camera_that_stands_still_does_not_move_by_noise() -> None:
    assert motion(view(50, 50, noise=6, seed=1), view(50, 50, noise=6, seed=2)) < 0.002


def test_a_turn_of_the_picture_and_going_forward_are_motion() -> None:
    grey = np.asarray(view(100, 60, size=(240, 160)))
    inner = view(100 + 6, 60 + 4, size=(228, 152))
    from PIL import Image

    nearer = np.asarray(Image.fromarray(inner).resize((240, 160), Image.Resampling.BICUBIC), np.float32)
    turned = np.asarray(Image.fromarray(grey).rotate(2, Image.Resampling.BICUBIC), np.float32)
    assert 0.003 < motion(grey, nearer) < 0.03
    assert 0.003 < motion(grey, turned) < 0.03


def test_an_object_that_stays_in_the_middle_does_not_hide_that_the_rest_moves() -> None:
    first, second = view(100, 60, size=(160, 120)), view(106, 60, size=(160, 120))
    second[40:80, 40:120] = first[40:80, 40:120]
    assert 0.5 * 6 / 160 < motion(first, second) < 6 / 160


def test_another_picture_is_as_far_as_can_be() -> None:
    noise = np.random.default_rng(0).normal(100, 30, (2, 90, 160)).astype(np.float32)
    assert motion(noise[0], noise[1]) == LOST
    assert motion(view(50, 50), view(300, 290)) == LOST
    assert motion(view(50, 50), view(50, 50, size=(90, 160))) == LOST


def test_where_nothing_can_be_told_nothing_moves() -> None:
    assert motion(np.full((90, 160), 50, np.float32), np.full((90, 160), 90, np.float32)) == 0
    assert motion(np.zeros((16, 20), np.float32), np.zeros((16, 20), np.float32)) == 0


def test_of_two_frames_the_blurred_one_is_less_sharp() -> None:
    frames = [videos.crop(PICTURE, 60, 60, 320, 180, blur=blur).mean(-1).astype(np.float32) for blur in (0, 3, 8)]
    sharp = [sharpness(frame) for frame in frames]
    assert sharp[0] > 1.5 * sharp[1] > 1.5**2 * sharp[2] > 0
