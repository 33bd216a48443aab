"""Pictures of a trained scene along a path of cameras: colour, depth, normals, opacity.

Shape letters: C cameras, H and W image size.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon.colormap import VIRIDIS, colourise
from recon.datasets.cameras import Cameras
from recon.model import Model, RenderOutput
from recon.torch_threads import one_torch_thread

Mode = Literal["rgb", "depth", "normals", "alpha"]
Colour = tuple[float, float, float]

SOLID = 0.5  # where less light than this is stopped there is no surface whose depth or normal would mean anything


def frames(
    model: Model,
    cameras: Cameras,
    *,
    mode: Mode = "rgb",
    background: Colour = (0.0, 0.0, 0.0),
    depth_range: tuple[float, float] | None = None,
) -> Iterator[NDArray[np.uint8]]:
    """Render one camera after the other: uint8 pictures [H,W,3].

    Args:
        mode: "rgb"; "depth": bright is near (see `draw_depth`); "normals": of the world (see `draw_normals`);
            "alpha": white is opaque.
        background: colour behind the scene, 0..1, for "rgb" and "depth".
        depth_range: nearest and farthest depth that "depth" tells apart, world units; default: what the whole path
            needs (`find_depth_range`), so that a video does not flicker.
    """
    device = device_of(model)
    for picture in pictures(model, cameras, mode=mode, background=background, depth_range=depth_range):
        with one_torch_thread(device):
            frame = to_uint8(picture)
        yield frame


def pictures(
    model: Model,
    cameras: Cameras,
    *,
    mode: Mode = "rgb",
    background: Colour = (0.0, 0.0, 0.0),
    depth_range: tuple[float, float] | None = None,
) -> Iterator[Tensor]:
    """The same as `frames`, in floats [H,W,3], about 0..1."""
    if mode == "depth" and depth_range is None:
        depth_range = find_depth_range(model, cameras)
    for number in range(len(cameras)):
        yield _picture(model, cameras[number], mode, background, depth_range)


@torch.no_grad()
def _picture(
    model: Model, camera: Cameras, mode: Mode, background: Colour, depth_range: tuple[float, float] | None
) -> Tensor:
    with one_torch_thread(device_of(model)):
        out = render_one(model, camera, background=background, depth=mode in ("depth", "normals"))
        alpha = out.alpha[0, ..., 0]
        if mode == "rgb":
            return out.rgb[0]
        if mode == "alpha":
            return alpha[..., None].expand(-1, -1, 3)
        if mode == "normals":
            return draw_normals(depth_of(out), alpha, camera)
        assert depth_range is not None
        return draw_depth(depth_of(out), alpha, depth_range, background)


@torch.no_grad()
def render_one(
    model: Model,
    camera: Cameras,
    *,
    background: Colour = (0.0, 0.0, 0.0),
    depth: bool = False,
    median_depth: bool = False,
) -> RenderOutput:
    """One finished picture, without gradients."""
    colour = torch.tensor(background, dtype=torch.float32, device=device_of(model))
    return model.render(camera, background=colour, depth=depth, median_depth=median_depth)


def device_of(model: Model) -> torch.device:
    """Where the model's parameters are."""
    return next((value.device for value in model.state_dict().values()), torch.device("cpu"))


