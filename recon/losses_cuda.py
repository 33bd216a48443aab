"""The photometric loss and its gradient on an NVIDIA GPU, in four Triton kernels.

The maths is that of `kernels/ssim.py`: four maps blurred (G*x, G*y, G*(x^2 + y^2), G*(xy)), SSIM and its three
derivatives at every pixel, and these blurred again. Each blur is along rows first and along columns second. Beyond the
borders everything is 0.

Pictures lie in memory as gsplat makes them, [C,H,W,3] contiguous. To the kernels that is C*H lines of 3*W numbers, with
the neighbours of a number 3 places away, or a line.
"""

# mypy: disallow-untyped-defs=False
# (Triton reads the annotations of kernels, and knows no others than its own.)
from __future__ import annotations

import functools
import logging
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from recon.kernels.ssim import C1, C2, RADIUS, WINDOW

log = logging.getLogger(__name__)

CHANNELS = 3
ALONG_ROWS = 1024  # numbers of a line that a program of the first and the third kernel blurs
TILE = (16, 32)  # lines and numbers of them, of the second and the fourth


def photometric(rgb: Tensor, target: Tensor, ssim_weight: float) -> Tensor:
    """`losses.photometric` without a mask, of float32 on one GPU; differentiable in `rgb`."""
    return _Photometric.apply(rgb, target, ssim_weight)


@functools.cache
def usable() -> bool:
    """Whether the kernels can be compiled here, which takes a C compiler; said once if not."""
    picture = torch.zeros(1, 1, 1, CHANNELS, device="cuda")
    try:
        _value_and_gradient(picture, picture, 0.2)
    except Exception as error:  # Triton and the compilers that it calls fail in every way
        log.warning(
            "Triton cannot be used (%s): what it is for is done in PyTorch or on the CPU, which is slower", error
        )
        return False
    return True


class _Photometric(torch.autograd.Function):
    """Forward computes value and gradient in one go, backward only scales the gradient."""

    @staticmethod
    def forward(ctx: Any, rgb: Tensor, target: Tensor, ssim_weight: float) -> Tensor:
        value, gradient = _value_and_gradient(rgb.contiguous(), target.contiguous(), ssim_weight)
        ctx.save_for_backward(gradient)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * scale, None, None


def _value_and_gradient(x: Tensor, y: Tensor, ssim_weight: float) -> tuple[Tensor, Tensor]:
    """The loss (a scalar) of pictures [C,H,W,3] and its gradient by `x`."""
    count, height, width, _ = x.shape
    lines, length, total = count * height, CHANNELS * width, x.numel()
    of_l1, of_ssim = (1 - ssim_weight) / total, ssim_weight / total
    rows = (lines, triton.cdiv(length, ALONG_ROWS))
    tiles = (count * triton.cdiv(height, TILE[0]), triton.cdiv(length, TILE[1]))
    window = _window(x.device)
    blurred, derivatives, along_rows = x.new_empty(4, total), x.new_empty(3, total), x.new_empty(3, total)
    sums, gradient = x.new_empty(2, tiles[0] * tiles[1]), torch.empty_like(x)
    with torch.cuda.device_of(x):
        _pictures_along_rows[rows](x, y, window, blurred, total, length, CHANNELS, RADIUS, ALONG_ROWS)
        _compare[tiles](*(blurred, window, derivatives, sums[0], total, height, length, of_ssim, C1, C2, RADIUS, *TILE))
        _derivatives_along_rows[rows](derivatives, window, along_rows, total, length, CHANNELS, RADIUS, ALONG_ROWS)
        _finish[tiles](
            *(x, y, along_rows, window, gradient, sums[1], total, height, length, of_l1, of_ssim, RADIUS, *TILE)
        )
    return sums.sum() + ssim_weight, gradient


@functools.cache
def _window(device: torch.device) -> Tensor:
    return torch.as_tensor(WINDOW).to(device, torch.float32)


SIZES = ["total", "height", "length"]  # a kernel is compiled once, not for sizes of each kind


@triton.jit(do_not_specialize=SIZES)
def _pictures_along_rows(
    x, y, window, blurred, total, length, STEP: tl.constexpr, RADIUS: tl.constexpr, BLOCK: tl.constexpr
):
    """G*x, G*y, G*(x^2 + y^2), G*(xy) along rows: [4,total] of two pictures."""
    line = tl.program_id(0).to(tl.int64) * length
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mean_x = tl.zeros([BLOCK], tl.float32)
    mean_y = tl.zeros([BLOCK], tl.float32)
    squares = tl.zeros([BLOCK], tl.float32)
    products = tl.zeros([BLOCK], tl.float32)
    for k in tl.static_range(2 * RADIUS + 1):
        at = column + (k - RADIUS) * STEP
        inside = (at >= 0) & (at < length)
        a = tl.load(x + line + at, mask=inside, other=0.0)
        b = tl.load(y + line + at, mask=inside, other=0.0)
        weight = tl.load(window + k)
        mean_x += weight * a
        mean_y += weight * b
        squares += weight * (a * a + b * b)
        products += weight * (a * b)
    out = blurred + line + column
    stored = column < length
    wide = total.to(tl.int64)
    tl.store(out, mean_x, mask=stored)
    tl.store(out + wide, mean_y, mask=stored)
    tl.store(out + 2 * wide, squares, mask=stored)
    tl.store(out + 3 * wide, products, mask=stored)


