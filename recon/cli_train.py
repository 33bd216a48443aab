"""`recon train`, and the kinds of values that several subcommands take."""

from __future__ import annotations

import dataclasses
import importlib
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from recon import machine
from recon.config import Background, Encoding, Method, PoseChoice, Preset
from recon.datasets.errors import InputError
from recon.options import Address
from recon.terminal import say

if TYPE_CHECKING:
    from recon.datasets.scene import Scene
    from recon.runs import Run
    from recon.session import Invitation, Spectators
    from recon.train import TrainState

Device = Literal["auto", "cpu", "cuda"]
Masks = Annotated[tuple[str, ...], tyro.conf.UseAppendAction]
ON_A_TERMINAL = sys.stdout is not None and sys.stdout.isatty()


def train(
    scene: Annotated[Path | None, tyro.conf.Positional] = None,
    method: Method = "splats",
    encoding: Encoding = "ipe",
    preset: Preset = "default",
    resume: Path | None = None,
    output: Path = Path("runs"),
    downscale: int | None = None,
    test_every: int = 8,
    masks: Masks = (),
    linear: bool = False,
    steps: int | None = None,
    batch_size: int | None = None,
    budget_seconds: float | None = None,
    max_gaussians: int | None = None,
    strategy: Literal["adaptive", "mcmc"] = "adaptive",
    grad_threshold: float | None = None,
    absgrad: bool = True,
    reset_every: int | None = None,
    background: Background = "auto",
    exposure: bool = True,
    poses: PoseChoice = "auto",
    depth_weight: float = 0.0,
    for_mesh: bool = False,
    antialiased: bool = False,
    seed: int = 0,
    device: Device = "auto",
    threads: int | None = None,
    max_memory: float | None = None,
    divide: bool = False,
    save_every: float = 30.0,
    tensorboard: bool = False,
    viewer: bool = ON_A_TERMINAL,
    host: str = "127.0.0.1",
    port: int = 8080,
) -> None:
    """Train a scene from posed photos, then evaluate it on the photos held out.

    Args:
        scene: Folder with photos and poses, of COLMAP, nerfstudio, Metashape, RealityCapture, ... (README.md has all).
            Of photos without poses, or a video, a scene is made first, as by `recon capture`, and kept in the folder
            of runs.
        method: What the scene is made of: splats, or a radiance field: ngp (a hash grid and small networks), plenoxels
            (a grid of voxels), mipnerf360 (networks that are asked for what a pixel's cone sees) or nerf (a network,
            which takes hours on a CPU).
        encoding: Of mipnerf360: ipe is the published one, of waves; hash is Zip-NeRF's hash grid, which learns faster.
        preset: How long to train, and with how many Gaussians. full is for hundreds of photos and a GPU.
        resume: Go on with this run instead of starting a new one, with the run's own settings. Give the scene only if
            it was moved.
        output: Where runs are kept.
        downscale: Train on photos this many times smaller. By default as small as the device needs.
        test_every: Hold out every n-th photo, where the capture has no split of its own. 0 holds out none.
        masks: Which pixels count: a folder of masks called as the photos; alpha, for those that are opaque;
            key:#rrggbb or key:#rrggbb:TOLERANCE, for those of another colour; people, for those that show none.
        linear: Photos of 16 bits hold scene-linear light, as converters of raw photos write it; EXRs always do.
        steps: Training steps, instead of the preset's.
        batch_size: Views of a step; of a radiance field, how many times its rays. With more of them a preset has fewer
            steps, and learning rates are higher. By default one for each process that torchrun starts.
        budget_seconds: Be done, scores included, this long after pressing return: plans steps and Gaussians for it.
            Finding poses does not count.
        max_gaussians: Most Gaussians, instead of the preset's.
        strategy: How Gaussians are added and removed.
        grad_threshold: Adaptive: refine only what is pulled more than this (3DGS: 0.0002). 0: what is pulled most.
        absgrad: Adaptive: judge by absolute gradients (AbsGS), or else as 3DGS does, where opposite pulls cancel out.
        reset_every: Adaptive: steps between opacity resets (3DGS: 3000). By default never.
        background: Behind the scene. auto is the capture's own, or black.
        exposure: Learn how bright and how warm each photo is, and how the lens darkens corners, beside the scene,
            which then has the mean exposure of all. Or else the scene has to look like all photos at once.
        poses: refine corrects where each photo was taken from while training; keep takes the poses as they are. auto
            refines those that were estimated, in trainings of 1,000 steps and more, and keeps the exact ones of
            rendered pictures and calibrated rigs.
        depth_weight: How much measured depths count, where the capture has them (RGB-D): the weight of their mean
            relative error beside the photometric loss. With 0 they only give the first points.
        antialiased: Draw what is smaller than a pixel fainter instead of larger (Mip-Splatting): the scene looks right
            from farther away and in smaller pictures than the photos, too. What shows the export has to know of it:
            .spz and .sog tell.
        for_mesh: Make the geometry good enough for a mesh: flat Gaussians whose normals agree with the depth. Takes
            longer, and photos are matched a little less well.
        seed: Same seed, same result.
        device: auto is the GPU where it can be used, or else the CPU.
        threads: CPU threads. By default all.
        max_memory: Most memory to use, GB; of a GPU's memory, too. Less is kept in memory then, and if need be there
            are fewer Gaussians or smaller photos. By default most of what is free.
        divide: Each of the processes that torchrun starts has a part of the scene, and not all of it: for scenes that
            are too large for one GPU. They cannot be looked at while they are trained.
        save_every: Seconds between checkpoints.
        tensorboard: Also log for TensorBoard.
        viewer: Show the scene in the browser while it is trained. By default where the command runs on a terminal.
        host: The viewer's address. Any but this machine's own asks for the token in the address that is printed.
        port: The viewer's port, or the next that is free.
    """
    with machine.importing():
        from recon import capturing, session
        from recon import ranks as processes
        from recon.datasets.masks import spelled

    ranks = processes.expected()
    machine.use_threads(threads, ranks.beside)
    watch = session.Watch(
        save_every=save_every,
        tensorboard=tensorboard,
        max_memory=max_memory,
        invite=_invitation(host, port) if viewer and ranks.first and not (divide and ranks.count > 1) else None,
        ranks=ranks,
        divide=divide,
    )
    options = session.Options(
        scene=str(scene.resolve()) if scene else "",
        method=method,
        encoding=encoding,
        downscale=downscale,
        test_every=test_every,
        masks=spelled(masks),
        linear=linear,
        preset=preset,
        strategy=strategy,
        steps=steps,
        batch_size=(ranks.count if resume is None else 1) if batch_size is None else batch_size,
        budget_seconds=budget_seconds,
        max_gaussians=max_gaussians,
        grad_threshold=grad_threshold,
        absgrad=absgrad,
        reset_every=reset_every,
        background=background,
        exposure=exposure,
        poses=poses,
        depth_weight=depth_weight,
        for_mesh=for_mesh,
        antialiased=antialiased,
        seed=seed,
    )
    if resume is None and scene is None:
        raise InputError("recon train: give the folder of a capture, or --resume RUN")
    if resume is not None:
        for option in options.changed():
            raise InputError(f"--resume {resume}: goes on with the run's own settings; leave out {option}")
    else:
        options.train_config()  # what cannot be kept is said before minutes go into finding poses
    where = machine.pick_device(device, ranks.local)
    with processes.joined(ranks, where):
        if resume is not None:
            run = session.resume(resume, scene, where, watch)
        else:
            assert scene is not None
            photos, began = scene, time.perf_counter()
            posed = ranks.told(lambda: str(capturing.posed(photos, output, masks).resolve()))
            options = dataclasses.replace(options, scene=posed)
            run = session.begin(options, output, where, watch, preparing=time.perf_counter() - began)
    if run.method == "splats":
        say(f"Export it: recon export {run.path} {'scene.mesh.glb --texture' if run.for_mesh else 'scene.ply'}")


def _invitation(host: str, port: int) -> Invitation:
    """What has a training looked at in the browser. The viewer is loaded beside the capture, which takes longer."""
    address = address_at(host, port)
    threading.Thread(target=importlib.import_module, args=("recon.live",), daemon=True).start()

    def invite(run: Run, state: TrainState, scene: Scene, stopping: Callable[[], bool]) -> Spectators:
        from recon.live import live_view

        return live_view(run, state, scene, stopping, address)

    return invite


def address_at(host: str, port: int) -> Address:
    if not 0 <= port <= 65535:
        raise InputError(f"--port {port}: not between 0 and 65535")
    return Address(host, port)
