"""The gradient of a camera alone, for a scene that stays as it is: nothing is written for the Gaussians."""

from __future__ import annotations

from typing import Any

from recon.kernels.camera_gradient import CAMERA_SCRATCH, add_to_camera, keep_sums
from recon.kernels.geometry import load_pairs
from recon.kernels.harmonics import COEFFICIENTS, FUNCTIONS, load_rows
from recon.kernels.lanes import any_set, atomic_add, load_flags
from recon.kernels.project_backward import PIECE, block_gradient, clear, load_shape
from recon.kernels.runtime import kernel
from recon.kernels.simd import LANES, stack


@kernel("f4[::1], f4[::1], f4[::1], f4[::1], f4[::1], f4[::1], i8, i8, i8, u1[::1], f4[::1], f4[::1], f4[::1]")
def project_camera_backward(
    camera: Any,
    means: Any,
    quats: Any,
    log_scales: Any,
    logits: Any,
    shN: Any,
    rows: int,
    degree: int,
    stored: int,
    seen_flags: Any,
    gradients: Any,
    g_means2d: Any,
    g_camera: Any,
    counter: Any,
    thread: int,
) -> None:
    """See `project_gaussians_backward`, which makes the same sums among others."""
    used, width = (degree + 1) * (degree + 1), stored * 3 - 3
    functions, slopes, rest = stack(FUNCTIONS), stack(FUNCTIONS), stack(COEFFICIENTS)
    of_camera = stack(CAMERA_SCRATCH)
    while True:
        start = atomic_add(counter, 0, PIECE)
        if start >= rows:
            break
        clear(of_camera, 0, CAMERA_SCRATCH)
        for first in range(start, min(start + PIECE, rows), LANES):
            seen = load_flags(seen_flags, first)
            if any_set(seen):
                shape = load_shape(first, rows, means, quats, log_scales, logits)
                load_rows(shN, first, width, used * 3 - 3, rows, rest)
                g_centre = load_pairs(g_means2d, first, rows)
                g = block_gradient(camera, shape, degree, gradients, first, g_centre, functions, slopes, rest)
                add_to_camera(camera, g, g_centre, seen, of_camera)
        keep_sums(of_camera, g_camera, start // PIECE)
