"""Metashape's cameras.xml, with the elements of its export and the formulas of its manual's appendix."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import readers
from recon.datasets import load_scene, metashape
from recon.datasets.errors import InputError
from recon.datasets.lens import is_pinhole

# A camera at (1, -5, 0) that looks along +y with z up: columns are right x, down -z, forward y.
POSE = "1 0 0 {x} 0 0 1 -5 0 -1 0 0 0 0 0 1"
TEXT = """<?xml version="1.0" encoding="UTF-8"?>
<document version="2.0.0">
  <chunk label="Chunk 1" enabled="true">
    <sensors next_id="2">
      <sensor id="0" label="some camera" type="frame">
        <resolution width="40" height="30"/>
        <property name="layer_index" value="0"/>
        <calibration type="frame" class="initial"><resolution width="40" height="30"/><f>9</f></calibration>
        <calibration type="frame" class="adjusted">
          <resolution width="40" height="30"/>
          <f>50</f><cx>0.5</cx><cy>-1</cy>
        </calibration>
      </sensor>
      <sensor id="1" label="other" type="frame">
        <resolution width="40" height="30"/>
        <calibration type="frame" class="adjusted"><f>50</f><k1>-0.1</k1></calibration>
      </sensor>
    </sensors>
    <components next_id="1" active_id="0">
      <component id="0" label="Component 1">
        <transform><scale locked="false">1</scale></transform>
        <region><R>1 0 0 0 1 0 0 0 1</R></region>
      </component>
    </components>
    <cameras next_id="5" next_group_id="1">
      <camera id="0" sensor_id="0" component_id="0" label="a.png">
        <transform>POSE1</transform>
        <rotation_covariance>1 0 0 0 1 0 0 0 1</rotation_covariance>
      </camera>
      <camera id="2" sensor_id="0" label="c.png"><orientation>1</orientation></camera>
      <group id="0" label="Group 1" type="folder">
        <camera id="1" sensor_id="1" component_id="0" label="b"><transform>POSE0</transform></camera>
        <camera id="3" sensor_id="0" component_id="0" label="d" enabled="false"><transform>POSE0</transform></camera>
      </group>
    </cameras>
    <reference>LOCAL_CS["Local Coordinates (m)"]</reference>
  </chunk>
