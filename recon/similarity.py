"""Structural similarity as it is reported: every pixel counts, and pictures are mirrored at their borders.

The training loss (`losses.ssim_map`) pads with black instead, as 3DGS does.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from recon.kernels.ssim import C1, C2, RADIUS, WINDOW

ROWS = 64  # of a strip: what is computed on the way stays in the processor's cache
BLOCK = 32  # columns that one matrix product blurs


def ssim_strips(x: Tensor, y: Tensor) -> Iterator[Tensor]:
    """SSIM around every pixel of two pictures [C,H,W], from top to bottom: [C,rows,W] at a time (Wang et al. 2004).

    The window is a Gaussian of 11x11 pixels and deviation 1.5. The border pixel is not repeated when mirroring, so
    pictures have at least `RADIUS` + 1 pixels each way. Values are expected in 0..1.
    """
    channels, height, width = x.shape
    both = torch.nn.functional.pad(torch.cat([x, y]), (RADIUS,) * 4, mode="reflect")
    both = torch.nn.functional.pad(both, (0, -width % BLOCK))
    along_rows = _blur_matrix(BLOCK, both)
    for top in range(0, height, ROWS):
        rows = min(ROWS, height - top)
        strip = both[:, top : top + rows + 2 * RADIUS]
        a, b = strip[:channels], strip[channels:]
        blurred = _blur_matrix(rows, both).T @ torch.cat([strip, a * a + b * b, a * b])
        blurred = (blurred.unfold(-1, BLOCK + 2 * RADIUS, BLOCK) @ along_rows).flatten(-2)[..., :width]
        mean_x, mean_y, squares, products = blurred.split(channels)
        mean_squares, mean_product = mean_x * mean_x + mean_y * mean_y, mean_x * mean_y
        luminance = (2 * mean_product + C1) / (mean_squares + C1)
        yield luminance * (2 * (products - mean_product) + C2) / (squares - mean_squares + C2)


def _blur_matrix(count: int, like: Tensor) -> Tensor:
    """[count + 2 RADIUS, count]: a row of so many pixels times this is the blurred row without its margins.

    As products of matrices the two blurs take a third of the time of torch's convolutions on a CPU.
    """
    matrix = like.new_zeros(count + 2 * RADIUS, count)
    for offset, weight in enumerate(WINDOW):
        matrix.diagonal(-offset).fill_(float(weight))
    return matrix
