"""`recon compare`."""

from __future__ import annotations

from pathlib import Path

import tyro

from recon import machine
from recon.cli_train import Device, Masks
from recon.datasets.errors import InputError


def compare(
    scene: tyro.conf.Positional[Path],
    methods: str = "",
    seconds: float | None = None,
    steps: int | None = None,
    output: Path = Path("comparison"),
    downscale: int | None = None,
    test_every: int = 8,
    masks: Masks = (),
    linear: bool = False,
    seed: int = 0,
    device: Device = "auto",
    threads: int | None = None,
    max_memory: float | None = None,
    save_every: float = 30.0,
) -> None:
    """Train a capture by several methods, as long each, and compare them on the photos held out.

    Args:
        scene: Folder with photos and poses, as for `recon train`.
        methods: Which, with commas in between: splats,plenoxels,ngp,nerf,mipnerf360,mipnerf360:hash, where hash is the
            encoding. By default all but nerf and mipnerf360 with its own encoding, which are slow on a CPU.
        seconds: How long each is trained, without opening the capture and scoring. By default 60.
        steps: How many steps each takes, instead.
        output: Folder for the table, the pictures and the runs. Called again, what is there is not trained again.
        downscale: Train on photos this many times smaller. By default as small as the device needs.
        test_every: Hold out every n-th photo, where the capture has no split of its own.
        masks: Which pixels count, as for `recon train`.
        linear: Photos of 16 bits hold scene-linear light, as for `recon train`.
        seed: Same seed, same result, where steps are given.
        device: auto is the GPU where it can be used, or else the CPU.
        threads: CPU threads. By default all.
        max_memory: Most memory to use, GB. By default most of what is free.
        save_every: Seconds between checkpoints.
    """
    with machine.importing():
        from recon import capturing, contest, session
        from recon.datasets.masks import spelled

    machine.use_threads(threads)
    if seconds is not None and steps is not None:
        raise InputError("--seconds and --steps: only one of them can be kept; leave one out")
    if seconds is not None and not 1 <= seconds < float("inf"):
        raise InputError(f"--seconds {seconds:g}: must be at least 1")
    chosen = contest.chosen(methods)
    where = machine.pick_device(device)
    options = session.Options(
        scene=str(capturing.posed(scene, output, masks).resolve()),
        downscale=downscale,
        test_every=test_every,
        masks=spelled(masks),
        linear=linear,
        steps=steps,
        budget_seconds=contest.SECONDS if steps is None and seconds is None else seconds,
        seed=seed,
    )
    watch = session.Watch(save_every=save_every, max_memory=max_memory)
    contest.compare(options, chosen, output, where, watch)
