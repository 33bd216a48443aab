"""Models of parts of the same photos, joined where they share some of them."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recon.datasets import colmap_calls
from recon.datasets.files import TEMPORARY

if TYPE_CHECKING:
    import pycolmap

FEWEST_SHARED = 3  # photos, from which it can be told how one model lies in another
AGREEING = (
    0.3  # share of the points seen in a shared photo that have to lie in the place where the other model sees them
)
OFF = 0.03  # of the photo's longer side, up to which they do: lenses of small models differ
ROUNDS = 3  # of finding points and adjusting: each finds more of those that the poses before were too rough for
WORSE = 1.5  # times the error of the worse of two models, up to which both are one


def join(
    models: Sequence[pycolmap.Reconstruction], database: Path, images: Path, threads: int, *, known_lenses: bool = False
) -> tuple[list[pycolmap.Reconstruction], int]:
    """The models, the largest first, with those joined to it that share photos with it; and how many these were.

    The poses of both are put into one frame, the points are found again from all matches, and all is adjusted. Where
    that makes it worse, the models shared photos by mistake and stay as they were.

    Args:
        models: of photos in `database`; changed where they are joined.
        known_lenses: whether lenses stay as they are.
    """
    rest = sorted(models, key=lambda model: (-model.num_reg_images(), -model.num_points3D()))
    if not rest:
        return [], 0
    whole, apart, joined = rest[0], rest[1:], 0
    while True:
        for part in apart:
            both = _joined(whole, part, database, images, threads, known_lenses)
            if both is not None:
                whole, joined = both, joined + 1
                apart.remove(part)
                break  # what did not share photos with the smaller one may do with this one
        else:
            return [whole, *apart], joined


def _joined(
    whole: pycolmap.Reconstruction,
    part: pycolmap.Reconstruction,
    database: Path,
    images: Path,
    threads: int,
    known_lenses: bool,
) -> pycolmap.Reconstruction | None:
    """Both as one model; None where they cannot be."""
    pycolmap = colmap_calls.load()
    if len(whole.find_common_reg_image_ids(part)) < FEWEST_SHARED:
        return None
    longest = max(max(camera.width, camera.height) for camera in whole.cameras.values())
    whole_from_part = pycolmap.align_reconstructions_via_reprojections(part, whole, AGREEING, OFF * longest)
    if whole_from_part is None:
        return None
    worst = WORSE * max(whole.compute_mean_reprojection_error(), part.compute_mean_reprojection_error())
    both = pycolmap.Reconstruction(whole)
    moved = pycolmap.Reconstruction(part)
    moved.transform(whole_from_part)
    _add_frames(both, moved)
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory(prefix=".joined.", suffix=TEMPORARY, dir=database.parent) as folder:
            both = _triangulated(both, database, images, Path(folder), threads)
        colmap_calls.adjust(both, threads, known_lenses=known_lenses)
    wanted = {*whole.reg_image_ids(), *part.reg_image_ids()}
    good = set(both.reg_image_ids()) == wanted and both.compute_mean_reprojection_error() < worst
    return both if good else None


def _add_frames(target: pycolmap.Reconstruction, source: pycolmap.Reconstruction) -> None:
    """Give a model the frames that only another one has, in the same coordinates, of the same database."""
    for frame_id in source.reg_frame_ids():
        if target.exists_frame(frame_id) and target.frame(frame_id).has_pose():
            continue
        frame = source.frame(frame_id)
        if not target.exists_frame(frame_id):
            _add(target, source, frame)
        target.frame(frame_id).rig_from_world = frame.rig_from_world
        target.register_frame(frame_id)


def _add(target: pycolmap.Reconstruction, source: pycolmap.Reconstruction, frame: Any) -> None:
    """A frame as the database has it, with its rig, cameras and images, but without a pose."""
    pycolmap = colmap_calls.load()
    for sensor in source.rig(frame.rig_id).sensor_ids():
        if not target.exists_camera(sensor.id):
            target.add_camera(source.camera(sensor.id))
    if not target.exists_rig(frame.rig_id):
        target.add_rig(source.rig(frame.rig_id))
    empty = pycolmap.Frame(frame_id=frame.frame_id, rig_id=frame.rig_id)
    for data in frame.data_ids:
        empty.add_data_id(data)
    target.add_frame(empty)
    for data in frame.data_ids:
        image = source.image(data.id)
        keypoints = np.array([point.xy for point in image.points2D])
        alone = pycolmap.Image(name=image.name, keypoints=keypoints, camera_id=image.camera_id, image_id=image.image_id)
        alone.frame_id = frame.frame_id
        target.add_image(alone)


def _triangulated(
    model: pycolmap.Reconstruction, database: Path, images: Path, folder: Path, threads: int
) -> pycolmap.Reconstruction:
    """The model with points found from all matches of its photos, their poses as they are."""
    pycolmap = colmap_calls.load()
    options = pycolmap.IncrementalPipelineOptions()
    options.num_threads = threads
    options.random_seed = 0
    token = pycolmap.CancellationToken()
    return colmap_calls.call(
        lambda: pycolmap.triangulate_points(
            model,
            str(database),
            str(images),
            str(folder),
            clear_points=True,
            options=options,
            cancellation_token=token,
        ),
        token,
    )
