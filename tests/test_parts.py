"""Where a scene lies in a file, and what of it is left out on the way."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import tiny
from recon import exporting, lost
from recon.datasets.errors import InputError
from recon.export import AXES, export, load
from recon.gaussians import quat_multiply
from recon.parts import Parts, Place, chosen
from recon.raster.reference import rotations_from_quats

UPS = {"y-up": torch.tensor([0.0, 1.0, 0.0]).double(), "z-up": torch.tensor([0.0, 0.0, 1.0]).double()}
COLMAP_UP = torch.tensor([0.0, -1.0, 0.0]).double()

numbers = st.floats(-5, 5)


def similarity(scale: float, quat: tuple[float, ...], centre: tuple[float, ...]) -> Tensor:
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3] = scale * rotations_from_quats(torch.tensor([quat], dtype=torch.float64))[0]
    matrix[:3, 3] = torch.tensor(centre, dtype=torch.float64)
    return matrix


quats = st.tuples(numbers, numbers, numbers, numbers).filter(lambda q: sum(v * v for v in q) > 0.1)


@settings(deadline=None)
@given(st.sampled_from(sorted(UPS)), st.floats(0.1, 50), quats, st.tuples(numbers, numbers, numbers))
def test_up_is_up_and_scale_and_origin_are_the_captures(
    frame: str, scale: float, quat: tuple[float, ...], centre: tuple[float, ...]
) -> None:
    source_from_world = similarity(scale, quat, centre)
    up = source_from_world[:3, :3] @ UPS["z-up"]
    placed = Place(frame).file_from_world(source_from_world, up)  # type: ignore[arg-type]
    assert torch.allclose(placed[:3, :3] @ UPS["z-up"] / scale, UPS[frame], atol=1e-9)
    turn = placed @ source_from_world.inverse()  # from the capture's frame: a rotation and nothing else
    assert torch.allclose(turn[:3, :3] @ turn[:3, :3].T, torch.eye(3).double(), atol=1e-9)
    assert torch.linalg.det(turn[:3, :3]) > 0
    assert torch.allclose(turn[:3, 3], torch.zeros(3).double(), atol=1e-8)


def test_the_frames_of_colmaps_axes_are_those_one_expects() -> None:
    """Right, down, front: z-up is right, front, up, and y-up right, up, back as in OpenGL."""
    eye = torch.eye(4, dtype=torch.float64)
    z_up, y_up = (Place(frame).file_from_world(eye, COLMAP_UP)[:3, :3] for frame in ("z-up", "y-up"))
    assert torch.allclose(z_up, torch.tensor([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]]).double())
    assert torch.allclose(y_up, torch.diag(torch.tensor([1.0, -1, -1])).double())


def test_scaled_then_turned_about_x_y_z_then_moved() -> None:
    placed = Place(scale=2, rotate=(90, 90, 0), translate=(1, 2, 3)).file_from_world(torch.eye(4), COLMAP_UP)
    # y goes to z about x, and from there to x about y; z goes to -y, which stays.
    assert torch.allclose(placed @ torch.tensor([0.0, 1, 0, 1]).double(), torch.tensor([3.0, 2, 3, 1]).double())
    assert torch.allclose(placed @ torch.tensor([0.0, 0, 1, 1]).double(), torch.tensor([1.0, 0, 3, 1]).double())


@pytest.mark.parametrize(
    "place",
    [Place("y-up"), Place("z-up", scale=3.0, rotate=(20.0, -40.0, 75.0), translate=(1.0, -2.0, 0.5))],
    ids=["y-up", "all of it"],
)
def test_a_moved_file_looks_the_same_through_moved_cameras(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scene = tiny.gaussians(60, degree=3)
    export(scene, tmp_path / "a.ply")
    exporting.export_to(tmp_path / "a.ply", tmp_path / "b.ply", place)
    assert "a.ply does not say which way is up: its -y is taken for it" in " ".join(capsys.readouterr().out.split())
    moved = load(tmp_path / "b.ply")
    matrix = place.file_from_world(torch.eye(4), COLMAP_UP)
    cameras = tiny.ring(3)
    assert lost.difference(scene, moved, cameras.transformed(matrix)) > 1e-4  # the test can fail
    with torch.no_grad():
        before, after = scene.render(cameras).rgb, moved.render(cameras.transformed(matrix)).rgb
    assert float((before - after).abs().max()) < 2e-3
    back = moved.transformed(matrix.inverse())
    assert torch.allclose(back.means, scene.means, atol=1e-5)
    assert torch.allclose(back.shN, scene.shN, atol=1e-5)


@pytest.mark.parametrize("suffix", sorted(AXES))
def test_up_is_that_of_the_file_as_others_read_it(suffix: str, tmp_path: Path) -> None:
    scene = tiny.gaussians(40, degree=1)
    with torch.no_grad():
        scene.means[0] = torch.tensor([0.0, -3.0, 0.0])  # straight up in COLMAP's manner
    export(scene, tmp_path / "a.ply")
    exporting.export_to(tmp_path / "a.ply", tmp_path / f"b{suffix}", Place("y-up"))
    read = load(tmp_path / f"b{suffix}").means.detach()  # in the axes of a .ply
    stored = (read * torch.tensor(AXES[suffix])).double()
    assert torch.allclose(stored[read.norm(dim=1).argmax()], 3 * UPS["y-up"], atol=1e-2)


def test_large_ones_are_left_out_whichever_axis_is_long() -> None:
    scene = tiny.gaussians(5, degree=0)
    with torch.no_grad():
        scene.log_scales[:] = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5]).log()[:, None] - torch.tensor([2.0, 0.0, 1.0])
    assert torch.equal(chosen(scene, Parts(max_size=0.31)).means, scene.means[:3])


def test_floaters_are_looked_for_among_what_is_left() -> None:
    scene = tiny.gaussians(300, degree=0)
    with torch.no_grad():
        scene.log_scales[:] = -4.0
        scene.logit_opacities[:] = 2.0
        scene.means[0] = torch.tensor([30.0, 0.0, 0.0])
        scene.means[1:40] = scene.means[0] + 0.01 * torch.randn(39, 3, generator=torch.Generator().manual_seed(1))
        scene.logit_opacities[1:40] = -5.0  # a faint crowd, in which the first is not alone
    assert len(chosen(scene, Parts(floaters=0.0))) > 290
    kept = chosen(scene, Parts(floaters=0.0, min_opacity=0.1))
    assert float(kept.means.detach().max()) < 5
    gentle, strong = (len(chosen(scene, Parts(floaters=s, min_opacity=0.1))) for s in (0.0, 1.0))
    assert 200 < strong < gentle <= 260


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"scale": 0.0}, "--scale 0: must be more than 0"),
        ({"scale": float("inf")}, "--scale inf: must be more than 0"),
        ({"rotate": (0, float("nan"), 0)}, "--rotate 0 nan 0: must be finite"),
        ({"translate": (0, 0, float("inf"))}, "--translate 0 0 inf: must be finite"),
    ],
)
def test_a_place_that_cannot_be_is_said_by_the_name_of_the_option(values: dict, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        Place(**values)


def test_turns_add_up() -> None:
    """The rotation of each splat turns with the scene: about its own axes it stays as it was."""
    scene = tiny.gaussians(10, degree=0)
    matrix = Place(rotate=(0, 0, 90)).file_from_world(torch.eye(4), COLMAP_UP)
    turn = torch.tensor([0.5**0.5, 0.0, 0.0, 0.5**0.5]).expand(10, 4)
    expected = rotations_from_quats(quat_multiply(turn, scene.quats))
    assert torch.allclose(rotations_from_quats(scene.transformed(matrix).quats), expected, atol=1e-6)
