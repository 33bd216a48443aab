"""From matches to cameras and points, by pycolmap; models on disk that are whole or not there."""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from recon.datasets import colmap_calls, merging
from recon.datasets.errors import InputError
from recon.datasets.files import TEMPORARY, atomic_write
from recon.datasets.matching import Progress

if TYPE_CHECKING:
    import pycolmap

Mapper = Literal["incremental", "global"]
FEWEST_IN_MODEL = 3  # photos
FEWEST_POINTS = 15  # for each photo: photos that have nothing in common may be put together by fewer
FEWEST_TO_REFINE = 10  # photos of one camera, for all parameters of its lens
# The models of lenses in which, at last, more is free
FREER = {"SIMPLE_RADIAL": "OPENCV", "SIMPLE_RADIAL_FISHEYE": "OPENCV_FISHEYE"}
HOLDING = 10  # common points that hold two photos to each other
SQUARE = 0.02  # how far, as a share, a focal length may be from the mean of both


@dataclass(frozen=True)
class Mapped:
    """What a mapper made of the photos.

    Attributes:
        registered: names of the photos that have a pose.
        points: how many.
        error: mean reprojection error, px.
        models: how many that are not joined; the largest counts.
        joined: how many the largest was joined with, by photos that they share.
    """

    registered: tuple[str, ...] = ()
    points: int = 0
    error: float = 0.0
    models: int = 0
    joined: int = 0


def run(
    database: Path,
    images: Path,
    target: Path,
    *,
    mapper: Mapper,
    relaxed: bool,
    threads: int,
    photos: int,
    progress: Progress,
    known_lenses: bool = False,
) -> Mapped:
    """The largest model that a mapper makes, written to the folder `target`; what it is.

    Args:
        relaxed: take less for enough: fewer matches, smaller angles, another first pair.
        photos: how many there are.
        known_lenses: whether lenses are what the database says, and are not refined.
    """
    if (result := read(target)) is not None:
        return result
    shutil.rmtree(target, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=".models.", suffix=TEMPORARY, dir=target.parent) as folder:
        if mapper == "incremental":
            models = _incremental(database, images, Path(folder), relaxed, threads, photos, progress, known_lenses)
        else:
            models = _global(database, images, Path(folder), threads, photos, progress, known_lenses)
        if len(models) > 1:
            progress("Joining models", 0, 1)
        models, joined = merging.join(models, database, images, threads, known_lenses=known_lenses)
        best = models[0] if models else None
        result = Mapped() if best is None else _described(best, len(models), joined)
        made = Path(folder) / "made"
        made.mkdir()
        if best is not None:
            best.write_binary(str(made))
        for file in made.iterdir():
            with file.open("rb+") as written:
                os.fsync(written.fileno())
        with atomic_write(made / "result.json") as described:
            described.write(json.dumps(asdict(result)).encode())
        made.rename(target)
    return result


