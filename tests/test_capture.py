"""Photos to posed scenes: real pictures of a scene whose cameras are known, and what is said of photos that fail."""

from __future__ import annotations

import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pycolmap
import pytest
import torch
from PIL import Image
from torch import Tensor

import captures
import photo_files
from captures import message
from recon import capturing, doctoring
from recon.datasets import capture, colmap, has_poses, ladder, load_scene, mapping, synthetic
from recon.datasets.colmap import save as save_colmap
from recon.datasets.errors import InputError
from recon.datasets.images import ArrayImage
from recon.datasets.ladder import Rung
from recon.datasets.matching import Features
from recon.datasets.scene import Scene, View

COARSE = Features(size=480, count=2000)
TWO = (Rung("photo by photo", features=COARSE), Rung("at once", "global", False, COARSE))
COUNT = 8  # photos, of 60 that would go all round


@pytest.fixture(scope="module")
def known() -> Scene:
    """Neighbouring views of the procedural scene, whose cameras are exact."""
    stage = synthetic._stage()
    cameras = synthetic._cameras(60, 480, 360, np.random.default_rng(0))
    views = []
    for i in range(COUNT):
        pixels = synthetic._picture(stage, cameras[i], 2).astype(np.float32) / np.float32(255)
        views.append(View(f"view_{i:03d}", cameras[i], ArrayImage(torch.from_numpy(pixels))))
    return Scene("known", tuple(views), tuple(range(COUNT)), ())


@pytest.fixture(scope="module")
def folder(known: Scene, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The photos alone. One is a WebP, one is stored on its side and has a name with a space."""
    path = tmp_path_factory.mktemp("photos")
    for i, view in enumerate(known.views):
        picture = Image.fromarray((view.load().numpy() * 255).round().astype(np.uint8))
        if i == 2:
            picture.save(path / f"{view.name}.webp", quality=95)
        elif i == 4:
            exif = Image.Exif()
            exif[photo_files.ORIENTATION] = 6  # to be turned clockwise when shown
            picture.rotate(90, expand=True).save(path / f"{view.name} turned.jpg", quality=97, exif=exif)
        else:
            picture.save(path / f"{view.name}.jpg", quality=97)
    return path


def run(source: Path, scene: Path, said: list[str] | None = None) -> capture.Report:
    lines = said if said is not None else []
    return capture.capture(source, scene, threads=2, say=lines.append, progress=lambda *_: None)


@pytest.fixture(scope="module")
def captured(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    scene = tmp_path_factory.mktemp("captured") / "scene"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ladder, "RUNGS", TWO)
        report = capture.capture(folder, scene, threads=2, say=lambda _: None, progress=lambda *_: None)
    assert report.registered == COUNT
    return scene


def similarity(source: Tensor, target: Tensor) -> tuple[float, Tensor, Tensor]:
    """Scale, rotation and translation that take points [N,3] to others best (Umeyama 1991)."""
    a, b = source - source.mean(0), target - target.mean(0)
    u, d, vh = torch.linalg.svd(b.T @ a)
    sign = torch.diag(torch.tensor([1.0, 1.0, float(torch.sign(torch.linalg.det(u @ vh)))], dtype=a.dtype))
    rotation = u @ sign @ vh
    scale = float((d * sign.diagonal()).sum() / (a**2).sum())
    return scale, rotation, target.mean(0) - scale * rotation @ source.mean(0)


@pytest.mark.slow
def test_the_poses_are_those_of_the_cameras(captured: Path, known: Scene) -> None:
    views = {
        view.name.split()[0].split("_turned")[0].removesuffix(".webp"): view for view in load_scene(captured).views
    }
    pairs = [(views[view.name].camera, view.camera) for view in known.views]
    for mine, _ in pairs:  # upright, and but for the lens's bend of the same size
        assert abs(mine.width - 480) < 12
        assert abs(mine.height - 360) < 12
    ours = torch.cat([camera.positions for camera, _ in pairs]).double()
    true = torch.cat([camera.positions for _, camera in pairs]).double()
    scale, rotation, shift = similarity(ours, true)
    off = ((scale * ours @ rotation.T + shift) - true).norm(dim=1)
    assert float(off.mean()) < 0.01 * float((true - true.mean(0)).norm(dim=1).max())
    for mine, exact in pairs:
        turn = mine.c2w[0, :3, :3].double().T @ rotation.T @ exact.c2w[0, :3, :3].double()
        angle = torch.rad2deg(torch.arccos(((torch.trace(turn) - 1) / 2).clamp(-1, 1)))
        assert float(angle) < 0.5
    focal = [float(mine.Ks[0, 0, 0]) for mine, _ in pairs]
    assert focal == pytest.approx([float(exact.Ks[0, 0, 0]) for _, exact in pairs], rel=0.03)


@pytest.mark.slow
def test_a_scene_is_complete_and_says_so(captured: Path) -> None:
    report = capture.finished(captured)
    assert report is not None
    assert (report.photos, report.registered, report.missing) == (COUNT, COUNT, ())
    assert 0 < report.error < 1.5
    model = pycolmap.Reconstruction(captured / "sparse" / "0")
    assert model.num_points3D() == report.points > 100
    assert all((captured / "images" / image.name).is_file() for image in model.images.values())
    for part in ("sparse/0/images.bin", "sparse/0/points3D.bin", "images"):
        moved = captured / "moved"
        (captured / part).rename(moved)
        assert capture.finished(captured) is None
        moved.rename(captured / part)


@pytest.mark.slow
def test_the_same_photos_again_are_done_at_once(captured: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ladder, "RUNGS", TWO)
    monkeypatch.setattr(ladder, "climb", lambda *_: pytest.fail("nothing is left to do"))
    said: list[str] = []
    assert run(folder, captured, said) == capture.finished(captured)
    assert "already there" in said[0]


@pytest.mark.slow
def test_what_an_earlier_call_finished_is_not_done_again(
    captured: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As when it was killed before its end: the model that it had is used, and no mapper runs."""
    monkeypatch.setattr(ladder, "RUNGS", TWO)
    scene = tmp_path / "scene"
    shutil.copytree(captured, scene)
    (scene / capture.REPORT).unlink()
    shutil.rmtree(scene / "sparse")
    monkeypatch.setattr(mapping, "_incremental", lambda *_: pytest.fail("it is there"))
    assert run(folder, scene).registered == COUNT
    assert len(load_scene(scene).views) == COUNT


def test_a_model_without_its_result_is_not_taken_for_one(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "images.bin").write_bytes(b"")
    assert mapping.read(tmp_path / "model") is None


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_a_stopped_capture_goes_on(folder: Path, tmp_path: Path) -> None:
    process = captures.capturing(folder, tmp_path / "scene")
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command goes on" in stdout
    assert "Traceback" not in stderr
    assert capture.finished(tmp_path / "scene") is None
    assert not has_poses(tmp_path / "scene")


def noise(folder: Path, count: int) -> Path:
    folder.mkdir()
    for i in range(count):
        Image.fromarray(captures.noise(40, 60, 3, seed=i)).resize((240, 160)).save(folder / f"{i}.jpg", quality=95)
    return folder


def test_photos_of_different_things_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ladder, "RUNGS", ladder.RUNGS[:4])
    said: list[str] = []
    with pytest.raises(InputError, match="no two of these photos overlap enough: ") as error:
        run(noise(tmp_path / "photos", 3), tmp_path / "scene", said)
    assert str(tmp_path / "photos") in message(error)
    assert any("no pairs of photos match" in line for line in said)


