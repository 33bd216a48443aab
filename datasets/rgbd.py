"""Folders of RGB-D frames with poses, in the layout of 7-Scenes (Shotton et al. 2013) and of many TSDF programs.

frame-000000.color.png      or .jpg
frame-000000.depth.png      depth along the viewing axis, 16 bits, millimetres; 0 and 65535 where it is not known
frame-000000.pose.txt       camera to world, 4x4, OpenCV's axes, metres; -inf where the camera was lost (ScanNet)
camera-intrinsics.txt       K, 3x3 or 4x4, for colour and depth alike; or intrinsics.txt, intrinsic_color.txt
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch

from recon.datasets import depth_points, fields, images, photos, projection
from recon.datasets.decode import read_header
from recon.datasets.errors import InputError
from recon.datasets.photos import Shot
from recon.datasets.scene import Scene

INTRINSICS = ("camera-intrinsics.txt", "intrinsics.txt", "intrinsic_color.txt", "intrinsic/intrinsic_color.txt")
DEPTH_SCALE = 1e-3

_POSE = re.compile(r"(.+)\.pose\.txt")


def find_file(path: Path) -> Path | None:
    """The first pose of a folder, if there is a photo for it."""
    poses = sorted(file for file in path.glob("*.pose.txt") if file.is_file())
    return next((pose for pose in poses if images.find_image(_part(pose, "color")) is not None), None)


def load(path: Path | str, *, downscale: float = 1, test_every: int = 8) -> Scene:
    """A folder of RGB-D frames as a scene, in the coordinate frame of the poses; points are where the depths say.

    Frames without a pose, whose camera was lost or whose photo is not there are left out with a warning.

    Args:
        path: the folder.
        downscale: how many times smaller than the photos the views are to be.
        test_every: every how many photos one is held out, see `images.split_every`.
    Raises:
        InputError: a damaged pose or photo, no intrinsics, no photo with a pose.
    """
    root = Path(path)
    poses = sorted(file for file in root.glob("*.pose.txt") if _POSE.fullmatch(file.name))
    matrices = {pose: _matrix(pose) for pose in poses}
    tracked = [pose for pose in poses if matrices[pose] is not None]
    unposed = len([file for file in images.list_images(root) if file.name.endswith(_SUFFIXES) and _is_unposed(file)])
    reasons = ((len(poses) - len(tracked), "lost their pose"), (unposed, "have no pose"))
    why = ", ".join(f"{count} {what}" for count, what in reasons if count)
    found = photos.find(root, [_part(pose, "color").name for pose in tracked], root=root, why=why)
    intrinsics = _intrinsics(root)
    shots = []
    for number, photo in found.items():
        pose = tracked[number]
        header = read_header(photo)
        c2w = matrices[pose]
        assert c2w is not None
        if abs(float(torch.linalg.det(c2w))) < 1e-12:
            raise InputError(f"{pose}: is singular")
        camera = projection.pinhole(intrinsics[1], (header.width, header.height), f"{intrinsics[0]}")
        depth = images.find_image(_part(pose, "depth"))
        shots.append(
            Shot(number, photo, camera, torch.linalg.inv(c2w), f"{pose}", depth=depth, depth_scale=DEPTH_SCALE)
        )
    by_name = photos.in_order(shots)
    train, _ = images.split_every([name for name, _ in by_name], test_every)
    points = depth_points.of_shots([by_name[i][1] for i in train], stored_pixels=True)
    return photos.scene(root, shots, points=points, downscale=downscale, test_every=test_every, stored_pixels=True)


_SUFFIXES = tuple(f".color{extension}" for extension in (".png", ".jpg", ".jpeg"))


def _part(pose: Path, part: str) -> Path:
    """The file of a frame that holds its "color" or "depth", without its suffix."""
    return pose.with_name(pose.name.removesuffix(".pose.txt") + f".{part}")


def _is_unposed(photo: Path) -> bool:
    return not photo.with_name(photo.name.rpartition(".color.")[0] + ".pose.txt").is_file()


def _matrix(pose: Path) -> torch.Tensor | None:
    """Camera to world [4,4]; None where the camera was lost."""
    text = fields.read_text(pose)
    if set(text.lower().split()) == {"-inf"}:
        return None
    return torch.tensor(fields.spelled(text, 16, f"{pose}:"), dtype=torch.float64).reshape(4, 4)


def _intrinsics(root: Path) -> tuple[Path, np.ndarray]:
    """The file with K, and K [3,3]. It may stand above the folder, which then holds one of several sequences."""
    candidates = [folder / name for folder in (root, root.resolve().parent) for name in INTRINSICS]
    file = next((file for file in candidates if file.is_file()), None)
    if file is None:
        raise InputError(f"{root}: has no intrinsics; looked for {', '.join(INTRINSICS)}")
    text = fields.read_text(file)
    side = 4 if len(text.split()) == 16 else 3
    return file, np.array(fields.spelled(text, side * side, f"{file}:")).reshape(side, side)[:3, :3]
