"""What all splat formats have in common: what comes back, what other programs make of it, and damage."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recon import loading
from recon.datasets.errors import InputError
from recon.export import export, load, spz
from recon.export.rows import morton_order
from recon.gaussians import PARAMETERS, Gaussians, quat_multiply
from splat_files import columns_of, random_gaussians, write_ply
from splat_tool import convert

FORMATS = (".compressed.ply", ".spz", ".sog", ".splat", ".ksplat", ".glb", ".spz.glb", ".usda", ".usdz")
OPACITIES = {".sog": 2.1 / 255}  # the largest error, where it is not half a byte
# What each keeps of a scene of unit normal deviates: the largest error of positions, of angles (degrees), of
# logarithms of scales, and the RMS error of SH coefficients within +-0.6; and the highest SH degree.
PRECISION: dict[str, tuple[float, float, float, float, int]] = {
    ".compressed.ply": (4e-3, 0.3, 6e-3, 0.02, 3),
    ".spz": (2.2e-4, 0.3, 0.032, 0.012, 3),
    ".sog": (0.03, 1.7, 0.06, 0.02, 3),
    ".splat": (0.0, 1.0, 1e-5, 0.0, 0),
    ".ksplat": (4e-6, 0.1, 1e-3, 1e-3, 2),
    ".glb": (0.0, 0.1, 1e-5, 0.0, 3),
    ".usda": (0.0, 0.1, 1e-5, 0.0, 3),
    ".usdz": (0.0, 0.1, 1e-5, 0.0, 3),
    ".spz.glb": (2.2e-4, 1.3, 0.032, 0.012, 3),
}


def scene_of(count: int, degree: int) -> Gaussians:
    """A scene that is within what each format can hold."""
    scene = random_gaussians(count, degree, seed=count + degree)
    with torch.no_grad():
        scene.shN.mul_(0.2).clamp_(-0.6, 0.6)
        scene.sh0.clamp_(-1.7, 1.7)  # colours that a screen can show
    return scene


def matched(loaded: Gaussians, scene: Gaussians) -> dict[str, torch.Tensor]:
    """The loaded rows in the order of the scene's: formats may change it."""
    distances = torch.cdist(scene.means.detach(), loaded.means.detach())
    index = distances.argmin(dim=1)
    assert sorted(index.tolist()) == list(range(len(scene)))
    return loaded.rows(index)


