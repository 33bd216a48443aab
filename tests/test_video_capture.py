"""Videos and 360-degree photos of the procedural scene, whose cameras are known, to posed scenes."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

import numpy as np
import pycolmap
import pytest

import captures
import videos
from captures import message
from sources import SCRIPTS

if not SCRIPTS:
    pytest.skip("the scripts are not beside the tests", allow_module_level=True)

from _filmed import FIELD, errors, film, film_cameras, panorama_poses, photograph_all_round
from bench_video import forward
from recon import capturing, cli, doctoring
from recon.datasets import capture, ladder, load_scene, panorama, sources
from recon.datasets.cameras import Cameras
from recon.datasets.errors import InputError
from recon.datasets.ladder import Rung
from recon.datasets.matching import Features
from recon.datasets.sources import Wishes

LENGTH, WIDTH, HEIGHT = 24, 480, 360
COARSE = Features(size=480, count=2000)
ONE = (Rung("photo by photo", features=COARSE),)


@pytest.fixture(scope="module")
def cameras() -> Cameras:
    return film_cameras(LENGTH, WIDTH, HEIGHT, turns=0.16)


@pytest.fixture(scope="module")
def video(cameras: Cameras, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / "film.mp4"
    film(path, cameras)
    return path


def run(source: Path, scene: Path, said: list[str], wishes: Wishes = sources.USUAL) -> capture.Report:
    return capture.capture(source, scene, threads=2, say=said.append, progress=lambda *_: None, wishes=wishes)


@pytest.fixture
def one_rung(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ladder, "RUNGS", ONE)


@pytest.mark.slow
@pytest.mark.usefixtures("one_rung")
def test_the_trajectory_of_a_video_is_found(video: Path, cameras: Cameras, tmp_path: Path) -> None:
    said: list[str] = []
    report = run(video, tmp_path / "scene", said, Wishes(frames=14))
    assert 8 <= report.registered <= report.photos <= 14
    found = errors(tmp_path / "scene", cameras.c2w, lambda name: int(name.split("_")[1]), FIELD * HEIGHT)
    assert found.cameras == report.registered
    assert found.position[0] < 1
    assert found.rotation[0] < 1.5
    assert found.focal < 3
    model = pycolmap.Reconstruction(tmp_path / "scene" / "sparse" / "0")
    assert model.num_cameras() == 1  # which all frames share
    times = json.loads((tmp_path / "scene" / capture.REPORT).read_text())["times"]
    assert sorted(times) == sorted(file.name for file in (tmp_path / "scene" / "images").iterdir())
    for name, seconds in times.items():
        assert seconds == pytest.approx(int(name[6:12]) / 30, abs=1e-3)
    assert any(f"{report.photos} frames of the video, chosen by motion" in line for line in said)
    again = run(video, tmp_path / "scene", said, Wishes(frames=14))
    assert again == report
    assert "already there for this video" in said[-1]


@pytest.mark.slow
@pytest.mark.usefixtures("one_rung")
def test_faces_of_a_panorama_share_their_centre(tmp_path: Path) -> None:
    poses = panorama_poses(12)[:5]
    photograph_all_round(tmp_path / "photos", poses, 1280)
    report = run(tmp_path / "photos", tmp_path / "scene", [], Wishes(nadir=20))
    assert (report.photos, report.registered, report.missing) == (5, 5, ())
    model = pycolmap.Reconstruction(tmp_path / "scene" / "sparse" / "0")
    centres: dict[str, list[np.ndarray]] = {}
    for image in model.images.values():
        centres.setdefault(image.name.rpartition("_")[0], []).append(image.projection_center())
    assert {len(faces) for faces in centres.values()} == {panorama.COUNT}
    assert max(float(np.ptp(faces, axis=0).max()) for faces in centres.values()) < 1e-6
    focal = panorama.face_size(1280)[1]
    found = errors(tmp_path / "scene", poses, forward, focal)
    assert found.cameras == 5
    assert found.position[0] < 0.5
    assert found.rotation[0] < 0.2
    assert found.focal < 0.1  # it is known
    scene = load_scene(tmp_path / "scene")
    masked = [view.name for view in scene.views if view.mask is not None]
    assert masked == [f"round_{i:03d}_{panorama.DOWN}" for i in range(5)]
    held_out = {scene.views[i].name.rpartition("_")[0] for i in scene.test}
    assert held_out == {"round_000"}
    assert len(scene.test) == panorama.COUNT


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_a_stopped_capture_of_a_video_goes_on(video: Path, tmp_path: Path) -> None:
    process = captures.capturing(video, tmp_path / "scene")
    with pytest.raises(InputError, match=f"another capture is being written there by process {process.pid}") as error:
        run(video, tmp_path / "scene", [])
    assert str(tmp_path / "scene") in message(error)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "the same command goes on" in stdout
    frames = list(tmp_path.glob("scene/work-*/frames/frame_*.jpg"))
    assert frames
    stamps = {file: file.stat().st_mtime_ns for file in frames}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ladder, "climb", lambda *_: ladder.Climbed(None, (), 0))
        with pytest.raises(InputError, match="no two of these photos overlap enough"):
            run(video, tmp_path / "scene", [])
    assert {file: file.stat().st_mtime_ns for file in frames} == stamps


def still(path: Path) -> Path:
    return videos.write(path, [videos.texture(64, 96)] * 8)


def test_a_video_that_shows_nothing_new_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the camera hardly moves") as error:
        run(still(tmp_path / "a.mp4"), tmp_path / "scene", [])
    assert str(tmp_path / "a.mp4") in message(error)


def test_what_cannot_be_a_source_is_refused(tmp_path: Path) -> None:
    still(tmp_path / "a.mp4")
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(InputError, match=r"notes\.txt: is neither a folder nor a video"):
        sources.find(tmp_path / "notes.txt", Wishes())
    with pytest.raises(InputError, match="no such folder of photos, and no such video"):
        sources.find(tmp_path / "gone.mp4", Wishes())
    with pytest.raises(InputError, match="--frames 2: not between 3 and"):
        sources.find(tmp_path / "a.mp4", Wishes(frames=2))
    with pytest.raises(InputError, match="needs a folder of its own"):
        run(tmp_path / "a.mp4", tmp_path, [])
    assert sources.find(tmp_path, Wishes()).path == tmp_path / "a.mp4"  # the only one
    still(tmp_path / "b.mov")
    with pytest.raises(InputError, match="2 videos; give one of them"):
        sources.find(tmp_path, Wishes())
    for i in range(3):
        videos.Image.fromarray(videos.texture(64, 96, seed=i)).save(tmp_path / f"{i}.png")
    assert sources.find(tmp_path, Wishes()).video is None  # photos count
    with pytest.raises(InputError, match="--frames 9: is for videos"):
        sources.find(tmp_path, Wishes(frames=9))


def test_a_key_is_of_the_video_and_of_what_is_asked(tmp_path: Path) -> None:
    path = still(tmp_path / "a.mp4")
    keys = {sources.find(path, wishes).key(1) for wishes in (Wishes(), Wishes(9), Wishes(9), Wishes(panorama="no"))}
    assert len(keys) == 2
    videos.write(path, [videos.texture(64, 96, seed=1)] * 8)
    assert sources.find(path, Wishes()).key(1) not in keys


def test_the_command_passes_on_what_is_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[object, ...]] = []
    monkeypatch.setattr(capturing, "capture_photos", lambda *words: asked.append(words))
    words = ["recon", "capture", "a.mp4", "-o", "b", "--frames", "50", "--panorama", "yes", "--nadir", "20"]
    monkeypatch.setattr(sys, "argv", words)
    cli.main()
    assert asked == [(Path("a.mp4"), Path("b"), Wishes(50, "yes", 20.0))]
    assert "recon train b" in capsys.readouterr().out


def test_a_video_is_captured_before_a_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[Path, Path]] = []
    monkeypatch.setattr(capture, "capture", lambda source, scene, **_: asked.append((source, scene)))
    monkeypatch.setattr(doctoring, "report", lambda *_: None)
    path = still(tmp_path / "a.mp4")
    scene = capturing.posed(path, tmp_path / "runs")
    assert asked == [(path, scene)]
    assert scene.name == "a"  # so that the runs are called by it
    assert f"{path}: a video without poses" in capsys.readouterr().out
