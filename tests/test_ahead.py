"""Photos that are copied to a device a step before they are needed; streams are stand-ins, since GPUs are rare."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
from ranks_at_work import SPLATS
from recon import ahead, fitting, memory, session
from recon.ahead import Ahead
from recon.batches import Batches
from recon.config import AdaptiveConfig, SurfaceConfig, TrainConfig
from recon.datasets.errors import InputError
from recon.datasets.images import ArrayImage
from recon.opening import first_model
from recon.ranks import Ranks
from recon.train import ViewLearner, start

BLACK = (0.0, 0.0, 0.0)
CPU = torch.device("cpu")
FINE = TrainConfig(steps=100, coarse=0.0)
COARSE = TrainConfig(steps=100, coarse=0.4)


@pytest.mark.parametrize("config", [FINE, COARSE])
@pytest.mark.parametrize("channels", [3, 4])
def test_what_is_copied_in_each_step_is_what_stays(config: TrainConfig, channels: int, tmp_path: Path) -> None:
    views = tiny.stored_views(tmp_path, 5, channels)
    mask = torch.ones(views[0].camera.height, views[0].camera.width, 1)
    mask[:7] = 0
    views[0] = dataclasses.replace(views[0], mask=ArrayImage(mask))
    resident = Batches(views, config, BLACK, CPU, max_bytes=10**9, ahead=Ahead(views, CPU))
    copied = Batches(views, config, BLACK, CPU, max_bytes=0, ahead=Ahead(views, CPU))
    not_held = Batches(views, config, BLACK, CPU, max_bytes=0, ahead=Ahead(views, CPU, most=0))
    for step in range(0, 100, 3):
        wanted = resident.at(step, step / 100)
        for batches in (copied, not_held):
            if step % 2:  # or else it comes without having been expected
                batches.expect(step, step / 100)
            got = batches.at(step, step / 100)
            assert torch.equal(got.image, wanted.image)
            assert (got.photo, got.transparent) == (wanted.photo, wanted.transparent)
            assert (got.mask is None) == (wanted.mask is None)
            assert got.mask is None or wanted.mask is None or torch.equal(got.mask, wanted.mask)
    assert len(resident._ready) > 2
    assert not copied._ready


def test_photos_are_held_while_there_is_room(tmp_path: Path) -> None:
    views = tiny.stored_views(tmp_path, 4)
    one = 3 * views[0].camera.width * views[0].camera.height
    few = Ahead(views, CPU, most=2 * one)
    for number in (0, 1, 2, 3, 1):
        few.hold(number)
    assert list(few._held) == [0, 1]
    assert few._held[0][0].dtype == torch.uint8
    assert torch.equal(ahead.as_colour(few.take(3)[0]), views[3].load())


class Watched:
    """A photo on a device that tells who uses it."""

    def __init__(self, number: int, seen: list[str]) -> None:
        self.number, self.seen = number, seen

    def record_stream(self, stream: Any) -> None:
        self.seen.append(f"{self.number} is kept for {stream.name}")


class Stream:
    def __init__(self, name: str, seen: list[str]) -> None:
        self.name, self.seen = name, seen

    def wait_stream(self, other: Any) -> None:
        self.seen.append(f"{self.name} waits for {other.name}")


def test_a_copy_is_begun_beside_the_kernels_and_waited_for_by_them_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    main, side = Stream("main", seen), Stream("side", seen)

    @contextlib.contextmanager
    def on(stream: Stream) -> Iterator[None]:
        seen.append(f"on {stream.name}")
        yield
        seen.append("on main")

    def copied(number: int) -> Any:
        seen.append(f"copy {number}")
        return Watched(number, seen), None

    monkeypatch.setattr(torch.cuda, "stream", on)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: main)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: pytest.fail("the program waits"))
    photos = Ahead([], CPU)
    monkeypatch.setattr(photos, "_stream", side)
    monkeypatch.setattr(photos, "_copied", copied)
    photos.begin(3)
    photos.begin(3)
    assert seen == ["on side", "copy 3", "on main"]
    seen.clear()
    photos.take(3)
    assert seen == ["main waits for side", "3 is kept for main"]
    seen.clear()
    photos.begin(4)
    photos.take(5)
    assert seen == ["on side", "copy 4", "on main", "copy 5"]


def test_a_training_expects_the_photo_of_its_next_view(monkeypatch: pytest.MonkeyPatch) -> None:
    scene, settings = tiny.scene(), dataclasses.replace(SPLATS, steps=8)
    views = scene.train_views
    photos = Ahead(views, CPU)
    asked: list[str] = []

    def noted(name: str) -> Callable[[int], Any]:
        real = getattr(photos, name)

        def call(number: int) -> Any:
            asked.append(f"{name} {number}")
            return real(number)

        return call

    for name in ("begin", "take"):
        monkeypatch.setattr(photos, name, noted(name))
    state = start(first_model(scene, settings, CPU), settings, scene)
    learner = ViewLearner(state, Batches(views, settings, BLACK, CPU, max_bytes=0, ahead=photos), state.divided)
    for step in range(4):
        learner.learn(step, step / 8)
    begun = [line.split()[1] for line in asked if line.startswith("begin")]
    taken = [line.split()[1] for line in asked if line.startswith("take")]
    assert len(taken) == 8
    assert taken[1:] == begun[:-1]
    assert asked[1::2] == [f"begin {number}" for number in begun]


def test_it_is_said_how_many_photos_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "room", None)
    scene = tiny.scene()
    size = 12 * 40 * 32 * len(scene.train_views)
    assert memory.float_photos(scene.train_views) == size
    few, many = (TrainConfig(strategy=AdaptiveConfig(max_gaussians=count)) for count in (1000, 10**9))
    assert "All photos stay" in fitting.keep_on_gpu(scene, few, 10**9)
    assert (ahead.room or 0) > size
    free = memory.taken_on_gpu(few, 1000, 40 * 32) + size // 4
    assert fitting.keep_on_gpu(scene, few, free).startswith("25% of the photos stay")
    assert fitting.keep_on_gpu(scene, many, 10**9).startswith("0% of the photos")
    assert ahead.room == 0


def test_a_gpu_has_room_for_so_many_gaussians() -> None:
    scene, settings = tiny.scene(), TrainConfig(strategy=AdaptiveConfig(max_gaussians=10**6))
    enough = memory.taken_on_gpu(settings, 10**6, 40 * 32)
    same, said = fitting.fit_on_gpu(scene, settings, enough)
    assert same == settings
    assert said == f"GPU memory: about {enough / memory.GB:.2g} GB of {enough / memory.GB:.3g} GB, beside photos"
    fewer, said = fitting.fit_on_gpu(scene, settings, enough // 4)
    assert fewer.max_gaussians == pytest.approx(250_000, rel=1e-3)
    assert said.endswith(f"beside photos; at most {fewer.max_gaussians:,} Gaussians instead of 1,000,000")
    assert 0 <= enough // 4 - memory.taken_on_gpu(fewer, fewer.max_gaussians, 40 * 32) < 10_000
    for_mesh, _ = fitting.fit_on_gpu(scene, dataclasses.replace(settings, surface=SurfaceConfig()), enough // 4)
    assert for_mesh.max_gaussians < fewer.max_gaussians
    divided, _ = fitting.fit_on_gpu(scene, settings, enough // 4, parts=3)
    assert divided.max_gaussians == 3 * fewer.max_gaussians
    with pytest.raises(
        InputError, match=r"0.0001 GB of GPU memory, .* too little for photos of 0.00128 million pixels; --down"
    ):
        fitting.fit_on_gpu(scene, settings, 10**5)


def test_processes_that_share_a_gpu_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (9 * 10**9, 10**10))
    of_three = session.Watch(ranks=Ranks(0, 3, 0, 3))
    assert session._free_on_gpu(of_three, torch.device("cuda")) == round(memory.SHARE * 9 * 10**9 / 2)
    bounded = dataclasses.replace(of_three, max_memory=2.0)
    assert session._free_on_gpu(bounded, torch.device("cuda")) == 2 * 10**9