def test_a_scene_is_written_over_no_other(tmp_path: Path) -> None:
    photos = noise(tmp_path / "photos", 3)
    with pytest.raises(InputError, match="a folder of its own"):
        run(photos, photos)
    save_colmap(captures.scene(tmp_path / "made"), tmp_path / "other")
    with pytest.raises(InputError, match="holds another capture"):
        run(photos, tmp_path / "other")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        run(photos, tmp_path / "file")


def test_a_capture_with_poses_is_trained_as_it_is(tmp_path: Path) -> None:
    save_colmap(captures.scene(tmp_path / "made"), tmp_path / "posed")
    assert capturing.posed(tmp_path / "posed", tmp_path / "runs") == tmp_path / "posed"
    assert capturing.posed(tmp_path / "gone", tmp_path / "runs") == tmp_path / "gone"
    assert colmap.find_model(tmp_path / "posed") is not None
    assert not (tmp_path / "runs").exists()


def test_photos_without_poses_are_captured_first_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = noise(tmp_path / "photos", 3)
    asked: list[Path] = []
    monkeypatch.setattr(capture, "capture", lambda source, scene, **_: asked.append(scene))
    monkeypatch.setattr(doctoring, "report", lambda *_: None)
    scene = capturing.posed(folder, tmp_path / "runs")
    assert asked == [scene]
    assert scene.parent.parent == tmp_path / "runs" / "captures"
    assert scene.name == folder.name  # so that the runs are called by it
    assert str(scene) in capsys.readouterr().out
