"""Streamed SOG: what our files say of themselves, real ones, those of splat-transform, and files that lie."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from recon import loading
from recon.datasets.errors import InputError
from recon.export import bytes_of, export, is_splats, load, streamed
from recon.gaussians import Gaussians
from splat_files import assert_same, columns_of, write_ply
from splat_tool import convert
from test_splat_formats import assert_alike, matched, scene_of


def leaves(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if "children" in node:
        for child in node["children"]:
            yield from leaves(child)
    else:
        yield node


@pytest.fixture
def small_boxes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamed, "LEAF", 700)
    monkeypatch.setattr(streamed, "FILE", 2000)
    monkeypatch.setattr(streamed, "FEWEST", 100)


@pytest.fixture
def written(tmp_path: Path, small_boxes: None) -> tuple[Gaussians, Path, dict[str, Any]]:
    scene, path = scene_of(5000, 1), tmp_path / "out" / "lod-meta.json"
    export(scene, path)
    return scene, path, json.loads(path.read_text())


def test_the_finest_level_is_the_scene(written: tuple[Gaussians, Path, dict[str, Any]]) -> None:
    scene, path, _ = written
    loaded = load(path)
    rows = matched(loaded, scene)
    assert (rows["means"] - scene.means).abs().max() < 0.03
    assert (rows["log_scales"] - scene.log_scales).abs().max() < 0.06
    assert_same(load(path.parent), loaded)
    opened = loading.load(path.parent)
    assert isinstance(opened, Gaussians)
    assert_same(opened, loaded)
    assert is_splats(path.parent)
    assert bytes_of(path) == sum(file.stat().st_size for file in path.parent.rglob("*") if file.is_file())


def test_levels_are_what_the_index_says(written: tuple[Gaussians, Path, dict[str, Any]]) -> None:
    _, path, meta = written
    assert (meta["version"], meta["lodLevels"], meta["counts"][0]) == (1, 3, 5000)
    assert meta["count"] == sum(meta["counts"])
    assert len(meta["counts"]) == meta["lodLevels"]
    files = [load(path.parent / name) for name in meta["filenames"]]
    boxes = list(leaves(meta["tree"]))
    assert len(boxes) == 8
    covered = dict.fromkeys(range(len(files)), 0)
    for box in boxes:
        counts = []
        for level in range(3):
            part = box["lods"][str(level)]
            assert meta["filenames"][part["file"]].startswith(f"{level}_")
            rows = files[part["file"]].means[part["offset"] : part["offset"] + part["count"]]
            assert (rows > torch.tensor(box["bound"]["min"])).all()
            assert (rows < torch.tensor(box["bound"]["max"])).all()
            covered[part["file"]] += part["count"]
            counts.append(part["count"])
        assert counts == [625, 157, 40]
    assert [covered[i] for i in range(len(files))] == [len(file) for file in files]
    assert len([name for name in meta["filenames"] if name.startswith("0_")]) == 3  # of at most 2,000
    low, high = meta["tree"]["bound"]["min"], meta["tree"]["bound"]["max"]
    assert all(
        box["bound"]["min"][k] >= low[k] and box["bound"]["max"][k] <= high[k] for box in boxes for k in range(3)
    )


def test_coarser_levels_cover_as_much(written: tuple[Gaussians, Path, dict[str, Any]]) -> None:
    _, path, meta = written

    def covered(level: int) -> float:
        parts = [load(path.parent / name) for name in meta["filenames"] if name.startswith(f"{level}_")]
        return sum(
            float((part.opacities * part.scales.sort(dim=1).values[:, 1:].prod(dim=1)).sum().detach()) for part in parts
        )

    assert covered(1) == pytest.approx(covered(0), rel=0.02)
    assert covered(2) == pytest.approx(covered(0), rel=0.04)


@pytest.mark.parametrize("count", [0, 1, 30])
def test_few_splats_have_one_level(tmp_path: Path, count: int) -> None:
    export(scene_of(count, 0), tmp_path / "lod-meta.json")
    assert json.loads((tmp_path / "lod-meta.json").read_text())["lodLevels"] == 1
    assert len(load(tmp_path)) == count


def test_where_the_finest_is_missing_the_next_is_read(
    written: tuple[Gaussians, Path, dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    _, path, meta = written
    shutil.rmtree(path.parent / "0_1")
    gone = sum(1 for box in leaves(meta["tree"]) if meta["filenames"][box["lods"]["0"]["file"]].startswith("0_1"))
    with caplog.at_level(logging.WARNING, "recon"):
        loaded = load(path)
    assert len(loaded) == 5000 - gone * (625 - 157)
    assert f"the finest splats of {gone} boxes are not there" in caplog.text
    for folder in path.parent.iterdir():
        if folder.is_dir():
            shutil.rmtree(folder)
    with pytest.raises(InputError, match=r"a box has splats of no level: 0_0/meta\.json is not there"):
        load(path)


def test_a_real_one_is_read(real_data: Callable[[str], Path]) -> None:
    folder = real_data("splats/playbot-sog-v2")
    loaded = load(folder)  # of its levels 3 and 5 are there
    assert_same(loaded, load(folder / "3_0"))


def test_we_read_what_splat_transform_writes(tmp_path: Path) -> None:
    fine, coarse = scene_of(300, 1), scene_of(100, 1)
    sources = [write_ply(tmp_path / f"{len(scene)}.ply", columns_of(scene)) for scene in (fine, coarse)]
    out = tmp_path / "out" / "lod-meta.json"
    convert(sources[0], out, "-l", "0", str(sources[1]), "-l", "1", "-C", "1", "-X", "2")
    loaded = load(out)
    rows = matched(loaded, fine)
    assert (rows["means"] - fine.means).abs().max() < 1e-3
    assert (rows["log_scales"] - fine.log_scales).abs().max() < 0.06


def test_splat_transform_reads_our_folders(written: tuple[Gaussians, Path, dict[str, Any]], tmp_path: Path) -> None:
    _, path, meta = written
    folder = path.parent / meta["filenames"][-1]
    assert_alike(load(folder), load(convert(folder, tmp_path / "theirs.ply")))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"filenames": ["../x/meta.json"]}, r"'\.\./x/meta\.json' is not the name of a meta\.json in its folder"),
        ({"filenames": ["/etc/meta.json"]}, "is not the name"),
        ({"filenames": ["C:\\meta.json"]}, "is not the name"),
        ({"filenames": ["a.sog"]}, "is not the name"),
        ({"filenames": [["a" * 5000]]}, "is not the name"),
        ({"filenames": ["0_0/meta.json", "0_0/./meta.json"]}, "filenames has one of them twice"),
        ({"filenames": []}, "file 0 of a box: there are 0"),
        ({"environment": "../env/meta.json"}, "is not the name"),
        (
            {"tree": {"lods": {"0": {"file": 0, "offset": 0, "count": 41}}}},
            "boxes have splats that 0_0/meta.json has not",
        ),
        ({"tree": {"lods": {"0": {"file": 0, "offset": -1, "count": 2}}}}, "boxes have splats that"),
        (
            {"tree": {"children": [{"lods": {"0": {"file": 0, "offset": 0, "count": 40}}}] * 2}},
            "several boxes have the same splats",
        ),
        ({"tree": {"lods": {"-1": {}, "x": {}}}}, "a box has splats of no level"),
        ({"tree": {"children": [3]}}, "or something else among them"),
        ({"tree": {"children": [{"children": []}] * 100_001}}, "more than 100,000 boxes"),
        ({"tree": None}, "has no tree"),
    ],
)
def test_documents_that_lie_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = tmp_path / "lod-meta.json"
    export(scene_of(40, 0), path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=message) as caught:
        load(path)
    assert str(caught.value).startswith(str(path))
    assert len(str(caught.value)) < len(str(path)) + 300
