"""The surface at a density: of a density known exactly, of fields, and from the command to a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import balls
import fields_cases
import tiny
from fields_cases import BALL, begin, settings_of
from recon import checkpoint, export, opening, runs, surfacing
from recon.datasets import synthetic
from recon.datasets.errors import InputError
from recon.datasets.normalize import normalize
from recon.meshing import files, level
from recon.meshing.surface import Wishes
from recon.nerf import Nerf
from recon.options import Options
from recon.parts import Parts, Place
from recon.reach import Reach
from recon.train import start

CPU = torch.device("cpu")
CUBE = np.array([[i, j, k] for i in range(-3, 3) for j in range(-3, 3) for k in range(-3, 3)])


def test_a_ball_of_density_becomes_a_ball() -> None:
    pytest.importorskip("open3d", reason="Open3D cannot be loaded", exc_type=ImportError)
    told: list[tuple[int, int]] = []
    mesh = level.surface(
        lambda points: (20 - 10 * points.norm(dim=-1)).clamp_min(0).float(),
        *(9.7, 0.1, CUBE),
        lambda done, count: told.append((done, count)),
    )
    assert np.abs(balls.radii(mesh) - 1.03).max() < 0.01
    assert balls.outwards(mesh) > 0.99
    assert told[-1] == (216, 216)
    assert not len(level.surface(lambda points: torch.zeros(len(points)), 1.0, 0.1, CUBE[:5]).faces)


@pytest.mark.parametrize("method", ["nerf", "plenoxels"])  # the others see all of space, and have tests of their own
def test_light_along_a_ray_is_stopped_by_the_densities_on_it(method: str) -> None:
    """A sum over densities beside what the field renders: of plenoxels a grid with a ball in it, of others the first
    fog."""
    scene = tiny.scene()
    model = fields_cases.ball(scene) if method == "plenoxels" else begin(settings_of(method, 1)).model
    camera = scene.test_views[0].camera.to(dtype=torch.float32)
    pixels = torch.tensor([[20.0, 16.0], [23.5, 13.5], [1.5, 1.5]])
    with torch.no_grad():
        alpha = model.render(camera, pixels=pixels[None]).alpha.reshape(-1)  # type: ignore[union-attr]
    origins, directions = (values[0] for values in camera.rays(pixels))
    reach = getattr(model, "reach", None)
    assert isinstance(reach, Reach)
    far = reach.far if method != "plenoxels" else 3.8  # leaves the cube, in which the ball is
    at = torch.linspace(reach.near, far, 4001)
    places = origins[:, None] + directions[:, None] * at[:, None]
    densities = model.density(places.reshape(-1, 3)).reshape(3, -1)  # type: ignore[union-attr]
    summed = 1 - torch.exp(-torch.trapezoid(densities, at, dim=-1))
    assert densities.dtype == torch.float32
    assert torch.allclose(summed, alpha, atol=0.05)
    assert float(summed.max()) > 0.3


def test_in_normalised_device_coordinates_a_density_is_of_the_world() -> None:
    """Volumes keep what they hold: a small cube of the world beside what becomes of it."""
    frame = torch.eye(4, dtype=torch.float64)
    reach = Reach(0.5, 1.0, frame, (1.5, 2.0))
    place = torch.tensor([[0.3, -0.2, -2.0]], dtype=torch.float64)
    moved = [reach.places(place + 1e-5 * step)[0][0] - reach.places(place)[0][0] for step in torch.eye(3).double()]
    volume = float(torch.linalg.det(torch.stack(moved)).abs()) / 1e-15
    assert float(reach.places(place)[1]) == pytest.approx(volume ** (1 / 3), rel=1e-3)
    begin_at, along = reach.rays(torch.zeros(1, 3).double(), torch.nn.functional.normalize(place, dim=-1))
    s = (reach.places(place)[0] - begin_at)[0, 2] / along[0, 2]
    assert torch.allclose(begin_at + s * along, reach.places(place)[0])


def test_a_network_in_normalised_device_coordinates_is_asked_there() -> None:
    config = fields_cases.NERF
    model = Nerf(config, Reach(0.5, 1.0, torch.eye(4, dtype=torch.float64), (1.0, 1.0)))
    place = torch.tensor([[0.3, -0.2, -2.0]])
    there, longer = model.reach.places(place)
    with torch.no_grad():
        expected = model.networks["fine"](there[:, None], place)[0][0, 0] * longer
    assert torch.allclose(model.density(place), expected)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run that ended in a ball."""
    pytest.importorskip("open3d", reason="Open3D cannot be loaded", exc_type=ImportError)
    folder = tmp_path / "scene"
    synthetic.write(synthetic.make(views=8, width=64, height=48), folder, "nerfstudio")
    options = Options(scene=str(folder), method="plenoxels", steps=1)
    scene, _ = opening.open_scene(options, CPU)
    state = start(fields_cases.ball(normalize(scene)), options.train_config(), scene)
    record = {"options": {"scene": str(folder), "method": "plenoxels"}, "capture": opening.photos_of(scene)}
    found = runs.create(tmp_path / "runs", "ball", "plenoxels", record)
    checkpoint.save(state, found.checkpoint_file(0))
    return found.path


def test_a_field_becomes_a_mesh(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "ball.mesh.ply"
    surfacing.export_to(run, out, Place("world", scale=2.0), wishes=Wishes("density"))
    assert "Surface at a density of " in capsys.readouterr().out
    mesh = files.load(out)
    radii = balls.radii(mesh) / 2
    assert abs(float(np.median(radii)) - BALL) < 0.03  # cells are 0.05 wide
    assert balls.outwards(mesh) > 0.98
    assert mesh.colors is not None
    expected = 0.5 + mesh.vertices / np.linalg.norm(mesh.vertices, axis=1, keepdims=True) / 2
    assert np.abs(mesh.colors - expected).mean() < 0.05
    inner = tmp_path / "inner.mesh.ply"
    surfacing.export_to(run, inner, Place("world", scale=2.0), wishes=Wishes("density", level=75.0))
    assert np.median(balls.radii(files.load(inner))) / 2 < np.median(radii)
    box = (-9.0, -9.0, 0.0, 9.0, 9.0, 9.0)
    surfacing.export_to(run, inner, Place("world", scale=2.0), Parts(crop=box), Wishes("density"))
    assert files.load(inner).vertices[:, 2].min() >= 0


def test_what_cannot_be_is_said(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.mesh.ply"
    with pytest.raises(InputError, match="nowhere 1e\\+06 a unit near what cameras see; give a lower --level"):
        surfacing.export_to(run, out, Place("world"), wishes=Wishes("density", level=1e6))
    export.export(tiny.gaussians(20), tmp_path / "a.ply")
    with pytest.raises(InputError, match=r"--method density: is for radiance fields, and .*a\.ply holds splats"):
        surfacing.export_to(tmp_path / "a.ply", out, wishes=Wishes("density"))
    with pytest.raises(InputError, match="--level 3: is for --method density"):
        Wishes(level=3.0)
    with pytest.raises(InputError, match="--level -1: must be more than 0"):
        Wishes("density", level=-1.0)
    assert not out.exists()
