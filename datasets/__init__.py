"""The camera and dataset layer: captures in every format become a `Scene`. It knows nothing of training.

The types are loaded when first used, so that importing a light module (`errors`, `files`) does not load torch.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recon.datasets.errors import InputError

if TYPE_CHECKING:
    from recon.datasets.cameras import Cameras
    from recon.datasets.scene import Points, Scene, View

__all__ = ["Cameras", "InputError", "Points", "Scene", "View", "has_poses", "load_scene"]

_HOMES = {"Cameras": "cameras", "Points": "scene", "Scene": "scene", "View": "scene"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"recon.datasets.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'recon.datasets' has no attribute {name!r}")


def load_scene(
    path: Path | str,
    *,
    downscale: float = 1,
    test_every: int = 8,
    masks: Sequence[str] = (),
    linear: bool = False,
) -> Scene:
    """Load a posed capture, in whichever format it is.

    Args:
        path: the capture's folder, or the file of it that holds the cameras, such as transforms.json.
        downscale: how many times smaller than the originals the photos are to be, at least 1.
        test_every: every how many photos (by name) one is held out; 0 holds out none. Formats with a split of their
            own keep that one.
        masks: which pixels of the photos count, beside what the capture says; see `masks.py`.
        linear: photos of 16 bits hold scene-linear light, as those in .exr and .hdr do; see `tone.py`.
    Raises:
        InputError: one line that names the file and the value, for anything in the capture that cannot be used.
    """
    path = Path(path)
    if not (math.isfinite(downscale) and downscale >= 1):
        raise InputError(f"{path}: downscale {downscale:g} is not 1 or more")
    if test_every < 0 or test_every == 1:
        raise InputError(f"{path}: test_every {test_every} is not 0 (hold out nothing) or at least 2")
    try:
        module = importlib.import_module(f"recon.datasets.{_format_of(path)}")
        scene = module.load(path, downscale=downscale, test_every=test_every)
        if masks:
            scene = importlib.import_module("recon.datasets.masks").apply(scene, masks)
        return importlib.import_module("recon.datasets.light").expose(scene, linear=linear)
    except OSError as error:
        raise InputError(f"{error.filename or path}: cannot be read: {error.strerror}") from error


def has_poses(path: Path | str) -> bool:
    """Whether there is a capture in one of the formats, whole or not; a folder of plain photos has no poses."""
    try:
        _format_of(Path(path))
    except InputError:
        return False
    return True


# What is looked for in a folder, in this order: a format's module, its name, and the files that tell it.
_FORMATS = (
    ("blender", "Blender", ("transforms_train.json",)),
    ("nerfstudio", "nerfstudio", ("transforms.json",)),
    ("colmap", "COLMAP", ("sparse/0 with cameras.bin or .txt",)),
    ("openmvg", "OpenMVG", ("sfm_data.json",)),
    ("opensfm", "OpenSfM, OpenDroneMap", ("reconstruction.json",)),
    ("metashape", "Metashape", ("cameras.xml",)),
    ("realitycapture", "RealityCapture", ("a .csv with #name,x,y,alt",)),
    ("llff", "LLFF", ("poses_bounds.npy",)),
    ("bundler", "Bundler", ("bundle.out",)),
    ("cameras_json", "3DGS", ("cameras.json",)),
    ("neus", "NeuS, DTU", ("cameras_sphere.npz", "cameras.npz")),
    ("middlebury", "Middlebury", ("NAME_par.txt",)),
    ("strecha", "Strecha", ("PHOTO.camera",)),
    ("polycam", "Polycam", ("keyframes/corrected_cameras", "keyframes/cameras")),
    ("record3d", "Record3D", ("metadata.json with rgb/",)),
    ("rgbd", "RGB-D", ("frame-000000.pose.txt with .color.png",)),
)


def _format_of(path: Path) -> str:
    """The name of the module that reads a capture.

    A folder may hold several. A transforms.json comes before the COLMAP model that it was usually made from (it may add
    masks and a split); a whole model comes before the files of other programs, which know less or were made from it.
    Of those, the ones that know lens and points come first (OpenMVG, OpenSfM), then those that know the lens
    (Metashape, RealityCapture), then LLFF's and Bundler's.
    """
    if path.is_file():
        return _format_of_file(path)
    names = {file.name for file in path.iterdir()}
    for module, _, files in _FORMATS:
        if _is_there(module, files, path, names):
            return module
    from recon.datasets import colmap

    if colmap.has_parts(path):
        return "colmap"  # which says what is missing
    looked_for = ", ".join(f"{' or '.join(files)} ({name})" for _, name, files in _FORMATS)
    raise InputError(f"{path}: no capture is recognised here; looked for {looked_for}")


def _is_there(module: str, files: tuple[str, ...], path: Path, names: set[str]) -> bool:
    """Whether a folder with files of these `names` is a capture of a format: its loader knows, or the names tell."""
    loader = importlib.import_module(f"recon.datasets.{module}")
    for find in ("find_model", "find_file"):
        if hasattr(loader, find):
            return getattr(loader, find)(path) is not None
    return not names.isdisjoint(files)


# Files that may be given instead of a folder: by name, or else by how the name ends.
_NAMES = {
    "transforms_train.json": "blender",
    "sfm_data.json": "openmvg",
    "reconstruction.json": "opensfm",
    "cameras.json": "cameras_json",
    "metadata.json": "record3d",
}
_ENDINGS = {
    "_par.txt": "middlebury",
    ".json": "nerfstudio",
    ".npy": "llff",
    ".npz": "neus",
    ".out": "bundler",
    ".xml": "metashape",
    ".csv": "realitycapture",
    ".camera": "strecha",
}


def _format_of_file(path: Path) -> str:
    endings = (module for ending, module in _ENDINGS.items() if path.name.endswith(ending))
    module = _NAMES.get(path.name) or next(endings, None)
    if module is None:
        known = f"{', '.join(_NAMES)} or *{', *'.join(_ENDINGS)}"
        raise InputError(f"{path}: is neither a capture's folder nor a file of one, such as {known}")
    return module
