"""The command line: one typed function for each subcommand. The only file that sees every layer."""

from __future__ import annotations

import dataclasses
import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from recon import machine
from recon.config import Background, PoseChoice, Preset
from recon.datasets.errors import InputError
from recon.terminal import say

if TYPE_CHECKING:
    from recon.datasets.cameras import Cameras
    from recon.datasets.scene import Scene

Device = Literal["auto", "cpu", "cuda"]
Masks = Annotated[tuple[str, ...], tyro.conf.UseAppendAction]
LARGEST_SIDE = 16384  # px, of rendered pictures
FASTEST = 240  # frames per second, of videos


def train(
    scene: Annotated[Path | None, tyro.conf.Positional] = None,
    preset: Preset = "default",
    resume: Path | None = None,
    output: Path = Path("runs"),
    downscale: int | None = None,
    test_every: int = 8,
    masks: Masks = (),
    linear: bool = False,
    steps: int | None = None,
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
    seed: int = 0,
    device: Device = "auto",
    threads: int | None = None,
    max_memory: float | None = None,
    save_every: float = 30.0,
    tensorboard: bool = False,
) -> None:
    """Train a scene from posed photos, then evaluate it on the photos held out.

    Args:
        scene: Folder with photos and poses, of COLMAP, nerfstudio, Metashape, RealityCapture, ... (README.md has all).
            Of photos without poses, or a video, a scene is made first, as by `recon capture`, and kept in the folder
            of runs.
        preset: How long to train, and with how many Gaussians.
        resume: Go on with this run instead of starting a new one, with the run's own settings. Give the scene only if
            it was moved.
        output: Where runs are kept.
        downscale: Train on photos this many times smaller. By default as small as the device needs.
        test_every: Hold out every n-th photo, where the capture has no split of its own. 0 holds out none.
        masks: Which pixels count: a folder of masks called as the photos; alpha, for those that are opaque;
            key:#rrggbb or key:#rrggbb:TOLERANCE, for those of another colour; people, for those that show none.
        linear: Photos of 16 bits hold scene-linear light, as converters of raw photos write it; EXRs always do.
        steps: Training steps, instead of the preset's.
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
        seed: Same seed, same result.
        device: auto is the GPU where it can be used, or else the CPU.
        threads: CPU threads. By default all.
        max_memory: Most memory to use, GB: less is kept in memory, and if need be there are fewer Gaussians or
            smaller photos. By default most of what is free.
        save_every: Seconds between checkpoints.
        tensorboard: Also log for TensorBoard.
    """
    with machine.importing():
        from recon import capturing, session
        from recon.datasets.masks import spelled

    machine.use_threads(threads)
    watch = session.Watch(save_every=save_every, tensorboard=tensorboard, max_memory=max_memory)
    options = session.Options(
        scene=str(scene.resolve()) if scene else "",
        downscale=downscale,
        test_every=test_every,
        masks=spelled(masks),
        linear=linear,
        preset=preset,
        strategy=strategy,
        steps=steps,
        budget_seconds=budget_seconds,
        max_gaussians=max_gaussians,
        grad_threshold=grad_threshold,
        absgrad=absgrad,
        reset_every=reset_every,
        background=background,
        exposure=exposure,
        poses=poses,
        depth_weight=depth_weight,
        seed=seed,
    )
    if resume is not None:
        for option in options.changed():
            raise InputError(f"--resume {resume}: goes on with the run's own settings; leave out {option}")
        run = session.resume(resume, scene, machine.pick_device(device), watch)
    elif scene is not None:
        where = machine.pick_device(device)
        options.train_config()  # what cannot be kept is said before minutes go into finding poses
        began = time.perf_counter()
        options = dataclasses.replace(options, scene=str(capturing.posed(scene, output, masks).resolve()))
        run = session.begin(options, output, where, watch, preparing=time.perf_counter() - began)
    else:
        raise InputError("recon train: give the folder of a capture, or --resume RUN")
    say(f"Export it: recon export {run.path} scene.ply")


