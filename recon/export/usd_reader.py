"""Takes the splats out of a USD file, as a program of its own: `usd.load` runs it.

OpenUSD ends the whole process where a damaged file leads it astray, and takes as much memory as one announces. So it is
kept apart, with limits, and hands back plain arrays. It knows nothing of the package, whose imports take seconds.

    python usd_reader.py FILE OUT.npz MOST

Writes OUT.npz.json: `error`, or `z_up`, `left_out` (what was not followed) and for each of `prims` its `name` and the
names of the arrays that are there; an array is called NUMBER/NAME in OUT.npz. MOST is how many splats are taken.
"""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

# Bytes of addresses that reading may take, of which OpenUSD has 1 GB at once, and more for each byte of the file.
MEMORY, MEMORY_PER_BYTE = 3 << 30, 20
SECONDS, SECONDS_PER_BYTE = 60, 1e-6  # of one core
MOST_DEGREE = 10  # of SH
# What prims take from others, in the file or outside of it.
ARCS = ("references", "payload", "inheritPaths", "specializes", "variantSetNames", "clips", "clipSets")
# The shape of a row of each attribute.
FIELDS: dict[str, tuple[int, ...]] = {"positions": (3,), "orientations": (4,), "scales": (3,), "opacities": ()}
HARMONICS = "radiance:sphericalHarmonics"


def main(file: str, out: str, most: int) -> None:
    """Write what to say of a file, not by way of the terminal, where OpenUSD talks, too."""
    limit(os.path.getsize(file))
    Path(f"{out}.json").write_text(json.dumps(read(file, out, most)))


def read(file: str, out: str, most: int) -> dict[str, Any]:
    """What to say of a file; its arrays are written to `out`."""
    from pxr import Sdf, Tf, Usd, UsdGeom, UsdVol

    try:
        layer = Sdf.Layer.OpenAsAnonymous(file)
        left_out = _taken_out(layer)
        stage = Usd.Stage.Open(layer)
        places = UsdGeom.XformCache(Usd.TimeCode.EarliestTime())
        arrays: dict[str, Any] = {}
        prims: list[dict[str, Any]] = []
        for prim in stage.Traverse():
            hidden = UsdGeom.Imageable(prim).ComputeVisibility() == UsdGeom.Tokens.invisible
            if hidden or not UsdVol.ParticleField3DGaussianSplat(prim):
                continue
            degree = prim.GetAttribute(f"{HARMONICS}Degree").Get()
            if not isinstance(degree, int) or not 0 <= degree <= MOST_DEGREE:
                return {"error": f"{prim.GetPath()}: SH degree {degree}; 0 to {MOST_DEGREE} are known"}
            values = _values(prim, degree, most)
            most -= len(values["positions"])
            if most < 0:
                return {"error": "has more splats than such a file can hold"}
            values["place"] = np.array(places.GetLocalToWorldTransform(prim)).T
            arrays |= {f"{len(prims)}/{name}": value for name, value in values.items()}
            prims.append({"name": str(prim.GetPath()), "arrays": list(values)})
        z_up = UsdGeom.GetStageUpAxis(stage) == UsdGeom.Tokens.z
    except (Tf.ErrorException, ValueError, TypeError, MemoryError) as error:
        return {"error": f"OpenUSD cannot read it: {str(error).split(' : ', 1)[-1]}"}  # without where in its sources
    np.savez(out, **arrays)
    return {"z_up": bool(z_up), "left_out": left_out, "prims": prims}


def limit(size: int) -> None:
    if sys.platform == "win32":
        return
    import resource

    memory = MEMORY + MEMORY_PER_BYTE * size
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    seconds = math.ceil(SECONDS + SECONDS_PER_BYTE * size)
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _taken_out(layer: Any) -> list[str]:
    """Takes out of a layer all that its prims refer to, and says what it was.

    Nothing in other files is read then, and a few prims that refer to each other cannot become very many.
    """
    from pxr import Sdf

    found: list[Any] = []
    layer.Traverse("/", found.append)
    specs = (layer.GetObjectAtPath(name) for name in found if name != Sdf.Path.absoluteRootPath)
    prims = [spec for spec in specs if isinstance(spec, Sdf.PrimSpec)]
    others = list(layer.GetCompositionAssetDependencies())
    arcs = {key for prim in prims for key in ARCS if prim.HasInfo(key)}
    for prim in prims:
        for key in ARCS:
            prim.ClearInfo(key)
    layer.subLayerPaths.clear()
    return [*others, *sorted(arcs)]


def _values(prim: Any, degree: int, most: int) -> dict[str, np.ndarray]:
    """[count,...] of each attribute that is there, in floats or else in halves, and of the positions at any rate.

    As the schema has it, what is longer than the positions is cut, and what is shorter counts as not there.
    """
    from pxr import Usd

    count, values = -1, {"positions": np.zeros((0, 3), np.float32)}
    for name, shape in {**FIELDS, f"{HARMONICS}Coefficients": ((degree + 1) ** 2, 3)}.items():
        for spelled in (name, f"{name}h"):
            value = prim.GetAttribute(spelled).Get(Usd.TimeCode.EarliestTime())
            if not value:
                continue
            flat = np.asarray(value).reshape(-1)
            width = math.prod(shape)
            if count < 0:
                count = min(len(flat) // width, most + 1)
            if len(flat) >= count * width:
                values[name] = flat[: count * width].astype(np.float32).reshape(count, *shape)
            break
        if count < 0:  # without positions there are no splats
            break
    return values


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
