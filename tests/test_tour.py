"""Camera paths as data: they pass through their stops in time, can be edited, and their file is one of cameras."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recon.datasets.cameras import Cameras, look_at
from recon.datasets.errors import InputError
from recon.datasets.nerfstudio import load_cameras
from recon.viewer import paths, tour
from recon.viewer.tour import Stop, Tour
from tiny import ring

MOVED = torch.tensor(
    [[0.0, -2.0, 0.0, 5.0], [2.0, 0.0, 0.0, -7.0], [0.0, 0.0, 2.0, 1.0], [0.0, 0.0, 0.0, 1.0]]
).double()


def stop(x: float = 0.0, y: float = 0.0, z: float = 0.0, turn: float = 0.0, fov: float = 50.0, seconds: float = 2.0):
    return Stop((x, y, z), (math.cos(turn / 2), 0.0, math.sin(turn / 2), 0.0), fov, seconds)


numbers = st.floats(-100, 100)
stops = st.builds(stop, numbers, numbers, numbers, st.floats(-6, 6), st.floats(5, 120), st.floats(0.1, 20))
tours = st.builds(
    Tour, st.lists(stops, min_size=1, max_size=6).map(tuple), st.booleans(), st.sampled_from([0.0, 0.4, 1.0])
)


@settings(deadline=None, max_examples=60)
@given(tours)
def test_a_path_passes_through_its_stops_at_their_times(path: Tour) -> None:
    cameras = path.at(path.times, 80, 60)
    assert len(cameras) == len(path)
    for camera, there in zip([cameras[i] for i in range(len(path))], path.stops, strict=True):
        found = Stop.of(camera, there.seconds)
        assert found.position == pytest.approx(there.position, abs=1e-6)
        assert abs(sum(a * b for a, b in zip(found.wxyz, there.wxyz, strict=True))) == pytest.approx(1, abs=1e-9)
        assert found.fov == pytest.approx(there.fov)
    assert path.times[-1] == pytest.approx(sum(stop.seconds for stop in path.stops[:-1]))
    if path.closed:
        again = path.at([path.duration], 80, 60)
        assert torch.allclose(again.viewmats, cameras.viewmats[:1], atol=1e-6)


@settings(deadline=None, max_examples=60)
@given(tours, st.sampled_from([5.0, 24.0, 29.97]))
def test_the_number_of_frames_is_exact_and_the_ends_are_met(path: Tour, fps: float) -> None:
    cameras = path.cameras(16, 12, fps)
    assert len(cameras) == max(1, round(path.duration * fps))
    assert torch.isfinite(cameras.viewmats).all()
    ends = path.at([0.0, path.duration], 16, 12)
    assert torch.allclose(cameras.viewmats[0], ends.viewmats[0], atol=1e-9)
    if not path.closed and len(cameras) > 1:
        assert torch.allclose(cameras.viewmats[-1], ends.viewmats[1], atol=1e-9)


def test_a_closed_path_is_smooth_where_it_closes_and_an_even_one_is_that_of_interpolate() -> None:
    path = tour.through(ring(8), 4.0, closed=True)
    assert path.duration == pytest.approx(4.0)
    cameras = path.cameras(40, 32, 50)
    assert len(cameras) == 200
    looped = torch.cat([cameras.c2w, cameras.c2w[:2]])
    assert float(looped.diff(dim=0).diff(dim=0).abs().max()) < 0.01
    assert torch.allclose(cameras.viewmats, paths.interpolate(ring(8), 200, closed=True).viewmats, atol=1e-6)


def test_two_equal_stops_are_a_rest_and_rough_paths_rest_at_each() -> None:
    path = Tour((stop(0), stop(1), stop(1), stop(3)))
    resting = path.at([2.0, 2.7, 3.1, 4.0], 8, 8).positions
    assert torch.allclose(resting, torch.tensor([1.0, 0, 0]).double(), atol=1e-12)
    straight = dataclasses.replace(Tour((stop(0), stop(1, 1), stop(5, 0))), smoothness=0.0)
    before, at, after = straight.at([1.99, 2.0, 2.01], 8, 8).positions
    assert float((at - before).norm()) < 1e-3
    assert float((after - at).norm()) < 1e-3
    halfway = straight.at([1.0], 8, 8).positions[0]
    assert halfway.tolist() == pytest.approx([0.5, 0.5, 0.0])


def test_an_orbit_is_a_path_of_stops() -> None:
    path = tour.orbit(ring(12), 6.0, stops=8)
    assert (len(path), path.closed, path.duration) == (8, True, pytest.approx(6.0))
    cameras = path.cameras(40, 32, 10)
    assert torch.allclose(cameras.positions.norm(dim=-1), torch.tensor(3.105).double(), atol=0.05)
    pixels, _ = cameras.project(torch.zeros(1, 3))
    assert torch.allclose(pixels, torch.tensor([20.0, 16.0]).double(), atol=0.5)


def test_a_turn_keeps_its_distance_and_what_it_looks_at() -> None:
    centre, up = torch.tensor([0.3, -0.2, 0.1]).double(), torch.tensor([0.0, 0.0, 2.0])
    path = tour.turn(ring(5)[2], centre, 6.0, up=up)
    cameras = path.cameras(40, 32, 10)
    assert torch.allclose(cameras.positions[0], ring(5)[2].positions[0], atol=1e-9)
    distance = float((ring(5)[2].positions[0] - centre).norm())
    assert torch.allclose((cameras.positions - centre).norm(dim=-1), torch.tensor(distance).double(), rtol=0.01)
    pixels, _ = cameras.project(centre[None])
    assert torch.allclose(pixels, torch.tensor([20.0, 16.0]).double(), atol=0.5)
    around = torch.atan2(*(cameras.positions - centre)[:, [1, 0]].T).diff()
    assert float(around.remainder(2 * torch.pi).max()) < 1.1 * 2 * torch.pi / 60  # one way, evenly
    with pytest.raises(ValueError, match="straight above"):
        tour.turn(ring(5)[2], ring(5)[2].positions[0] + up, 6.0, up=up)


@settings(deadline=None, max_examples=60)
@given(tours, stops, st.data())
def test_editing_keeps_count_and_order(path: Tour, new: Stop, data: st.DataObject) -> None:
    count = len(path)
    index = data.draw(st.integers(0, count - 1))
    before = list(path.stops)
    assert list(path.add(new).stops) == [*before, new]
    assert list(path.insert(index, new).stops) == [*before[:index], new, *before[index:]]
    assert list(path.replace(index, new).stops) == [new if i == index else s for i, s in enumerate(before)]
    assert list(path.remove(index).stops) == [s for i, s in enumerate(before) if i != index]
    assert path.insert(index, new).remove(index) == path
    by = data.draw(st.integers(-7, 7))
    moved = path.move(index, by)
    assert moved.stops[min(max(index + by, 0), count - 1)] is before[index]
    assert sorted(map(repr, moved.stops)) == sorted(map(repr, before))
    assert [s for s in moved.stops if s is not before[index]] == [s for s in before if s is not before[index]]
    back = path.reverse()
    assert [s.position for s in back.stops] == [s.position for s in reversed(before)]
    assert back.duration == pytest.approx(path.duration)
    assert back.reverse() == path
    if path.duration:
        assert path.retimed(30.0).duration == pytest.approx(30.0)


@settings(deadline=None, max_examples=30)
@given(path=tours)
def test_the_way_back_shows_the_same(path: Tour) -> None:
    times = torch.linspace(0, path.duration, 7, dtype=torch.float64)
    if path.closed:
        times = times[:-1]
    there = path.at(times, 8, 8)
    back = path.reverse()
    shift = path.stops[-1].seconds if path.closed else 0.0  # where the last stop is on the way back: at its beginning
    again = back.at(path.duration - shift - times, 8, 8)
    assert torch.allclose(there.positions, again.positions, atol=1e-6)


@settings(deadline=None, max_examples=25)
@given(path=tours)
def test_what_is_saved_is_loaded(path: Tour, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("tours") / "path.json"
    tour.save(path, file, MOVED, width=64, height=48, fps=0.7)
    again = tour.load(file, MOVED)
    assert (len(again), again.closed, again.smoothness) == (len(path), path.closed, path.smoothness)
    for found, there in zip(again.stops, path.stops, strict=True):
        assert found.position == pytest.approx(there.position, abs=1e-8)
        assert (found.fov, found.seconds) == (pytest.approx(there.fov), there.seconds)
    # It is a file of cameras too: those of the frames, in the capture's coordinates.
    cameras = load_cameras(file).transformed(torch.linalg.inv(MOVED))
    expected = path.cameras(64, 48, 0.7)
    assert (cameras.width, cameras.height) == (64, 48)
    assert torch.allclose(cameras.viewmats, expected.viewmats, atol=1e-6)
    assert torch.allclose(cameras.Ks, expected.Ks, atol=1e-6)


def saved(folder: Path, **changes: Any) -> Path:
    file = folder / "path.json"
    tour.save(Tour((stop(), stop(1))), file, torch.eye(4), width=8, height=8, fps=1)
    values = json.loads(file.read_text())
    values["tour"]["stops"][1] |= {key: value for key, value in changes.items() if key in values["tour"]["stops"][1]}
    values["tour"] |= {key: value for key, value in changes.items() if key in values["tour"]}
    file.write_text(json.dumps(values))
    return file


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"position": [0, 0]}, "stop 1: position is not 3 numbers"),
        ({"position": [0, 0, math.nan]}, "stop 1: position is not 3 finite numbers"),
        ({"position": [0, 0, 1e200]}, "stop 1: position .*not within"),
        ({"wxyz": [1, 1, 0, 0]}, "stop 1: wxyz .*not of unit length"),
        ({"fov": 0}, "stop 1: fov 0: not between"),
        ({"fov": "wide"}, "stop 1: fov 'wide' is not a finite number"),
        ({"seconds": -1}, "stop 1: seconds -1: not between"),
        ({"seconds": 1e9}, "stop 1: seconds 1e"),
        ({"closed": 1}, "closed 1 is not true or false"),
        ({"smoothness": 2}, "smoothness 2: not between 0 and 1"),
        ({"stops": []}, "has no stops"),
        ({"stops": [7]}, "stop 0: has no position"),
        ({"stops": [{}] * 1000}, "1000 stops are more than"),
    ],
)
def test_a_value_that_no_path_has_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    file = saved(tmp_path, **changes)
    with pytest.raises(InputError, match=message) as raised:
        tour.load(file, torch.eye(4))
    assert str(raised.value).startswith(f"{file}")


def test_files_that_are_no_paths(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    for text, message in (
        ("", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("{}", "has no tour"),
        ("[]", "no tour"),
    ):
        file.write_text(text)
        with pytest.raises(InputError, match=message):
            tour.load(file, torch.eye(4))
    with file.open("wb") as large:
        large.truncate(tour.LARGEST_FILE + 1)
    with pytest.raises(InputError, match="more than a camera path has"):
        tour.load(file, torch.eye(4))
    with pytest.raises(InputError, match="cannot be read"):
        tour.load(tmp_path / "none.json", torch.eye(4))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from([*"ab", "position"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(deadline=None, max_examples=150)
@given(
    value=json_values, where=st.sampled_from(["tour", "stops", "stop", "position", "wxyz", "fov", "seconds", "closed"])
)
def test_any_json_is_a_path_or_refused(value: Any, where: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    good = {"position": [0, 0, 0], "wxyz": [1, 0, 0, 0], "fov": 60, "seconds": 2}
    path: dict[str, Any] = {"stops": [good, good], "closed": False}
    if where in good:
        path["stops"] = [good, good | {where: value}]
    elif where == "stop":
        path["stops"] = [good, value]
    elif where != "tour":
        path[where] = value
    file = tmp_path_factory.mktemp("tours") / "path.json"
    file.write_text(json.dumps({"tour": value if where == "tour" else path}))
    with contextlib.suppress(InputError):  # anything else is a fault of ours
        assert len(tour.load(file, MOVED)) >= 1


def test_a_stop_is_the_camera_that_it_was_made_of() -> None:
    eye = torch.tensor([[1.0, -4.0, 2.0]]).double()
    c2w = look_at(eye, torch.zeros(1, 3).double(), torch.tensor([0.0, 0.0, 1.0]).double())
    K = torch.tensor([[[90.0, 0, 40], [0, 90.0, 30], [0, 0, 1]]]).double()
    camera = Cameras.from_c2w(c2w, K, 80, 60)
    there = Tour((Stop.of(camera),)).cameras(80, 60, 30)
    assert torch.allclose(there.viewmats, camera.viewmats, atol=1e-12)
    assert torch.allclose(there.Ks, K, atol=1e-9)


def test_the_seconds_that_do_not_count_stay_as_they_are() -> None:
    path = Tour((stop(seconds=0.1), stop(1, seconds=20.0))).retimed(300.0)
    assert [there.seconds for there in path.stops] == [pytest.approx(300.0), 20.0]
    assert [there.seconds for there in dataclasses.replace(path, closed=True).retimed(32.0).stops] == pytest.approx(
        [30, 2]
    )


def test_nonsense_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="without stops"):
        Tour().cameras(8, 8, 30)
    with pytest.raises(IndexError, match="no stop 1 of 1"):
        Tour((stop(),)).remove(1)
    with pytest.raises(ValueError, match="more than 600"):
        Tour((stop(seconds=400), stop(seconds=400)), closed=True)
    with pytest.raises(ValueError, match="frames per second"):
        tour.save(Tour((stop(),)), "x.json", torch.eye(4), fps=0)