</document>
""".replace("POSE1", POSE.format(x=1)).replace("POSE0", POSE.format(x=0))
SCALE = '<scale locked="false">1</scale>'


def _capture(path: Path, text: str = TEXT) -> Path:
    readers.photos(path / "images", ["a.png", "b.png", "c.png", "d.png"])
    (path / "cameras.xml").write_text(text)
    return path


def _changed(old: str, new: str) -> str:
    assert old in TEXT
    return TEXT.replace(old, new, 1)


def test_cameras(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="recon"):
        scene = load_scene(_capture(tmp_path), test_every=0)
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path}/cameras.xml: 1 are disabled, 1 are not aligned; left out"
    ]
    assert [view.name for view in scene.views] == ["a", "b"]
    camera = scene.views[0].camera
    assert camera.positions[0].tolist() == pytest.approx([1, -5, 0])
    assert camera.forward[0].tolist() == pytest.approx([0, 1, 0])
    assert camera.up[0].tolist() == pytest.approx([0, 0, 1])
    assert readers.pixel(scene.views[0], (2, 0, 1)) == pytest.approx([20.5 + 10, 14 - 10])
    assert is_pinhole(readers.lens(scene.views[1])) is False


@pytest.mark.parametrize("place", ["component", "chunk"])
def test_the_transform_to_the_world(tmp_path: Path, place: str) -> None:
    """Twice as large, turned by a quarter about z, and moved."""
    transform = (
        "<transform><rotation>0 -1 0 1 0 0 0 0 1</rotation><translation>10 20 30</translation>"
        "<scale>2</scale></transform>"
    )
    text = TEXT.replace(f"<transform>{SCALE}</transform>", transform if place == "component" else "")
    if place == "chunk":
        text = text.replace(' component_id="0"', "").replace("</cameras>", f"</cameras>{transform}")
    scene = load_scene(_capture(tmp_path, text), test_every=0)
    camera = scene.views[0].camera
    assert camera.positions[0].tolist() == pytest.approx([10 + 10, 20 + 2, 30])
    assert camera.forward[0].tolist() == pytest.approx([-1, 0, 0])
    # (2, 0, 1) moved likewise is seen where it was.
    assert readers.pixel(scene.views[0], (10, 24, 32)) == pytest.approx([20.5 + 10, 14 - 10])


def test_a_world_that_is_far_away_is_counted_from_a_place_near_the_cameras(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = _changed(SCALE, f"<translation>4500000.25 500000 4200000</translation>{SCALE}")
    with caplog.at_level(logging.WARNING, logger="recon"):
        scene = load_scene(_capture(tmp_path, text), test_every=0)
    positions = torch.cat([view.camera.positions for view in scene.views])
    assert float(positions.norm(dim=-1).max()) < 2
    assert (positions[0] - positions[1]).tolist() == pytest.approx([1, 0, 0])
    assert "its coordinates are large; the scene's are counted from (4.5e+06, 499995, 4.2e+06)" in caplog.text


def _frame(x: np.ndarray, y: np.ndarray, *, b1: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    r2, (k1, k2, k3, p1, p2) = x * x + y * y, (-0.1, 0.02, 0.003, 0.004, -0.005)
    radial = 1 + k1 * r2 + k2 * r2**2 + k3 * r2**3
    xd = x * radial + p1 * (r2 + 2 * x * x) + 2 * p2 * x * y
    yd = y * radial + p2 * (r2 + 2 * y * y) + 2 * p1 * x * y
    return 20 + 1 + xd * (50 + b1), 15 - 2 + yd * 50


def _fisheye(p1: float, p2: float) -> Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    def formula(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        r0 = np.sqrt(x * x + y * y).clip(min=1e-12)
        x, y = x * np.arctan(r0) / r0, y * np.arctan(r0) / r0
        r2 = x * x + y * y
        radial = 1 - 0.1 * r2 + 0.02 * r2**2 + 0.003 * r2**3 - 0.004 * r2**4
        xd = x * radial + p1 * (r2 + 2 * x * x) + 2 * p2 * x * y
        yd = y * radial + p2 * (r2 + 2 * y * y) + 2 * p1 * x * y
        return 20 + 1 + xd * 50, 15 - 2 + yd * 50

    return formula


RADIAL = "<f>50</f><cx>1</cx><cy>-2</cy><k1>-0.1</k1><k2>0.02</k2><k3>0.003</k3>"
LENSES = [
    ("frame", RADIAL + "<p1>0.004</p1><p2>-0.005</p2>", _frame),
    ("frame", RADIAL + "<p1>0.004</p1><p2>-0.005</p2><b1>3</b1><b2>0.001</b2>", lambda x, y: _frame(x, y, b1=3)),
    ("fisheye", RADIAL + "<k4>-0.004</k4>", _fisheye(0, 0)),
    ("fisheye", RADIAL + "<k4>-0.004</k4><p1>0.004</p1><p2>-0.005</p2>", _fisheye(0.004, -0.005)),
]


@pytest.mark.parametrize(("kind", "numbers", "formula"), LENSES)
def test_lenses_are_metashapes(tmp_path: Path, kind: str, numbers: str, formula: Callable) -> None:
    text = _changed("<f>50</f><k1>-0.1</k1>", numbers).replace('type="frame"', f'type="{kind}"')
    scene = load_scene(_capture(tmp_path, text), test_every=0)
    readers.assert_lens(readers.lens(scene.views[1]), formula)


def test_photos_that_are_not_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _capture(tmp_path)
    (tmp_path / "images" / "b.png").unlink()
    with caplog.at_level(logging.WARNING, logger="recon"):
        assert [view.name for view in load_scene(tmp_path / "cameras.xml").views] == ["a"]
    assert len(caplog.records) == 1
    assert "1 of 2 photos are not there, 1 are disabled, 1 are not aligned; left out" in caplog.text
    (tmp_path / "images" / "a.png").unlink()
    assert "none of its 2 photos is there, such as a.png" in readers.refused(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("<chunk", "<lump", "is not XML"),
        ("</document>", "", "is not XML: no element found"),
        ("<document version", '<!DOCTYPE d [<!ENTITY a "b">]><document version', "has a document type declaration"),
        ('label="b"', "", "camera 2 has no label"),
        ('sensor_id="1"', 'sensor_id="7"', "camera b: has sensor 7, which is not there"),
        ("<f>50</f>", "", "sensor 0: has no f"),
        ("<f>50</f>", "<f>nan</f>", "sensor 0: f 'nan' is not a finite number"),
        ("<f>50</f>", "<f/>", "sensor 0: f '' is not a finite number"),
        ("<f>50</f>", "<f>-50</f>", "camera a.png: focal length -50 is not positive"),
        ("<f>50</f>", "<f>50</f><b2>1</b2>", "sensor 0: skew b2 1 is not 0"),
        ("<f>50</f>", "<f>50</f><k4>1</k4>", "sensor 0: k4 1 is not 0"),
        ("<f>50</f>", "<f>50</f><p3>0.1</p3>", "sensor 0: p3 0.1 is not 0"),
        ("<f>50</f><k1>-0.1</k1>", "<f>50</f><k1>x</k1>", "sensor 1: k1 'x' is not a finite number"),
        ('type="frame" class="adjusted"', 'type="spherical" class="adjusted"', "type spherical is neither frame nor"),
        (
            'width="40" height="30"/>\n          <f>',
            'width="80" height="30"/><f>',
            "its camera is for 80x30",
        ),
        ('width="40" height="30"/>\n          <f>', 'height="30"/><f>', "sensor 0: width '' is not a finite number"),
        ('width="40" height="30"/>\n          <f>', 'width="4.5" height="3"/><f>', "resolution 4.5x3 is not of whole"),
        (POSE.format(x=1), "1 2 3", "camera a.png: transform '1 2 3' is not 16 finite numbers"),
        (POSE.format(x=1), POSE.format(x="inf"), "camera a.png: transform '1 0 0 inf 0 0 1 -5 "),
        (POSE.format(x=1), "0 " * 16, "camera a.png: transform is singular"),
        (POSE.format(x=1), "2" + POSE.format(x=1)[1:], "camera a.png: pose is not a rotation and a translation"),
        (SCALE, "<scale>0</scale>", "scale 0 of the transform is not positive"),
        (SCALE, "<rotation>1 0 0 0 2 0 0 0 1</rotation>", "rotation 1 0 0 0 2 0 0 0 1 of the transform is none"),
        (SCALE, "<translation>1 2</translation>", "translation '1 2' is not 3 finite numbers"),
    ],
)
def test_bad_files_are_named_in_one_line(tmp_path: Path, old: str, new: str, said: str) -> None:
    _capture(tmp_path, _changed(old, new))
    with pytest.raises(InputError) as caught:
        load_scene(tmp_path / "cameras.xml")
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert said in str(caught.value)


def test_what_is_left_out_must_leave_photos(tmp_path: Path) -> None:
    text = TEXT.replace("<camera ", '<camera enabled="0" ').replace(' enabled="false"', "")
    assert "has no photos (4 are disabled)" in readers.refused(_capture(tmp_path, text))
    (tmp_path / "cameras.xml").write_text("<document><no/></document>")
    assert "no capture is recognised here" in readers.refused(tmp_path)
    with pytest.raises(InputError, match="has no chunk"):
        load_scene(tmp_path / "cameras.xml")


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _capture(tmp_path_factory.mktemp("metashape"))


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.integers(0, len(TEXT) - 1), st.sampled_from('0123456789.-e <>/"&;nai\x00é')), max_size=4))
def test_any_damage_is_an_input_error_or_a_scene(capture: Path, changes: list[tuple[int, str]]) -> None:
    text = list(TEXT)
    for place, character in changes:
        text[place] = character
    (capture / "cameras.xml").write_text("".join(text), encoding="utf-8")
    readers.read_or_refused(metashape.load, capture / "cameras.xml", names=capture)