def read(folder: Path) -> Mapped | None:
    """What a model that was written is; None when there is none."""
    try:
        values: dict[str, Any] = json.loads((folder / "result.json").read_text("utf-8"))
        return Mapped(**values | {"registered": tuple(values["registered"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def refined(folder: Path, threads: int) -> tuple[pycolmap.Reconstruction, float]:
    """A model after a last bundle adjustment in which principal point and tangential distortion are free too, for
    cameras that enough photos share; and its mean reprojection error, px. The model as it was where that goes astray.
    """
    pycolmap = colmap_calls.load()
    model = pycolmap.Reconstruction(str(folder))
    before = float(model.compute_mean_reprojection_error())
    shared: dict[int, int] = {}
    for image in model.images.values():
        if image.has_pose:
            shared[image.camera_id] = shared.get(image.camera_id, 0) + 1
    able = [i for i, n in shared.items() if n >= FEWEST_TO_REFINE and model.cameras[i].model_name in FREER]
    if not able:
        return model, before
    for number in able:
        camera = model.cameras[number]
        f, x, y, k = camera.params
        camera.model = pycolmap.CameraModelId.__members__[FREER[camera.model_name]]
        camera.params = [f, f, x, y, k, 0.0, 0.0, 0.0]
    colmap_calls.adjust(model, threads, principal_point=True)
    after = float(model.compute_mean_reprojection_error())
    if not after < 1.05 * before or any(map(_is_odd, model.cameras.values())):
        return pycolmap.Reconstruction(str(folder)), before
    return model, after


def _is_odd(camera: pycolmap.Camera) -> bool:
    """Whether a lens is none that there is: pixels of cameras are square."""
    apart = abs(math.log(camera.mean_focal_length() / camera.params[0]))
    return camera.has_bogus_params(0.1, 10.0, 1.0) or apart > SQUARE


def _incremental(
    database: Path,
    images: Path,
    folder: Path,
    relaxed: bool,
    threads: int,
    photos: int,
    progress: Progress,
    known_lenses: bool,
) -> list[pycolmap.Reconstruction]:
    pycolmap = colmap_calls.load()
    options = pycolmap.IncrementalPipelineOptions()
    options.num_threads = threads
    options.random_seed = 1 if relaxed else 0
    options.min_model_size = FEWEST_IN_MODEL
    options.ba_refine_focal_length = options.ba_refine_extra_params = not known_lenses
    options.ba_refine_sensor_from_rig = False
    if relaxed:
        options.min_num_matches = 10
        options.mapper.init_min_num_inliers = 30
        options.mapper.init_min_tri_angle = 4.0
        options.mapper.abs_pose_min_num_inliers = 12
        options.mapper.abs_pose_min_inlier_ratio = 0.12
        options.mapper.abs_pose_max_error = 16.0
        options.mapper.max_reg_trials = 6
        options.triangulation.ignore_two_view_tracks = False
    done = [0]

    def next_photo() -> None:
        done[0] += 1

    return _all(
        lambda token: pycolmap.incremental_mapping(
            str(database),
            str(images),
            str(folder),
            options=options,
            next_image_callback=next_photo,
            cancellation_token=token,
        ),
        lambda: progress("Finding poses", min(done[0], photos), photos),
    )


def _global(
    database: Path, images: Path, folder: Path, threads: int, photos: int, progress: Progress, known_lenses: bool
) -> list[pycolmap.Reconstruction]:
    """GLOMAP (Pan et al. 2024). It cannot be stopped on its way, but takes no longer than a fraction of the others."""
    pycolmap = colmap_calls.load()
    options = pycolmap.GlobalPipelineOptions()
    options.num_threads = threads
    options.random_seed = 0
    options.min_model_size = FEWEST_IN_MODEL
    adjusting = options.mapper.bundle_adjustment
    adjusting.refine_focal_length = adjusting.refine_extra_params = not known_lenses
    for stage in (options.mapper, options.mapper.rotation_averaging, options.mapper.global_positioning, adjusting):
        stage.refine_sensor_from_rig = False
    models = _all(
        lambda _: pycolmap.global_mapping(str(database), str(images), str(folder), options=options),
        lambda: progress("Finding poses, all at once", 0, photos),
    )
    for model in models:
        keep_together(model)
    return models


def keep_together(model: pycolmap.Reconstruction) -> None:
    """Take the poses from photos that no chain of common points holds to most of the others.

    The global mapper poses all photos that it gets. How two groups without common points lie to each other is a guess.
    """
    import scipy.sparse
    from scipy.sparse.csgraph import connected_components

    numbers = {number: row for row, number in enumerate(model.reg_image_ids())}
    tracks = [[numbers[element.image_id] for element in point.track.elements] for point in model.points3D.values()]
    rows = np.concatenate([*tracks, []]).astype(int)
    columns = np.repeat(np.arange(len(tracks)), [len(track) for track in tracks])
    shape = (len(numbers), max(1, len(tracks)))
    sees = scipy.sparse.csr_array((np.ones(len(rows)), (rows, columns)), shape=shape)
    _, groups = connected_components(sees @ sees.T >= HOLDING)
    most = np.bincount(groups, minlength=1).argmax()
    apart = {model.image(number).frame_id for number, row in numbers.items() if groups[row] != most}
    for frame in apart:
        model.deregister_frame(frame)


def _all(make: Callable[[Any], dict[int, Any]], look: Callable[[], None]) -> list[pycolmap.Reconstruction]:
    """The models that a mapper makes; none where it gives up."""
    token = colmap_calls.load().CancellationToken()
    look()
    try:
        models = colmap_calls.call(lambda: make(token), token, look)
    except MemoryError as error:
        raise InputError(f"finding poses needs more memory than there is ({error})") from error
    except (RuntimeError, ValueError, IndexError):  # the mapper found no way to begin, or lost it
        return []
    return [model for model in models.values() if _is_believable(model)]


def _is_believable(model: pycolmap.Reconstruction) -> bool:
    count = model.num_reg_images()
    return count >= FEWEST_IN_MODEL and model.num_points3D() >= FEWEST_POINTS * count


def _described(model: pycolmap.Reconstruction, models: int, joined: int) -> Mapped:
    names = sorted(image.name for image in model.images.values() if image.has_pose)
    return Mapped(tuple(names), model.num_points3D(), float(model.compute_mean_reprojection_error()), models, joined)
