"""A first point cloud for captures that come without one.

Each point lies on the ray of some pixel. How deep: where the photos of neighbouring cameras show the same colour, which
is a plane sweep (Collins 1996) with one pixel to compare, on reduced photos. Points found so are rough, but most lie
near a surface, many more than if depths were drawn at random.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from recon.datasets.cameras import Cameras
from recon.datasets.images import area_resize
from recon.datasets.normalize import look_at_point
from recon.datasets.scene import Points, Scene, View

LONGEST_SIDE = 320  # px of the reduced photos
MOST_VIEWS = 100  # of a larger capture every so many views are used
NEIGHBOURS = 8
DEPTHS = 128  # tried on each ray, evenly in 1/depth
NO_MATCH = 2.0  # larger than any difference of colours


@dataclass(frozen=True)
class _Look:
    """A view as the sweep needs it.

    Attributes:
        photo: [4,h,w] reduced: colour, and 1 where a pixel may be used and is opaque.
        pixels: [R,2] the positions (px of the full photo) from which rays start.
        rgb: [R,3] the colours there.
        depth: [R] known depths there, 0 where unknown.
    """

    camera: Cameras
    photo: Tensor
    pixels: Tensor
    rgb: Tensor
    depth: Tensor


def frustum_points(scene: Scene, count: int, seed: int = 0) -> Points:
    """Points in what the training cameras see, coloured by their photos; the same arguments give the same points.

    Where views have depth maps, these decide. Transparent and masked pixels send out no rays, and no point lies where a
    neighbouring photo is transparent.

    Args:
        scene: in any frame; depths are tried over a range that follows from the cameras.
        count: of points; fewer come back only where the photos have hardly any usable pixel.
        seed: of the choice of pixels and depths.
    """
    if count < 1 or not scene.train:
        raise ValueError(f"{count} points from {len(scene.train)} training views: both must be at least 1")
    generator = torch.Generator().manual_seed(seed)
    step = -(-len(scene.train) // MOST_VIEWS)
    views = scene.train_views[::step]
    shares = [count * (i + 1) // len(views) - count * i // len(views) for i in range(len(views))]
    looks = [_look(view, share, generator) for view, share in zip(views, shares, strict=True)]
    cameras = [look.camera for look in looks]
    neighbours = _neighbours(cameras)
    near, far = _depth_range(cameras)
    xyz = []
    for i, look in enumerate(looks):
        swept = _sweep(look, [looks[j] for j in neighbours[i]], float(near[i]), float(far[i]), generator)
        depth = torch.where(look.depth > 0, look.depth, swept)
        xyz.append(unprojected(look.camera, look.pixels, depth[:, None])[:, 0])
    return Points(torch.cat(xyz), torch.cat([look.rgb for look in looks]))


def _look(view: View, count: int, generator: torch.Generator) -> _Look:
    image = view.load()
    height, width = image.shape[:2]
    usable = torch.ones(height, width, 1) if image.shape[2] == 3 else image[..., 3:]
    if view.mask is not None:
        usable = usable * view.mask.load()
    good = (usable > 0.5).flatten().nonzero()[:, 0]
    if not len(good):
        count = 0
    picked = good[torch.randint(max(1, len(good)), (count,), generator=generator)]
    pixels = torch.stack([picked % width, picked // width], dim=-1).double() + 0.5
    depth = torch.zeros(count, dtype=torch.float64)
    if view.depth is not None:
        depth = view.depth.load().reshape(-1)[picked].double()
    reduction = min(1.0, LONGEST_SIDE / max(width, height))
    weighted = torch.cat([image[..., :3] * usable, usable], dim=-1).numpy()
    reduced = area_resize(weighted, max(1, round(width * reduction)), max(1, round(height * reduction)))
    photo = torch.from_numpy(reduced.copy()).permute(2, 0, 1)
    photo = torch.cat([photo[:3] / photo[3:].clamp(min=1e-6), photo[3:]])
    camera = view.camera.to("cpu", torch.float64)
    return _Look(camera, photo, pixels, image[..., :3].reshape(-1, 3)[picked], depth)


def _neighbours(cameras: Sequence[Cameras]) -> list[list[int]]:
    """For each camera the ones that stand near and look the same way."""
    positions = torch.cat([camera.positions for camera in cameras])
    forward = torch.cat([camera.forward for camera in cameras])
    apart = torch.cdist(positions, positions)
    strangeness = apart / apart.mean().clamp(min=1e-300) + 2 * (1 - forward @ forward.T)
    strangeness.fill_diagonal_(torch.inf)
    order = strangeness.argsort(dim=1, stable=True)
    return [row[: min(NEIGHBOURS, len(cameras) - 1)].tolist() for row in order]


def _depth_range(cameras: Sequence[Cameras]) -> tuple[Tensor, Tensor]:
    """Nearest and farthest depths [C] worth trying: around what the cameras look at, else as far as they can tell."""
    viewmats = torch.cat([camera.viewmats for camera in cameras])
    every = Cameras(viewmats, torch.eye(3, dtype=torch.float64).expand(len(viewmats), 3, 3), 1, 1)
    positions = every.positions
    target = look_at_point(every)
    if target is not None:
        distance = (positions - target).norm(dim=-1)
        return 0.2 * distance, 4 * distance + distance.max()
    spread = (positions - positions.mean(dim=0)).norm(dim=-1).mean()
    if spread <= 1e-9 * positions.abs().max():
        spread = torch.ones((), dtype=torch.float64)  # cameras in one place tell nothing of depth
    return (2 * spread).expand(len(positions)), (100 * spread).expand(len(positions))


def _sweep(look: _Look, others: Sequence[_Look], near: float, far: float, generator: torch.Generator) -> Tensor:
    """The depth [R] of each ray at which the photos agree best."""
    rays = len(look.pixels)
    jitter = torch.rand(rays, DEPTHS, generator=generator, dtype=torch.float64)
    steps = (torch.arange(DEPTHS) + jitter) / DEPTHS
    depths = 1 / (1 / far + (1 / near - 1 / far) * steps)
    candidates = unprojected(look.camera, look.pixels, depths)
    if not others or not rays:
        return depths.gather(1, torch.randint(DEPTHS, (rays, 1), generator=generator))[:, 0]
    differences = torch.stack([_difference(candidates, look.rgb, other) for other in others])
    # Where a neighbour does not see the point for something in front of it, the better half still does.
    best = differences.sort(dim=0).values[: max(2, (len(others) + 1) // 2)]
    outside = (differences == torch.inf).any(dim=0)  # transparent there in some photo
    score = best.clamp(max=NO_MATCH).mean(dim=0) + NO_MATCH * outside
    return depths.gather(1, score.argmin(dim=1, keepdim=True))[:, 0]


def _difference(candidates: Tensor, rgb: Tensor, other: _Look) -> Tensor:
    """[R,D] how far the colours of candidates [R,D,3] are from `rgb` [R,3] in another photo.

    NO_MATCH where it does not show them, infinite where it is transparent.
    """
    pixels, depth = other.camera.project(candidates.reshape(-1, 3))
    size = torch.tensor([other.camera.width, other.camera.height])
    grid = (2 * pixels[0] / size - 1).reshape(1, *candidates.shape[:2], 2)
    shown = ((depth[0] > 0) & (grid.abs() < 1).all(dim=-1).flatten()).reshape(candidates.shape[:2])
    sampled = torch.nn.functional.grid_sample(
        other.photo[None], grid.clamp(-2, 2).float(), mode="bilinear", padding_mode="border", align_corners=False
    )[0]
    difference = (sampled[:3] - rgb.T[:, :, None]).abs().mean(dim=0)
    difference = torch.where(sampled[3] > 0.05, difference, torch.inf)
    return torch.where(shown, difference, NO_MATCH)


def unprojected(camera: Cameras, pixels: Tensor, depths: Tensor) -> Tensor:
    """World points [R,D,3] at `depths` [R,D] along the rays of `pixels` [R,2]."""
    homogeneous = torch.cat([pixels, torch.ones_like(pixels[:, :1])], dim=-1)
    directions = homogeneous @ torch.linalg.inv(camera.Ks[0]).T @ camera.viewmats[0, :3, :3]
    return camera.positions[0] + depths[..., None] * directions[:, None]
