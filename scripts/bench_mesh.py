#!/usr/bin/env python
"""How good meshes are, against exact triangles.

    python scripts/bench_mesh.py --folder bench --document

Captures are rendered, trained and made into meshes, all by default settings; what is there already is not made again.
`--train` and `--export` add options to these commands. The objects are .obj files in the folder meshes of RECON_DATA.
Distances are shares of the diagonal of the truth's bounding box: accuracy is the mean from the mesh to the truth,
completeness from what cameras see of the truth to the mesh, and Chamfer the mean of both.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import imageio.v3 as imageio
import numpy as np

from _bench_report import ROOT, run, section, table, write_section
from _mesh_objects import Truth, make_diorama, make_object, still_life
from _mesh_scores import scores
from recon.datasets.cameras import Cameras
from recon.datasets.diorama import Material
from recon.meshes import Mesh
from recon.meshing import draw, files

DOCUMENT = ROOT / "docs" / "meshes.md"
OBJECTS: dict[str, Material | None] = {"spot": Material.MARBLE, "stanford-bunny": None}
SHOWN = (5, 30)  # cameras of the pictures


def recon(*words: str) -> float:
    """Run a command; seconds that it took."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "recon", *words], check=True)
    return time.perf_counter() - began


def captured(folder: Path, wanted: list[str]) -> dict[str, Truth]:
    """The captures that are measured."""
    data = Path(os.environ.get("RECON_DATA", "")) / "meshes"
    found = {}
    for name in wanted:
        if name == "diorama":
            found[name] = make_diorama(folder / name)
        elif (data / f"{name}.obj").is_file():
            found[name] = make_object(data / f"{name}.obj", folder / name, OBJECTS[name])
        else:
            print(f"{name}: left out, RECON_DATA has no meshes/{name}.obj")
    return found


def meshed(name: str, folder: Path, train: list[str], export: list[str]) -> tuple[Mesh, float]:
    """The mesh of a capture, and seconds for it without the training."""
    runs = folder / "-".join(["runs", *train]).replace("--", "")
    if not (runs / name).is_dir():
        recon("train", str(folder / name), "--output", str(runs), "--no-viewer", *train)
    out = folder / f"{name}.mesh.ply"
    seconds = recon("export", str(runs / name), str(out), *export)
    return files.load(out), seconds


def row(name: str, mesh: Mesh, truth: Truth, seconds: float | None) -> dict[str, Any]:
    found = scores(mesh, truth)
    return {
        "scene": name,
        "accuracy, %": 100 * found.accuracy,
        "completeness, %": 100 * found.completeness,
        "Chamfer, %": 100 * found.chamfer,
        "F at 0.5 %": found.near,
        "F at 1 %": found.far,
        "triangles": len(mesh.faces),
        "seconds": None if seconds is None else round(seconds, 1),
    }


def compared(mesh: Mesh, truth: Truth, path: Path) -> None:
    """A picture: the mesh's colours, its shape, and the true shape, one row for each of two cameras."""
    cameras = Cameras.cat([truth.cameras[i] for i in SHOWN])
    exact = Mesh(truth.vertices, truth.faces.astype(np.int64))
    columns = [
        draw.pictures(mesh, cameras, kind="colour"),
        draw.pictures(mesh, cameras, kind="shape"),
        draw.pictures(exact, cameras, kind="shape"),
    ]
    strips = [np.concatenate([draw.over(picture) for picture in line], axis=1) for line in zip(*columns, strict=True)]
    imageio.imwrite(path, np.rint(255 * np.concatenate(strips).clip(0, 1)).astype(np.uint8), quality=80)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("bench_mesh"), help="for captures, runs, meshes, pictures")
    parser.add_argument("--scenes", nargs="+", default=["diorama", *OBJECTS])
    parser.add_argument("--train", type=shlex.split, default=[], help="further options of `recon train`")
    parser.add_argument("--export", type=shlex.split, default=[], help="further options of `recon export`")
    parser.add_argument(
        "--document", action="store_true", help=f"put the table into {DOCUMENT.name}, pictures beside it"
    )
    wanted = parser.parse_args()
    lines = []
    for name, truth in captured(wanted.folder, wanted.scenes).items():
        mesh, seconds = meshed(name, wanted.folder, wanted.train, wanted.export)
        lines.append(row(name, mesh, truth, seconds))
        if name == "diorama":
            lines.append(row("diorama, the still life", mesh, still_life(truth), None))
        pictures = DOCUMENT.parent if wanted.document else wanted.folder
        compared(mesh, truth, pictures / f"mesh_{name}.jpg")
    shown = table(lines, ".3f")
    print(shown)
    if wanted.document:
        write_section(DOCUMENT, "scores", section(shown))


if __name__ == "__main__":
    run(main)
