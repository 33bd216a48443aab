"""How far a mesh is from the truth, both ways."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import open3d
import torch
import trimesh
from numpy.typing import NDArray

from _mesh_objects import Truth
from recon.datasets.raycast import RayCaster
from recon.meshes import Mesh

Array = NDArray[Any]

SAMPLES = 200_000  # points of each surface
NEAR, FAR = 0.005, 0.01  # of the diagonal: what counts as met, for the F-scores
LIFT = 1e-4  # of the way to a camera: how far from its surface a ray starts


@dataclass(frozen=True)
class Scores:
    """Distances are shares of the truth's diagonal.

    Attributes:
        accuracy: mean distance of the mesh to the truth.
        completeness: mean distance of what cameras see of the truth to the mesh.
        near, far: F-scores at `NEAR` and `FAR`.
    """

    accuracy: float
    completeness: float
    near: float
    far: float

    @property
    def chamfer(self) -> float:
        return (self.accuracy + self.completeness) / 2


def scores(mesh: Mesh, truth: Truth) -> Scores:
    """Of a mesh in the frame of the truth; of it counts what is nearest to a triangle of the truth that is asked of."""
    diagonal = float(np.linalg.norm(np.ptp(truth.vertices[truth.faces[truth.asked].reshape(-1)], axis=0)))
    points, _ = sampled(mesh.vertices, mesh.faces)
    distance, nearest = closest(points, truth.vertices, truth.faces)
    to_truth = distance[truth.asked[nearest]] / diagonal
    to_mesh = closest(seen_points(truth), mesh.vertices, mesh.faces)[0] / diagonal

    def f_score(limit: float) -> float:
        precise, complete = float((to_truth < limit).mean()), float((to_mesh < limit).mean())
        return 2 * precise * complete / max(precise + complete, 1e-12)

    return Scores(float(to_truth.mean()), float(to_mesh.mean()), f_score(NEAR), f_score(FAR))


def sampled(vertices: Array, faces: Array) -> tuple[Array, Array]:
    """Points [P,3] spread evenly over triangles, and the row of the triangle [P] of each."""
    points, face = trimesh.sample.sample_surface(trimesh.Trimesh(vertices, faces, process=False), SAMPLES, seed=0)
    return np.asarray(points), np.asarray(face)


def closest(points: Array, vertices: Array, faces: Array) -> tuple[Array, Array]:
    """Distances [P] from points [P,3] to the nearest triangle, and its row [P]."""
    scene = open3d.t.geometry.RaycastingScene()
    middle = vertices.mean(axis=0)  # it computes in single precision
    tensor: Any = open3d.core.Tensor
    scene.add_triangles(tensor((vertices - middle).astype(np.float32)), tensor(faces.astype(np.uint32)))
    asked = (points - middle).astype(np.float32)
    found = scene.compute_closest_points(tensor(asked))
    away = np.linalg.norm(found["points"].numpy().astype(np.float64) - asked, axis=1)
    return away, found["primitive_ids"].numpy().astype(np.int64)


def seen_points(truth: Truth) -> Array:
    """Points of the triangles asked of that some camera sees."""
    points, face = sampled(truth.vertices, truth.faces)
    points = points[truth.asked[face]]
    caster = RayCaster(truth.vertices, truth.faces)
    seen = np.zeros(len(points), dtype=bool)
    for camera in truth.cameras:
        rest = np.flatnonzero(~seen)
        rest = rest[camera.pixels_of(torch.from_numpy(points[rest]))[1].numpy()]
        towards = camera.positions[0].double().numpy() - points[rest]
        seen[rest] = ~caster.occluded(points[rest] + LIFT * towards, (1 - LIFT) * towards)
    return points[seen]
