"""Layouts and constants that the splatting kernels share.

A Gaussian seen by one camera is a record of RECORD floats, one cache line. With the projected covariance
[[a, b], [b, c]] (px^2), det = a c - b^2 and (dx, dy) the offset of a pixel from the centre, the exponent of Kerbl et
al. (2023), eq. 4, is a sum of two squares,

    1/2 d^T cov^-1 d = 1/2 (dx^2 / a + a / det (dy - b / a dx)^2),

which stays exact in float32 for needles, where the expanded form subtracts huge numbers. In powers of two,

    alpha = 2^(log2 opacity - curve dx^2 - u^2),   u = stretch dy - shear dx.
"""

from __future__ import annotations

import math

import numpy as np

from recon.kernels.simd import LANES

# The numbers of `recon.raster`, again: compiled code must not depend on anything outside this folder.
EPS2D = np.float32(0.3)
ALPHA_MAX = np.float32(0.999)
LOG2_ALPHA_MIN = np.float32(-math.log2(255))
TRANSMITTANCE_MIN = np.float32(1e-4)
FOV_MARGIN = 0.3

# The unit of work of the blending kernels is a tile. It is made of cells, each of which is the pixels of one vector:
# narrow ones, since most Gaussians are. Cell number c is in column c // ROWS of the tile, in row c % ROWS. Its pixels
# are in the lanes row by row.
CELL_WIDTH = min(8, LANES)
CELL_HEIGHT = LANES // CELL_WIDTH
COLUMNS, ROWS = 4, 16
CELLS = COLUMNS * ROWS  # as many as an int64 has bits
TILE_WIDTH, TILE_HEIGHT = COLUMNS * CELL_WIDTH, ROWS * CELL_HEIGHT  # px

# Fields of a record
RECORD = 16
X, Y = 0, 1  # centre, px
STRETCH, SHEAR, CURVE = 2, 3, 4  # sqrt(HALF_LOG2E a / det), STRETCH b / a, HALF_LOG2E / a
LOG2_OPACITY = 5
RED, GREEN, BLUE = 6, 7, 8  # before negatives are cut
DEPTH = 9

# Fields of the gradient of a record: of the covariance, of the logarithm of the opacity, of the colour and the depth.
# They are stored by blocks of LANES Gaussians, one field after the other.
GRADIENT = 8
D_A, D_B, D_C, D_LOG_OPACITY, D_RED, D_GREEN, D_BLUE, D_DEPTH = range(GRADIENT)

# What one tile adds to the gradient of one Gaussian: sums over pixels of v, the gradient of the exponent, times powers
# of dx and u; of the weights times the gradients of the channels; and of absolute gradients of the centre.
SLOT = 16
V, V_X, V_XX, V_U, V_XU, V_UU, S_RED, S_GREEN, S_BLUE, S_DEPTH, ABS_X, ABS_Y = range(12)

# A camera is a float32 array: rotation row by row, translation, pinhole, position in the world, range of depths, limits
# of x/z and y/z in the Jacobian, image size; 1 if opacities are to make up for the blur, or else 0.
CAMERA = 28
ROTATION, TRANSLATION = 0, 9
FX, FY, CX, CY = 12, 13, 14, 15
POSITION = 16
NEAR, FAR = 19, 20
X_MIN, X_MAX, Y_MIN, Y_MAX = 21, 22, 23, 24
WIDTH, HEIGHT = 25, 26
ANTIALIASED = 27

# An entry in the list of a tile is two int64: the Gaussian and the slot of its gradient; a bit for each cell that the
# Gaussian touches.
ENTRY = 2
SLOT_BITS = 32
MAX_SLOTS = 1 << SLOT_BITS
MAX_GAUSSIANS = 1 << (63 - SLOT_BITS)
MAX_TILES = 1 << 32

# The work of the projection: Gaussians are taken in chunks, and the order inside and between chunks is the order of the
# parameters, whatever thread takes them. A multiple of every number of lanes.
CHUNK = 1024

LN2 = np.float32(math.log(2))
LOG2E = np.float32(1 / math.log(2))
HALF_LOG2E = np.float32(0.5 / math.log(2))
ZERO, HALF = np.float32(0), np.float32(0.5)
