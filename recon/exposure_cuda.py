"""A picture as a camera exposes it, and what that tells of the exposure, on an NVIDIA GPU: one Triton kernel each way.

The maths is that of `kernels/expose.py`. Pictures are [1,H,W,3] contiguous, as gsplat makes them.
"""

# mypy: disallow-untyped-defs=False
# (Triton reads the annotations of kernels, and knows no others than its own.)
from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from recon.exposure import Lens
from recon.kernels.expose import COEFFICIENTS, EVERY, PRODUCTS, ROBUST, SATURATED, SQUARES, SUMS

CHANNELS = 3
PIXELS = 512  # of a program


def expose(rgb: Tensor, target: Tensor, coefficients: Tensor, lens: Lens) -> tuple[Tensor, Tensor]:
    """The picture as exposed, differentiable in `rgb`, and `exposure.Shot.sums` of it.

    Args:
        rgb, target: [1,H,W,3] float32 on one GPU.
        coefficients, lens: of `exposure.Shot`.
    """
    exposed, sums = _Expose.apply(rgb.contiguous(), target.contiguous(), coefficients.contiguous(), lens)
    return exposed, sums


class _Expose(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rgb: Tensor, target: Tensor, coefficients: Tensor, lens: Lens) -> tuple[Tensor, Tensor]:
        _, height, width, _ = rgb.shape
        programs = triton.cdiv(height * width, PIXELS)
        exposed, sums = torch.empty_like(rgb), rgb.new_empty(programs, CHANNELS, SUMS)
        with torch.cuda.device_of(rgb):
            _forward[(programs,)](
                *(rgb, target, coefficients, exposed, sums, height * width, width, *_scaled(lens)),
                *(COEFFICIENTS, SQUARES, PRODUCTS, EVERY, ROBUST, SATURATED, CHANNELS, PIXELS),
            )
        sums = sums.sum(dim=0)
        ctx.save_for_backward(coefficients)
        ctx.lens = lens
        ctx.mark_non_differentiable(sums)
        ctx.set_materialize_grads(False)
        return exposed, sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor | None, of_sums: None) -> tuple[Tensor | None, None, None, None]:
        if gradient is None:
            return None, None, None, None
        (coefficients,) = ctx.saved_tensors
        gradient = gradient.contiguous()
        _, height, width, _ = gradient.shape
        result = torch.empty_like(gradient)
        with torch.cuda.device_of(gradient):
            _backward[(triton.cdiv(height * width, PIXELS),)](
                *(gradient, coefficients, result, height * width, width, *_scaled(ctx.lens)),
                *(COEFFICIENTS, CHANNELS, PIXELS),
            )
        return result, None, None, None


def _scaled(lens: Lens) -> Lens:
    """Centre and the factor that makes a squared distance one of r."""
    x, y, radius = lens
    return x, y, 1 / (radius * radius)


SIZES = ["pixels", "width"]  # a kernel is compiled once, not for sizes of each kind


@triton.jit
def _square(at, width, centre_x, centre_y, scale):
    """r^2 of pixels."""
    x = (at % width).to(tl.float32) + 0.5 - centre_x
    y = (at // width).to(tl.float32) + 0.5 - centre_y
    return (x * x + y * y) * scale


@triton.jit
def _factor(coefficients, square, COEFFICIENTS: tl.constexpr):
    """exp(sum_k c_k r^2k)"""
    exponent = tl.zeros_like(square)
    for k in tl.static_range(COEFFICIENTS):
        exponent = exponent * square + tl.load(coefficients + COEFFICIENTS - 1 - k)
    return tl.exp(exponent)


@triton.jit(do_not_specialize=SIZES)
def _forward(
    rgb,
    target,
    coefficients,
    exposed,
    sums,
    pixels,
    width,
    centre_x,
    centre_y,
    scale,
    COEFFICIENTS: tl.constexpr,
    SQUARES: tl.constexpr,
    PRODUCTS: tl.constexpr,
    EVERY: tl.constexpr,
    ROBUST: tl.constexpr,
    SATURATED: tl.constexpr,
    CHANNELS: tl.constexpr,
    PIXELS: tl.constexpr,
):
    at = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    inside = at < pixels
    square = tl.where(inside, _square(at, width, centre_x, centre_y, scale), 0.0)  # beyond, a factor might be infinite
    summed = inside & ((at // width) % EVERY == 0)
    for channel in tl.static_range(CHANNELS):
        where = at * CHANNELS + channel
        picture = tl.load(rgb + where, mask=inside, other=0.0)
        picture *= _factor(coefficients + channel * COEFFICIENTS, square, COEFFICIENTS)
        tl.store(exposed + where, picture, mask=inside)
        photo = tl.load(target + where, mask=inside, other=0.0)
        difference = photo - picture
        weighted = tl.where(summed & (photo < SATURATED), picture / tl.maximum(tl.abs(difference), ROBUST), 0.0)
        squares = weighted * picture
        products = weighted * difference
        out = sums + (tl.program_id(0) * CHANNELS + channel) * (SQUARES + PRODUCTS)
        for k in tl.static_range(SQUARES):
            tl.store(out + k, tl.sum(squares))
            squares *= square
        for k in tl.static_range(PRODUCTS):
            tl.store(out + SQUARES + k, tl.sum(products))
            products *= square


@triton.jit(do_not_specialize=SIZES)
def _backward(
    gradient,
    coefficients,
    result,
    pixels,
    width,
    centre_x,
    centre_y,
    scale,
    COEFFICIENTS: tl.constexpr,
    CHANNELS: tl.constexpr,
    PIXELS: tl.constexpr,
):
    at = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    inside = at < pixels
    square = tl.where(inside, _square(at, width, centre_x, centre_y, scale), 0.0)
    for channel in tl.static_range(CHANNELS):
        where = at * CHANNELS + channel
        slope = tl.load(gradient + where, mask=inside, other=0.0)
        slope *= _factor(coefficients + channel * COEFFICIENTS, square, COEFFICIENTS)
        tl.store(result + where, slope, mask=inside)