def angles_between(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """[N] degrees that Gaussians are turned against each other, half turns about their own axes not counted."""
    half_turns = [torch.eye(4, dtype=torch.float64)[i].expand(len(a), 4) for i in range(4)]
    a, b = (torch.nn.functional.normalize(q.double(), dim=-1) for q in (a, b))
    cosines = [(quat_multiply(a, turn) * b).sum(dim=-1).abs() for turn in half_turns]
    return torch.rad2deg(2 * torch.stack(cosines).amax(dim=0).clamp(max=1).arccos())


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
@pytest.mark.parametrize("count", [0, 1, 700])
@pytest.mark.parametrize("suffix", FORMATS)
def test_a_scene_comes_back_as_precisely_as_the_format_says(
    tmp_path: Path, suffix: str, count: int, degree: int
) -> None:
    scene, path = scene_of(count, degree), tmp_path / f"scene{suffix}"
    export(scene, path)
    loaded = load(path)
    position, angle, scale, harmonic, most = PRECISION[suffix]
    assert len(loaded) == count
    if count == 0:
        return
    assert loaded.sh_degree == min(degree, most)
    rows, given_ = matched(loaded, scene), scene.state_dict()
    assert (rows["means"] - given_["means"]).abs().max() <= position
    assert (rows["log_scales"] - given_["log_scales"]).abs().max() <= scale
    assert (rows["logit_opacities"].sigmoid() - given_["logit_opacities"].sigmoid()).abs().max() <= OPACITIES.get(
        suffix, 0.51 / 255
    )
    assert (rows["sh0"] - given_["sh0"]).abs().max() <= 0.1
    assert angles_between(rows["quats"], given_["quats"]).max() <= angle
    kept = loaded.shN.shape[1]
    if kept:
        error = (rows["shN"] - given_["shN"][:, :kept]).square().mean().sqrt()
        assert error <= harmonic


@pytest.mark.parametrize("suffix", FORMATS)
def test_what_is_read_is_written_again_without_further_loss(tmp_path: Path, suffix: str) -> None:
    first, second = tmp_path / f"first{suffix}", tmp_path / f"second{suffix}"
    export(scene_of(300, 0), first)
    once = load(first)
    export(once, second)
    rows = matched(load(second), once)
    assert (rows["sh0"] - once.sh0).abs().max() < 1e-3
    assert (rows["logit_opacities"] - once.logit_opacities).abs().max() < 1e-3
    assert (rows["means"] - once.means).abs().max() < 1e-4


@pytest.mark.parametrize("suffix", FORMATS)
def test_the_same_scene_gives_the_same_bytes(tmp_path: Path, suffix: str) -> None:
    for name in ("a", "b"):
        export(scene_of(40, 1), tmp_path / f"{name}{suffix}")
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_scene_that_is_not_finite_is_not_written(tmp_path: Path, suffix: str) -> None:
    scene = scene_of(3, 1)
    with torch.no_grad():
        scene.log_scales[1, 2] = torch.nan
    with pytest.raises(InputError, match=r"scene.*: log_scales of Gaussian 1 has the value nan"):
        export(scene, tmp_path / f"scene{suffix}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", FORMATS)
def test_rotations_of_no_length_and_extreme_values_are_written(tmp_path: Path, suffix: str) -> None:
    scene = scene_of(4, 1)
    with torch.no_grad():
        scene.quats[0] = 0
        scene.logit_opacities[1], scene.logit_opacities[2] = 200, -200
        scene.log_scales[3] = -200
        scene.sh0[0], scene.shN[0] = 1000, -1000
    export(scene, tmp_path / f"scene{suffix}")
    loaded = load(tmp_path / f"scene{suffix}")
    assert sorted(loaded.opacities.tolist())[0] < 0.01
    assert sorted(loaded.opacities.tolist())[-1] > 0.99


def as_theirs(path: Path) -> Gaussians:
    """What splat-transform reads in a file."""
    return load(convert(path, path.with_name("theirs.ply")))


def assert_alike(ours: Gaussians, theirs: Gaussians, degrees: float = 0.05) -> None:
    for name in PARAMETERS:
        a, b = getattr(ours, name).detach(), getattr(theirs, name).detach()
        if name == "quats":
            assert angles_between(a, b).max() <= degrees
            continue
        if name == "logit_opacities":
            a, b = a.sigmoid(), b.sigmoid()
        torch.testing.assert_close(a, b, rtol=1e-5, atol=2e-5, msg=(name + ": {}").format)


@pytest.mark.parametrize("degree", [0, 2, 3])
@pytest.mark.parametrize("suffix", FORMATS[:5])
def test_splat_transform_reads_in_our_files_what_we_do(tmp_path: Path, suffix: str, degree: int) -> None:
    path = tmp_path / f"ours{suffix}"
    export(scene_of(600, degree), path)
    # Its zero of a byte of a rotation in a .splat is 127.5; that of the viewer which the format is from is 128.
    assert_alike(load(path), as_theirs(path), 1.3 if suffix == ".splat" else 0.05)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
@pytest.mark.parametrize("name", ["t.compressed.ply", "t.spz", "t3.spz", "t.sog"])
def test_we_read_in_the_files_of_splat_transform_what_it_does(tmp_path: Path, name: str, degree: int) -> None:
    source = write_ply(tmp_path / "scene.ply", columns_of(scene_of(600, degree)))
    options = ("--spz-version", "3") if name == "t3.spz" else ()
    path = convert(source, tmp_path / name, *options)
    assert_alike(load(path), as_theirs(path))


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_a_glb_of_splat_transform_is_the_scene(tmp_path: Path, degree: int) -> None:
    """It reads none, so the scene itself is what it has to be."""
    scene = scene_of(300, degree)
    source = write_ply(tmp_path / "scene.ply", columns_of(scene))
    assert_alike(load(convert(source, tmp_path / "scene.glb")), scene)


def test_files_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "scene.splat"
    export(scene_of(3, 0), path)
    data = bytearray(path.read_bytes())
    data[32:36] = np.array(np.nan, "<f4").tobytes()
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"scene\.splat: means of Gaussian 1 has the value nan"):
        load(path)


SAMPLES: dict[str, bytes] = {}


def sample(folder: Path, name: str) -> bytes:
    """A small file of each kind, made once."""
    if name not in SAMPLES:
        scene = scene_of(5, 1)
        if name == "v4.spz":
            spz.save(scene, folder / name, version=4)
        else:
            export(scene, folder / name)
        SAMPLES[name] = (folder / name).read_bytes()
    return SAMPLES[name]


