"""nerfstudio's cameras as ours: they have OpenGL's axes, and pixel centres at +0.5 as ours.

Its data managers must not be imported here: they load our dataparser, which needs this.
"""

from __future__ import annotations

import torch
from nerfstudio.cameras.cameras import Cameras as TheirCameras
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from torch import Tensor

from recon.datasets.cameras import OPENCV_FROM_OPENGL, Cameras, similarity_scale

BACKGROUND = "recon_background"  # what our dataparser tells of the colour behind photos with alpha


def cameras_of(theirs: TheirCameras) -> Cameras:
    """Cameras of one size, without lens distortion, float64 on the CPU."""
    flat = theirs.flatten()
    count = len(flat)
    c2w = torch.eye(4, dtype=torch.float64).repeat(count, 1, 1)
    c2w[:, :3] = flat.camera_to_worlds.detach().double().cpu()
    Ks = flat.get_intrinsics_matrices().detach().double().cpu()
    return Cameras(
        torch.linalg.inv(c2w @ OPENCV_FROM_OPENGL), Ks, int(flat.width.view(-1)[0]), int(flat.height.view(-1)[0])
    )


def theirs_of(cameras: list[Cameras]) -> TheirCameras:
    """The other way round, of single cameras."""
    c2w = torch.cat([camera.c2w.double() @ OPENCV_FROM_OPENGL for camera in cameras])
    Ks = torch.cat([camera.Ks for camera in cameras]).float()
    return TheirCameras(
        c2w[:, :3].float(),
        *(Ks[:, 0, 0], Ks[:, 1, 1], Ks[:, 0, 2], Ks[:, 1, 2]),
        width=torch.tensor([camera.width for camera in cameras]),
        height=torch.tensor([camera.height for camera in cameras]),
    )


def source_from_world(outputs: DataparserOutputs) -> Tensor:
    """[4,4] float64 from nerfstudio's world to the frame of the capture, which a dataparser moved and then scaled."""
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3] = outputs.dataparser_transform.double().cpu() * float(outputs.dataparser_scale)
    return torch.linalg.inv(matrix)


def transform_and_scale(source_from_world: Tensor) -> tuple[Tensor, float]:
    """What a dataparser says of that: [3,4] float32, and a number."""
    matrix = torch.linalg.inv(source_from_world.double())
    scale = float(similarity_scale(matrix))
    return (matrix[:3] / scale).float(), scale
