"""Splats of a radiance field: from where it is looked at, what becomes of it, and that it is made once."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

import fields_cases
import tiny
from recon import checkpoint, cli, distillation, distilling, exporting, loading, lost, opening, runs, session, viewing
from recon.config import for_steps
from recon.datasets import synthetic
from recon.datasets.errors import InputError
from recon.datasets.point_cloud import read_points
from recon.datasets.scene import Points, View
from recon.export import load
from recon.gaussians import Gaussians
from recon.options import Options
from recon.parts import Parts, Place
from recon.train import start, train

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("capture") / "scene"
    synthetic.write(synthetic.make(views=12, width=48, height=36), folder, "nerfstudio")
    options = Options(scene=str(folder), method="plenoxels", steps=40)
    return session.begin(options, tmp_path_factory.mktemp("runs"), CPU, session.Watch()).path


@pytest.fixture(scope="module")
def ball_run(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, as if it had ended in a ball."""
    found, state = runs.find(run), loading.load_state(run)
    ended = start(fields_cases.ball(opening.scene_of(found, CPU)), state.config, opening.scene_of(found, CPU))
    ended.step = state.step
    made = runs.create(tmp_path_factory.mktemp("ball"), "ball", "plenoxels", found.config())
    checkpoint.save(ended, made.checkpoint_file(ended.step))
    return made.path


def nothing(*_: int) -> None:
    pass


def test_cameras_between_photos_are_near_them_and_look_where_they_look() -> None:
    cameras = [tiny.ring(24)[i] for i in range(24)]
    more = distillation.between(cameras, torch.Generator().manual_seed(0))
    again = distillation.between(cameras, torch.Generator().manual_seed(0))
    step = float((cameras[1].positions - cameras[0].positions).norm())
    assert len(more) == len(cameras)
    for one, same, photo in zip(more, again, cameras, strict=True):
        assert torch.equal(one.viewmats, same.viewmats)
        rotation = one.viewmats[0, :3, :3]
        assert torch.allclose(rotation @ rotation.T, torch.eye(3, dtype=torch.float64), atol=1e-12)
        assert 0.01 * step < float((one.positions - photo.positions).norm()) < 6 * step
        assert float(one.forward[0] @ photo.forward[0]) > 0.7
        assert torch.equal(one.Ks, photo.Ks)
    assert distillation.between(cameras[:1], torch.Generator()) == []


def test_of_many_views_as_many_are_taken_as_fit() -> None:
    cameras, photo = tiny.ring(24), tiny.ArrayImage(torch.zeros(32, 40, 3))
    views = [View(f"{i}", cameras[i], photo) for i in range(24)]
    every = distillation.cameras_of(views, 0)
    assert len(every) == 2 * len(views)
    assert torch.equal(every[3].viewmats, views[3].camera.viewmats)
    few = distillation.cameras_of(views, 0, most_bytes=10 * 40 * 32 * distillation.PIXEL_BYTES)
    assert 6 <= len(few) <= 10


def test_a_scene_of_splats_becomes_pictures_and_points_of_it() -> None:
    """The 'field' is known exactly: its points are on it, its pictures are its own."""
    truth, scene = tiny.gaussians(60, degree=0), tiny.scene()
    clear = distillation.Clear(scene)
    cameras = [view.camera for view in scene.train_views]
    settings = dataclasses.replace(distillation.settings_for(200, 0), strategy=for_steps(200).strategy)
    seen = distillation.scene_of(truth, scene, cameras, (0.0, 0.0, 0.0), settings, clear, nothing)
    for view, photo in zip(seen.train_views, scene.train_views, strict=True):
        assert (view.load() - photo.load()).abs().max() < 0.03  # tiles instead of the reference, and 8 bits
    assert seen.points is not None
    count = distillation.BEGIN_WITH * settings.max_gaussians
    assert 0.2 * count < len(seen.points) <= count + len(cameras)
    away = torch.cdist(seen.points.xyz.double(), truth.means.detach().double()).amin(dim=1)
    assert float(away.median()) < 0.2


def test_cut_outs_stay_cut_out() -> None:
    truth, scene = tiny.gaussians(60, degree=0), tiny.scene()
    photo = torch.zeros(32, 40, 4)
    cut = dataclasses.replace(
        scene, views=tuple(dataclasses.replace(v, image=tiny.ArrayImage(photo)) for v in scene.views)
    )
    cameras, white = [cut.train_views[0].camera], (1.0, 1.0, 1.0)
    settings, clear = distillation.settings_for(200, 0), distillation.Clear(cut)
    picture = distillation.scene_of(truth, cut, cameras, white, settings, clear, nothing).views[0].load()
    with torch.no_grad():
        out = truth.render(cameras[0], background=torch.tensor(white))
    over = picture[..., :3] * picture[..., 3:] + 1 - picture[..., 3:]
    assert (over - out.rgb[0].clamp(0, 1)).abs().max() < 0.02
    assert (picture[..., 3:] - out.alpha[0]).abs().max() < 0.01


