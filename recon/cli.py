"""The command line: one typed function for each subcommand; those of `train` and `compare` have files of their own."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import tyro

from recon import machine
from recon.cli_compare import compare
from recon.cli_train import Device, Masks, address_at, train
from recon.config import Preset
from recon.datasets.errors import InputError
from recon.terminal import say

FASTEST = 240  # frames per second, of videos


def view(
    source: tyro.conf.Positional[Path],
    host: str = "127.0.0.1",
    port: int = 8080,
    browser: bool = True,
    share_page: Path | None = None,
    camera_path: Path | None = None,
    description: str = "",
    device: Device = "auto",
    threads: int | None = None,
) -> None:
    """Look at a scene in the browser: explore, measure, clean, film, export.

    Args:
        source: Run folder, checkpoint, splat file, or the folder of a capture.
        host: Address to serve at. Any but this machine's own asks for the token in the address that is printed.
        port: Port to serve at, or the next that is free.
        browser: Open the page in the browser.
        share_page: Instead, write one page of HTML with the scene in it, which needs no server and no network.
        camera_path: Of the page to share: a path made in the viewer. By default once around.
        description: Of the page to share.
        device: auto is the GPU where it can be used, or else the CPU.
        threads: CPU threads. By default all.
    """
    with machine.importing():
        from recon import viewing

    machine.use_threads(threads)
    where = machine.pick_device(device)
    if share_page is not None:
        viewing.share(source, share_page, where, camera_path=camera_path, description=description)
    else:
        viewing.view(source, address_at(host, port), where, open_page=browser)


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
    from recon import opening, scoring
    from recon.loading import load_state, run_of, trained_scene
    from recon.nerfstudio.runs import find

    machine.use_threads(threads)
    where = machine.pick_device(device)
    found = run_of(run)
    state = load_state(run, where)
    if find(run) is not None:
        scoring.evaluate_run(found, state, trained_scene(run, state, where))
        return
    if state.config.method != found.method:
        raise InputError(
            f"{run}: splats of a radiance field, whose scores would be replaced; their export has compared both"
        )
    scoring.evaluate_run(found, state, opening.scene_of(found, where))


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
    from recon import rendering
    from recon.loading import load_state, trained_scene

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
        scene = trained_scene(run, state, where)
        chosen = rendering.camera_path(path, scene, frames)
    tone = rendering.tone_of(run)
    rendering.render_to(
        state, rendering.resized(chosen, width, height), out, mode=mode, fps=fps, format=format, tone=tone
    )


def export(
    source: tyro.conf.Positional[Path],
    out: tyro.conf.Positional[Path],
    frame: Literal["capture", "world", "y-up", "z-up"] = "capture",
    scale: float = 1.0,
    rotate: tuple[float, float, float] = (0.0, 0.0, 0.0),
    translate: tuple[float, float, float] = (0.0, 0.0, 0.0),
    merge: Annotated[tuple[Path, ...], tyro.conf.UseAppendAction] = (),
    crop: tuple[float, float, float, float, float, float] | None = None,
    min_opacity: float | None = None,
    max_size: float | None = None,
    remove_floaters: Annotated[tuple[()] | tuple[float] | None, tyro.conf.arg(metavar="[STRENGTH]")] = None,
    max_count: int | None = None,
    sh_degree: int | None = None,
    method: Literal["tsdf", "poisson", "density"] = "tsdf",
    level: float | None = None,
    voxel: float | None = None,
    triangles: int | None = None,
    components: int | None = None,
    smooth: int = 0,
    watertight: bool = False,
    collision: bool = False,
    texture: bool = False,
    texture_size: int = 2048,
    distil_steps: int | None = None,
    threads: int | None = None,
) -> None:
    """Write a trained scene, or a part of it, for other programs or as a page, and say what that loses.

    Args:
        source: Run folder, checkpoint or splat file.
        out: File to write. How it ends is the format: .ply is the standard 3DGS file; .compressed.ply, .spz, .sog
            (or meta.json, unpacked; lod-meta.json, in levels of detail), .splat and .ksplat are smaller; .glb is
            glTF, .spz.glb a small one; .usda, .usdc and .usdz are USD. .html is a page that shows the scene in any
            browser. .points.ply, .pcd, .las and .laz are points: colours, normals.
            .obj, .stl, .mesh.ply and .mesh.glb are a mesh: triangles with colours.
        frame: Coordinates of the capture's own files, or those turned so that up is +y or +z, or of the normalised
            world that was trained in.
        scale: Make the scene so many times as large, in the coordinates of the frame, before it is turned and moved.
        rotate: Then turn it: degrees about x, then y, then z, counterclockwise as seen from the end of the axis.
        translate: Then move it along x, y and z.
        merge: Put the splats of this file to it, as they are. May be given several times.
        crop: Keep what is within a box: lowest x y z and highest x y z, in the coordinates of the file to write.
        min_opacity: Leave out what is less opaque, 0 to 1. By default 0, of points 0.5.
        max_size: Leave out splats whose largest standard deviation is more, in units of the file.
        remove_floaters: Leave out what hangs in the air, by how much, 0 to 1. Without a number 0.5.
        max_count: Keep at most so many: those that cover the most.
        sh_degree: Leave out spherical harmonics above this degree.
        method: Of a mesh: tsdf fuses depth and leaves open what nobody saw; poisson closes it by a smooth guess;
            density is where a radiance field has a certain density.
        level: Of the method density: which, per unit of the file. By default what stops half of the light in a voxel,
            or less where surfaces are fainter.
        voxel: Of a mesh: its resolution, in units of the file. By default what the pictures can tell.
        triangles: Of a mesh: the most there are to be.
        components: Of a mesh: keep so many parts that do not touch, the largest. By default all but crumbs.
        smooth: Of a mesh: smooth it so many times.
        watertight: Of a mesh: leave no hole at all, whatever was seen.
        collision: Of a mesh: write convex parts for collisions, too, into OUT with .collision before its suffix.
        texture: Of a mesh, .obj or .mesh.glb: give it a texture made of the photos.
        texture_size: Of that, texels each way.
        distil_steps: Of a radiance field: the steps that splats are trained for on its pictures. By default 2,000, or
            as many as those that were made before had.
        threads: CPU threads. By default all.
    """
    from recon import exporting, surfacing
    from recon.meshing.surface import Wishes
    from recon.parts import STRENGTH, Parts, Place

    machine.use_threads(threads)
    place = Place(frame, scale, rotate, translate)
    floaters = None if remove_floaters is None else (*remove_floaters, STRENGTH)[0]
    parts = Parts(merge, crop, min_opacity, max_size, floaters, max_count, sh_degree)
    if distil_steps is not None and distil_steps < 1:
        raise InputError(f"--distil-steps {distil_steps}: must be at least 1")
    wishes = Wishes(method, voxel, triangles, components, smooth, watertight, level)
    if surfacing.is_mesh(out):
        size = texture_size if texture else None
        surfacing.export_to(source, out, place, parts, wishes, collision=collision, texture=size)
        return
    surfacing.refuse(wishes, out, collision=collision, texture=texture)
    if out.suffix.lower() != ".html":
        exporting.export_to(source, out, place, parts, distil_steps=distil_steps)
        return
    with machine.importing():
        from recon import viewing

    viewing.share(source, out, machine.pick_device("cpu"), keep=exporting.for_page(source, place, parts))


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
    from recon import capturing

    machine.use_threads(threads)
    capture, run = output / "capture", output / "runs"
    capturing.make_capture(capture, views)
    train(capture, preset=preset, output=run, threads=threads, viewer=False)
    export(run, output / "scene.ply")
    render(run, output / "turntable.mp4", threads=threads)
    say(
        f"Done. Explore it in the browser: recon view {run}\nThere is also a video, {output / 'turntable.mp4'}, and the"
        f" splats for any program for 3DGS files, {output / 'scene.ply'}"
    )


COMMANDS: dict[str, Callable[..., None]] = {
    "capture": capture,
    "doctor": doctor,
    "train": train,
    "eval": evaluate,
    "render": render,
    "export": export,
    "view": view,
    "compare": compare,
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