NAMES = ("a.compressed.ply", "a.spz", "v4.spz", "a.sog", "a.splat", "a.ksplat", "a.glb", "a.spz.glb")


def check_refusal(path: Path, named: Path | None = None) -> None:
    """It loads to finite Gaussians, or one line says why it does not; memory stays bounded."""
    tracemalloc.start()
    try:
        loaded = load(path)
        for name in PARAMETERS:
            assert torch.isfinite(getattr(loaded, name)).all(), name
    except InputError as error:
        message = str(error)
        assert message.startswith(str(named or path))
        assert "\n" not in message
        assert len(message) < len(str(path)) + 300
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 30_000_000


@settings(deadline=None, max_examples=400)
@given(data=st.data())
def test_damaged_files_load_or_are_refused_in_one_line(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    folder = tmp_path_factory.mktemp("damage")
    name = data.draw(st.sampled_from(NAMES))
    content = bytearray(sample(folder, name))
    for _ in range(data.draw(st.integers(1, 4))):
        # Headers are where counts and sizes are; the rest of a .ksplat's is zeros.
        position = data.draw(st.one_of(st.integers(0, min(1200, len(content))), st.integers(0, len(content))))
        replacement = data.draw(st.binary(max_size=8))
        content[position : position + len(replacement)] = replacement
    content = content[: data.draw(st.integers(0, len(content)))] if data.draw(st.integers(0, 4)) == 0 else content
    path = folder / name
    path.write_bytes(content)
    check_refusal(path)


ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.sampled_from([0, 1, 2, -1, 1e308, 1e30, 0.5, "", "x", "../x", [], {}, [0], [[]], {"a": 1}]),
)


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The ways to all parts of a document."""
    below = value.items() if isinstance(value, dict) else enumerate(value[:3]) if isinstance(value, list) else ()
    return [path, *(way for key, inner in below for way in leaves(inner, (*path, key)))][0 if path else 1 :]


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, bytes]:
    """Files and what is in them, with what they need beside them: to write them takes longest."""
    files = [tmp_path_factory.mktemp("documents") / name for name in ("meta.json", "a.glb", "a.spz.glb")]
    for file in files:
        export(scene_of(5, 1), file)
    return {file: file.read_bytes() for file in files}


@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_documents_with_anything_in_them_load_or_are_refused(documents: dict[Path, bytes], data: Any) -> None:
    path, content = data.draw(st.sampled_from([*documents.items()]))
    name, folder = path.name, path.parent
    size = len(content) if name == "meta.json" else int.from_bytes(content[12:16], "little") + 20
    begin = 0 if name == "meta.json" else 20
    document = json.loads(content[begin:size])
    for way in data.draw(st.lists(st.sampled_from(leaves(document)), min_size=1, max_size=3)):
        inner = document
        try:
            for key in way[:-1]:
                inner = inner[key]
            inner[way[-1]] = data.draw(ANYTHING)
        except (TypeError, LookupError):  # an earlier change took that part away
            continue
    text = json.dumps(document).encode()
    head = b"" if name == "meta.json" else content[:12] + len(text).to_bytes(4, "little") + b"JSON"
    path.write_bytes(head + text + content[size:])
    check_refusal(path, folder)


@pytest.mark.parametrize("name", NAMES)
def test_every_truncation_loads_or_is_refused(tmp_path: Path, name: str) -> None:
    whole = sample(tmp_path, name)
    path = tmp_path / f"cut-{name}"
    for length in range(0, len(whole), max(1, len(whole) // 150)):
        path.write_bytes(whole[:length])
        check_refusal(path)


@pytest.mark.parametrize("suffix", FORMATS)
def test_loading_opens_what_was_exported(tmp_path: Path, suffix: str) -> None:
    export(scene_of(6, 0), tmp_path / f"Scene{suffix.upper()}")
    assert len(loading.load(tmp_path / f"Scene{suffix.upper()}")) == 6


def test_neighbours_in_space_are_neighbours_in_the_order() -> None:
    means = np.random.default_rng(0).normal(size=(4096, 3))
    means[0] = 1e6  # a stray
    ordered = means[morton_order(means)]
    steps = np.linalg.norm(np.diff(ordered, axis=0), axis=1)
    assert np.median(steps) < 0.25 * np.median(np.linalg.norm(np.diff(means, axis=0), axis=1))
    assert sorted(morton_order(means).tolist()) == list(range(4096))