def capture(
    source: tyro.conf.Positional[Path],
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])],
    frames: int | None = None,
    panorama: Literal["auto", "yes", "no"] = "auto",
    nadir: float = 0.0,
    fisheye: bool = False,
    masks: Masks = (),
    threads: int | None = None,
) -> None:
    """Find the poses of photos or of a video, and write both as a scene that `recon train` loads.

    Args:
        source: Folder of photos (JPEG, PNG, TIFF, WebP, and HEIC where pillow-heif is installed), or a video.
        output: Folder for the scene, in COLMAP's layout. Called again with the same photos, it goes on from there.
        frames: Of a video: at most so many frames are taken. By default what the camera's motion asks for, up to 120.
        panorama: Whether they are 360-degree photos, or a 360-degree video: equirectangular, twice as wide as high.
            auto is where the files say so, or both ends continue each other and the poles are even.
        nadir: Of 360-degree ones: leave out what is so many degrees around straight down, where the tripod is.
        fisheye: The lens is one: an action camera, a door viewer, anything that bends straight lines a lot.
        masks: Which pixels count, as for `recon train`. No features are looked for in others.
        threads: CPU threads. By default all.
    """
    from recon import capturing
    from recon.datasets.sources import Wishes

    machine.use_threads(threads)
    capturing.capture_photos(source, output, Wishes(frames, panorama, nadir, fisheye, tuple(masks)))
    say(f"Train it: recon train {output}")


def doctor(scene: tyro.conf.Positional[Path], html: Path | None = None, threads: int | None = None) -> None:
    """Look into a capture: what is wrong with its photos and poses, and what to do about it.

    Sharpness, exposure, overlap, parallax and gaps; and whether the poses fit the photos, in whatever format they are.

    Args:
        scene: Folder of a capture with poses, of plain photos, or a scene that `recon capture` made.
        html: File for the page with all of it. By default report.html in a scene of ours, else NAME-report.html here.
        threads: CPU threads. By default all.
    """
    with machine.importing():
        from recon import doctoring

    machine.use_threads(threads)
    doctoring.examine(scene, html)


def evaluate(run: tyro.conf.Positional[Path], device: Device = "auto", threads: int | None = None) -> None:
    """Score a run on its held-out photos: PSNR, SSIM, LPIPS, speed; side-by-side pictures.

    Args:
        run: Run folder, or one of its checkpoints.
        device: auto is the GPU where it can be used, or else the CPU.
        threads: CPU threads. By default all.
    """
    from recon import runs, session
    from recon.loading import load_state

    machine.use_threads(threads)
    where = machine.pick_device(device)
    found = runs.find(run)
    state = load_state(run, where)
    session.evaluate_run(found, state, session.scene_of(found, where))


def render(
    run: tyro.conf.Positional[Path],
    out: tyro.conf.Positional[Path],
    path: Literal["orbit", "photos", "held-out"] = "orbit",
    cameras: Path | None = None,
    mode: Literal["rgb", "depth", "normals", "alpha"] = "rgb",
    frames: int = 120,
    fps: float = 30.0,
    format: Literal["png", "png16", "exr"] = "png",
    width: int | None = None,
    height: int | None = None,
    device: Device = "auto",
    threads: int | None = None,
) -> None:
    """Render a run along a camera path, to a video or to images.

    Args:
        run: Run folder, or one of its checkpoints.
        out: An .mp4 file, or a folder for pictures.
        path: orbit goes round the scene; photos is a smooth path through the photos' cameras; held-out renders the
            cameras of the held-out photos, one frame each.
        cameras: A file with cameras (transforms.json), rendered one frame each, instead of a path.
        mode: What to show.
        frames: Length of the path.
        fps: Frames per second of a video.
        format: Of pictures: png has 8 bits, png16 has 16, exr has linear light.
        width: Of the pictures, px. By default that of the photos.
        height: Of the pictures, px. By default that of the photos, or what fits the width.
        device: auto is the GPU where it can be used, or else the CPU.
        threads: CPU threads. By default all.
    """
    from recon import rendering, runs, session
    from recon.loading import load_state

    machine.use_threads(threads)
    where = machine.pick_device(device)
    if not 0 < fps <= FASTEST:
        raise InputError(f"--fps {fps}: not more than 0 and at most {FASTEST}")
    if frames < 1:
        raise InputError(f"--frames {frames}: must be at least 1")
    state = load_state(run, where)
    if cameras is not None:
        from recon.datasets.nerfstudio import load_cameras

        chosen = load_cameras(cameras).transformed(state.source_from_world.inverse())
    else:
        chosen = _camera_path(path, session.corrected(session.scene_of(runs.find(run), where), state), frames)
    tone = rendering.tone_of(runs.find(run))
    rendering.render_to(state, _resized(chosen, width, height), out, mode=mode, fps=fps, format=format, tone=tone)


