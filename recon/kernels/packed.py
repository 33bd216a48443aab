"""What rays show of samples that lie packed, one ray after the other, and the gradient of that.

The same as `recon.volume` computes of rays that all have as many samples. A ray is one piece of work.

Shape letters: R rays, N samples of all rays.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recon.kernels.buffers import take
from recon.kernels.lanes import atomic_add
from recon.kernels.runtime import kernel, launch
from recon.kernels.simd import get, put

Floats = NDArray[np.float32]

OUT = 6  # colour (3), opacity, sum of weight times distance, distortion
RAYS = 64  # that a thread takes at a time


def composite(
    starts: NDArray[np.int64], depths: Floats, colours: Floats, distances: Floats, middles: Floats, length: float
) -> tuple[Floats, Floats]:
    """What rays show [R,OUT], and the weights [N] of their samples.

    Args:
        starts: [R+1] the first sample of each ray, and N.
        depths: [N] density times the length it is seen through.
        colours: [N,3], or [0,3]: only the weights, the opacity and the distance are asked for.
        distances, middles: [N] of which the mean is told, and of which the distortion is.
        length: of all samples, in the coordinate of the middles.
    """
    count = len(starts) - 1
    out, weights = np.empty((count, OUT), np.float32), take(len(depths), np.float32)
    launch(
        *(_composite, starts, depths, colours.reshape(-1), distances, middles, length, out.reshape(-1), weights),
        threads=-(-count // RAYS),
    )
    return out, weights


def composite_back(
    starts: NDArray[np.int64],
    depths: Floats,
    colours: Floats,
    distances: Floats,
    middles: Floats,
    length: float,
    gradient: Floats,
) -> tuple[Floats, Floats]:
    """The gradients of depths [N] and colours [N,3], given that of what rays show [R,OUT]."""
    count = len(starts) - 1
    of_depths, of_colours = take(len(depths), np.float32), take((len(depths), 3), np.float32)
    launch(
        *(_composite_back, starts, depths, colours.reshape(-1), distances, middles, length, gradient.reshape(-1)),
        *(of_depths, of_colours.reshape(-1)),
        threads=-(-count // RAYS),
    )
    return of_depths, of_colours


@kernel("i8[::1], f4[::1], f4[::1], f4[::1], f4[::1], f8, f4[::1], f4[::1]")
def _composite(
    starts: Any,
    depths: Any,
    colours: Any,
    distances: Any,
    middles: Any,
    length: float,
    out: Any,
    weights: Any,
    counter: Any,
    thread: int,
) -> None:
    total, coloured = starts.size - 1, colours.size > 0
    while True:
        first = atomic_add(counter, 0, 1) * RAYS
        if first >= total:
            break
        for ray in range(first, min(first + RAYS, total)):
            light, distance, spread, moment = 1.0, 0.0, 0.0, 0.0
            red, green, blue = 0.0, 0.0, 0.0
            for at in range(starts[ray], starts[ray + 1]):
                weight = -light * math.expm1(-float(get(depths, at)))
                middle, before = float(get(middles, at)), 1 - light
                spread += 2 * weight * (middle * before - moment) + weight * weight * length / 3
                moment += weight * middle
                light -= weight
                distance += weight * get(distances, at)
                if coloured:
                    red += weight * get(colours, 3 * at)
                    green += weight * get(colours, 3 * at + 1)
                    blue += weight * get(colours, 3 * at + 2)
                put(weights, at, np.float32(weight))
            o = OUT * ray
            out[o], out[o + 1], out[o + 2], out[o + 3], out[o + 4] = red, green, blue, 1 - light, distance
            out[o + 5] = spread


@kernel("i8[::1], f4[::1], f4[::1], f4[::1], f4[::1], f8, f4[::1], f4[::1], f4[::1]")
def _composite_back(
    starts: Any,
    depths: Any,
    colours: Any,
    distances: Any,
    middles: Any,
    length: float,
    gradient: Any,
    of_depths: Any,
    of_colours: Any,
    counter: Any,
    thread: int,
) -> None:
    total = starts.size - 1
    while True:
        first = atomic_add(counter, 0, 1) * RAYS
        if first >= total:
            break
        for ray in range(first, min(first + RAYS, total)):
            g = OUT * ray
            g_red, g_green, g_blue = float(gradient[g]), float(gradient[g + 1]), float(gradient[g + 2])
            g_alpha, g_distance, g_spread = float(gradient[g + 3]), float(gradient[g + 4]), float(gradient[g + 5])
            optical, moments = 0.0, 0.0
            for at in range(starts[ray], starts[ray + 1]):
                weight = -math.exp(-optical) * math.expm1(-float(get(depths, at)))
                optical += get(depths, at)
                moments += weight * get(middles, at)
                put(of_depths, at, np.float32(weight))  # to be read on the way back
            # From the back: the sums over what is behind, of weights, moments, and weights times their gradients.
            light = math.exp(-optical)
            seen = 1 - light
            behind, moment_behind, pull = 0.0, 0.0, 0.0
            for back in range(starts[ray + 1] - starts[ray]):
                at = starts[ray + 1] - 1 - back
                weight, middle = float(get(of_depths, at)), float(get(middles, at))
                before, moment_before = seen - behind - weight, moments - moment_behind - weight * middle
                apart = 2 * (middle * (before - behind) - moment_before + moment_behind) + 2 * weight * length / 3
                here = g_red * get(colours, 3 * at) + g_green * get(colours, 3 * at + 1)
                here += g_blue * get(colours, 3 * at + 2)
                here += g_alpha + g_distance * get(distances, at) + g_spread * apart
                put(of_depths, at, np.float32((light + behind) * here - pull))
                put(of_colours, 3 * at, np.float32(weight * g_red))
                put(of_colours, 3 * at + 1, np.float32(weight * g_green))
                put(of_colours, 3 * at + 2, np.float32(weight * g_blue))
                behind += weight
                moment_behind += weight * middle
                pull += weight * here
