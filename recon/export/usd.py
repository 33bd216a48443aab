"""OpenUSD's ParticleField3DGaussianSplat, which OpenUSD has had since version 26.03: .usda (text), .usdc and .usdz.

Positions, orientations, linear scales, opacities 0..1 and SH coefficients, splat by splat, in floats, so that only the
rounding of opacities and scales is lost. +y is up: right, up, back, where .ply files have right, down, front; y and z
are negated on the way. Files whose upAxis is Z are turned when they are read. Prims may be placed, turned and scaled,
and several become one scene; what is hidden is left out. Units are those of the file, whatever metersPerUnit says.

Files are read by OpenUSD itself, in a process of its own (`usd_reader`). What one refers to, in other files or its own,
is not followed.

Schema: https://openusd.org/release/user_guides/schemas/usdVol/ParticleField3DGaussianSplat.html. Shape letters as in
`rows`.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from recon import sh
from recon.datasets.errors import InputError
from recon.datasets.files import atomic_write
from recon.export import usd_reader
from recon.export.rows import (
    FEW_SPLATS,
    MOST_SPLATS,
    Floats,
    Rows,
    evenly_placed,
    exponentials,
    joined,
    logarithms,
    logit,
    read_bytes,
    sigmoid,
    unit,
    wxyz,
    xyzw,
)
from recon.gaussians import Gaussians

log = logging.getLogger("recon")

SUFFIXES = (".usda", ".usdc", ".usdz")
AXES = (1, -1, -1)  # to and from those of .ply, of files whose upAxis is Y
HALF_TURN = torch.diag(torch.tensor([*AXES, 1], dtype=torch.float64))
Z_UP = torch.tensor([[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]], dtype=torch.float64)  # where it is Z
DATE = 315_532_800  # 1 January 1980, in a .usdz: the same scene gives the same file
EXTENT = 3.0  # standard deviations that splats reach
MAGIC = {".usda": b"#usda ", ".usdc": b"PXR-USDC", ".usdz": b"PK\x03\x04"}


def save(gaussians: Gaussians, path: Path | str, *, up: str = "Y") -> None:
    """Write all Gaussians, in their order; `up` is the axis that the file says is up."""
    path = Path(path)
    _library(path)
    from pxr import Gf, Usd, UsdGeom, UsdUtils, UsdVol, Vt

    rows = Rows.of(gaussians, path).turned(AXES)
    scales = exponentials(rows.log_scales, str(path))
    harmonics = np.concatenate([rows.sh0[:, None], rows.shN], axis=1).reshape(-1, 3)
    stage = Usd.Stage.CreateInMemory()
    UsdGeom.SetStageUpAxis(stage, up)
    UsdGeom.SetStageMetersPerUnit(stage, 1.0)
    splats = UsdVol.ParticleField3DGaussianSplat.Define(stage, "/Splats")
    stage.SetDefaultPrim(splats.GetPrim())
    splats.CreatePositionsAttr(Vt.Vec3fArrayFromBuffer(_floats(rows.means)))
    splats.CreateOrientationsAttr(Vt.QuatfArrayFromBuffer(_floats(xyzw(unit(rows.quats)))))  # in memory w is last
    splats.CreateScalesAttr(Vt.Vec3fArrayFromBuffer(_floats(scales)))
    splats.CreateOpacitiesAttr(Vt.FloatArrayFromBuffer(_floats(sigmoid(rows.logit_opacities.astype(np.float64)))))
    splats.CreateRadianceSphericalHarmonicsDegreeAttr(sh.degree_of(1 + rows.shN.shape[1]))
    splats.CreateRadianceSphericalHarmonicsCoefficientsAttr(Vt.Vec3fArrayFromBuffer(_floats(harmonics)))
    Usd.ColorSpaceAPI.Apply(splats.GetPrim()).CreateColorSpaceNameAttr(Gf.ColorSpaceNames.SRGBRec709)
    if len(rows):
        reach = EXTENT * scales.max(axis=1, keepdims=True)
        corners = np.stack([(rows.means - reach).min(axis=0), (rows.means + reach).max(axis=0)])
        splats.CreateExtentAttr(Vt.Vec3fArrayFromBuffer(_floats(corners)))
    kind = path.suffix.lower()
    with tempfile.TemporaryDirectory() as folder:  # OpenUSD writes files of names alone
        made = Path(folder) / f"splats{kind if kind != '.usdz' else '.usdc'}"
        stage.GetRootLayer().Export(str(made))
        if kind == ".usdz":
            os.utime(made, (DATE, DATE))
            UsdUtils.CreateNewUsdzPackage(str(made), str(made.with_suffix(kind)))
            made = made.with_suffix(kind)
        with atomic_write(path) as file, made.open("rb") as source:
            shutil.copyfileobj(source, file)


def save_z_up(gaussians: Gaussians, path: Path | str) -> None:
    """As `save`, of a scene whose up is +z in the axes of the file."""
    save(gaussians, path, up="Z")


def load(path: Path | str) -> Gaussians:
    """Read all splats of a file; `InputError` says what is wrong with it, or that there are none."""
    path = Path(path)
    _library(path)
    kind = path.suffix.lower()
    data = read_bytes(path)
    if not data.startswith(MAGIC[kind]):
        raise InputError(f"{path}: not a {kind} file: it does not start as one does")
    most = min(MOST_SPLATS, max(FEW_SPLATS, len(data)))
    with tempfile.TemporaryDirectory() as folder:
        said, arrays = _read(path, Path(folder), most)
    if said["left_out"]:
        log.warning("%s: left out what it refers to: %s", path, ", ".join(said["left_out"])[:200])
    to_ply = Z_UP if said["z_up"] else HALF_TURN
    parts: list[Rows] = []
    for number, prim in enumerate(said["prims"]):
        named = f"{path}: {prim['name'][:80]}"
        rows = _rows({name: arrays[f"{number}/{name}"] for name in prim["arrays"]})
        placed = to_ply @ torch.from_numpy(arrays[f"{number}/place"])
        if torch.equal(placed, HALF_TURN):
            rows = rows.turned(AXES)  # nothing is rounded
        elif len(rows):
            rows = Rows.of(rows.gaussians(named).transformed(evenly_placed(placed, named)), path)
        parts.append(rows)
    if not parts:
        raise InputError(f"{path}: holds no splats: no prim that shows is a ParticleField3DGaussianSplat")
    return joined(parts).gaussians(str(path))


def _library(path: Path) -> None:
    try:
        from pxr import UsdVol

        if hasattr(UsdVol, "ParticleField3DGaussianSplat"):
            return
    except ImportError:
        pass
    raise InputError(f"{path}: needs usd-core 26.3 or newer: pip install recon3d[usd]")


def _floats(values: Floats) -> NDArray[np.float32]:
    return np.ascontiguousarray(values, dtype=np.float32)


def _read(path: Path, folder: Path, most: int) -> tuple[dict[str, Any], dict[str, NDArray]]:
    """What `usd_reader` says of a file, and its arrays, by way of a folder."""
    out = folder / "splats.npz"
    report = folder / f"{out.name}.json"
    if not _has_run(os.path.abspath(path), out, most) or not report.exists():
        raise InputError(f"{path}: damaged: OpenUSD breaks off when it reads it")
    said = json.loads(report.read_bytes())
    if "error" in said:
        raise InputError(f"{path}: {' '.join(said['error'].split())[:200]}")
    with np.load(out, allow_pickle=False) as arrays:
        return said, dict(arrays)


def _has_run(file: str, out: Path, most: int) -> bool:
    """Run `usd_reader`; whether it came to its end."""
    command = [sys.executable, "-P", usd_reader.__file__, file, str(out), str(most)]
    # The reports that OpenUSD writes of its crashes go where TMPDIR says; each thread would reserve memory.
    surroundings = os.environ | {"TMPDIR": str(out.parent), "PXR_WORK_THREAD_LIMIT": "1"}
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, env=surroundings, cwd=out.parent)
    return done.returncode == 0


def _rows(values: dict[str, NDArray]) -> Rows:
    """The splats of a prim, in its own axes; what is not there is as the schema has it."""
    count = len(values["positions"])
    harmonics = values.get(f"{usd_reader.HARMONICS}Coefficients", np.zeros((count, 1, 3)))  # half of each colour
    return Rows(
        values["positions"],
        wxyz(values.get("orientations", np.tile([0.0, 0, 0, 1], (count, 1)))),
        logarithms(values.get("scales", np.ones((count, 3)))),
        logit(values.get("opacities", np.ones(count))),
        harmonics[:, 0],
        harmonics[:, 1 : sh.num_coefficients(sh.MAX_DEGREE)],
    )
