#!/usr/bin/env python
"""Show what a mesh of a trained capture looks like: photos, below them the mesh in its texture, below that its shape.

recon train fox_colmap --downscale 4 --for-mesh --output runs
python scripts/make_mesh_pictures.py runs --photos 3 20 42 --out docs/mesh_fox.jpg
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import torch

from _bench_report import run
from recon import opening, runs, surfacing
from recon.datasets.cameras import Cameras
from recon.loading import load_state
from recon.meshing import draw, files, surface
from recon.parts import Place


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--photos", nargs="+", type=int, required=True, help="their numbers in the capture")
    parser.add_argument("--triangles", type=int, default=150_000)
    parser.add_argument("--out", type=Path, required=True)
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mesh.obj"
        wishes = surface.Wishes(triangles=wanted.triangles)
        surfacing.export_to(wanted.run, path, Place(frame="world"), wishes=wishes, texture=2048)
        mesh = files.load(path)
    found = runs.find(wanted.run)
    scene = opening.trained_scene(found, load_state(found.path), torch.device("cpu"))
    views = [scene.views[number] for number in wanted.photos]
    cameras = Cameras.cat([view.camera for view in views])
    photos = [view.load().numpy() for view in views]
    rows = [
        [draw.over(photo) if photo.shape[2] == 4 else photo for photo in photos],
        *([draw.over(picture) for picture in draw.pictures(mesh, cameras, kind=kind)] for kind in ("colour", "shape")),
    ]
    picture = np.concatenate([np.concatenate(row, axis=1) for row in rows])
    imageio.imwrite(wanted.out, np.rint(255 * picture.clip(0, 1)).astype(np.uint8), quality=80)


if __name__ == "__main__":
    run(main)
