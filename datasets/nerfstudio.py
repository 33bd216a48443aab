"""Captures with a transforms.json, in the dialects of nerfstudio and of instant-ngp.

`transforms_json.py` knows what the fields mean; here they become views, a split and points.
"""

from __future__ import annotations

import json
import logging
from collections import ChainMap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch

from recon.datasets import colmap, images, lens, transforms_json
from recon.datasets.cameras import OPENCV_FROM_OPENGL, Cameras, intrinsics, similarity_scale
from recon.datasets.errors import InputError
from recon.datasets.fields import text
from recon.datasets.files import atomic_write
from recon.datasets.point_cloud import read_points, write_points
from recon.datasets.scene import Points, Scene
from recon.datasets.transforms_json import DEPTH_SCALE, declared_size, world_from_source
from recon.datasets.writing import PLAIN, Writing, write_photos

log = logging.getLogger("recon")


@dataclass(frozen=True)
class _Frame:
    """An entry of "frames" that has its photo."""

    own: dict[str, Any]  # its fields; what it lacks is found in those that all frames share
    path: str  # of the photo, as written but with "/"
    file: Path
    original: Path  # the file before a folder of smaller copies was chosen; it need not be there


def load(path: Path | str, *, downscale: float = 1, test_every: int = 8) -> Scene:
    """A capture with a transforms.json as a scene, in the coordinate frame of that file.

    The file's `applied_transform` and `applied_scale` become `source_from_world`, which leads back to the frame before
    them. Of nerfstudio's lists, the photos of `test_filenames` (or else `val_filenames`) are held out, and where there
    are `train_filenames`, they alone are trained on.

    Args:
        path: the capture's folder or the .json file itself.
        downscale: how many times smaller than declared the views are to be; folders such as images_4 are used.
        test_every: every how many photos one is held out, unless the file has its own split.
    Raises:
        InputError: no or an unusable file, no photos, a frame without a proper camera.
    """
    path = Path(path)
    file = path / "transforms.json" if path.is_dir() else path
    meta = transforms_json.read(file)
    frames = _find_photos(file, meta, downscale)
    named = zip(images.view_names([frame.path for frame in frames]), frames, strict=True)
    by_name = sorted(named, key=lambda pair: pair[0])
    views = []
    for name, frame in by_name:
        where = f"{file}: frame {frame.path}"
        fields = ChainMap(frame.own, meta)
        size = declared_size(fields, where) or images.image_size(images.find_image(frame.original) or frame.file)
        depth = text(fields, "depth_file_path", where) or text(fields, "depth_path", where)
        mask = text(fields, "mask_path", where)
        view = images.make_view(
            name,
            frame.file,
            transforms_json.camera(frame.own, meta, size, where),
            transforms_json.viewmat(frame.own, where),
            downscale=downscale,
            mask_path=file.parent / mask if mask else None,
            depth_path=file.parent / depth if depth else None,
            depth_scale=transforms_json.depth_scale(fields, where),
            where=where,
        )
        views.append(view)
    split = _split(file, meta, [frame.path for _, frame in by_name])
    train, test = split or images.split_every([view.name for view in views], test_every)
    source_from_world = torch.linalg.inv(world_from_source(meta, f"{file}"))
    up = meta.get("up")
    return Scene(
        file.resolve().parent.name,
        tuple(views),
        train,
        test,
        points=_points(file, meta),
        source_from_world=source_from_world,
        up=None if up is None else transforms_json.direction(up, f"{file}: up"),
        exact_poses=meta.get("exact_poses") is True,
    )


def load_cameras(path: Path | str) -> Cameras:
    """The cameras of a transforms.json, in its order, whether or not there are photos: a path to render along.

    They are in the frame that `source_from_world` of `load`'s scene leads to. Each frame needs its size (w, h), all the
    same; a lens with distortion is replaced by the pinhole that `load` replaces it by. float64.

    Raises:
        InputError: no or an unusable file, a frame without a proper camera or size, different sizes.
    """
    path = Path(path)
    file = path / "transforms.json" if path.is_dir() else path
    meta = transforms_json.read(file)
    cameras: list[Cameras] = []
    for number, own in enumerate(meta["frames"]):
        where = f"{file}: frame {number}"
        size = declared_size(ChainMap(own, meta), where)
        if size is None:
            raise InputError(f"{where}: has no image size (w and h)")
        source = transforms_json.camera(own, meta, size, where)
        lens.check_camera(source, where)
        pinhole = lens.undistorted(source)
        viewmat = images.checked_pose(transforms_json.viewmat(own, where), where)
        camera = Cameras(viewmat[None], intrinsics(*pinhole.params), pinhole.width, pinhole.height)
        if cameras and (camera.width, camera.height) != (cameras[0].width, cameras[0].height):
            raise InputError(
                f"{where}: is {camera.width}x{camera.height}, those before it {cameras[0].width}x{cameras[0].height}"
            )
        cameras.append(camera)
    return Cameras.cat(cameras).transformed(torch.linalg.inv(world_from_source(meta, f"{file}")))


