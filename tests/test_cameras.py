"""Cameras: projection, rays, resizing and moving agree with each other, and with OpenCV's definition."""

from __future__ import annotations

import math

import numpy as np
import pycolmap
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recon.datasets.cameras import OPENCV_FROM_OPENGL, Cameras, intrinsics, look_at, similarity_scale

seeds = st.integers(0, 10**6)


def some_cameras(seed: int, count: int = 3) -> tuple[Cameras, Tensor]:
    """Cameras on a shell around the origin that look near it, and [20,3] points in front of all of them."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    directions = normal(count, 3)
    directions[:, 2] *= 0.5
    eyes = 4 * directions / directions.norm(dim=-1, keepdim=True)
    up = torch.tensor([0.1, 0.2, 1.0], dtype=torch.float64)
    Ks = torch.cat([intrinsics(*(100 + 10 * normal(2)).tolist(), *(50 + 5 * normal(2)).tolist()) for _ in range(count)])
    return Cameras.from_c2w(look_at(eyes, 0.2 * normal(count, 3), up), Ks, 96, 80), 0.5 * normal(20, 3)


def similarity(seed: int) -> Tensor:
    rng = np.random.default_rng(seed)
    matrix = torch.eye(4, dtype=torch.float64)
    rotation = pycolmap.Rotation3d(rng.normal(size=3)).matrix()
    matrix[:3, :3] = float(rng.uniform(0.1, 10)) * torch.from_numpy(rotation)
    matrix[:3, 3] = torch.from_numpy(rng.normal(size=3))
    return matrix


def close(a: Tensor, b: Tensor, atol: float = 1e-9) -> bool:
    return torch.allclose(a, b, rtol=1e-9, atol=atol)


@given(seeds)
@settings(deadline=None, max_examples=25)
def test_projection_is_colmaps(seed: int) -> None:
    cameras, points = some_cameras(seed)
    pixels, depths = cameras.project(points)
    for i in range(len(cameras)):
        pose = pycolmap.Rigid3d(cameras.viewmats[i, :3].numpy())
        K = cameras.Ks[i]
        lens = pycolmap.Camera(
            model="PINHOLE", width=96, height=80, params=[float(K[a, b]) for a, b in ((0, 0), (1, 1), (0, 2), (1, 2))]
        )
        in_camera = np.array([pose * point for point in points.numpy()])
        np.testing.assert_allclose(depths[i].numpy(), in_camera[:, 2], atol=1e-9)
        np.testing.assert_allclose(pixels[i].numpy(), lens.img_from_cam(in_camera), atol=1e-6)


@given(seeds)
@settings(deadline=None, max_examples=25)
def test_rays_go_through_what_projects_to_their_pixels(seed: int) -> None:
    cameras, points = some_cameras(seed)
    pixels, depths = cameras.project(points)
    origins, directions = cameras.rays(pixels)
    assert close(directions.norm(dim=-1), torch.ones_like(depths))
    assert close(origins, cameras.positions[:, None].expand_as(origins))
    along = depths / (directions * cameras.forward[:, None]).sum(dim=-1)
    assert close(origins + along[..., None] * directions, points.expand(len(cameras), -1, -1))
    shared = cameras.rays(pixels[0])
    assert close(shared[1][0], directions[0])
    assert shared[1].shape == directions.shape


@given(seeds, st.integers(1, 400), st.integers(1, 400))
@settings(deadline=None, max_examples=25)
def test_resizing_moves_pixels_with_the_image(seed: int, width: int, height: int) -> None:
    cameras, points = some_cameras(seed)
    resized = cameras.resized(width, height)
    assert (resized.width, resized.height) == (width, height)
    scale = torch.tensor([width / 96, height / 80], dtype=torch.float64)
    assert close(resized.project(points)[0], cameras.project(points)[0] * scale, atol=1e-7)
    pixels = torch.tensor([[0.5, 0.5], [95.5, 79.5], [3.0, 40.0]], dtype=torch.float64)
    assert close(resized.rays(pixels * scale)[1], cameras.rays(pixels)[1])
    assert close(resized.resized(96, 80).Ks, cameras.Ks)


@given(seeds)
@settings(deadline=None, max_examples=25)
def test_moving_the_world_keeps_every_picture(seed: int) -> None:
    cameras, points = some_cameras(seed)
    transform = similarity(seed)
    scale = float(similarity_scale(transform))
    moved = cameras.transformed(transform)
    moved_points = points @ transform[:3, :3].T + transform[:3, 3]
    pixels, depths = cameras.project(points)
    moved_pixels, moved_depths = moved.project(moved_points)
    assert close(moved_pixels, pixels, atol=1e-7)
    assert close(moved_depths, depths * scale)
    assert close(moved.positions, cameras.positions @ transform[:3, :3].T + transform[:3, 3])
    rotation = moved.viewmats[:, :3, :3]
    assert close(rotation @ rotation.transpose(1, 2), torch.eye(3, dtype=torch.float64).expand(3, 3, 3))
    assert close(moved.transformed(torch.linalg.inv(transform)).viewmats, cameras.viewmats)


@given(seeds)
@settings(deadline=None, max_examples=25)
def test_look_at_puts_the_target_in_the_centre_with_up_above(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    eyes, targets = torch.randn(2, 4, 3, generator=generator, dtype=torch.float64)
    up = torch.randn(3, generator=generator, dtype=torch.float64)
    c2w = look_at(eyes, targets, up)
    cameras = Cameras.from_c2w(c2w, intrinsics(80, 90, 30, 20).repeat(4, 1, 1), 60, 40)
    assert close(torch.linalg.det(c2w[:, :3, :3]), torch.ones(4, dtype=torch.float64))
    assert close(cameras.positions, eyes)
    assert close(cameras.forward, torch.nn.functional.normalize(targets - eyes, dim=-1))
    for i in range(4):
        one = cameras[i]
        assert close(one.project(targets[i : i + 1])[0][0, 0], torch.tensor([30.0, 20.0], dtype=torch.float64), 1e-7)
        above = one.project(targets[i : i + 1] + 1e-3 * up)[0][0, 0]
        assert close(above[0], torch.tensor(30.0, dtype=torch.float64), 1e-6)
        assert above[1] < 20  # y points down
        assert float(one.up[0] @ up) > 0


def test_axes_and_pixel_centres() -> None:
    camera = Cameras(torch.eye(4, dtype=torch.float64)[None], intrinsics(10, 10, 2, 1.5), 4, 3)
    pixels, depths = camera.project(torch.tensor([[0.0, 0, 2], [1, 0, 2], [0, 1, 2], [-0.375, -0.25, 2]]))
    assert pixels[0].tolist() == [[2.0, 1.5], [7.0, 1.5], [2.0, 6.5], [0.125, 0.25]]  # right, down, first pixel
    assert depths[0].tolist() == [2.0] * 4
    assert camera.up.tolist() == [[0, -1, 0]]
    assert camera.forward.tolist() == [[0, 0, 1]]
    assert torch.equal(OPENCV_FROM_OPENGL @ OPENCV_FROM_OPENGL, torch.eye(4, dtype=torch.float64))


def test_indexing_and_joining() -> None:
    cameras, _ = some_cameras(0, 5)
    assert len(cameras[2]) == 1
    assert torch.equal(cameras[2].viewmats[0], cameras.viewmats[2])
    assert torch.equal(cameras[-1].viewmats[0], cameras.viewmats[4])
    assert torch.equal(cameras[1:3].Ks, cameras.Ks[1:3])
    assert torch.equal(cameras[[0, 4]].viewmats, cameras.viewmats[[0, 4]])
    assert torch.equal(cameras[(0, 4)].viewmats, cameras.viewmats[[0, 4]])
    assert len(cameras[torch.tensor([True, False, True, False, True])]) == 3
    joined = Cameras.cat([cameras[:2], cameras[2:]])
    assert torch.equal(joined.viewmats, cameras.viewmats)
    with pytest.raises(ValueError, match="2 image sizes"):
        Cameras.cat([cameras, cameras.resized(10, 10)])


def test_precision_is_kept_and_can_be_changed() -> None:
    cameras, points = some_cameras(0)
    assert cameras.project(points)[0].dtype == torch.float64
    single = cameras.to(dtype=torch.float32)
    assert single.viewmats.dtype == single.Ks.dtype == torch.float32
    assert torch.allclose(single.project(points)[0].double(), cameras.project(points)[0], atol=1e-3)
    assert cameras.viewmats.dtype == torch.float64


def test_nothing_is_changed_in_place() -> None:
    cameras, points = some_cameras(0)
    before = cameras.viewmats.clone(), cameras.Ks.clone()
    cameras.resized(10, 20)
    cameras.transformed(similarity(1))
    cameras.project(points)
    cameras.rays(points[:, :2])
    assert torch.equal(before[0], cameras.viewmats)
    assert torch.equal(before[1], cameras.Ks)


@pytest.mark.parametrize(
    ("viewmats", "Ks", "size"),
    [
        ((2, 4, 4), (3, 3, 3), (4, 4)),
        ((4, 4), (3, 3), (4, 4)),
        ((1, 4, 4), (1, 3, 3), (0, 4)),
        ((1, 4, 4), (1, 3, 3), (4, -1)),
    ],
)
def test_inconsistent_batches_are_refused(viewmats: tuple, Ks: tuple, size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"not \[C,4,4\]|is not positive"):
        Cameras(torch.zeros(viewmats), torch.zeros(Ks), *size)


def test_the_scale_of_a_similarity() -> None:
    for scale in (1e-3, 1.0, 250.0):
        matrix = similarity(3)
        matrix[:3, :3] *= scale / similarity_scale(matrix)
        assert float(similarity_scale(matrix)) == pytest.approx(scale)
    assert math.isclose(float(similarity_scale(torch.eye(4))), 1.0)
