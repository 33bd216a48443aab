"""Features of photos, and which of them are the same points: stages that a database on disk keeps.

Each stage goes on from what the database holds, so one that was stopped, or killed, is not begun again.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recon.datasets import colmap_calls, pairs, panorama
from recon.datasets.files import TEMPORARY
from recon.datasets.pairs import Pair
from recon.datasets.photo_folder import Photo, groups, stations

if TYPE_CHECKING:
    import pycolmap

Progress = Callable[[str, int, int], None]  # what is being done, how much of it is, of how much

FISHEYE_FOCAL = 0.4  # the same for a fisheye lens: the longer side sees 143 degrees
USUAL_FOCAL = 1.2  # times the longer side, where EXIF does not say: COLMAP's guess, refined later
PHOTOS_AT_ONCE = 2  # for each thread; so many are done again after a stop
PAIRS_AT_ONCE = 8  # for each thread
OF_A_FACE = 0.5  # times the features of a photo, and
OF_PANORAMAS = 1 / 3  # times the pairs of photos: each panorama is eight of them
MASKS = "masks"  # beside the photos: as COLMAP names them, NAME.png for the photo NAME


@dataclass(frozen=True)
class Features:
    """How photos are looked at.

    Attributes:
        size: longest side, px, to which a photo is reduced.
        count: most features of a photo.
        peak: least contrast of a feature (0..1); COLMAP's is 0.0067.
    """

    size: int = 1600
    count: int = 4096
    peak: float = 0.0067


@dataclass(frozen=True)
class Matches:
    """How features are matched.

    Attributes:
        ratio: most distance of the best match relative to the second best (Lowe 2004, section 7.1).
        guided: look for more matches once the geometry of a pair is known.
        fewest: matches that agree with one geometry, or else a pair does not count.
        breadth: how many times more pairs than usual, of photos too many for all pairs.
    """

    ratio: float = 0.8
    guided: bool = False
    fewest: int = 15
    breadth: int = 1


def extract(
    database: Path, folder: Path, photos: Sequence[Photo], features: Features, threads: int, progress: Progress
) -> None:
    """Features of the photos in `folder` into the database, which is made if it is not there (or damaged).

    Photos of the same camera share one, with the focal length of EXIF where that says it. Faces of a panorama are those
    of a rig, of which all is known. Nothing is looked for where a mask in `MASKS` beside the folder is black.
    """
    pycolmap = colmap_calls.load()
    if database.exists() and not colmap_calls.is_sound(database):
        colmap_calls.remove(database)
    if not database.exists():
        _begin(database, photos)
    options = pycolmap.FeatureExtractionOptions()
    options.use_gpu = False
    options.num_threads = threads
    options.max_image_size = features.size
    options.sift.max_num_features = round(features.count * (OF_A_FACE if photos[0].panorama else 1))
    options.sift.peak_threshold = features.peak
    with open_database(database) as opened:
        ids = {image.name: image.image_id for image in opened.read_all_images()}
        missing = [photo.name for photo in photos if not opened.exists_descriptors(ids[photo.name])]
    before, step, masks = len(photos) - len(missing), PHOTOS_AT_ONCE * threads, folder.with_name(MASKS)
    for start in range(0, len(missing), step):
        progress("Finding features", before + start, len(photos))
        some = missing[start : start + step]
        masked = [name for name in some if (masks / f"{name}.png").is_file()]
        for names, where in ((masked, masks), ([name for name in some if name not in masked], None)):
            if names:  # where there is a folder of masks, photos without one would be skipped
                _extract_some(database, folder, names, where, options)
    progress("Finding features", len(photos), len(photos))


def match(
    database: Path,
    photos: Sequence[Photo],
    matches: Matches,
    threads: int,
    progress: Progress,
    *,
    in_order: bool = False,
    only: set[Pair] | None = None,
) -> None:
    """Matches of the pairs that are worth it, and the geometry of each pair, into the database.

    Args:
        in_order: whether the photos were taken one after the other, as the frames of a video.
        only: match these pairs of photos, instead of those that are worth it.
    """
    pycolmap = colmap_calls.load()
    with open_database(database) as opened:
        ids = {image.name: image.image_id for image in opened.read_all_images()}
        numbers = [ids[photo.name] for photo in photos]
        looked_at = [i for i, number in enumerate(numbers) if opened.exists_descriptors(number)]
        if only is None:
            only = _worth(opened, photos, numbers, looked_at, matches, in_order)
        wanted = sorted(pair for pair in only if set(pair) <= set(looked_at))
        missing = [(i, j) for i, j in wanted if not opened.exists_two_view_geometry(numbers[i], numbers[j])]
    matching = pycolmap.FeatureMatchingOptions()
    matching.use_gpu = False
    matching.num_threads = threads
    matching.guided_matching = matches.guided
    matching.sift.max_ratio = matches.ratio
    verification = pycolmap.TwoViewGeometryOptions()
    verification.min_num_inliers = matches.fewest
    verification.ransac.random_seed = 0
    before, step = len(wanted) - len(missing), PAIRS_AT_ONCE * threads
    for start in range(0, len(missing), step):
        progress("Matching", before + start, len(wanted))
        _match_some(database, photos, missing[start : start + step], matching, verification)
    progress("Matching", len(wanted), len(wanted))


def _worth(
    opened: pycolmap.Database,
    photos: Sequence[Photo],
    numbers: Sequence[int],
    looked_at: Sequence[int],
    matches: Matches,
    in_order: bool,
) -> set[Pair]:
    """The pairs of the photos `looked_at` that are worth matching; `numbers` are those of all in the database."""
    places = [[looked_at[i] for i in place] for place in stations([photos[i] for i in looked_at])]
    chosen = pairs.choose(
        [photos[place[0]].place for place in places],
        lambda: pairs.describe([_descriptors(opened, [numbers[i] for i in place]) for place in places]),
        breadth=matches.breadth * (OF_PANORAMAS if photos[0].panorama else 1),
        in_order=in_order,
    )
    tilted = matches.breadth > 1
    return {
        (i, j)
        for one, other in chosen
        for i, j in itertools.product(places[one], places[other])
        if tilted or panorama.can_match(photos[i].face, photos[j].face)
    }


def copy_features(source: Path, target: Path) -> None:
    """A database with the features of another, and no matches; it appears whole or not at all."""
    temporary = target.with_name(target.name + TEMPORARY)
    colmap_calls.remove(temporary)
    with (
        contextlib.closing(sqlite3.connect(source)) as old,
        contextlib.closing(sqlite3.connect(temporary)) as new,
    ):
        old.backup(new)
    with open_database(temporary) as opened:
        opened.clear_matches()
        opened.clear_two_view_geometries()
    _publish(temporary, target)


def matched_pairs(database: Path) -> int:
    """How many pairs of photos have a geometry that enough matches agree with."""
    with open_database(database) as opened:
        _, agreeing = opened.read_two_view_geometry_num_inliers()
    return sum(count > 0 for count in agreeing)  # pairs without a geometry are written down too


@contextlib.contextmanager
def open_database(path: Path) -> Iterator[pycolmap.Database]:
    opened = colmap_calls.load().Database.open(str(path))
    try:
        yield opened
    finally:
        opened.close()


def _begin(database: Path, photos: Sequence[Photo]) -> None:
    """A database with the photos and their cameras."""
    pycolmap = colmap_calls.load()
    temporary = database.with_name(database.name + TEMPORARY)
    colmap_calls.remove(temporary)
    with open_database(temporary) as opened:
        rigs: dict[tuple[int, ...], int] = {}  # by their cameras
        cameras = {group[0].camera: _camera(opened, group[0]) for group in groups(photos)}
        for place in stations(photos):
            taken = [cameras[photos[i].camera] for i in place]
            key = tuple(camera.camera_id for camera in taken)
            if key not in rigs:
                rigs[key] = opened.write_rig(_rig(taken, [photos[i].face for i in place]))
            frame = pycolmap.Frame()
            frame.rig_id = rigs[key]
            for number, camera in zip(place, taken, strict=True):
                image = pycolmap.Image(name=photos[number].name, camera_id=camera.camera_id)
                image.image_id = opened.write_image(image)
                frame.add_data_id(image.data_id)
            opened.write_frame(frame)
    _publish(temporary, database)


def _camera(opened: pycolmap.Database, photo: Photo) -> pycolmap.Camera:
    """The camera of a photo, written to the database."""
    width, height = photo.size
    focal = photo.focal or (FISHEYE_FOCAL if photo.fisheye else USUAL_FOCAL) * max(width, height)
    model = "SIMPLE_PINHOLE" if photo.panorama else "SIMPLE_RADIAL_FISHEYE" if photo.fisheye else "SIMPLE_RADIAL"
    camera = colmap_calls.load().Camera.create_from_model_name(0, model, focal, width, height)
    # Two fisheye photos have no fundamental matrix, by which pairs are judged where the focal length is not known.
    camera.has_prior_focal_length = photo.focal is not None or photo.fisheye
    camera.camera_id = opened.write_camera(camera)
    return camera


def _rig(cameras: Sequence[pycolmap.Camera], faces: Sequence[int]) -> pycolmap.Rig:
    """A camera by itself, or those of the faces of a panorama, which have one centre."""
    pycolmap = colmap_calls.load()
    rig = pycolmap.Rig()
    rig.add_ref_sensor(cameras[0].sensor_id)
    for camera, face in zip(cameras[1:], faces[1:], strict=True):
        rotation = panorama.face_from_panorama(face) @ panorama.face_from_panorama(faces[0]).T
        rig.add_sensor(camera.sensor_id, pycolmap.Rigid3d(np.hstack([rotation, np.zeros((3, 1))])))
    return rig


def _descriptors(opened: pycolmap.Database, numbers: Sequence[int]) -> NDArray[np.uint8]:
    """[M,128] of the photos of a place, of each as many."""
    each = pairs.DESCRIBED // len(numbers)
    return np.concatenate([opened.read_descriptors(number).data[:each] for number in numbers])


def _publish(temporary: Path, database: Path) -> None:
    with contextlib.closing(sqlite3.connect(temporary)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.execute("PRAGMA journal_mode=DELETE")
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    temporary.replace(database)
    colmap_calls.remove(temporary)


def _extract_some(database: Path, folder: Path, names: list[str], masks: Path | None, options: Any) -> None:
    pycolmap = colmap_calls.load()
    token = pycolmap.CancellationToken()
    reader = pycolmap.ImageReaderOptions()
    if masks is not None:
        reader.mask_path = str(masks)
    colmap_calls.call(
        lambda: pycolmap.extract_features(
            str(database),
            str(folder),
            names,
            reader_options=reader,
            extraction_options=options,
            device=pycolmap.Device.cpu,
            cancellation_token=token,
        ),
        token,
    )


def _match_some(
    database: Path, photos: Sequence[Photo], some: Sequence[Pair], matching: Any, verification: Any
) -> None:
    pycolmap = colmap_calls.load()
    token = pycolmap.CancellationToken()
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder) / "pairs.txt"
        listed.write_text("\n".join(f"{photos[i].name} {photos[j].name}" for i, j in some), "utf-8")
        pairing = pycolmap.ImportedPairingOptions()
        pairing.match_list_path = str(listed)
        colmap_calls.call(
            lambda: pycolmap.match_image_pairs(
                str(database),
                matching_options=matching,
                pairing_options=pairing,
                verification_options=verification,
                device=pycolmap.Device.cpu,
                cancellation_token=token,
            ),
            token,
        )
