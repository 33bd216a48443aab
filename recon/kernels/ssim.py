"""The photometric loss (L1 and structural dissimilarity) and its gradient in one pass over the pictures.

With G the Gaussian window, x the render and y the photo, SSIM at a pixel is a function of G*x, G*y, G*(x^2 + y^2) and
G*(xy) there (only the sum of the two variances enters). The gradient of the mean SSIM is, by the chain rule and
because G is symmetric, G*d1 + 2 x G*d2 + y G*d3, where d1, d2 and d3 are the maps of the derivatives of SSIM by G*x,
G*(x^2 + y^2) and G*(xy): seven blurs in all, each of columns first and of rows second.

A piece of work is a tile of one colour plane. It is walked from top to bottom, BAND rows at a time, and all that a
tile keeps on the way is a few rows, which stay in the processor's cache:

    rows of x and y -> blurred -> rows of SSIM and d1, d2, d3 -> blurred -> rows of the gradient

The derivatives lag RADIUS rows behind the pictures, the gradient RADIUS rows behind those. Derivatives up to RADIUS
outside a tile are computed again by its neighbour. Sums are kept for each row of a tile, and the height of tiles, which
depends on the number of threads, does not change any number: the result is the same, bit for bit, for any of them.

Where the picture was exposed (`expose.py`), the way back through that is one factor more at each pixel of the gradient.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from recon.kernels.buffers import take
from recon.kernels.expose import Shot, factor_of, pack, squared_radius
from recon.kernels.lanes import atomic_add, load_first, store_first, sum_lanes
from recon.kernels.runtime import get_threads, kernel, launch
from recon.kernels.simd import LANES, absolute, broadcast, inline, lane_index, load, put, select, store

C1 = 0.01**2
C2 = 0.03**2
RADIUS = 5
WINDOW = np.exp(-(np.arange(-RADIUS, RADIUS + 1) ** 2) / (2 * 1.5**2))
WINDOW /= WINDOW.sum()

_G0, _G1, _G2, _G3, _G4, _G5 = (np.float32(weight) for weight in WINDOW[: RADIUS + 1])
_C1, _C2 = np.float32(C1), np.float32(C2)
_ZERO, _ONE, _TWO = np.float32(0), np.float32(1), np.float32(2)

BAND = 8  # rows per turn; even, since columns are blurred for two rows at a time
MAX_TILE = 512  # columns; a wider tile's rows would fall out of the cache
MIN_STRIP = 30  # rows of a tile; the shorter, the larger the share of what neighbours compute twice

# Derivatives begin this far above a tile. It is even, as the height of a tile is: a row is then always the upper or
# always the lower one of two, whose sums the compiler may round differently.
LEAD = RADIUS + RADIUS % 2

# Columns of a tile's rows in the scratch memory: MARGIN of derivatives and as many again of pictures at each side, in
# whole vectors. An odd number of vectors, or else rows would compete for the same places of the cache.
MARGIN = -(-RADIUS // LANES) * LANES
STRIDE = MAX_TILE + 4 * MARGIN
STRIDE += LANES * (1 - STRIDE // LANES % 2)

# Scratch memory of a thread: rows of the pictures and of the derivatives, BAND new ones below 2 RADIUS old ones, then
# two rows of each of the four quantities blurred along columns.
_ROWS = (2 * RADIUS + BAND) * STRIDE
_X, _Y, _KEPT, _D1, _D2, _D3, _BLURRED = range(0, 7 * _ROWS, _ROWS)
SCRATCH = _BLURRED + 8 * STRIDE


def photometric_value_and_gradient(
    rgb: NDArray[np.float32],
    target: NDArray[np.float32],
    ssim_weight: float,
    kept: NDArray[np.float32] | None = None,
    shot: Shot | None = None,
) -> tuple[float, NDArray[np.float32]]:
    """(1 - w) L1 + w (1 - SSIM) and its gradient by `rgb`; see `recon.losses.photometric`.

    Args:
        rgb, target: [C,3,H,W], contiguous.
        ssim_weight: w.
        kept: [C,H,W], contiguous; 0 where a pixel is not used.
        shot: lens and coefficients of `expose`, with which `rgb` was exposed: then the gradient is that by the picture
            before. Only for one camera.

    Returns:
        The value and its gradient [C,3,H,W].
    """
    cameras, channels, height, width = rgb.shape
    planes, count = cameras * channels, rgb.size
    if kept is not None:
        count = channels * int(np.count_nonzero(kept))
    gradient = take(rgb.shape, np.float32)
    if count == 0:
        gradient.fill(0)
        return 0.0, gradient
    tiles = -(-width // MAX_TILE)
    tile_width = -(-width // (tiles * LANES)) * LANES
    strip_height = _strip_height(height, planes * tiles)
    sums = np.zeros((planes * tiles * height, 2))
    launch(
        _photometric,
        *(rgb.reshape(-1), target.reshape(-1)),
        np.empty(0, np.float32) if kept is None else kept.reshape(-1),
        *(planes, height, width, tile_width, strip_height),
        *(np.float32((1 - ssim_weight) / count), np.float32(-2 * ssim_weight / count)),
        np.empty(0, np.float32) if shot is None else pack(*shot),
        *(gradient.reshape(-1), sums.reshape(-1), take(get_threads() * SCRATCH, np.float32)),
    )
    similarity, difference = (np.add.reduce(sums, axis=0) / count).tolist()
    return (1 - ssim_weight) * difference + ssim_weight * (1 - similarity), gradient


def _strip_height(height: int, columns_of_tiles: int) -> int:
    """Rows of a tile: enough tiles to share out evenly, and no more. Whole bands, the rows computed twice included."""
    strips = -(-3 * get_threads() // columns_of_tiles) if get_threads() > 1 else 1
    wanted = max(-(-height // strips), MIN_STRIP) + 2 * LEAD
    return -(-wanted // BAND) * BAND - 2 * LEAD


class _Tile(NamedTuple):
    """A piece of work: rows top..bottom and columns left..right of a plane, in images of a height and width."""

    plane: int
    top: int
    bottom: int
    left: int
    right: int
    height: int
    width: int
    sums: int  # index of the sums of row 0


@kernel("f4[::1], f4[::1], f4[::1], i8, i8, i8, i8, i8, f4, f4, f4[::1], f4[::1], f8[::1], f4[::1]")
def _photometric(
    rgb: Any,
    target: Any,
    kept: Any,  # [C,H,W], or empty: every pixel
    planes: int,
    height: int,
    width: int,
    tile_width: int,
    strip_height: int,
    l1_scale: float,
    ssim_scale: float,
    exposure: Any,  # of `pack`, or empty: the picture is as it was rendered
    gradient: Any,
    sums: Any,  # [planes,tiles,H,2] of SSIM and of absolute differences, in a row of a tile
    scratch: Any,
    counter: Any,
    thread: int,
) -> None:
    tiles = (width + tile_width - 1) // tile_width
    strips = (height + strip_height - 1) // strip_height
    rows = scratch[thread * SCRATCH : (thread + 1) * SCRATCH]
    while True:
        piece = atomic_add(counter, 0, 1)
        if piece >= planes * strips * tiles:
            break
        column, strip, plane = piece % tiles, piece // tiles % strips, piece // (tiles * strips)
        left, top = column * tile_width, strip * strip_height
        bottom, right = min(height, top + strip_height), min(width, left + tile_width)
        tile = _Tile(plane, top, bottom, left, right, height, width, 2 * (plane * tiles + column) * height)

        for at in range(_D1, SCRATCH, LANES):
            store(rows, at, _ZERO)
        first = max(0, top - LEAD)
        for slot in range(2 * RADIUS):
            _load_row(tile, rgb, target, kept, first - RADIUS + slot, rows, slot * STRIDE)
        for row in range(first, bottom + RADIUS, BAND):
            for slot in range(2 * RADIUS, 2 * RADIUS + BAND):
                _load_row(tile, rgb, target, kept, row - RADIUS + slot, rows, slot * STRIDE)
            _similarity_band(tile, row, rows, sums)
            _gradient_band(tile, row - RADIUS, rows, l1_scale, ssim_scale, exposure, gradient, sums)
            _scroll(tile, rows)


@inline
def _load_row(tile: _Tile, rgb: Any, target: Any, kept: Any, row: int, rows: Any, at: int) -> None:
    """A row of both pictures with its margins: black where masked out and beyond the image."""
    image = (tile.plane * tile.height + row) * tile.width
    mask = (tile.plane // 3 * tile.height + row) * tile.width
    at += 2 * MARGIN - tile.left
    for column in range(tile.left - 2 * MARGIN, tile.right + 2 * MARGIN, LANES):
        x, y, inside = broadcast(_ZERO), broadcast(_ZERO), broadcast(_ZERO)
        if 0 <= row < tile.height and 0 <= column < tile.width:
            count = tile.width - column
            x, y = load_first(rgb, image + column, count), load_first(target, image + column, count)
            inside = select(lane_index() < np.float32(count), _ONE, _ZERO)
            if kept.size > 0:
                inside = load_first(kept, mask + column, count)
                x, y = select(inside != _ZERO, x, _ZERO), select(inside != _ZERO, y, _ZERO)
        store(rows, _X + at + column, x)
        store(rows, _Y + at + column, y)
        store(rows, _KEPT + at + column, inside)


@inline
def _similarity_band(tile: _Tile, row: int, rows: Any, sums: Any) -> None:
    """SSIM and its derivatives for BAND rows from `row` on; the derivatives go below the 2 RADIUS rows there are."""
    origin = 2 * MARGIN - tile.left
    begin, end = max(0, tile.left - MARGIN), min(tile.width, tile.right + MARGIN)
    for step in range(0, BAND, 2):
        for column in range(max(0, begin - MARGIN), min(tile.width, end + MARGIN), LANES):
            at, blurred = origin + column + step * STRIDE, origin + column + _BLURRED
            x, y = _column(rows, at + _X), _column(rows, at + _Y)
            _store_blurred(rows, blurred, x)
            _store_blurred(rows, blurred + STRIDE, y)
            _store_blurred(rows, blurred + 2 * STRIDE, _sums(_products(x, x), _products(y, y)))
            _store_blurred(rows, blurred + 3 * STRIDE, _products(x, y))
        for half in range(2):
            total = broadcast(_ZERO)
            for column in range(begin, end, LANES):
                at = origin + column + (step + half) * STRIDE
                blurred = origin + column + _BLURRED + 4 * half * STRIDE
                ssim, d1, d2, d3 = _similarity(
                    _blur_along_row(rows, blurred),
                    _blur_along_row(rows, blurred + STRIDE),
                    _blur_along_row(rows, blurred + 2 * STRIDE),
                    _blur_along_row(rows, blurred + 3 * STRIDE),
                )
                used = load(rows, at + _KEPT + RADIUS * STRIDE) != _ZERO
                store(rows, at + _D1 + 2 * RADIUS * STRIDE, select(used, d1, _ZERO))
                store(rows, at + _D2 + 2 * RADIUS * STRIDE, select(used, d2, _ZERO))
                store(rows, at + _D3 + 2 * RADIUS * STRIDE, select(used, d3, _ZERO))
                if tile.left <= column < tile.right:
                    total = total + select(used, ssim, _ZERO)
            this = row + step + half
            if tile.top <= this < tile.bottom:
                put(sums, tile.sums + 2 * this, np.float64(sum_lanes(total)))


@inline
def _gradient_band(
    tile: _Tile, row: int, rows: Any, l1_scale: float, ssim_scale: float, exposure: Any, gradient: Any, sums: Any
) -> None:
    """The gradient of BAND rows from `row` on, whose derivatives are complete, and the sums of their differences."""
    origin = 2 * MARGIN - tile.left
    for step in range(0, BAND, 2):
        if row + step + 1 < tile.top or row + step >= tile.bottom:
            continue
        for column in range(max(0, tile.left - MARGIN), min(tile.width, tile.right + MARGIN), LANES):
            at, blurred = origin + column + step * STRIDE, origin + column + _BLURRED
            _store_blurred(rows, blurred, _column(rows, at + _D1))
            _store_blurred(rows, blurred + STRIDE, _column(rows, at + _D2))
            _store_blurred(rows, blurred + 2 * STRIDE, _column(rows, at + _D3))
        for half in range(2):
            this = row + step + half
            if this < tile.top or this >= tile.bottom:
                continue
            total = broadcast(_ZERO)
            for column in range(tile.left, tile.right, LANES):
                at = origin + column + (step + half) * STRIDE
                blurred = origin + column + _BLURRED + 4 * half * STRIDE
                x, y = load(rows, at + _X), load(rows, at + _Y)
                difference = x - y
                sign = select(difference > _ZERO, l1_scale, select(difference < _ZERO, -l1_scale, _ZERO))
                by_ssim = _blur_along_row(rows, blurred) + x * _blur_along_row(rows, blurred + STRIDE)
                by_ssim = by_ssim + y * _blur_along_row(rows, blurred + 2 * STRIDE)
                result = select(load(rows, at + _KEPT) != _ZERO, ssim_scale * by_ssim + sign, _ZERO)
                if exposure.size > 0:
                    result = result * factor_of(exposure, tile.plane, squared_radius(exposure, this, column))
                pixel = (tile.plane * tile.height + this) * tile.width + column
                store_first(gradient, pixel, result, tile.width - column)
                total = total + absolute(difference)
            put(sums, tile.sums + 2 * this + 1, np.float64(sum_lanes(total)))


@inline
def _scroll(tile: _Tile, rows: Any) -> None:
    """The last 2 RADIUS rows of all kinds become the first ones."""
    for kind in range(_X, _BLURRED, _ROWS):
        for start in range(kind, kind + 2 * RADIUS * STRIDE, STRIDE):
            for at in range(start, start + tile.right - tile.left + 4 * MARGIN, LANES):
                store(rows, at, load(rows, at + BAND * STRIDE))


@inline
def _similarity(mean_x: Any, mean_y: Any, squares: Any, product: Any) -> Any:
    """(SSIM, d1 / 2, d2, d3 / 2) from G*x, G*y, G*(x^2 + y^2) and G*(xy)."""
    product_of_means = mean_x * mean_y
    squares_of_means = mean_x * mean_x + mean_y * mean_y
    a1 = _TWO * product_of_means + _C1
    a2 = _TWO * (product - product_of_means) + _C2
    b1 = squares_of_means + _C1
    b2 = squares - squares_of_means + _C2
    inverse = _ONE / (b1 * b2)
    ssim = a1 * a2 * inverse
    d1 = (mean_y * (a2 - a1) - mean_x * ssim * (b2 - b1)) * inverse
    return ssim, d1, -ssim * b1 * inverse, a1 * inverse


# ------------------------------------------------------------------------------------------ blurring


@inline
def _blur(a: Any) -> Any:
    """The window applied to 11 vectors."""
    near = _G5 * a[5] + _G4 * (a[4] + a[6]) + _G3 * (a[3] + a[7])
    return near + _G2 * (a[2] + a[8]) + _G1 * (a[1] + a[9]) + _G0 * (a[0] + a[10])


@inline
def _blur_along_row(rows: Any, at: int) -> Any:
    before = (load(rows, at - 5), load(rows, at - 4), load(rows, at - 3), load(rows, at - 2), load(rows, at - 1))
    after = (load(rows, at + 1), load(rows, at + 2), load(rows, at + 3), load(rows, at + 4), load(rows, at + 5))
    return _blur((*before, load(rows, at), *after))


@inline
def _column(rows: Any, at: int) -> Any:
    """Vectors of the 12 rows that two rows' windows cover together."""
    return (
        _three(rows, at) + _three(rows, at + 3 * STRIDE) + _three(rows, at + 6 * STRIDE) + _three(rows, at + 9 * STRIDE)
    )


@inline
def _three(rows: Any, at: int) -> Any:
    return load(rows, at), load(rows, at + STRIDE), load(rows, at + 2 * STRIDE)


@inline
def _products(a: Any, b: Any) -> Any:
    first = (a[0] * b[0], a[1] * b[1], a[2] * b[2], a[3] * b[3], a[4] * b[4], a[5] * b[5])
    return (*first, a[6] * b[6], a[7] * b[7], a[8] * b[8], a[9] * b[9], a[10] * b[10], a[11] * b[11])


@inline
def _sums(a: Any, b: Any) -> Any:
    first = (a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3], a[4] + b[4], a[5] + b[5])
    return (*first, a[6] + b[6], a[7] + b[7], a[8] + b[8], a[9] + b[9], a[10] + b[10], a[11] + b[11])


@inline
def _store_blurred(rows: Any, at: int, column: Any) -> None:
    """The upper of the two rows goes to `at`, the lower one four rows further."""
    store(rows, at, _blur(column[:11]))
    store(rows, at + 4 * STRIDE, _blur(column[1:]))
