"""Models joined by the photos that they share: two halves of one model, each in coordinates of its own."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pycolmap
import pytest
from numpy.typing import NDArray

from recon.datasets import mapping, matching, merging

COUNT = 12
WIDTH, HEIGHT, FOCAL = 640, 480, 500.0


def true_pose(i: int) -> pycolmap.Rigid3d:
    """Round the origin, looking at it."""
    angle = 0.12 * i
    turn = np.array([[math.cos(angle), 0, math.sin(angle)], [0, 1, 0], [-math.sin(angle), 0, math.cos(angle)]])
    return pycolmap.Rigid3d(np.hstack([turn, [[0.0], [0.0], [5.0]]]))


def test_photos_that_nothing_holds_to_the_others_lose_their_poses() -> None:
    options = pycolmap.SyntheticDatasetOptions()
    options.num_rigs, options.num_cameras_per_rig, options.num_frames_per_rig, options.num_points3D = 1, 1, 9, 200
    model = pycolmap.synthesize_dataset(options)
    mapping.keep_together(model)
    assert model.num_reg_images() == 9
    ids = sorted(model.reg_image_ids())
    few = set(ids[:3])
    tracks = {n: [(e.image_id, e.point2D_idx) for e in p.track.elements] for n, p in model.points3D.items()}
    for number, track in tracks.items():
        for image, place in track:
            # each point is left to the few or to the others, and goes with the last but one of its photos
            if model.exists_point3D(number) and (image in few) == (number % 2 == 0):
                model.delete_observation(image, place)
    mapping.keep_together(model)
    assert set(model.reg_image_ids()) == set(ids) - few
    assert model.num_points3D() > 50


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the matcher would have written of points that all photos see, with half a pixel of noise."""
    path = tmp_path_factory.mktemp("database") / "matches.db"
    rng = np.random.default_rng(0)
    points = rng.uniform(-1, 1, (400, 3))
    camera = pycolmap.Camera.create_from_model_name(1, "SIMPLE_RADIAL", FOCAL, WIDTH, HEIGHT)
    with matching.open_database(path) as opened:
        opened.write_camera(camera, use_camera_id=True)
        rig = pycolmap.Rig(rig_id=1)
        rig.add_ref_sensor(camera.sensor_id)
        opened.write_rig(rig, use_rig_id=True)
        for i in range(COUNT):
            seen = np.asarray(camera.img_from_cam(points @ true_pose(i).rotation.matrix().T + true_pose(i).translation))
            image = pycolmap.Image(name=f"{i:02d}.png", camera_id=1, image_id=i + 1)
            opened.write_image(image, use_image_id=True)
            frame = pycolmap.Frame(frame_id=i + 1, rig_id=1)
            frame.add_data_id(image.data_id)
            opened.write_frame(frame, use_frame_id=True)
            opened.write_keypoints(i + 1, (seen + rng.normal(0, 0.3, seen.shape)).astype(np.float32))
        alike = np.repeat(np.arange(len(points), dtype=np.uint32)[:, None], 2, axis=1)
        for i in range(COUNT):
            for j in range(i + 1, min(i + 5, COUNT)):
                opened.write_matches(i + 1, j + 1, alike)
                relative = true_pose(j) * true_pose(i).inverse()
                geometry = pycolmap.TwoViewGeometry()
                geometry.config = pycolmap.TwoViewGeometryConfiguration.CALIBRATED
                geometry.inlier_matches = alike
                geometry.E = pycolmap.essential_matrix_from_pose(relative)
                geometry.cam2_from_cam1 = relative
                opened.write_two_view_geometry(i + 1, j + 1, geometry)
    return path


def part(database: Path, first: int, last: int) -> pycolmap.Reconstruction:
    """What the mapper makes of some of the photos."""
    options = pycolmap.IncrementalPipelineOptions(random_seed=0, min_model_size=3, num_threads=1)
    options.image_names = [f"{i:02d}.png" for i in range(first, last)]
    options.extract_colors = False
    options.mapper.init_min_tri_angle = 8
    folder = database.parent / f"{first}-{last}"
    folder.mkdir(exist_ok=True)
    models = pycolmap.incremental_mapping(str(database), str(database.parent), str(folder), options=options)
    model = max(models.values(), key=lambda one: one.num_reg_images())
    assert model.num_reg_images() == last - first
    return model


def centres(model: pycolmap.Reconstruction) -> NDArray[np.float64]:
    by_name = {image.name: image.projection_center() for image in model.images.values() if image.has_pose}
    return np.array([by_name[name] for name in sorted(by_name)])


def distances(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of all pairs, relative to the mean: what no similarity changes."""
    apart = np.linalg.norm(points[:, None] - points[None], axis=-1)
    return apart / apart.mean()


def test_two_halves_become_one(database: Path) -> None:
    one, other = part(database, 0, 7), part(database, 4, 12)
    other.transform(pycolmap.Sim3d(3.0, pycolmap.Rotation3d([0, 0, math.sin(0.5), math.cos(0.5)]), [1, 2, 3]))
    models, joined = merging.join([one, other], database, database.parent, 1)
    assert joined == 1
    assert len(models) == 1
    assert models[0].num_reg_images() == COUNT
    assert models[0].num_points3D() > 350
    true = np.array([true_pose(i).inverse().translation for i in range(COUNT)])
    assert distances(centres(models[0])) == pytest.approx(distances(true), abs=0.01)


def test_three_parts_are_joined_though_the_ends_share_nothing(database: Path) -> None:
    parts = [part(database, 0, 5), part(database, 2, 10), part(database, 7, 12)]
    models, joined = merging.join(parts, database, database.parent, 1)
    assert (joined, len(models), models[0].num_reg_images()) == (2, 1, COUNT)


def test_parts_that_share_too_little_stay_apart(database: Path) -> None:
    one, other = part(database, 0, 6), part(database, 4, 12)
    models, joined = merging.join([one, other], database, database.parent, 1)
    assert joined == 0
    assert [model.num_reg_images() for model in models] == [8, 6]


def test_parts_that_contradict_each_other_stay_apart(database: Path) -> None:
    """Photos of the same name that are elsewhere in the other part, as where something is there twice."""
    one, other = part(database, 0, 7), part(database, 4, 12)
    for i, image in enumerate(other.images.values()):
        if i % 2:
            other.frame(image.frame_id).rig_from_world = pycolmap.Rigid3d(
                np.hstack([np.eye(3), np.array([[i], [0.0], [2.0]])])
            )
    models, joined = merging.join([one, other], database, database.parent, 1)
    assert joined == 0
    assert len(models) == 2


def test_nothing_is_joined_of_nothing(database: Path) -> None:
    assert merging.join([], database, database.parent, 1) == ([], 0)


def test_a_mapper_that_gives_parts_gives_one_model(
    database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mapping, "_incremental", lambda *_: [part(database, 0, 7), part(database, 4, 12)])
    mapped = mapping.run(
        database,
        database.parent,
        tmp_path / "model",
        mapper="incremental",
        relaxed=False,
        threads=1,
        photos=COUNT,
        progress=lambda *_: None,
    )
    assert (len(mapped.registered), mapped.models, mapped.joined) == (COUNT, 1, 1)
    assert mapping.read(tmp_path / "model") == mapped
    assert pycolmap.Reconstruction(tmp_path / "model").num_reg_images() == COUNT
