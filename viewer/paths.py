"""Camera paths through a capture: a turn around it that stays where photos were taken, and a ride through its cameras.

Paths know cameras only. Shape letters: C cameras of the capture, F frames of the path.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from recon.datasets.cameras import Cameras, intrinsics, look_at
from recon.datasets.normalize import look_at_point, up_direction
from recon.datasets.scene import Scene

Source = Scene | Cameras | Sequence[Cameras]

WIDEST_GAP = 120.0  # degrees; cameras that leave no wider gap stand all around
ALONG = 25.0  # degrees; over this angle the radius and height of a turn follow the cameras
SWAY = 0.7  # of the captured range: how far a path goes that cannot go round
STRAY = 4.0  # cameras so many times as far as the median one do not count

_QUAT = slice(3, 7)  # where a key of a spline holds its rotation, after the position


def orbit(source: Source, frames: int, *, up: Tensor | None = None, lens: Cameras | None = None) -> Cameras:
    """A closed path that shows a capture from all the sides it was taken from; the last frame leads to the first.

    Cameras that stand around something: a turn around it, at their distance and height, or, where they cover a part of
    the circle only, to and fro within that part. Cameras that look the same way: an ellipse among them, aimed at what
    is in front. Cameras that look outwards from one place: a look around from there. Others: a ride along them.

    Args:
        source: the capture; a scene's points and known up direction are made use of.
        frames: F.
        up: [3] the up direction; that of the scene, or else what `up_direction` finds, if not given.
        lens: a batch of one whose intrinsics and size the path gets; the capture's usual ones if not given.
    """
    every = _gather(source)
    if frames < 1:
        raise ValueError(f"{frames} frames are no path")
    if up is None and isinstance(source, Scene):
        up = source.up
    up = up_direction(every) if up is None else up.to(every.viewmats) / up.to(every.viewmats).norm()
    lens = _usual_lens(every) if lens is None else lens.to(dtype=torch.float64)
    positions = every.positions
    middle = positions.median(dim=0).values
    apart = (positions - middle).norm(dim=-1)
    cameras = every[apart <= STRAY * apart.median()] if apart.median() > 0 else every

    phase = torch.arange(frames, dtype=torch.float64) * (2 * torch.pi / frames)
    target = look_at_point(cameras)
    if target is not None:
        eyes = _around(cameras.positions, target, up, phase)
        return _looking(eyes, target.expand_as(eyes), up, lens)
    offsets = cameras.positions - cameras.positions.mean(dim=0)
    spread = float(offsets.norm(dim=-1).mean())
    if float(cameras.forward.mean(dim=0).norm()) > 0.7:
        eyes, target = _ellipse(cameras, spread, _distance_ahead(source, cameras, spread), phase)
        return _looking(eyes, target.expand_as(eyes), up, lens)
    outwards = (offsets * cameras.forward).sum(dim=-1) > 0.5 * offsets.norm(dim=-1)
    if float(outwards.double().mean()) > 0.6 or spread <= 1e-9 * float(cameras.positions.abs().max()):
        eyes = cameras.positions.mean(dim=0).expand(frames, 3)
        return _looking(eyes, eyes + _around(cameras.forward, torch.zeros_like(up), up, phase), up, lens)
    step = -(-len(cameras) // 16)
    return _with_lens(interpolate(cameras[::step], frames, closed=True), lens)


def interpolate(cameras: Source, frames: int, *, closed: bool = False) -> Cameras:
    """A smooth path through cameras in their order; positions, rotations and focal lengths all pass through theirs.

    A cubic Hermite (Catmull-Rom) spline over the way between the cameras, so that the speed is even; rotations are
    quaternions on the same spline, made unit length again. The image size is the most frequent one.

    Args:
        cameras: at least one; equal neighbours count once.
        frames: F; a path that is not `closed` begins at the first camera and ends at the last.
        closed: go on from the last camera to the first.
    """
    every = _gather(cameras)
    if frames < 1:
        raise ValueError(f"{frames} frames are no path")
    keys = _keys(every, closed)
    ways = _ways(keys[:, :3], keys[:, _QUAT])
    moved = ways > 1e-5
    keys, ways = keys[torch.cat([moved.new_ones(1), moved])], ways[moved]
    steps = torch.arange(frames, dtype=torch.float64) / (frames if closed else max(1, frames - 1))
    return _cameras(_spline(keys, ways, steps * ways.sum(), closed=closed), every.width, every.height)


def timed(cameras: Cameras, seconds: Tensor, at: Tensor, *, closed: bool = False, smoothness: float = 1.0) -> Cameras:
    """Cameras at the times `at` [F] on the path of `interpolate`, which here takes given times from each to the next.

    Where two cameras after one another are the same, the path stands still for that time.

    Args:
        seconds: [C-1], or [C] for a path that is `closed`, all more than 0.
        smoothness: 1: on through each camera; 0: straight on to each, and to rest there.
    """
    every = _gather(cameras)
    keys = _keys(every, closed)
    return _cameras(
        _spline(keys, seconds.double(), at.double(), closed=closed, smoothness=smoothness), every.width, every.height
    )


def _gather(source: Source) -> Cameras:
    """One batch, float64 on the CPU, of the most frequent image size; others are resized to it."""
    if isinstance(source, Scene):
        source = [view.camera for view in source.views]
    batches = [source] if isinstance(source, Cameras) else list(source)
    sizes = [(batch.width, batch.height) for batch in batches for _ in range(len(batch))]
    if not sizes:
        raise ValueError("a path needs at least one camera")
    size = max(sorted(set(sizes)), key=sizes.count)
    return Cameras.cat([batch.to("cpu", torch.float64).resized(*size) for batch in batches])


def _usual_lens(cameras: Cameras) -> Cameras:
    """The median focal lengths, with the principal point in the centre."""
    fx, fy = cameras.Ks[:, [0, 1], [0, 1]].median(dim=0).values.tolist()
    K = intrinsics(fx, fy, cameras.width / 2, cameras.height / 2)
    return Cameras(torch.eye(4, dtype=torch.float64)[None], K, cameras.width, cameras.height)


def _with_lens(cameras: Cameras, lens: Cameras) -> Cameras:
    return Cameras(cameras.viewmats, lens.Ks.expand(len(cameras), 3, 3), lens.width, lens.height)


def _looking(eyes: Tensor, targets: Tensor, up: Tensor, lens: Cameras) -> Cameras:
    along = (targets - eyes) @ up / (targets - eyes).norm(dim=-1)
    if float(along.abs().max()) > 0.999:  # straight up or down: any other direction will do to hold the camera by
        up = _axes_across(up)[0]
    return _with_lens(Cameras.from_c2w(look_at(eyes, targets, up), lens.Ks.expand(len(eyes), 3, 3), 1, 1), lens)


def _around(positions: Tensor, centre: Tensor, up: Tensor, phase: Tensor) -> Tensor:
    """Points [F,3] on a turn about the axis `up` through `centre`, near `positions` [C,3]."""
    offsets = positions - centre
    first, second = _axes_across(up)
    heights, east, north = offsets @ up, offsets @ first, offsets @ second
    radii, angles = torch.hypot(east, north), torch.atan2(north, east)
    start, width = _covered(angles)
    if 2 * torch.pi - width <= WIDEST_GAP * torch.pi / 180:
        turn = angles[0] + phase
        swing = torch.zeros_like(phase)
    else:
        turn = start + width / 2 + SWAY * width / 2 * phase.sin()
        swing = 0.5 * phase.cos()
    # Radius and height at an angle: the mean of the cameras', weighted by how near they are in angle.
    apart = torch.remainder(turn[:, None] - angles + torch.pi, 2 * torch.pi) - torch.pi
    weights = torch.exp(-0.5 * (apart / (ALONG * torch.pi / 180)) ** 2)
    weights = weights / weights.sum(dim=1, keepdim=True)
    radius, height = weights @ radii, weights @ heights
    deviation = (weights @ heights**2 - height**2).clamp(min=0).sqrt()
    height = height + swing * deviation
    flat = turn.cos()[:, None] * first + turn.sin()[:, None] * second
    return centre + radius[:, None] * flat + height[:, None] * up


def _covered(angles: Tensor) -> tuple[float, float]:
    """Where the cameras begin, and how many radians on they end: the circle without its widest gap."""
    ordered = torch.remainder(angles, 2 * torch.pi).sort().values
    gaps = torch.cat([ordered[1:], ordered[:1] + 2 * torch.pi]) - ordered
    widest = int(gaps.argmax())
    return float(ordered[(widest + 1) % len(ordered)]), 2 * torch.pi - float(gaps[widest])


def _ellipse(cameras: Cameras, spread: float, distance: float, phase: Tensor) -> tuple[Tensor, Tensor]:
    """Points [F,3] on an ellipse among the cameras, as wide as they lie, and the point in front to look at."""
    middle = cameras.positions.mean(dim=0)
    _, sizes, axes = torch.linalg.svd(cameras.positions - middle, full_matrices=False)
    sizes = sizes / len(cameras) ** 0.5
    if spread <= 1e-6 * distance:  # from one place: hardly more than breathing
        first, second = 0.02 * distance * cameras.viewmats[0, :2, :3]
    else:
        first, second = (1.3 * SWAY * sizes[:, None] * axes)[:2] if len(sizes) > 1 else (middle * 0, middle * 0)
    eyes = middle + phase.cos()[:, None] * first + phase.sin()[:, None] * second
    forward = cameras.forward.mean(dim=0)
    return eyes, middle + distance * forward / forward.norm()


def _distance_ahead(source: Source, cameras: Cameras, spread: float) -> float:
    """How far ahead of the cameras it is worth looking: to the points if there are any, else a guess."""
    if isinstance(source, Scene) and source.points is not None:
        _, depth = cameras.project(source.points.xyz.double())
        ahead = depth[depth > 0]
        if len(ahead):
            return float(ahead.median())
    return 10 * spread if spread > 1e-9 * float(cameras.positions.abs().max()) else 1.0


def _axes_across(up: Tensor) -> tuple[Tensor, Tensor]:
    """Two unit vectors [3] that make a right-handed frame with `up` as the third."""
    helper = torch.zeros_like(up)
    helper[int(up.abs().argmin())] = 1
    first = torch.linalg.cross(helper, up)
    first = first / first.norm()
    return first, torch.linalg.cross(up, first)


def _ways(positions: Tensor, quats: Tensor) -> Tensor:
    """How far it is from each camera to the next [C-1]: in mean steps, or by turning (0.5 rad is a step)."""
    steps = (positions[1:] - positions[:-1]).norm(dim=-1)
    turns = 2 * (quats[1:] * quats[:-1]).sum(dim=-1).clamp(max=1).acos()
    turns = torch.where(turns > 1e-6, turns, 0)  # less is rounding
    return torch.hypot(steps / steps.mean() if steps.any() else steps, turns / 0.5)


def _keys(cameras: Cameras, closed: bool) -> Tensor:
    """What a spline goes through [C,11], the first camera once more if `closed`: position, rotation, lens."""
    quats = _continuous(quaternions(cameras.viewmats[:, :3, :3].transpose(1, 2)))
    keys = torch.cat([cameras.positions, quats, cameras.Ks[:, [0, 1], [0, 1]].log(), cameras.Ks[:, :2, 2]], dim=-1)
    if closed:
        keys = torch.cat([keys, keys[:1]])
        keys[-2:, _QUAT] = _continuous(keys[-2:, _QUAT])  # after a full turn, quaternions arrive with the other sign
    return keys


def _cameras(values: Tensor, width: int, height: int) -> Cameras:
    """The cameras of values [F,11] such as `_keys` makes; their quaternions may have any length."""
    c2w = torch.eye(4, dtype=torch.float64).repeat(len(values), 1, 1)
    c2w[:, :3, :3] = rotations(values[:, _QUAT])
    c2w[:, :3, 3] = values[:, :3]
    Ks = torch.eye(3, dtype=torch.float64).repeat(len(values), 1, 1)
    Ks[:, [0, 1], [0, 1]], Ks[:, :2, 2] = values[:, 7:9].exp(), values[:, 9:]
    return Cameras.from_c2w(c2w, Ks, width, height)


def _spline(keys: Tensor, ways: Tensor, at: Tensor, *, closed: bool, smoothness: float = 1.0) -> Tensor:
    """The cubic Hermite spline [F,D] through keys [C,D], spaced by `ways` [C-1], at places [F] along it.

    The slope at a key is that of the parabola through it and its neighbours; at the ends, of the straight line; none
    beside a neighbour that is the same. All are multiplied by `smoothness`. When `closed`, the last key is the first
    one again (with quaternions of either sign).
    """
    if not len(ways):
        return keys[:1].expand(len(at), -1)
    between = (keys[1:] - keys[:-1]) / ways[:, None]
    before, after = between[:-1], between[1:]
    way_before, way_after = ways[:-1, None], ways[1:, None]
    first, last = between[:1], between[-1:]
    if closed:
        sign = torch.ones_like(keys[0])
        sign[_QUAT] = 1.0 if keys[0, _QUAT] @ keys[-1, _QUAT] > 0 else -1.0
        first = (sign * last * ways[0] + first * ways[-1]) / (ways[0] + ways[-1])
        last = sign * first
    slopes = torch.cat([first, (before * way_after + after * way_before) / (way_before + way_after), last])
    still = (keys[1:] - keys[:-1]).abs().amax(dim=-1) < 1e-9
    if closed:
        still = torch.cat([still[-1:], still, still[:1]])
    else:
        still = torch.cat([still.new_zeros(1), still, still.new_zeros(1)])
    slopes = slopes * torch.where(still[1:] | still[:-1], 0.0, smoothness)[:, None]
    starts = torch.cat([ways.new_zeros(1), ways.cumsum(0)])
    span = (torch.searchsorted(starts, at, right=True) - 1).clamp(0, len(ways) - 1)
    way = ways[span][:, None]
    t = ((at - starts[span])[:, None] / way).clamp(0, 1)
    return (
        (1 + 2 * t) * (1 - t) ** 2 * keys[span]
        + t * (1 - t) ** 2 * way * slopes[span]
        + t**2 * (3 - 2 * t) * keys[span + 1]
        - t**2 * (1 - t) * way * slopes[span + 1]
    )


def quaternions(rotations: Tensor) -> Tensor:
    """Unit quaternions wxyz [C,4] of rotation matrices [C,3,3], by the best of four formulas (Shepperd 1978)."""
    m = rotations
    xx, yy, zz = m[:, 0, 0], m[:, 1, 1], m[:, 2, 2]
    x, y, z = m[:, 2, 1] - m[:, 1, 2], m[:, 0, 2] - m[:, 2, 0], m[:, 1, 0] - m[:, 0, 1]
    xy, xz, yz = m[:, 0, 1] + m[:, 1, 0], m[:, 0, 2] + m[:, 2, 0], m[:, 1, 2] + m[:, 2, 1]
    # 4 q q^T, row by row; the longest row is the safest multiple of q.
    outer = torch.stack(
        [
            torch.stack([1 + xx + yy + zz, x, y, z], dim=-1),
            torch.stack([x, 1 + xx - yy - zz, xy, xz], dim=-1),
            torch.stack([y, xy, 1 - xx + yy - zz, yz], dim=-1),
            torch.stack([z, xz, yz, 1 - xx - yy + zz], dim=-1),
        ],
        dim=1,
    )
    longest = outer.norm(dim=-1).argmax(dim=1)
    chosen = outer[torch.arange(len(m)), longest]
    return chosen / chosen.norm(dim=-1, keepdim=True)


def _continuous(quats: Tensor) -> Tensor:
    """Signs chosen so that each quaternion is on its predecessor's side (q and -q are the same rotation)."""
    signs = torch.where((quats[1:] * quats[:-1]).sum(dim=-1) < 0, -1.0, 1.0).double()
    return quats * torch.cat([signs.new_ones(1), signs.cumprod(0)])[:, None]


def rotations(quats: Tensor) -> Tensor:
    """[F,3,3] of quaternions wxyz [F,4] of any length."""
    w, x, y, z = (quats / quats.norm(dim=-1, keepdim=True)).unbind(dim=-1)
    return torch.stack(
        [
            torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], dim=-1),
            torch.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], dim=-1),
            torch.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], dim=-1),
        ],
        dim=1,
    )