def test_no_splat_is_right_before_a_camera() -> None:
    scene = tiny.scene()
    clear = distillation.Clear(scene)
    eye = scene.train_views[0].camera.positions.float()
    places = torch.cat([eye, eye * 0.99, eye * 0.0])
    assert clear.hidden(places).tolist() == [True, True, False]
    settings = distillation.settings_for(20, 0)
    points = Points(places.double().repeat(5, 1), torch.rand(15, 3))
    state = start(Gaussians.from_points(points), settings, scene)
    train(state, scene.train_views, callbacks=[clear])
    assert bool((state.gaussians.opacities[clear.hidden(state.gaussians.means.detach())] < 0.001).all())
    clear.finish(state)
    assert 5 <= len(state.gaussians) < 15
    assert not bool(clear.hidden(state.gaussians.means.detach()).any())


def test_an_export_makes_splats_once_and_says_what_is_lost(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exporting.export_to(run, tmp_path / "a.ply", Place("world"), distil_steps=150)
    said = capsys.readouterr().out
    kept = runs.find(run).distilled_file(40)
    assert f"{kept}" in said
    assert "Lost in splats: Held-out views (2) differ by " in said
    made = load(tmp_path / "a.ply")
    state = checkpoint.load(kept)
    assert (state.step, state.config.steps) == (150, 150)
    assert torch.equal(made.means, state.gaussians.means)
    field = loading.load_state(run)
    scene = opening.trained_scene(runs.find(run), field, CPU)
    errors = [lost.difference(field.model, m, scene.train_views[3].camera) for m in (made, tiny.gaussians(60))]
    assert errors[0] < 0.5 * errors[1]

    before = kept.stat().st_mtime_ns
    exporting.export_to(run, tmp_path / "b.splat", parts=Parts(max_count=100))
    said = capsys.readouterr().out
    assert "were made before" in said
    assert "Lost in splats: Held-out views (2) differ by " in said
    assert len(load(tmp_path / "b.splat")) == 100
    viewing.share(run, tmp_path / "page.html", CPU)
    assert kept.stat().st_mtime_ns == before
    assert isinstance(loading.load_state(run).model, type(field.model))  # the newest checkpoint is still the field's
    assert viewing.open_source(kept, CPU).subject.count == len(made)
    with pytest.raises(InputError, match="whose scores would be replaced"):
        cli.evaluate(kept, device="cpu")

    exporting.export_to(run, tmp_path / "c.ply", distil_steps=20)
    assert checkpoint.load(kept).step == 20


def test_what_was_stopped_goes_on_to_the_same_splats(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    field, kept = loading.load_state(run), runs.find(run).distilled_file(40)
    whole = distilling.as_splats(run, field, 30).gaussians
    kept.unlink()

    class Stop(distilling.StopOnSignal):
        def __call__(self, state, metrics) -> None:
            if metrics.step == 11:
                raise distilling.Interrupted(2, metrics.step)

    with monkeypatch.context() as patched:
        patched.setattr(distilling, "StopOnSignal", Stop)
        with pytest.raises(SystemExit, match="130"):
            distilling.as_splats(run, field, 30)
    assert checkpoint.load(kept).step == 11
    resumed = distilling.as_splats(run, field, 30).gaussians
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())


def test_splats_of_a_field_that_goes_on_are_forgotten(run: Path) -> None:
    found = runs.find(run)
    distilling.as_splats(run, loading.load_state(run))
    runs.forget_after(found, 40)
    assert found.distilled_file(40).exists()
    runs.forget_after(found, 20)
    assert not list((found.path / runs.DISTILLED).iterdir())


def test_seen_surfaces_of_a_field_become_points(
    ball_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ball_run
    exporting.export_to(run, tmp_path / "a.points.ply", Place("world"))
    assert "Lost in .points.ply: all but surfaces" in capsys.readouterr().out
    points = read_points(tmp_path / "a.points.ply")
    assert points is not None
    assert len(points) > 100
    away = points.xyz.norm(dim=-1, keepdim=True)
    assert float((away - fields_cases.BALL).abs().median()) < 0.03  # cells are 0.05 wide
    assert float((points.rgb - (0.5 + points.xyz / away / 2)).abs().mean()) < 0.05
    cloud = trimesh.load(tmp_path / "a.points.ply")
    rows = cloud.metadata["_ply_raw"]["vertex"]["data"]
    normals = np.stack([rows[name] for name in ("nx", "ny", "nz")], axis=1)
    assert np.median((normals * (points.xyz / away).numpy()).sum(axis=1)) > 0.95
    box = (-0.1, -0.1, -0.5, 0.3, 0.3, 0.5)
    exporting.export_to(run, tmp_path / "b.points.ply", Place("world"), Parts(crop=box))
    inside = ((points.xyz >= torch.tensor(box[:3])) & (points.xyz <= torch.tensor(box[3:]))).all(dim=-1)
    cropped = read_points(tmp_path / "b.points.ply")
    assert cropped is not None
    assert np.array_equal(cropped.xyz.numpy(), points.xyz[inside].numpy())
    exporting.export_to(run, tmp_path / "c.points.ply", Place("world", scale=2.0, rotate=(0, 0, 90)))
    turned = read_points(tmp_path / "c.points.ply")
    assert turned is not None
    expected = 2 * torch.stack([-points.xyz[:, 1], points.xyz[:, 0], points.xyz[:, 2]], dim=-1)
    assert torch.allclose(turned.xyz, expected, atol=1e-5)
