"""The four passes of rasterisation over one camera, on numpy arrays: project, blend, and back.

All arrays are float32 and contiguous; scratch memory comes from `buffers`. Shape letters: N Gaussians, K coefficients
of spherical harmonics, H and W image size, E entries of all tiles, S slots.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from recon.kernels.bin import bin_gaussians
from recon.kernels.blend import blend, blend_with_depth, blend_with_depths
from recon.kernels.blend_backward import blend_backward, blend_backward_absolute, blend_backward_full
from recon.kernels.buffers import take
from recon.kernels.camera_gradient import CAMERA_GRADIENT
from recon.kernels.gather import gather
from recon.kernels.project import NOT_FINITE, STATE, project_gaussians
from recon.kernels.project_backward import PIECE, project_gaussians_backward
from recon.kernels.project_camera import project_camera_backward
from recon.kernels.project_step import project_gaussians_step
from recon.kernels.runtime import get_threads, launch
from recon.kernels.simd import LANES
from recon.kernels.splat import (
    CAMERA,
    ENTRY,
    FOV_MARGIN,
    GRADIENT,
    MAX_GAUSSIANS,
    MAX_SLOTS,
    MAX_TILES,
    RECORD,
    SLOT,
    TILE_HEIGHT,
    TILE_WIDTH,
)
from recon.kernels.tiles import PAGE, SLOTS

Floats = NDArray[np.float32]
Matrix = Sequence[Sequence[float]]  # rows

NOT_WANTED = np.empty(0, np.float32)  # in place of an array that a kernel is to leave out

_slots_per_gaussian = 8.0  # room for the tiles of a Gaussian on average: a guess, from the camera before


class Parameters(NamedTuple):
    """Stored Gaussians."""

    means: Floats  # [N,3]
    quats: Floats  # [N,4]
    log_scales: Floats  # [N,3]
    logit_opacities: Floats  # [N]
    sh0: Floats  # [N,1,3]
    shN: Floats  # [N,K-1,3]


class NotFiniteError(ValueError):
    """A parameter is NaN or infinite, or a Gaussian is too large for float32."""


class Lists(NamedTuple):
    """What the projection found. Layouts are in `splat`."""

    records: Floats  # N rounded up to LANES rows of RECORD, flat
    seen: NDArray[np.uint8]  # [N rounded up to LANES] 1 for the Gaussians that are visible
    slots: NDArray[np.uint32]  # N rounded up to LANES rows of 2, flat
    entries: NDArray[np.int64]  # [ENTRY E]
    starts: NDArray[np.int64]  # [tiles + 1]


@dataclass(frozen=True)
class View:
    """Gaussians as one camera sees them."""

    camera: Floats
    width: int
    height: int
    sh_degree: int
    slot_count: int
    lists: Lists


class Pictures(NamedTuple):
    """What a view looks like, or the gradients of that."""

    rgb: Floats  # [3,H,W]
    alpha: Floats | None  # [H,W]; gradients: None for zeros
    depth: Floats | None  # [H,W]; None if not wanted
    median_depth: Floats | None = None  # [H,W]; None if not wanted, and among gradients


def pack_camera(
    viewmat: Matrix, K: Matrix, width: int, height: int, near: float, far: float, antialiased: bool = False
) -> Floats:
    """The camera array of the kernels from a view matrix [4,4] and intrinsics [3,3]."""
    rows = viewmat[:3]
    rotation, translation = [number for row in rows for number in row[:3]], [row[3] for row in rows]
    fx, fy, cx, cy = K[0][0], K[1][1], K[0][2], K[1][2]
    margin_x, margin_y = FOV_MARGIN * 0.5 * width / fx, FOV_MARGIN * 0.5 * height / fy
    limits = (-cx / fx - margin_x, (width - cx) / fx + margin_x, -cy / fy - margin_y, (height - cy) / fy + margin_y)
    position = [-sum(rows[i][axis] * translation[i] for i in range(3)) for axis in range(3)]
    packed = [*rotation, *translation, fx, fy, cx, cy, *position, near, far, *limits, width, height, antialiased]
    assert len(packed) == CAMERA
    return np.array(packed, np.float32)


class Found(NamedTuple):
    """Gaussians as one camera sees them, before they are sorted. Layouts are those of `project_gaussians`."""

    camera: Floats
    width: int
    height: int
    sh_degree: int
    records: Floats  # N rounded up to LANES rows of RECORD, flat
    seen: NDArray[np.uint8]  # [N rounded up to LANES]
    slots: NDArray[np.uint32]  # N rounded up to LANES rows of 2, flat
    ranges: NDArray[np.uint32]  # rows of 2, flat: where slots are, those left over among them
    slot_tiles: NDArray[np.uint32]  # [S]
    slot_entries: NDArray[np.int64]  # [S,ENTRY], flat
    slot_count: int  # no more of the slots are used


def project_view(
    parameters: Parameters,
    camera: Floats,
    width: int,
    height: int,
    sh_degree: int,
    means2d: Floats,
    radii: NDArray[np.int32],
) -> View:
    """Project all Gaussians into a camera and sort them into its tiles; see `find_view`."""
    return sorted_view(find_view(parameters, camera, width, height, sh_degree, means2d, radii))


def find_view(
    parameters: Parameters,
    camera: Floats,
    width: int,
    height: int,
    sh_degree: int,
    means2d: Floats,
    radii: NDArray[np.int32],
) -> Found:
    """Project all Gaussians into a camera.

    Args:
        means2d [N,2], radii [N,2]: are written; see `RenderOutput`.
    Raises:
        NotFiniteError: which tensor is to blame is for the caller to find out.
        ValueError: the scene or the picture is larger than the kernels can count.
    """
    global _slots_per_gaussian
    rows, coefficients = len(parameters.means), parameters.shN.shape[1] + 1
    if rows > MAX_GAUSSIANS or _tiles(width, height) > MAX_TILES:
        raise ValueError(f"{rows} Gaussians in a picture of {width}x{height}: too many")
    blocks, state = -(-rows // LANES), np.zeros(STATE, np.int64)
    records, slots = take(blocks * LANES * RECORD, np.float32), take(blocks * LANES * 2, np.uint32)
    seen, ranges = take(blocks * LANES, np.uint8), take(2 * blocks, np.uint32)
    room = int(rows * _slots_per_gaussian)
    while True:
        slot_tiles = take(room + get_threads() * PAGE, np.uint32)
        slot_entries = take(len(slot_tiles) * ENTRY, np.int64)
        state[:] = 0
        launch(
            *(project_gaussians, camera, *(array.reshape(-1) for array in parameters), rows, sh_degree, coefficients),
            *(records, means2d.reshape(-1), radii.reshape(-1).view(np.float32), seen),
            *(slot_tiles, slot_entries, slots, ranges, state),
        )
        if state[NOT_FINITE]:
            raise NotFiniteError
        needed = int(state[SLOTS])
        if needed > MAX_SLOTS:
            raise ValueError(f"{rows} Gaussians touch {needed} tiles of a picture of {width}x{height}: too many")
        if needed <= len(slot_tiles):
            break
        room = needed + needed // 4  # as much as the next camera gets
    _slots_per_gaussian = max(8.0, 1.25 * needed / max(1, rows))
    of_slots = slots, ranges, slot_tiles, slot_entries, needed
    return Found(camera, width, height, sh_degree, records, seen, *of_slots)


def sorted_view(found: Found) -> View:
    """Sort what a camera sees into its tiles; its entries are used up."""
    tiles, of_slots = _tiles(found.width, found.height), (found.slot_tiles, found.slot_entries)
    entries, starts = bin_gaussians(tiles, found.ranges, *of_slots, found.slot_count)
    lists = Lists(found.records, found.seen, found.slots, entries, starts)
    return View(found.camera, found.width, found.height, found.sh_degree, found.slot_count, lists)


def _tiles(width: int, height: int) -> int:
    return -(-width // TILE_WIDTH) * -(-height // TILE_HEIGHT)


def blend_view(view: View, background: Floats, pictures: Pictures, transmittance: Floats) -> None:
    """Blend a view over a background [3].

    Args:
        pictures: are written.
        transmittance: [H * W] is written: what is left for the background, which the backward pass needs.
    """
    lists = view.lists
    assert pictures.alpha is not None
    outputs = (pictures.rgb.reshape(-1), pictures.alpha.reshape(-1), transmittance)
    common = (view.width, view.height, lists.records, lists.entries, lists.starts, background, *outputs)
    if pictures.median_depth is not None:
        depth = take(pictures.median_depth.shape, np.float32) if pictures.depth is None else pictures.depth
        launch(blend_with_depths, *common, depth.reshape(-1), pictures.median_depth.reshape(-1))
    elif pictures.depth is None:
        launch(blend, *common)
    else:
        launch(blend_with_depth, *common, pictures.depth.reshape(-1))


def gradient_size(rows: int) -> int:
    """How many floats the gradients of that many records take."""
    return -(-rows // LANES) * LANES * GRADIENT


def blend_view_backward(
    view: View,
    pictures: Pictures,
    transmittance: Floats,
    gradients: Pictures,
    g_means2d: Floats,
    blocks: Floats,
    absolute: Floats | None,
) -> None:
    """Gradients of what the projection made.

    Args:
        pictures, transmittance: of `blend_view`; alpha and depth are read only if the gradient of the depth is there.
        gradients: of the pictures.
        g_means2d: [N,2] the gradients of the centres are written.
        blocks: [gradient_size(N)] the gradients of the rest are written, see `gather`.
        absolute: [N,2] where sums over pixels of absolute gradients of the centres are added, if wanted.
    """
    rows, lists = len(g_means2d), view.lists
    sums = take(view.slot_count * SLOT, np.float32)
    g_rgb, g_alpha, g_depth, _ = (None if g is None else g.reshape(-1) for g in gradients)
    with_alpha = g_alpha is not None
    given = (
        view.width,
        view.height,
        lists.records,
        lists.entries,
        lists.starts,
        pictures.rgb.reshape(-1),
        transmittance,
    )
    common = (*given, g_rgb, int(with_alpha), g_alpha if with_alpha else transmittance, sums)
    if g_depth is not None:
        assert pictures.alpha is not None
        assert pictures.depth is not None
        launch(blend_backward_full, *common, pictures.alpha.reshape(-1), pictures.depth.reshape(-1), g_depth)
    elif absolute is not None:
        launch(blend_backward_absolute, *common)
    else:
        launch(blend_backward, *common)
    flat = g_means2d.reshape(-1)
    flags = (int(g_depth is not None), int(absolute is not None))
    added = flat if absolute is None else absolute.reshape(-1)
    launch(gather, rows, lists.records, lists.slots, sums, *flags, blocks, flat, added)


def camera_gradients(rows: int) -> Floats:
    """Room for a camera's gradient in sums over pieces of so many Gaussians, one after the other."""
    return np.empty(-(-rows // PIECE) * CAMERA_GRADIENT, np.float32)


def project_view_backward(
    parameters: Parameters, view: View, g_means2d: Floats, blocks: Floats, g_camera: Floats = NOT_WANTED
) -> Parameters:
    """Gradients of the parameters from what `blend_view_backward` gave.

    Args:
        g_camera: of `camera_gradients`, written, where that is wanted.
    """
    gradients = Parameters(*(take(array.shape, np.float32) for array in parameters))
    outputs = [array.reshape(-1) for array in gradients]
    launch(project_gaussians_backward, *_backward_inputs(parameters, view, g_means2d, blocks), *outputs, g_camera)
    return gradients


def project_camera_view_backward(
    parameters: Parameters, view: View, g_means2d: Floats, blocks: Floats, g_camera: Floats
) -> None:
    """The camera's part of `project_view_backward` alone."""
    launch(project_camera_backward, *_backward_inputs(parameters, view, g_means2d, blocks), g_camera)


def _backward_inputs(parameters: Parameters, view: View, g_means2d: Floats, blocks: Floats) -> tuple[Any, ...]:
    """What the kernels that go back through the projection begin with."""
    inputs = [array.reshape(-1) for name, array in parameters._asdict().items() if name != "sh0"]
    sizes = (len(parameters.means), view.sh_degree, parameters.shN.shape[1] + 1)
    return view.camera, *inputs, *sizes, view.lists.seen, blocks, g_means2d.reshape(-1)


def project_view_step(
    parameters: Parameters,
    exp_avgs: Parameters,
    exp_avg_sqs: Parameters,
    view: View,
    g_means2d: Floats,
    blocks: Floats,
    visible: NDArray[np.uint8],
    settings: Sequence[Sequence[float]],
    g_camera: Floats = NOT_WANTED,
) -> list[bool]:
    """`project_view_backward` and `adam_update` of the rows where `visible` [N] is not 0, in one pass.

    Bands of the harmonics that the view did not use are left alone, as if their moments were zero.

    Args:
        exp_avgs, exp_avg_sqs: the moments, with the parameters' shapes.
        settings: of each parameter; see `adam.settings_of`.
        g_camera: see `project_view_backward`.
    Returns:
        for each parameter whether its gradient was finite in all those rows.
    """
    arrays = [tuple(array.reshape(-1) for array in group) for group in (parameters, exp_avgs, exp_avg_sqs)]
    finite = np.ones(len(parameters), np.uint8)
    launch(
        project_gaussians_step,
        *(view.camera, *arrays, len(parameters.means)),
        *(view.sh_degree, parameters.shN.shape[1] + 1, view.lists.seen, blocks, g_means2d.reshape(-1)),
        *(visible, np.array(settings, np.float32).reshape(-1), finite, g_camera),
    )
    return [bool(flag) for flag in finite]
