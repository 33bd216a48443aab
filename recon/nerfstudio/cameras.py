"""nerfstudio's cameras and captures as ours. Its cameras have OpenGL's axes, and pixel centres at +0.5 as ours."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from nerfstudio.cameras.cameras import Cameras as TheirCameras
from nerfstudio.data.datamanagers.full_images_datamanager import FullImageDatamanager
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from numpy.typing import NDArray
from torch import Tensor

from recon.datasets.cameras import OPENCV_FROM_OPENGL, Cameras, similarity_scale
from recon.datasets.images import ArrayImage
from recon.datasets.scene import Points, Scene, View

BACKGROUND = "recon_background"  # what our dataparser tells of the colour behind photos with alpha


@dataclass(frozen=True, eq=False)
class StoredPhoto:
    """A photo that nerfstudio holds in memory: uint8 [H,W,3|4]. A `recon.datasets.scene.StoredImage`."""

    image: NDArray[np.uint8]

    @property
    def pixel_bytes(self) -> int:
        return self.image.nbytes

    @property
    def decoding_bytes(self) -> int:
        return 0

    def pixels(self) -> NDArray[np.uint8]:
        return self.image

    def load(self) -> Tensor:
        return torch.from_numpy(self.image.astype(np.float32) / np.float32(255))


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


def scene_of(datamanager: FullImageDatamanager) -> Scene:
    """The photos that nerfstudio trains on, as it holds them in memory, in its world."""
    photos = datamanager.cached_train  # removes lens distortion, which changes the cameras
    outputs, cameras = datamanager.train_dataparser_outputs, datamanager.train_dataset.cameras
    views = []
    for number, (photo, file) in enumerate(zip(photos, outputs.image_filenames, strict=True)):
        image, mask = photo["image"].cpu(), photo.get("mask")
        views.append(
            View(
                f"{number:05d}_{Path(file).stem}",
                cameras_of(cameras[number : number + 1]),
                StoredPhoto(image.numpy()) if image.dtype == torch.uint8 else ArrayImage(image),
                None if mask is None else ArrayImage(mask.cpu().float().reshape(*image.shape[:2], 1)),
            )
        )
    points, metadata = None, outputs.metadata
    if metadata.get("points3D_xyz") is not None:
        points = Points(metadata["points3D_xyz"].double().cpu(), metadata["points3D_rgb"].cpu().float() / 255)
    red, green, blue = metadata.get(BACKGROUND, (0.0, 0.0, 0.0))
    return Scene(
        "nerfstudio",
        tuple(views),
        tuple(range(len(views))),
        (),
        points=points,
        source_from_world=source_from_world(outputs),
        background=(red, green, blue),
        up=torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64),
    )
