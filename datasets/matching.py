"""Features of photos, and which of them are the same points: stages that a database on disk keeps.

Each stage goes on from what the database holds, so one that was stopped, or killed, is not begun again.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recon.datasets import colmap_calls, pairs
from recon.datasets.files import TEMPORARY
from recon.datasets.pairs import Pair
from recon.datasets.photo_folder import Photo, groups

if TYPE_CHECKING:
    import pycolmap

Progress = Callable[[str, int, int], None]  # what is being done, how much of it is, of how much

USUAL_FOCAL = 1.2  # times the longer side, where EXIF does not say: COLMAP's guess, refined later
PHOTOS_AT_ONCE = 2  # for each thread; so many are done again after a stop
PAIRS_AT_ONCE = 8  # for each thread
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

    Photos of the same camera share one, with the focal length of EXIF where that says it. Nothing is looked for where a
    mask in `MASKS` beside the folder is black.
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
    options.sift.max_num_features = features.count
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


def match(database: Path, photos: Sequence[Photo], matches: Matches, threads: int, progress: Progress) -> None:
    """Matches of the pairs that are worth it, and the geometry of each pair, into the database."""
    pycolmap = colmap_calls.load()
    with open_database(database) as opened:
        ids = {image.name: image.image_id for image in opened.read_all_images()}
        numbers = [ids[photo.name] for photo in photos]
        looked_at = [i for i, number in enumerate(numbers) if opened.exists_descriptors(number)]
        chosen = pairs.choose(
            [photos[i].place for i in looked_at],
            lambda: pairs.describe([opened.read_descriptors(numbers[i]).data for i in looked_at]),
            breadth=matches.breadth,
        )
        wanted = sorted((looked_at[i], looked_at[j]) for i, j in chosen)
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
        for group in groups(photos):
            width, height = group[0].size
            focal = group[0].focal or USUAL_FOCAL * max(width, height)
            camera = pycolmap.Camera.create_from_model_name(0, "SIMPLE_RADIAL", focal, width, height)
            camera.has_prior_focal_length = group[0].focal is not None
            camera.camera_id = opened.write_camera(camera)
            rig = pycolmap.Rig()
            rig.add_ref_sensor(camera.sensor_id)
            rig_id = opened.write_rig(rig)
            for photo in group:
                image = pycolmap.Image(name=photo.name, camera_id=camera.camera_id)
                image.image_id = opened.write_image(image)
                frame = pycolmap.Frame()
                frame.rig_id = rig_id
                frame.add_data_id(image.data_id)
                opened.write_frame(frame)
    _publish(temporary, database)


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