def save(scene: Scene, path: Path | str, how: Writing = PLAIN) -> None:
    """Write a scene as `path/transforms.json` with `images`, `masks`, `depths` and `sparse_pc.ply`, in its own world.

    `source_from_world` is written as `applied_transform` and `applied_scale`. Photos are written as `how` says; depths
    are .npy files in thousandths of the world's unit. nerfstudio wants masks, or depths, of all photos or of none:
    where some have one, the others' are white, or unknown. Lists of files are written where photos are held out.
    """
    path = Path(path)
    masked = any(view.mask is not None for view in scene.views)
    with_depth = any(view.depth is not None for view in scene.views)
    photos = write_photos(scene.views, [path / "images" / view.name for view in scene.views], how)
    frames: list[dict[str, Any]] = []
    for view, photo in zip(scene.views, photos, strict=True):
        camera = view.camera.to(dtype=torch.float64)
        K = camera.Ks[0].tolist()
        frame = {
            "file_path": photo.relative_to(path).as_posix(),
            "transform_matrix": (camera.c2w[0] @ OPENCV_FROM_OPENGL).tolist(),
            "fl_x": K[0][0],
            "fl_y": K[1][1],
            "cx": K[0][2],
            "cy": K[1][2],
            "w": camera.width,
            "h": camera.height,
        }
        if masked:
            frame["mask_path"] = f"masks/{view.name}.png"
            mask = torch.ones(camera.height, camera.width, 1) if view.mask is None else view.mask.load()
            images.save_image(path / frame["mask_path"], mask)
        if with_depth:
            frame["depth_file_path"] = f"depths/{view.name}.npy"
            depth = torch.zeros(camera.height, camera.width, 1) if view.depth is None else view.depth.load()
            with atomic_write(path / frame["depth_file_path"]) as target:
                np.save(target, (depth[..., 0] / DEPTH_SCALE).numpy())
        frames.append(frame)
    applied = torch.linalg.inv(scene.source_from_world)
    scale = float(similarity_scale(applied))
    meta: dict[str, Any] = {"camera_model": "PINHOLE", "depth_unit_scale_factor": DEPTH_SCALE}
    if not torch.equal(applied, torch.eye(4, dtype=torch.float64)):
        meta |= {"applied_transform": (applied[:3] / scale).tolist(), "applied_scale": scale}
    if scene.up is not None:
        meta["up"] = scene.up.tolist()
    if scene.exact_poses:
        meta["exact_poses"] = True
    for key, indices in (("train", scene.train), ("val", scene.test), ("test", scene.test)):
        if scene.test:
            meta[f"{key}_filenames"] = [frames[i]["file_path"] for i in indices]
    if scene.points is not None:
        meta["ply_file_path"] = "sparse_pc.ply"
        write_points(path / "sparse_pc.ply", scene.points)
    with atomic_write(path / "transforms.json") as target:
        target.write(json.dumps(meta | {"frames": frames}, indent=1).encode())


def _find_photos(file: Path, meta: dict[str, Any], downscale: float) -> list[_Frame]:
    """The frames whose photo is there; a warning says how many are not."""
    chosen: dict[Path, Path] = {}  # folder as written -> folder to read
    found, missing = [], []
    for number, fields in enumerate(meta["frames"]):
        written = text(fields, "file_path", f"{file}: frame {number}")
        if written is None:
            raise InputError(f"{file}: frame {number} has no file_path")
        path = PurePosixPath(written.replace("\\", "/")).as_posix()
        original = file.parent / path
        folder = original.parent
        if folder not in chosen:
            # Photos beside the .json file have no folder of their own, so none with smaller copies.
            smaller = None if folder == file.parent else images.choose_image_folder(folder, downscale)
            chosen[folder] = smaller or folder
        photo = images.find_image(chosen[folder] / original.name) or images.find_image(original)
        if photo is None:
            missing.append(path)
        else:
            found.append(_Frame(fields, path, photo, original))
    if not found:
        raise InputError(f"{file}: none of its {len(missing)} photos is there, such as {missing[0]}")
    if missing:
        log.warning("%s: %d of %d photos are not there and are left out", file, len(missing), len(meta["frames"]))
    return found


def _split(file: Path, meta: Mapping[str, Any], paths: Sequence[str]) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """The file's own (train, test) indices; None where it has no lists, or lists that leave nothing to train on."""
    lists = {}
    for part in ("train", "val", "test"):
        names = meta.get(f"{part}_filenames")
        if names is not None:
            if not isinstance(names, list):
                raise InputError(f"{file}: {part}_filenames is not a list")
            lists[part] = {PurePosixPath(str(name).replace("\\", "/")).as_posix() for name in names}
    if not lists:
        return None
    held_out = lists.get("test") or lists.get("val") or set()
    test = tuple(i for i, path in enumerate(paths) if path in held_out)
    to_train = lists["train"] if "train" in lists else set(paths) - lists.get("val", set())
    train = tuple(i for i, path in enumerate(paths) if path in to_train - held_out)
    if not train:
        log.warning("%s: its lists of files leave nothing to train on that is not for testing; not used", file)
        return None
    return train, test


def _points(file: Path, meta: Mapping[str, Any]) -> Points | None:
    """The points of `ply_file_path`, or those of the COLMAP model that nerfstudio keeps beside its photos."""
    name = text(meta, "ply_file_path", f"{file}")
    if name is not None:
        ply = file.parent / name
        if not ply.is_file():
            log.warning("%s: the points %s are not there", file, name)
            return None
        return read_points(ply)
    model = file.parent / "colmap" / "sparse" / "0"
    if meta.get("applied_transform") is None or colmap.find_file(model, "points3D") is None:
        return None
    points = colmap.read_points(model)
    moved = world_from_source(meta, f"{file}")
    return Points(points.xyz @ moved[:3, :3].T + moved[:3, 3], points.rgb) if points else None
