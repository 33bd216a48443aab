#!/usr/bin/env python
"""How close a texture made of photos comes to the paint that they show.

    python scripts/bench_texture.py --document --pictures docs

Of a mesh whose paint is known everywhere ($RECON_DATA/meshes/spot.obj), photos are rendered from all around, each with
an exposure of its own. From them a texture is made for the true mesh, and for one that is simplified and rough as
meshes of trained scenes are; then pictures of both from other places are compared. "one photo" takes the best photo for
each texel alone, and "as exposed" leaves exposures as they are.

Seams are the places along cuts between charts where both sides differ by more than 8 of 255.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from _bench_report import ROOT, run, section, table, write_section
from recon import metrics
from recon.datasets import textures
from recon.datasets.cameras import Cameras, intrinsics, look_at
from recon.datasets.decode import save_pixels
from recon.datasets.errors import InputError
from recon.datasets.images import ArrayImage
from recon.datasets.scene import View
from recon.meshes import Mesh
from recon.meshing import atlas, bake, draw
from recon.meshing.blending import blended
from recon.meshing.filling import filled
from recon.meshing.levels import gains
from recon.meshing.lookup import planar, texture_colours
from recon.meshing.samples import Samples

DOCUMENT = ROOT / "docs" / "meshes.md"
TRUE_SIZE = 2048  # texels each way, of the true paint
HELD_OUT = 6
ROUGHNESS = 0.002  # of the diagonal: how far vertices of the rough mesh lie off
ROUGH_FACES = 0.6  # of the triangles are left in it
SEAM = 8 / 255


def spot() -> Mesh:
    import trimesh

    root = os.environ.get("RECON_DATA")
    if not root:
        raise InputError("RECON_DATA is not set: it names the folder with meshes/spot.obj")
    read: Any = trimesh.load(Path(root) / "meshes" / "spot.obj", process=False)
    vertices, rows = np.unique(np.asarray(read.vertices).round(6), axis=0, return_inverse=True)
    return Mesh(vertices, rows.ravel()[np.asarray(read.faces)])


def rough(mesh: Mesh) -> Mesh:
    """Fewer triangles, with corners off by a little."""
    import open3d as o3d

    legacy = o3d.geometry.TriangleMesh(
        o3d.utility.Vector3dVector(mesh.vertices), o3d.utility.Vector3iVector(mesh.faces)
    )
    legacy = legacy.simplify_quadric_decimation(round(ROUGH_FACES * len(mesh.faces)))
    vertices = np.asarray(legacy.vertices)
    spread = ROUGHNESS * np.linalg.norm(np.ptp(vertices, axis=0))
    vertices = vertices + np.random.default_rng(1).normal(0, spread, vertices.shape)
    return Mesh(vertices, np.asarray(legacy.triangles).astype(np.int64))


def paint(places: NDArray) -> NDArray:
    """[N,3] colours of places [N,3]: a chequer, and grain of all sizes down to that of pixels."""
    grain = [textures._fractal((places * scale + 7).astype(np.float32), 5) for scale in (5, 7, 11)]
    chequer = np.floor(places * 6).sum(axis=1) % 2
    return (0.12 + 0.55 * np.stack(grain, axis=1) + 0.18 * chequer[:, None]).clip(0.05, 0.9)


def painted(mesh: Mesh) -> Mesh:
    uvs = atlas.unwrapped(mesh, TRUE_SIZE)
    texels = atlas.texels(uvs, TRUE_SIZE)
    places = np.einsum("tk,tkc->tc", texels.weights, mesh.vertices[mesh.faces[texels.face]])
    return replace(mesh, uvs=uvs, texture=bake.painted(texels, paint(places), TRUE_SIZE))


def around(count: int, size: int, turn: float = 0.0) -> Cameras:
    """Evenly over a sphere."""
    index = torch.arange(count, dtype=torch.float64)
    y, angle = 1 - (2 * index + 1) / count, index * (math.pi * (3 - math.sqrt(5))) + turn
    flat = (1 - y * y).sqrt()
    eyes = 2.6 * torch.stack([flat * angle.cos(), y, flat * angle.sin()], dim=-1)
    c2w = look_at(eyes, torch.zeros_like(eyes), torch.tensor([0.01, 1.0, 0.02], dtype=torch.float64))
    K = intrinsics(1.25 * size, 1.25 * size, size / 2, size / 2)
    return Cameras.from_c2w(c2w, K.repeat(count, 1, 1), size, size)


def photos(truth: Mesh, cameras: Cameras) -> list[View]:
    """Each with an exposure of its own, whose mean is 1; 8 bits, with alpha."""
    generator = np.random.default_rng(0)
    logs = generator.normal(0, 0.15, (len(cameras), 1)) + generator.normal(0, 0.04, (len(cameras), 3))
    factors = np.exp(logs - logs.mean(axis=0)).astype(np.float32)
    views = []
    for number, picture in enumerate(draw.pictures(truth, cameras)):
        picture[..., :3] *= factors[number]
        stored = np.rint(picture.clip(0, 1) * 255) / np.float32(255)
        views.append(View(f"{number}", cameras[number], ArrayImage(torch.from_numpy(stored))))
    return views


def best_alone(samples: Samples) -> Samples:
    best = samples.quality.argmax(axis=1)[:, None]
    alone = Samples(0)
    alone.quality = np.take_along_axis(samples.quality, best, axis=1)
    alone.views = np.take_along_axis(samples.views, best, axis=1)
    alone.colours = np.take_along_axis(samples.colours, best[..., None], axis=1)
    return alone


def seams(mesh: Mesh) -> float:
    """The share of places along edges that a texture is cut at, where its two sides differ."""
    assert mesh.uvs is not None
    assert mesh.texture is not None
    edges = np.concatenate([mesh.faces[:, [k, (k + 1) % 3]] for k in range(3)])
    ends = np.concatenate([mesh.uvs[:, [k, (k + 1) % 3]] for k in range(3)])
    turned = edges[:, 0] > edges[:, 1]
    edges[turned], ends[turned] = edges[turned, ::-1], ends[turned, ::-1]
    order = np.lexsort(edges.T)
    edges, ends = edges[order], ends[order]
    first = np.flatnonzero((edges[1:] == edges[:-1]).all(axis=1))
    cut = first[np.abs(ends[first] - ends[first + 1]).max(axis=(1, 2)) > 1e-5]
    picture = planar(mesh.texture / 255)
    share = np.linspace(0.1, 0.9, 5)[:, None, None]
    sides = [
        texture_colours(picture, (ends[rows, 0] * (1 - share) + ends[rows, 1] * share).reshape(-1, 2))
        for rows in (cut, cut + 1)
    ]
    return float((np.abs(sides[0] - sides[1]).max(axis=1) > SEAM).mean())


def scores(truth: list[NDArray], found: list[NDArray]) -> tuple[float, float]:
    """Mean PSNR and SSIM where both show the mesh."""
    psnr, ssim = [], []
    for a, b in zip(truth, found, strict=True):
        mask = torch.from_numpy(((a[..., 3:] == 1) & (b[..., 3:] == 1)).astype(np.float32))
        pair = torch.from_numpy(b[..., :3].copy()), torch.from_numpy(a[..., :3].copy())
        psnr.append(metrics.psnr(*pair, mask=mask))
        ssim.append(metrics.ssim(*pair, mask=mask))
    return float(np.mean(psnr)), float(np.mean(ssim))


def measured(pixels: int, count: int, size: int, pictures: Path | None) -> list[dict[str, Any]]:
    """A row for each mesh and each way."""
    truth = painted(spot())
    views = photos(truth, around(count, pixels))
    held_out = around(HELD_OUT, pixels, turn=1.0)
    expected = list(draw.pictures(truth, held_out))
    rows = []
    for name, mesh in (("true", Mesh(truth.vertices, truth.faces)), ("rough", rough(truth))):
        began = time.process_time()
        uvs = atlas.unwrapped(mesh, size)
        texels = atlas.texels(uvs, size)
        samples = bake.sampled(mesh, uvs, texels, views, size, lambda *_: None)
        sampled = time.process_time() - began
        shown = []
        for way in ("all", "as exposed", "one photo", "one photo, as exposed"):
            began = time.process_time()
            used = best_alone(samples) if way.startswith("one photo") else samples
            levels = np.zeros((count, 3)) if way.endswith("as exposed") else gains(samples, count)
            colours = filled(mesh, texels, blended(used, levels), used.is_seen)
            textured = replace(mesh, uvs=uvs, texture=bake.painted(texels, colours, size))
            seconds = sampled + time.process_time() - began
            found = list(draw.pictures(textured, held_out))
            shown.append(found[1])
            psnr, ssim = scores(expected, found)
            rows.append(
                {
                    "photos": f"{count} of {pixels}x{pixels}",
                    "mesh": name,
                    "way": way,
                    "PSNR, dB": round(psnr, 2),
                    "SSIM": round(ssim, 4),
                    "seams, %": round(100 * seams(textured), 2),
                    "seen, %": round(100 * float(samples.is_seen.mean()), 1),
                    "CPU s": round(seconds, 1),
                }
            )
        if pictures is not None:
            strip = np.concatenate([draw.over(each) for each in (expected[1], *shown)], axis=1)
            save_pixels(pictures / f"texture_{name}_{pixels}.jpg", np.rint(strip.clip(0, 1) * 255).astype(np.uint8))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pixels", type=int, nargs="+", default=[400, 800], help="sizes of photos, each way")
    parser.add_argument("--views", type=int, default=60, help="how many photos")
    parser.add_argument("--size", type=int, default=1024, help="of the texture, texels each way")
    parser.add_argument("--pictures", type=Path, help="a folder for pictures: truth, and each way")
    parser.add_argument("--document", action="store_true", help=f"put the table into {DOCUMENT.name}")
    wanted = parser.parse_args()
    rows = [row for pixels in wanted.pixels for row in measured(pixels, wanted.views, wanted.size, wanted.pictures)]
    shown = table(rows)
    print(shown)
    if wanted.document:
        write_section(DOCUMENT, "texture", section(shown))


if __name__ == "__main__":
    run(main)