def to_uint8(picture: Tensor) -> NDArray[np.uint8]:
    """0..255 from 0..1, rounded; what lies outside is cut."""
    if picture.is_cuda:
        return (picture.detach().float().clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    # Pictures of the CPU are planar: numpy walks through them as they lie, and is four times as fast as torch.
    values = picture.detach().float().numpy() * 255
    np.clip(np.rint(values, out=values), 0, 255, out=values)
    result = np.empty(values.shape, np.uint8)
    result[...] = values
    return result


def depth_of(out: RenderOutput) -> Tensor:
    assert out.depth is not None, "the model gave no depth though it was asked for"
    return out.depth[0, ..., 0]


# Depth


def find_depth_range(
    model: Model, cameras: Cameras, *, samples: int = 8, size: int = 160, cut: float = 0.02
) -> tuple[float, float]:
    """Nearest and farthest depth [world units] of the surfaces along a path, without outliers.

    Looks at up to `samples` cameras spread over the path, in small (the long side at most `size` pixels), and drops the
    share `cut` of the pixels at either end, so that one speck in front of the lens does not darken all the rest.
    (1, 2) where no camera sees anything.
    """
    factor = min(1.0, size / max(cameras.width, cameras.height))
    small = cameras.resized(max(1, round(cameras.width * factor)), max(1, round(cameras.height * factor)))
    chosen = np.unique(np.linspace(0, len(cameras) - 1, min(samples, len(cameras))).round().astype(int))
    seen = []
    for number in chosen.tolist():
        out = render_one(model, small[number], depth=True)
        depth = depth_of(out)
        seen.append(depth[(out.alpha[0, ..., 0] > SOLID) & (depth > 0)].cpu().numpy())
    return range_of(np.concatenate(seen) if seen else np.zeros(0), cut)


def range_of(depths: NDArray[np.floating], cut: float = 0.02) -> tuple[float, float]:
    """Nearest and farthest of depths without the share `cut` at either end; (1, 2) of none."""
    if depths.size == 0:
        return 1.0, 2.0
    near, far = np.quantile(depths, [cut, 1 - cut])
    return float(near), float(far)


def draw_depth(
    depth: Tensor, alpha: Tensor, depth_range: tuple[float, float], background: Colour, table: str = VIRIDIS
) -> Tensor:
    """Depth [H,W] as colours [H,W,3] 0..1 of a colour map, the last for what is near: yellow in viridis.

    Even steps of colour are even steps of 1/depth, which gives the foreground its share of the colours also where the
    scene reaches far. Shown over `background` with the opacity `alpha` [H,W].
    """
    near, far = depth_range
    if not 0 < near <= far:
        raise ValueError(f"depth range {near}..{far}: not 0 < near <= far")
    span = max(1 / near - 1 / far, 1e-6 / near)  # a wall seen straight on has one depth
    nearness = (1 / depth.clamp_min(1e-6 * near) - 1 / far) / span
    colours = torch.from_numpy(colourise(nearness.cpu().numpy(), table)).to(alpha)
    return colours * alpha[..., None] + alpha.new_tensor(background) * (1 - alpha[..., None])


# Normals


def draw_normals(depth: Tensor, alpha: Tensor, camera: Cameras) -> Tensor:
    """World normals as colours [H,W,3] 0..1: red, green, blue = (normal + 1) / 2 of x, y, z.

    Normals of the world, not of the camera, so that a surface keeps its colour while the camera moves. Mid-grey where
    there is no surface: low opacity, or an image too small to have neighbours.
    """
    solid = (alpha > SOLID) & (depth > 0)
    normals = normals_from_depth(depth, camera) * (0.5 * solid)[..., None]
    return normals.to(alpha).add_(0.5)


def normals_from_depth(depth: Tensor, camera: Cameras) -> Tensor:
    """Unit normals [H,W,3] in the world, towards the camera, of the surface that `depth` [H,W] describes.

    Each is the cross product of the differences between the back-projected neighbours of its pixel: central ones, so
    that noise is averaged, or one-sided ones where the surface breaks off at one side (the difference there is much
    larger than at the other), so that edges stay sharp. Zero where there are no neighbours, or no depth.
    """
    height, width = depth.shape
    if height < 2 or width < 2:
        return depth.new_zeros(height, width, 3)
    # One plane for each axis: a quarter of the time of points as rows.
    points = _back_projected(depth, camera)
    spacing = depth / camera.Ks[0, [0, 1], [0, 1]].mean().to(depth)  # of the pixels on a surface seen straight on
    across, down = (_unit(_slope(points, spacing, dim)) for dim in (2, 1))
    # +x crossed with +y is +z, which points away from the camera.
    normals = torch.stack([down[i - 2] * across[i - 1] - down[i - 1] * across[i - 2] for i in range(3)])
    normals = camera.viewmats[0, :3, :3].to(normals).T @ _unit(normals).reshape(3, -1)
    return normals.reshape(3, height, width).permute(1, 2, 0)


def _unit(vectors: Tensor) -> Tensor:
    """Vectors [3,...] made as long as 1; torch's own `normalize` is a hundred times slower along the first axis."""
    return vectors * (vectors * vectors).sum(dim=0).clamp_min(1e-24).rsqrt()


def _back_projected(depth: Tensor, camera: Cameras) -> Tensor:
    """Camera-space points [3,H,W] of the pixel centres at `depth` [H,W] along the axis."""
    height, width = depth.shape
    ys = torch.arange(height, dtype=depth.dtype, device=depth.device) + 0.5
    xs = torch.arange(width, dtype=depth.dtype, device=depth.device) + 0.5
    inverse = torch.linalg.inv(camera.Ks[0].to(depth))  # its last row is 0, 0, 1
    x, y = (row[0] * xs + row[1] * ys[:, None] + row[2] for row in inverse[:2])
    return torch.stack([x * depth, y * depth, depth])


BREAK = 4.0  # a step in depth this many times that of the other side, and of the spacing, is an edge, not a slope


def _slope(points: Tensor, spacing: Tensor, dim: int) -> Tensor:
    """Differences [3,H,W] between neighbours along `dim`, per pixel: see `normals_from_depth`."""
    step = points.diff(dim=dim)
    first, last = step.narrow(dim, 0, 1), step.narrow(dim, step.shape[dim] - 1, 1)
    before, after = torch.cat([first, step], dim=dim), torch.cat([step, last], dim=dim)
    jump_before, jump_after = before[2].abs(), after[2].abs()
    least = BREAK * torch.maximum(spacing, torch.minimum(jump_before, jump_after))
    # Shares of both sides: half of each, or all of one.
    of_after = 0.5 * ((jump_before > least).to(points) - (jump_after > least).to(points)) + 0.5
    return torch.lerp(before, after, of_after)