@triton.jit(do_not_specialize=SIZES)
def _derivatives_along_rows(
    derivatives, window, blurred, total, length, STEP: tl.constexpr, RADIUS: tl.constexpr, BLOCK: tl.constexpr
):
    """Three maps blurred along rows: [3,total] to [3,total]."""
    line = tl.program_id(0).to(tl.int64) * length
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    wide = total.to(tl.int64)
    first = tl.zeros([BLOCK], tl.float32)
    second = tl.zeros([BLOCK], tl.float32)
    third = tl.zeros([BLOCK], tl.float32)
    for k in tl.static_range(2 * RADIUS + 1):
        at = column + (k - RADIUS) * STEP
        inside = (at >= 0) & (at < length)
        weight = tl.load(window + k)
        source = derivatives + line + at
        first += weight * tl.load(source, mask=inside, other=0.0)
        second += weight * tl.load(source + wide, mask=inside, other=0.0)
        third += weight * tl.load(source + 2 * wide, mask=inside, other=0.0)
    out = blurred + line + column
    stored = column < length
    tl.store(out, first, mask=stored)
    tl.store(out + wide, second, mask=stored)
    tl.store(out + 2 * wide, third, mask=stored)


@triton.jit
def _tile(height, length, LINES: tl.constexpr, BLOCK: tl.constexpr):
    """Where a program's tile is: its picture's first number, its lines [LINES,1] and its columns [1,BLOCK]."""
    tiles = tl.cdiv(height, LINES)
    picture = tl.program_id(0) // tiles
    row = (tl.program_id(0) % tiles) * LINES + tl.arange(0, LINES)[:, None]
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[None, :]
    return picture.to(tl.int64) * height * length, row, column


@triton.jit(do_not_specialize=SIZES)
def _compare(
    blurred,
    window,
    derivatives,
    sums,
    total,
    height,
    length,
    of_ssim,
    C1: tl.constexpr,
    C2: tl.constexpr,
    RADIUS: tl.constexpr,
    LINES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The second half of the blur, then SSIM's share of the loss, summed in each tile, and its derivatives by G*x,
    G*(x^2 + y^2) and G*(xy): [3,total]."""
    start, row, column = _tile(height, length, LINES, BLOCK)
    wide = total.to(tl.int64)
    mean_x = tl.zeros([LINES, BLOCK], tl.float32)
    mean_y = tl.zeros([LINES, BLOCK], tl.float32)
    squares = tl.zeros([LINES, BLOCK], tl.float32)
    products = tl.zeros([LINES, BLOCK], tl.float32)
    for k in tl.static_range(2 * RADIUS + 1):
        at = row + (k - RADIUS)
        inside = (at >= 0) & (at < height) & (column < length)
        source = blurred + start + at * length + column
        weight = tl.load(window + k)
        mean_x += weight * tl.load(source, mask=inside, other=0.0)
        mean_y += weight * tl.load(source + wide, mask=inside, other=0.0)
        squares += weight * tl.load(source + 2 * wide, mask=inside, other=0.0)
        products += weight * tl.load(source + 3 * wide, mask=inside, other=0.0)
    means = mean_x * mean_x + mean_y * mean_y
    both = mean_x * mean_y
    luminance = (2 * both + C1) / (means + C1)
    variances = squares - means + C2
    structure = (2 * (products - both) + C2) / variances
    by_squares = -luminance * structure / variances
    by_products = 2 * luminance / variances
    by_mean = structure * 2 * (mean_y - mean_x * luminance) / (means + C1)
    by_mean -= 2 * mean_x * by_squares + mean_y * by_products
    stored = (row < height) & (column < length)
    out = derivatives + start + row * length + column
    tl.store(out, by_mean, mask=stored)
    tl.store(out + wide, by_squares, mask=stored)
    tl.store(out + 2 * wide, by_products, mask=stored)
    part = -of_ssim * tl.sum(tl.where(stored, luminance * structure, 0.0))
    tl.store(sums + tl.program_id(0) * tl.num_programs(1) + tl.program_id(1), part)


@triton.jit(do_not_specialize=SIZES)
def _finish(
    x,
    y,
    blurred,
    window,
    gradient,
    sums,
    total,
    height,
    length,
    of_l1,
    of_ssim,
    RADIUS: tl.constexpr,
    LINES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The second half of the blur of the derivatives, the gradient, and the share of L1, summed in each tile."""
    start, row, column = _tile(height, length, LINES, BLOCK)
    wide = total.to(tl.int64)
    by_mean = tl.zeros([LINES, BLOCK], tl.float32)
    by_squares = tl.zeros([LINES, BLOCK], tl.float32)
    by_products = tl.zeros([LINES, BLOCK], tl.float32)
    for k in tl.static_range(2 * RADIUS + 1):
        at = row + (k - RADIUS)
        inside = (at >= 0) & (at < height) & (column < length)
        source = blurred + start + at * length + column
        weight = tl.load(window + k)
        by_mean += weight * tl.load(source, mask=inside, other=0.0)
        by_squares += weight * tl.load(source + wide, mask=inside, other=0.0)
        by_products += weight * tl.load(source + 2 * wide, mask=inside, other=0.0)
    stored = (row < height) & (column < length)
    place = start + row * length + column
    a = tl.load(x + place, mask=stored, other=0.0)
    b = tl.load(y + place, mask=stored, other=0.0)
    difference = a - b
    sign = tl.where(difference > 0, 1.0, tl.where(difference < 0, -1.0, 0.0))
    slope = of_l1 * sign - of_ssim * (by_mean + 2 * a * by_squares + b * by_products)
    tl.store(gradient + place, slope, mask=stored)
    part = of_l1 * tl.sum(tl.abs(difference))
    tl.store(sums + tl.program_id(0) * tl.num_programs(1) + tl.program_id(1), part)
