"""The benchmark of depths and normals: models whose errors are known."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

import tiny
from recon.datasets.cameras import Cameras
from recon.datasets.images import ArrayImage
from recon.datasets.scene import Scene
from recon.model import RenderOutput
from sources import SCRIPTS

if not SCRIPTS:
    pytest.skip("the scripts are not beside the tests", allow_module_level=True)

import bench_geometry


def sloping(camera: Cameras, height: float) -> Tensor:
    """[H,W,1] depth of a plane before a camera, higher on the right."""
    x = (torch.arange(camera.width) + 0.5 - camera.width / 2) / camera.Ks[0, 0, 0].float()
    return (2 / (1 - height * x)).expand(camera.height, -1)[..., None]


@dataclasses.dataclass
class Off:
    """A model that shows the plane, off by so much, and with another slope."""

    by: float
    height: float = 0.3

    def render(self, camera: Cameras, **_: Any) -> RenderOutput:
        depth = sloping(camera, self.height)[None] + self.by
        return RenderOutput(depth.expand(-1, -1, -1, 3), torch.ones_like(depth), depth, median_depth=depth + self.by)


@dataclasses.dataclass
class State:
    model: Off
    extent: float = 4.0


def scene() -> Scene:
    views = [dataclasses.replace(v, depth=ArrayImage(sloping(v.camera, 0.3))) for v in tiny.scene().views]
    return dataclasses.replace(tiny.scene(), views=tuple(views))


def test_errors_are_shares_of_the_extent() -> None:
    found = bench_geometry.errors(State(Off(0.04)), scene())  # type: ignore[arg-type]
    assert found["expected, %"] == pytest.approx(1.0, rel=1e-4)
    assert found["median, half within %"] == pytest.approx(2.0, rel=1e-4)
    assert bench_geometry.errors(State(Off(0.0)), scene())["median, normals °"] < 0.1  # type: ignore[arg-type]


def test_the_angle_of_normals_is_that_of_the_planes() -> None:
    """A plane that rises by a height for each unit to the right is turned by the angle of that slope."""
    found = bench_geometry.errors(State(Off(0.0, height=-0.3)), scene())  # type: ignore[arg-type]
    assert found["expected, normals °"] == pytest.approx(2 * 16.699, abs=0.1)


def test_each_variant_is_another_training() -> None:
    assert len(set(bench_geometry.VARIANTS.values())) == len(bench_geometry.VARIANTS)
    assert bench_geometry.VARIANTS["--for-mesh"] == bench_geometry.WHOLE
