"""Looking into whole captures: good ones, ones that were taken badly on purpose, and poses that do not fit."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import captures
from sources import SCRIPTS

if not SCRIPTS:
    pytest.skip("the scripts are not beside the tests", allow_module_level=True)

import _bad_captures
from recon import capturing, doctoring
from recon.__main__ import main
from recon.datasets import advice, doctor, ladder, nerfstudio, synthetic
from recon.datasets.advice import Advice
from recon.datasets.colmap import save as save_colmap
from recon.datasets.errors import InputError
from recon.datasets.images import ArrayImage
from recon.datasets.ladder import Rung
from recon.datasets.matching import Features
from recon.datasets.scene import Scene, View
from recon.datasets.survey import Survey

COUNT = 10  # photos of `_bad_captures.ROUND` round the scene


def examined(path: Path) -> Survey:
    return doctor.examine(path, threads=2, progress=lambda *_: None)


def advised(path: Path) -> list[Advice]:
    return advice.give(examined(path))


def files(folder: Path) -> dict[Path, tuple[int, int]]:
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob("*")}


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A posed capture that is somebody else's."""
    save_colmap(captures.scene(tmp_path / "made"), tmp_path / "theirs")
    return tmp_path / "theirs"


def test_nothing_is_written_into_the_capture(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = files(tiny)
    monkeypatch.chdir(tmp_path)
    assert doctoring.examine(tiny, None) == Path("theirs-report.html")
    monkeypatch.chdir(tiny / "images")
    assert doctoring.examine(tiny, None).resolve() == (tmp_path / "theirs-report.html").resolve()
    monkeypatch.chdir(tiny)
    assert doctoring.examine(Path(), None).resolve() == (tmp_path / "theirs-report.html").resolve()
    assert doctoring.examine(tiny, tmp_path / "there" / "a.html") == tmp_path / "there" / "a.html"
    assert files(tiny) == before
    with pytest.raises(InputError, match="is a folder"):
        doctoring.examine(tiny, tmp_path)


def test_photos_of_different_things_have_poses_all_the_same(tiny: Path) -> None:
    """A capture of noise, of which nothing matches: what its points say is still there."""
    found = examined(tiny)
    assert [picture.state for picture in found.pictures] == ["posed"] * 5
    assert found.seen is not None
    assert found.judged is not None
    assert math.isnan(found.judged.usual)
    assert all((picture.points or 0) > 0 for picture in found.pictures)


def test_a_file_of_the_same_name_does_not_make_a_capture_ours(tiny: Path) -> None:
    (tiny / "capture.json").write_text('{"of": "another program"}')
    assert not doctor.is_ours(tiny)
    assert [picture.state for picture in examined(tiny).pictures] == ["posed"] * 5


def test_what_is_no_capture_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no capture is recognised"):
        examined(tmp_path)
    with pytest.raises(InputError, match=r"gone"):
        examined(tmp_path / "gone")
    (tmp_path / "work-0123" / "images").mkdir(parents=True)
    with pytest.raises(InputError, match="was stopped before"):
        examined(tmp_path)


def test_a_capture_that_fails_leaves_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = _bad_captures.write(tmp_path / "photos", [_bad_captures.bare(i * 20) for i in range(3)])
    monkeypatch.setattr(ladder, "RUNGS", ladder.RUNGS[:1])
    monkeypatch.setattr("sys.argv", ["recon", "capture", str(photos), "-o", str(tmp_path / "scene")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    said = capsys.readouterr()
    page = tmp_path / "scene" / "report.html"
    assert page.is_file()
    (line,) = said.err.strip().splitlines()
    assert line.startswith(f"error: {photos}: no two of these photos overlap enough")
    assert str(page) in line
    assert "Too little texture: photo_00 to photo_02" in said.out
    assert not (tmp_path / "scene" / "capture.json").exists()


def test_photos_that_are_all_the_same_leave_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = _bad_captures.write(tmp_path / "photos", [captures.noise(60, 80, 3)] * 3)
    with pytest.raises(InputError, match=r"all 3 photos are the same picture.*report\.html"):
        capturing.capture_photos(photos, tmp_path / "scene")
    assert "All photos are the same picture" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("good", []),
        ("blurred", ["Blurred: photo_04 to photo_06 (3 photos)"]),
        (
            "no overlap",
            ["No overlap between these groups: photo_00 to photo_05 (6 photos); photo_06 to photo_09 (4 pho"],
        ),
        (
            "mixed",
            ["No overlap between these groups: photo_00 to photo_05 (6 photos); photo_06 to photo_09 (4 photos)"],
        ),
        ("three", ["Only 3 photos"]),
        ("repeated", ["The same picture again: photo_05 to photo_07 (3 photos)"]),
        ("bare", ["Too little texture: photo_00 to photo_09 (10 photos)", "The photos do not overlap"]),
        ("turned", ["The camera only turned, or saw one flat thing"]),
    ],
)
def test_bad_captures_are_told_apart(case: str, said: list[str], tmp_path: Path) -> None:
    """What is wrong is said, of the right photos, and nothing else."""
    taken = _bad_captures.photo
    pictures = {
        "good": lambda: [taken(i) for i in range(COUNT)],
        "blurred": lambda: [_bad_captures.blurred(taken(i)) if 4 <= i < 7 else taken(i) for i in range(COUNT)],
        "no overlap": lambda: [taken(i) for i in (*range(6), *range(30, 34))],
        "mixed": lambda: [*(taken(i) for i in range(6)), *_bad_captures.poster(4)],
        "three": lambda: [taken(i) for i in range(3)],
        "repeated": lambda: [*(taken(i) for i in range(5)), *[taken(4)] * 3, *(taken(i) for i in range(5, COUNT))],
        "bare": lambda: [_bad_captures.bare(i) for i in range(10)],
        "turned": lambda: [_bad_captures.turned(i) for i in range(COUNT)],
    }[case]()
    found = advised(_bad_captures.write(tmp_path / "photos", pictures))
    assert len(found) == len(said)
    for one, title in zip(found, said, strict=True):
        assert one.title.startswith(title)
    if case in ("no overlap", "mixed"):
        assert "between photo_05 and photo_06" in found[0].todo
        assert ("another place" in found[0].todo) == (case == "mixed")


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos with exact cameras, as nerfstudio's capture."""
    cameras = synthetic._cameras(_bad_captures.ROUND, *_bad_captures.SIZE, np.random.default_rng(0))
    views = tuple(
        View(
            f"photo_{i:02d}", cameras[i], ArrayImage(torch.from_numpy(_bad_captures.photo(i).astype(np.float32) / 255))
        )
        for i in range(COUNT)
    )
    path = tmp_path_factory.mktemp("known") / "capture"
    nerfstudio.save(Scene("known", views, tuple(range(COUNT)), ()), path)
    return path


def with_frames(known: Path, folder: Path, change: Callable[[list[np.ndarray]], list[np.ndarray]]) -> Path:
    """The capture with other matrices, camera to world."""
    shutil.copytree(known, folder)
    meta = json.loads((folder / "transforms.json").read_text())
    frames = sorted(meta["frames"], key=lambda frame: frame["file_path"])
    for frame, matrix in zip(frames, change([np.array(f["transform_matrix"]) for f in frames]), strict=True):
        frame["transform_matrix"] = matrix.tolist()
    (folder / "transforms.json").write_text(json.dumps(meta))
    return folder


@pytest.mark.slow
def test_one_wrong_pose_is_found_and_only_that(known: Path, tmp_path: Path) -> None:
    turn = np.eye(4)
    turn[:2, :2] = [[math.cos(0.06), -math.sin(0.06)], [math.sin(0.06), math.cos(0.06)]]
    turned = with_frames(
        known, tmp_path / "turned", lambda poses: [p @ turn if i == 4 else p for i, p in enumerate(poses)]
    )
    found = examined(turned)
    assert [picture.name for picture in found.pictures if picture.state == "doubtful"] == ["photo_04"]
    assert found.judged is not None
    assert found.judged.usual < 1
    (one,) = advice.give(found)
    assert one.title.startswith("The pose of photo_04 does not fit: ")


@pytest.mark.slow
def test_good_poses_are_not_blamed_and_turned_axes_are_named(known: Path, tmp_path: Path) -> None:
    assert advised(known) == []
    flip = np.diag([1.0, -1.0, -1.0, 1.0])
    found = examined(with_frames(known, tmp_path / "flipped", lambda poses: [p @ flip for p in poses]))
    assert found.trouble is not None
    assert found.trouble.kind == "axes"
    assert [picture.state for picture in found.pictures] == ["posed"] * COUNT
    assert "OpenGL" in advice.give(found)[0].todo


@pytest.mark.slow
def test_a_capture_of_ours_is_looked_into_without_matching_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = _bad_captures.write(tmp_path / "photos", [_bad_captures.photo(i) for i in range(6)])
    coarse = Rung("photo by photo", features=Features(size=480, count=2000))
    monkeypatch.setattr(ladder, "RUNGS", (coarse,))
    scene = tmp_path / "scene"
    report = capturing.capture_photos(photos, scene)
    page = scene / "report.html"
    assert report.registered == 6
    assert page.is_file()
    assert f"Report: {page}" in capsys.readouterr().out
    written = page.read_bytes()
    capturing.capture_photos(photos, scene)
    assert f"Report: {page}" in capsys.readouterr().out

    again = examined(scene)
    assert again.judged is not None
    assert again.judged.usual < 1
    with monkeypatch.context() as patch:
        patch.setattr(doctor.matching, "extract", lambda *_: pytest.fail("its matches are there"))
        assert doctoring.examine(scene, None) == page
    assert page.read_bytes() == written
    for work in scene.glob("work-*"):
        shutil.rmtree(work)
    matched = examined(scene)  # its matches are gone: they are looked for again
    assert [picture.state for picture in matched.pictures] == ["posed"] * 6
    assert matched.judged is not None
    assert matched.judged.usual < 1


@pytest.mark.slow
@pytest.mark.parametrize(("name", "said"), [("fern", []), ("kermit", ["Only 9 photos"])])
def test_good_captures_raise_no_false_alarm(real_data: Callable[[str], Path], name: str, said: list[str]) -> None:
    assert [one.title for one in advised(real_data(name))] == said


@pytest.mark.slow
@pytest.mark.parametrize("name", ["banana", "fox/images"])
def test_good_photos_raise_no_false_alarm(real_data: Callable[[str], Path], name: str) -> None:
    from recon.datasets import folders, look, survey

    files = folders.list_images(real_data(name))
    found = survey.survey(name, [file.name for file in files], [look.look(look.read(file)) for file in files])
    assert advice.give(found) == []
