"""RealityCapture's table of internal and external camera parameters, with the columns of its own export."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

import readers
from recon.datasets import load_scene, realitycapture

HEADER = "#name,x,y,alt,heading,pitch,roll,f,px,py,k1,k2,k3,k4,t1,t2"
# Cameras that look along +y and along +x, z up. 45 mm of 36 are 50 px of 40.
A = "a.png,1,-5,0,0,90,0,45,0.0125,-0.05,0,0,0,0,0,0"
B = "b.png,-5,0,0,90,90,0,45,0,0,-0.1,0.02,0.003,0,0.004,-0.005"
TEXT = f"{HEADER}\n{A}\n{B}\n"


def _capture(path: Path, text: str = TEXT) -> Path:
    readers.photos(path / "images", ["a.png", "b.png"])
    (path / "export.csv").write_text(text)
    return path


def test_cameras(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="recon"):
        scene = load_scene(_capture(tmp_path), test_every=0)
    assert not caplog.records
    a, b = scene.views
    assert (a.name, b.name) == ("a", "b")
    assert a.camera.positions[0].tolist() == pytest.approx([1, -5, 0])
    assert a.camera.forward[0].tolist() == pytest.approx([0, 1, 0])
    assert a.camera.up[0].tolist() == pytest.approx([0, 0, 1])
    assert b.camera.forward[0].tolist() == pytest.approx([1, 0, 0])
    assert b.camera.up[0].tolist() == pytest.approx([0, 0, 1])
    assert readers.pixel(a, (2, 0, 1)) == pytest.approx([20 + 0.5 + 10, 15 - 2 - 10])


@pytest.mark.parametrize(
    "text",
    [
        TEXT.replace("heading", "yaw").replace(",f,px,py", ",f_35mm,px_norm,py_norm"),
        TEXT.replace(",", ";"),
        "\ufeff" + TEXT.replace("\n", "\r\n"),
        TEXT.replace("#name", "name") + "\n\n",
    ],
    ids=["new names", "semicolons", "from Windows", "empty lines"],
)
def test_other_ways_to_write_it(tmp_path: Path, text: str) -> None:
    scene = load_scene(_capture(tmp_path, text), test_every=0)
    assert readers.pixel(scene.views[0], (2, 0, 1)) == pytest.approx([30.5, 3])


def test_the_lens_is_opencvs_with_its_tangential_coefficients_the_other_way_round(tmp_path: Path) -> None:
    def formula(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        r2, (p1, p2) = x * x + y * y, (-0.005, 0.004)
        radial = 1 - 0.1 * r2 + 0.02 * r2**2 + 0.003 * r2**3
        xd = x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x)
        yd = y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y
        return 50 * xd + 20, 50 * yd + 15

    scene = load_scene(_capture(tmp_path), test_every=0)
    readers.assert_lens(readers.lens(scene.views[1]), formula)


@given(st.floats(-360, 360), st.floats(-360, 360), st.floats(-360, 360))
def test_rotations_are_those_of_another_implementation(heading: float, pitch: float, roll: float) -> None:
    expected = Rotation.from_euler("ZXY", [-heading, pitch, roll], degrees=True).as_matrix()
    actual = realitycapture.rotation(heading, pitch, roll)
    assert torch.allclose(actual, torch.from_numpy(expected), rtol=0, atol=1e-12)


def test_photos_that_are_not_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _capture(tmp_path)
    (tmp_path / "images" / "b.png").unlink()
    with caplog.at_level(logging.WARNING, logger="recon"):
        assert [view.name for view in load_scene(tmp_path / "export.csv").views] == ["a"]
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path}/export.csv: 1 of 2 photos are not there; left out"
    ]
    (tmp_path / "images" / "a.png").unlink()
    assert "none of its 2 photos is there, such as a.png" in readers.refused(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: "", "has no column name"),
        (lambda text: text.replace(",f,", ",g,"), "has no column f; it is not an export of"),
        (lambda text: HEADER, "has no photos"),
        (lambda text: text[: text.index("-0.05")], "line 2 has 10 values, the header 16"),
        (lambda text: text.replace("1,-5", "nan,-5"), "a.png: x 'nan' is not a finite number"),
        (lambda text: text.replace("1,-5", "one,-5"), "a.png: x 'one' is not a finite number"),
        (lambda text: text.replace("1,-5", "1e400,-5"), "a.png: x '1e400' is not a finite number"),
        (lambda text: text.replace("45,0.0125", "-45,0"), "a.png: focal length -50 is not positive"),
        (lambda text: text.replace("45,0.0125", "0,0"), "a.png: focal length 0 is not positive"),
        (lambda text: text.replace("0.003,0,", "0.003,1,"), "b.png: k4 1 is not 0"),
        (lambda text: text + A, "photos a.png and a.png would both be"),
        (lambda text: text.replace("a.png,", '"a.png,'), "line 2 has 1 values, the header 16"),
    ],
)
def test_bad_files_are_named_in_one_line(tmp_path: Path, change: Callable[[str], str], said: str) -> None:
    _capture(tmp_path, change(TEXT))
    file = tmp_path / "export.csv"
    assert said in readers.refused(file)


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    (_capture(tmp_path) / "export.csv").write_bytes(HEADER.encode() + b"\n\xff\xfe")
    assert "is not text" in readers.refused(tmp_path / "export.csv")


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _capture(tmp_path_factory.mktemp("realitycapture"))


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.integers(0, len(TEXT) - 1), st.sampled_from('0123456789.-e,;"#\n\rnai\x00é')), max_size=4))
def test_any_damage_is_an_input_error_or_a_scene(capture: Path, changes: list[tuple[int, str]]) -> None:
    text = list(TEXT)
    for place, character in changes:
        text[place] = character
    (capture / "export.csv").write_bytes("".join(text).encode())
    readers.read_or_refused(realitycapture.load, capture / "export.csv", names=capture)