def _camera_path(path: Literal["orbit", "photos", "held-out"], scene: Scene, frames: int) -> Cameras:
    from recon.datasets.cameras import Cameras
    from recon.viewer import paths

    if path == "held-out":
        if not scene.test:
            raise InputError("--path held-out: no photo of this run was held out")
        first = scene.test_views[0].camera  # a video has one size
        return Cameras.cat([view.camera.resized(first.width, first.height) for view in scene.test_views])
    return paths.orbit(scene, frames) if path == "orbit" else paths.interpolate(scene, frames)


def _resized(cameras: Cameras, width: int | None, height: int | None) -> Cameras:
    """Cameras for pictures of the wanted size; of one side alone, the other follows."""
    for name, value in (("--width", width), ("--height", height)):
        if value is not None and not 1 <= value <= LARGEST_SIDE:
            raise InputError(f"{name} {value}: not between 1 and {LARGEST_SIDE}")
    if width is None:
        width = cameras.width if height is None else max(1, round(cameras.width * height / cameras.height))
    if height is None:
        height = max(1, round(cameras.height * width / cameras.width))
    return cameras.resized(width, height)


def export(
    source: tyro.conf.Positional[Path],
    out: tyro.conf.Positional[Path],
    frame: Literal["capture", "world"] = "capture",
) -> None:
    """Write a trained scene for other programs: out.ply is the standard 3DGS splat file.

    Args:
        source: Run folder, checkpoint or splat file.
        out: File to write; its suffix is the format.
        frame: Coordinates of the capture's own files, or of the normalised world that was trained in.
    """
    from recon import session

    session.export_to(source, out, frame)


def convert(
    scene: tyro.conf.Positional[Path],
    out: tyro.conf.Positional[Path],
    to: Literal["colmap", "nerfstudio", "blender"],
    downscale: int = 1,
    test_every: int = 8,
    masks: Masks = (),
    linear: bool = False,
    link: bool = False,
    jpeg: bool = False,
    threads: int | None = None,
) -> None:
    """Write a capture, of whatever format, in that of other programs: cameras, photos, masks, depth, points, split.

    Args:
        scene: Folder with photos and poses, as for `recon train`.
        out: Folder to make. Nothing that is there is overwritten.
        to: colmap has sparse/0 and images; nerfstudio has transforms.json; blender has transforms_train.json.
        downscale: Make photos this many times smaller.
        test_every: Hold out every n-th photo, where the capture has no split of its own. 0 holds out none.
        masks: Which pixels count, as for `recon train`.
        linear: Photos of 16 bits hold scene-linear light, as for `recon train`.
        link: Link photos that need no change, where the disk allows, instead of copying them.
        jpeg: Write the others as JPEG of quality 95 instead of PNG.
        threads: CPU threads. By default all.
    """
    from recon import converting

    machine.use_threads(threads)
    loading = {"downscale": downscale, "test_every": test_every, "masks": masks, "linear": linear}
    converting.convert_to(scene, out, to, loading, link=link, jpeg=jpeg)


def info() -> None:
    """Show versions, what this machine offers, and what that means."""
    from rich.console import Console

    from recon.info import table

    machine.use_threads(None)
    Console().print(table())


def demo(output: Path = Path("demo"), preset: Preset = "default", views: int = 60, threads: int | None = None) -> None:
    """Make a scene, train it, score it, and write its splats and a turntable video.

    Args:
        output: Folder for everything.
        preset: How long to train, and with how many Gaussians.
        views: Photos to make.
        threads: CPU threads. By default all.
    """
    from recon import session

    machine.use_threads(threads)
    capture, run = output / "capture", output / "runs"
    session.make_capture(capture, views)
    train(capture, preset=preset, output=run, threads=threads)
    export(run, output / "scene.ply")
    render(run, output / "turntable.mp4", threads=threads)
    say(
        f"Done. Look at the video {output / 'turntable.mp4'}, and open the splats {output / 'scene.ply'} in any"
        " program for 3DGS files."
    )


COMMANDS: dict[str, Callable[..., None]] = {
    "capture": capture,
    "doctor": doctor,
    "train": train,
    "eval": evaluate,
    "render": render,
    "export": export,
    "convert": convert,
    "info": info,
    "demo": demo,
}


def main() -> None:
    """Run a command. Wrong input ends with one line on the error stream and exit code 2."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    machine.let_threads_sleep()
    try:
        tyro.extras.subcommand_cli_from_dict(
            COMMANDS,
            prog="recon",
            description="Turn photos into a 3D scene: train it, look at it, take it away.",
        )
    except InputError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        sys.exit(130)
    except OSError as error:
        if error.filename is None and error.strerror is None:
            raise
        _fail(": ".join(str(part) for part in (error.filename, error.strerror) if part))


def _fail(message: str) -> None:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)
