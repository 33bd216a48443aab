"""A photo against the picture through its camera."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import tiny
from recon.colormap import INFERNO, colourise
from recon.comparing import PhotoComparison, fitted, wipe
from recon.datasets.images import ArrayImage
from recon.datasets.scene import Scene, View
from recon.evaluate import ERROR_RANGE
from recon.exposure import Shot
from recon.kernels.expose import COEFFICIENTS
from recon.render import frames
from recon.subject import SplatSubject
from recon.viewer.look import Look


def scene_and_subject() -> tuple[Scene, SplatSubject]:
    """Photos of exactly what is drawn."""
    model = tiny.gaussians(80, degree=1)
    cameras = tiny.ring(3, 40, 32)
    photos = [torch.from_numpy(picture).float() / 255 for picture in frames(model, cameras)]
    views = tuple(View(f"{i}.png", cameras[i], ArrayImage(photo)) for i, photo in enumerate(photos))
    return Scene("tiny", views, (0, 1), (2,)), SplatSubject(model)


@pytest.mark.parametrize(("share", "columns"), [(-1.0, 0), (0.0, 0), (0.5, 10), (0.26, 5), (1.0, 20), (7.0, 20)])
def test_a_wipe_is_photo_left_and_render_right_of_a_line(share: float, columns: int) -> None:
    render, photo = np.full((4, 20, 3), 10, np.uint8), np.full((4, 20, 3), 200, np.uint8)
    picture = wipe(render, photo, share)
    line = [] if columns in (0, 20) else [columns - 1, columns]
    for column in range(20):
        expected = 255 if column in line else 200 if column < columns else 10
        assert (picture[:, column] == expected).all()
    assert (render == 10).all()


@pytest.mark.parametrize(("width", "height"), [(80, 64), (160, 40), (30, 90), (41, 33)])
def test_the_photo_s_camera_fits_into_any_window(width: int, height: int) -> None:
    camera = tiny.ring(4, 40, 32)[1]
    wider, part = fitted(camera, width, height)
    assert (wider.width, wider.height) == (width, height)
    assert part.width == width or part.height == height
    assert abs(part.width / part.height - 40 / 32) < 0.05
    points = torch.randn(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 0.3
    own, there = camera.project(points)[0][0], wider.project(points)[0][0]
    scaled = own * torch.tensor([part.width / 40, part.height / 32]) + torch.tensor([part.left, part.top])
    assert torch.allclose(there, scaled)


def test_a_scene_that_is_its_photos_has_no_seam_and_no_error() -> None:
    scene, subject = scene_and_subject()
    comparison = PhotoComparison(scene, subject)
    assert comparison.names == ["0.png", "1.png", "2.png"]
    whole = comparison.draw(1, 40, 32, "wipe", 0.0, Look())
    assert np.array_equal(whole, subject.draw(scene.views[1].camera, Look()))
    assert np.array_equal(comparison.draw(1, 40, 32, "wipe", 1.0, Look()), whole)
    half = comparison.draw(1, 40, 32, "wipe", 0.5, Look())
    assert (half[:, 19:21] == 255).all()
    half[:, 19:21] = whole[:, 19:21]
    assert np.array_equal(half, whole)
    assert (comparison.draw(1, 40, 32, "error", 0.5, Look()) <= [0, 0, 4]).all()
    assert comparison.draw(0, 40, 32, "error", 0.5, Look(size=0.3)).max() > 100


def test_beside_the_photo_the_render_is_darker_and_has_no_error() -> None:
    scene, subject = scene_and_subject()
    comparison = PhotoComparison(scene, subject)
    for share, of_photo in ((0.0, False), (0.9, True)):
        picture = comparison.draw(0, 100, 32, "wipe", share, Look(mode="alpha"))
        camera, part = fitted(scene.views[0].camera, 100, 32)
        assert (part.left, part.width) == (30, 40)
        alpha = subject.draw(camera, Look(mode="alpha"))
        assert np.array_equal(picture[:, :30], alpha[:, :30] // 3)
        photo = subject.draw(scene.views[0].camera, Look())
        assert np.array_equal(picture[:, 30:68], photo[:, :38] if of_photo else alpha[:, 30:68])
    error = comparison.draw(0, 100, 32, "error", 0.5, Look(mode="alpha", size=0.3))
    assert not error[:, :30].any()
    assert error[:, 30:70].max() > 100


def test_the_render_is_exposed_as_the_photo_was_and_masked_pixels_do_not_count() -> None:
    """Photos of three quarters of the light: an exposure of that leaves no error, and without it the error is known."""
    mask = torch.ones(32, 40, 1)
    mask[:, :20] = 0
    scene, subject = scene_and_subject()
    look = Look(background=(0.2, 0.2, 0.2))
    camera = scene.views[0].camera
    render = subject.draw(camera, look) / 255
    photo = ArrayImage(torch.from_numpy(0.75 * render).float())
    dimmed = Scene("dimmed", (View("0.png", camera, photo), View("1.png", camera, photo, ArrayImage(mask))), (0, 1), ())
    coefficients = torch.zeros(3, COEFFICIENTS)
    coefficients[:, 0] = np.log(0.75)
    exact = Shot(coefficients, (20.0, 16.0, 25.0))
    comparison = PhotoComparison(dimmed, subject, [exact, exact])
    assert (comparison.draw(0, 40, 32, "error", 0.5, look) <= [4, 4, 8]).all()
    without = PhotoComparison(dimmed, subject)
    error = without.draw(0, 40, 32, "error", 0.5, look)
    expected = colourise((0.25 * render).mean(axis=-1) / ERROR_RANGE, INFERNO) * 255
    assert np.abs(error - expected).max() < 3
    masked = without.draw(1, 40, 32, "error", 0.5, look)
    assert (masked[:, :20] <= [0, 0, 4]).all()
    assert np.array_equal(masked[:, 20:], error[:, 20:])


def test_the_lens_of_an_exposure_follows_the_size_of_the_picture() -> None:
    """Light that falls off from a corner, in a picture twice as large."""
    scene, subject = scene_and_subject()
    coefficients = torch.zeros(3, COEFFICIENTS)
    coefficients[:, 1] = -1.0
    shots = [Shot(coefficients, (0.0, 0.0, 25.0))] * 3
    small = PhotoComparison(scene, subject, shots).draw(0, 40, 32, "wipe", 0.0, Look(background=(1.0, 1.0, 1.0)))
    plain = PhotoComparison(scene, subject).draw(0, 40, 32, "wipe", 0.0, Look(background=(1.0, 1.0, 1.0)))
    large = PhotoComparison(scene, subject, shots).draw(0, 80, 64, "wipe", 0.0, Look(background=(1.0, 1.0, 1.0)))
    assert plain[-1, -1].min() == 255
    assert abs(int(small[-1, -1, 0]) - 255 * np.exp(-(39.5**2 + 31.5**2) / 25**2)) < 1
    assert abs(int(large[-1, -1, 0]) - 255 * np.exp(-(79.5**2 + 63.5**2) / 50**2)) < 1
    assert large[0, 0, 0] > 200
