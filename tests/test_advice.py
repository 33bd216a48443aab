"""What is advised: nothing of a good capture, and of each fault what it is, where, and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

import posed_matches
from recon.datasets import advice, pose_advice, survey
from recon.datasets.advice import Advice
from recon.datasets.coverage import Gap, Top
from recon.datasets.epipolar import Judged
from recon.datasets.look import Look
from recon.datasets.overlap import Overlap
from recon.datasets.pose_trouble import Trouble
from recon.datasets.survey import Posed, Survey
from surveyed import chain, overlap, photo

COUNT = 20


def looked(
    looks: Sequence[Look] | None = None, shared: Overlap | None = None, *, wanted: bool = False, failure: str = ""
) -> Survey:
    looks = looks or [photo(i) for i in range(COUNT)]
    if shared is None:
        shared = overlap(len(looks), chain(range(len(looks))))
    names = [f"img_{i:02d}.jpg" for i in range(len(looks))]
    return survey.survey("made", names, looks, shared=shared, wanted=wanted, failure=failure)


def the_one(found: Survey) -> Advice:
    (one,) = advice.give(found)
    return one


def test_a_good_capture_needs_no_advice() -> None:
    assert advice.give(looked()) == []


def test_a_blurred_run_is_named_and_why() -> None:
    one = the_one(looked([photo(i, blur=3.0 if 12 <= i <= 15 else 1.1) for i in range(COUNT)]))
    assert "img_12 to img_15 (4 photos)" in one.title
    assert "Walk slower" in one.todo
    assert one.photos == (12, 13, 14, 15)
    alone = the_one(looked([photo(i, blur=3.0 if i == 4 else 1.1) for i in range(COUNT)]))
    assert "img_04" in alone.title
    assert "Hold the camera still" in alone.todo


def test_groups_that_do_not_overlap() -> None:
    one = the_one(looked(shared=overlap(COUNT, chain(range(9)) | chain(range(9, COUNT)))))
    assert one.level == "bad"
    assert "No overlap" in one.title
    assert "between img_08 and img_09" in one.todo
    assert "another place" not in one.todo
    assert one.photos == tuple(range(9))  # the smaller group


def test_groups_of_other_colours_may_be_another_place() -> None:
    looks = [photo(i, level=128 if i < 14 else 230, spread=100 if i < 14 else 10) for i in range(COUNT)]
    found = advice.give(looked(looks, overlap(COUNT, chain(range(14)) | chain(range(14, COUNT)))))
    (one,) = (one for one in found if "No overlap" in one.title)
    assert "may show another place" in one.todo


def test_a_weak_link_is_a_hint() -> None:
    one = the_one(looked(shared=overlap(COUNT, chain(range(10)) | {(9, 10): 30} | chain(range(10, COUNT)))))
    assert one.level == "hint"
    assert "img_10 to img_19" in one.title


def test_matches_by_chance_join_nothing() -> None:
    found = looked(shared=overlap(COUNT, chain(range(10)) | {(3, 15): 22} | chain(range(10, COUNT))))
    assert "No overlap" in the_one(found).title


def test_three_photos_are_too_few() -> None:
    one = the_one(looked([photo(i) for i in range(3)]))
    assert one.level == "bad"
    assert "Only 3 photos" in one.title


def test_one_photo_repeated() -> None:
    still = replace(overlap(8, chain(range(8))), moved=np.zeros(7))
    found = looked([photo(0)] * 8, still, failure="all 8 photos are the same picture", wanted=True)
    titles = [one.title for one in advice.give(found)]
    assert "All photos are the same picture" in titles
    assert "No poses were found" in titles


def test_a_photo_that_comes_again_is_named_with_the_first() -> None:
    still = replace(overlap(COUNT, chain(range(COUNT))), moved=np.zeros(COUNT - 1))
    one = the_one(looked([photo(0 if i in (1, 2) else i) for i in range(COUNT)], still))
    assert "img_01 and img_02" in one.title
    assert "repeat img_00" in one.todo


def test_bare_walls_have_too_little_texture() -> None:
    looks = [photo(i, level=200, spread=3) for i in range(COUNT)]
    found = advice.give(looked(looks, overlap(COUNT, {}, features=20), failure="nothing matches", wanted=True))
    titles = [one.title for one in found]
    assert any(title.startswith("Too little texture: img_00 to img_19") for title in titles)
    assert "The photos do not overlap" in titles


@pytest.mark.parametrize(("level", "said"), [(15, "Too dark"), (252, "plain white")])
def test_exposure(level: float, said: str) -> None:
    looks = [photo(i, level=level, spread=2) if i == 5 else photo(i) for i in range(COUNT)]
    titles = [one.title for one in advice.give(looked(looks))]
    assert any(said in title and "img_05" in title for title in titles)


def test_brightness_that_jumps() -> None:
    looks = [photo(i, brightness=0.25 if i == 7 else 0.5) for i in range(COUNT)]
    one = the_one(looked(looks))
    assert "Brightness jumps at img_07" in one.title
    assert "Lock exposure" in one.todo


def test_a_camera_that_only_turned() -> None:
    flat = overlap(COUNT, chain(range(COUNT)), flat=True)
    one = the_one(looked(shared=flat))
    assert "only turned" in one.title
    assert "guess" not in one.todo
    found = replace(looked(shared=flat), done=("photo by photo: all",))
    posed = replace(found, pictures=tuple(replace(p, view=i, state="posed") for i, p in enumerate(found.pictures)))
    assert "guess" in the_one(posed).todo


def test_photos_without_a_pose_are_named_with_the_reason() -> None:
    found = looked(shared=overlap(COUNT, chain(range(COUNT - 1))), wanted=True)
    assert "overlaps no other photo" in found.pictures[-1].reason
    posed = [replace(p, view=i, state="posed", reason="") for i, p in enumerate(found.pictures[:-1])]
    one = the_one(replace(found, pictures=(*posed, found.pictures[-1])))
    assert one.title == "Without a pose: img_19"
    assert one.todo.startswith("Overlaps no other photo. Take photos")


def test_faces_of_a_panorama_may_show_the_sky() -> None:
    """Of photos taken from one place some may be bare, blurred or without overlap."""
    looks = [photo(i, level=200, spread=3) if i % 2 else photo(i, blur=1.0) for i in range(COUNT)]
    shared = overlap(COUNT, chain(range(0, COUNT, 2)), features=[20 if i % 2 else 2000 for i in range(COUNT)])
    found = looked(looks, shared)
    assert "Too little texture" in the_one(found).title
    stations = tuple((i, i + 1) for i in range(0, COUNT, 2))
    assert advice.give(replace(found, stations=stations)) == []


def test_photos_of_one_place_hang_together() -> None:
    poses = posed_matches.viewmats()
    poses[1, :3, 3] = -poses[1, :3, :3] @ np.linalg.inv(poses[0])[:3, 3]
    lens = survey.SourceCamera("SIMPLE_PINHOLE", (1000.0, 500.0, 500.0), 1000, 1000)
    count = posed_matches.COUNT
    shared = overlap(count, chain([0, *range(2, count)]))
    names, looks = [f"img_{i:02d}" for i in range(count)], [photo(i) for i in range(count)]
    found = survey.survey("made", names, looks, shared=shared, posed=Posed(np.arange(count), poses, (lens,) * count))
    assert found.stations == ((0, 1),)
    assert [len(group) for group in found.groups] == [count]


def test_a_gap_names_its_ends() -> None:
    found = looked()
    views = tuple(replace(p, view=COUNT - 1 - i, state="posed") for i, p in enumerate(found.pictures))
    top = Top(np.zeros((COUNT, 2)), np.zeros((COUNT, 2)), np.zeros((0, 2)), (Gap(80.0, 4, 5),))
    one = the_one(replace(found, pictures=views, top=top, parallax=10.0))
    assert "80 degrees" in one.title
    assert "img_15 and img_14" in one.title


def test_little_parallax_and_large_errors() -> None:
    found = looked()
    bad = replace(found, parallax=0.6, pictures=tuple(replace(p, error=3.3) for p in found.pictures))
    titles = [one.title for one in advice.give(bad)]
    assert any("hardly moved" in title and "0.6" in title for title in titles)
    assert any("3.3 px" in title for title in titles)


def test_a_pose_that_does_not_fit_is_named_and_only_that() -> None:
    """From matches to words."""
    good = posed_matches.matched()
    poses = good.viewmats.copy()
    poses[7] = posed_matches.turned(9, 1) @ poses[7]
    lens = survey.SourceCamera("SIMPLE_PINHOLE", (1000.0, 500.0, 500.0), 1000, 1000)
    positions = np.concatenate([good.a, good.b], axis=1) * 1000 + 500
    shared = Overlap(
        np.full(posed_matches.COUNT, 2000),
        good.pairs,
        good.counts,
        np.zeros(len(good.pairs), bool),
        np.full(len(good.pairs), 0.2),
        good.starts,
        positions,
    )
    for viewmats, misfits in ((good.viewmats, []), (poses, [7])):
        posed = Posed(np.arange(posed_matches.COUNT), viewmats, (lens,) * posed_matches.COUNT)
        looks = [photo(i) for i in range(posed_matches.COUNT)]
        names = [f"img_{i:02d}" for i in range(len(looks))]
        found = survey.survey("made", names, looks, shared=shared, posed=posed, wanted=True)
        assert [i for i, picture in enumerate(found.pictures) if picture.state == "doubtful"] == misfits
        titles = [one.title for one in advice.give(found)]
        assert len(titles) == len(misfits)
        assert all("The pose of img_07 does not fit: " in title and "px off" in title for title in titles)
        assert found.parallax > 10


def test_words_for_all_that_can_be_wrong_with_poses() -> None:
    said = set()
    for kind in ("focal", "distortion", "axes", "mirrored", "inverse", "shifted", "reversed", "backwards", "unknown"):
        trouble = Trouble(kind, -2.0 if kind == "shifted" else 0.8, 31.0, 0.4)  # type: ignore[arg-type]
        ((level, title, todo, _),) = pose_advice.give(replace(looked(), trouble=trouble))
        assert level == "bad"
        assert todo.endswith(".")
        said.add(title)
    assert len(said) == 9
    judged = Judged(np.zeros(0), np.zeros(0), 0.5, ())
    ((_, title, _, photos),) = pose_advice.give(replace(looked(), judged=judged, exchanged=((3, 9),)))
    assert "img_03 and img_09" in title
    assert photos == (3, 9)


def test_the_worst_comes_first() -> None:
    looks = [photo(i, blur=3.0 if i < 2 else 1.1, brightness=0.25 if i == 7 else 0.5) for i in range(COUNT)]
    levels = [one.level for one in advice.give(looked(looks, overlap(COUNT, chain(range(9)) | chain(range(9, COUNT)))))]
    assert levels == sorted(levels, key=advice.LEVELS.index)
    assert set(levels) == {"bad", "warn", "hint"}
