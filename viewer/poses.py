"""Between the cameras of a browser and ours: both look along +z with +y down, theirs with a field of view."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from recon.datasets.cameras import Cameras, intrinsics
from recon.viewer import paths

if TYPE_CHECKING:
    import viser

FOV = math.radians(60.0)  # vertical, where nothing says what it should be


class Pose(NamedTuple):
    """Where a browser looks from, as it was when it said so."""

    position: NDArray[np.float64]  # [3]
    wxyz: NDArray[np.float64]  # [4] world from camera
    fov: float  # vertical, radians
    width: int  # px, of the window
    height: int


def pose_of(client: viser.ClientHandle) -> Pose | None:
    """The pose that a browser told last; None before its first."""
    camera = client.camera
    state = camera._state  # one object, replaced as a whole: all of it is of one moment
    if state.update_timestamp == 0.0 or min(state.image_width, state.image_height) < 1:
        return None
    values = np.concatenate([state.position, state.wxyz, [state.fov]])
    if not np.isfinite(values).all() or not 0.001 < state.fov < 3.1 or np.linalg.norm(state.wxyz) < 1e-6:
        return None
    return Pose(state.position, state.wxyz, float(state.fov), int(state.image_width), int(state.image_height))


def camera_of(pose: Pose, width: int, height: int) -> Cameras:
    """A batch of one, for a picture of this size that fills the window."""
    c2w = torch.eye(4, dtype=torch.float64)
    c2w[:3, :3] = paths.rotations(torch.from_numpy(pose.wxyz)[None])[0]
    c2w[:3, 3] = torch.from_numpy(pose.position)
    fy = 0.5 * height / math.tan(0.5 * pose.fov)
    fx = fy * (width / height) / (pose.width / pose.height)
    K = intrinsics(fx, fy, width / 2, height / 2)
    return Cameras.from_c2w(c2w[None], K, width, height)


def fov_of(camera: Cameras) -> float:
    """The vertical field of view of a batch of one, radians."""
    return 2 * math.atan(0.5 * camera.height / float(camera.Ks[0, 1, 1]))


def wxyz_of(camera: Cameras) -> NDArray[np.float64]:
    """[4] world from camera of a batch of one."""
    return paths.quaternions(camera.viewmats[:, :3, :3].double().cpu().transpose(1, 2))[0].numpy()
