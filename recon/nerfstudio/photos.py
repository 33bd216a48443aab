"""What nerfstudio trains on, as it holds it in memory, as a scene of ours."""

from __future__ import annotations

from pathlib import Path

import torch
from nerfstudio.data.datamanagers.full_images_datamanager import FullImageDatamanager

from recon.datasets.images import ArrayImage, BytesImage
from recon.datasets.scene import Points, Scene, View
from recon.nerfstudio.cameras import BACKGROUND, cameras_of, source_from_world


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
                BytesImage(image.numpy()) if image.dtype == torch.uint8 else ArrayImage(image),
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
