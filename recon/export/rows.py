"""Gaussians as numpy arrays, on their way between a model and the bytes of a file, and what the packed formats share.

Shape letters: N Gaussians, K = (sh_degree + 1)^2 coefficients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon import sh
from recon.datasets.errors import InputError
from recon.gaussians import Gaussians

Floats = NDArray[np.floating]
Bytes = NDArray[np.uint8]

# Files whose size does not vouch for a number of splats, because they are compressed, may announce at most so many;
# and no more than they have bytes, unless they are few: real splats take several bytes however they are packed.
MOST_SPLATS = 1 << 24
FEW_SPLATS = 1 << 16
# Opacities of 0 and 1 have no logit; a byte of 0 or 255 stands for this far from them.
OPACITY_MARGIN = 1e-6
# The product, from the right, of a quaternion wxyz with 1, i, j and k: which component goes where, with which sign.
HALF_TURNS = np.array([[0, 1, 2, 3], [1, 0, 3, 2], [2, 3, 0, 1], [3, 2, 1, 0]])
HALF_TURN_SIGNS = np.array([[1, 1, 1, 1], [-1, 1, 1, -1], [-1, -1, 1, 1], [-1, 1, -1, 1]])
SMALLEST_SCALE = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True, eq=False)
class Rows:
    """The parameters of N Gaussians as they are stored in `Gaussians`, in any float type.

    `means` [N,3], `quats` [N,4] wxyz of any length, `log_scales` [N,3], `logit_opacities` [N], `sh0` [N,3],
    `shN` [N,K-1,3].
    """

    means: Floats
    quats: Floats
    log_scales: Floats
    logit_opacities: Floats
    sh0: Floats
    shN: Floats

    @classmethod
    def of(cls, gaussians: Gaussians, path: Path) -> Self:
        """The rows of a model that is about to be written to `path`; `InputError` if a number is not finite."""
        values = {name: value.detach().cpu().numpy() for name, value in gaussians.parameters().items()}
        values["sh0"] = values["sh0"][:, 0]
        rows = cls(**values)
        rows.check_finite(str(path))
        return rows

    @classmethod
    def none(cls) -> Self:
        """No Gaussians at all."""
        return cls(*(np.zeros(shape) for shape in ((0, 3), (0, 4), (0, 3), (0,), (0, 3), (0, 0, 3))))

    def gaussians(self, where: str, *, antialiased: bool = False) -> Gaussians:
        """The model that these rows are; `InputError`, which starts with `where`, if a number is not finite.

        Args:
            antialiased: see `Gaussians`.
        """
        with np.errstate(over="ignore"):  # what is too large for a float becomes inf, which is reported
            rows = Rows(*(np.array(value, dtype=np.float32, order="C") for value in self.columns()))
        rows.check_finite(where)
        means, quats, log_scales, logit_opacities, sh0, shN = (torch.from_numpy(value) for value in rows.columns())
        return Gaussians(means, quats, log_scales, logit_opacities, sh0[:, None], shN, antialiased=antialiased)

    def columns(self) -> list[Floats]:
        """The parameters, in the order of the class."""
        return list(vars(self).values())

    def check_finite(self, where: str) -> None:
        for name, values in vars(self).items():
            finite = np.isfinite(values).reshape(len(values), values[:1].size)
            if not finite.all():
                row = int(np.argmin(finite.all(axis=1)))
                value = np.ravel(values[row])[np.argmin(finite[row])]
                raise InputError(f"{where}: {name} of Gaussian {row} has the value {value}")

    def __len__(self) -> int:
        return len(self.means)

    def taken(self, order: NDArray[np.integer]) -> Rows:
        """These rows only, in this order."""
        return Rows(*(value[order] for value in self.columns()))

    def turned(self, signs: tuple[int, int, int]) -> Rows:
        """The same scene after half a turn about an axis, which negates the other two: `signs` has two -1.

        Nothing is rounded, so there and back is where one was. (`Gaussians.transformed` turns by any angle.)
        """
        flip = np.array(signs, dtype=np.float32)
        quats = self.quats * np.array([1, *signs], dtype=np.float32)  # the axis of the rotation turns with the world
        return replace(self, means=self.means * flip, quats=quats, shN=self.shN * _sh_signs(signs, self)[:, None])

    def cut(self, degree: int) -> Rows:
        """Without the harmonics above a degree."""
        return replace(self, shN=self.shN[:, : sh.num_coefficients(degree) - 1])


def joined(parts: Sequence[Rows]) -> Rows:
    """Several scenes as one; those of a lower SH degree than others get coefficients of 0."""
    most = max(part.shN.shape[1] for part in parts)
    grown = [replace(part, shN=np.pad(part.shN, ((0, 0), (0, most - part.shN.shape[1]), (0, 0)))) for part in parts]
    return Rows(*(np.concatenate(values) for values in zip(*(part.columns() for part in grown), strict=True)))


def _sh_signs(signs: tuple[int, int, int], rows: Rows) -> NDArray[np.float32]:
    """[K-1] how the basis functions change when two axes are negated: each keeps its size."""
    degree = sh.degree_of(1 + rows.shN.shape[1])
    direction = torch.tensor([0.48, 0.6, 0.64], dtype=torch.float64)  # where no function is zero
    before, after = sh.basis(direction, degree), sh.basis(direction * torch.tensor(signs), degree)
    return torch.sign(before * after)[1:].float().numpy()


def sigmoid(values: Floats) -> Floats:
    """Opacities 0..1 of logits."""
    from scipy.special import expit

    return expit(values)


def logit(opacities: Floats) -> Floats:
    """Logits of opacities 0..1; those of 0 and 1 are of what lies `OPACITY_MARGIN` inside."""
    from scipy.special import logit as exact

    return exact(np.clip(np.asarray(opacities, dtype=np.float64), OPACITY_MARGIN, 1 - OPACITY_MARGIN))


def exponentials(log_scales: Floats, where: str) -> NDArray[np.float32]:
    """Scales, for files that hold them; `InputError` if one is more than a float holds."""
    with np.errstate(over="ignore"):
        scales = np.exp(log_scales.astype(np.float64)).astype(np.float32)
    if not np.isfinite(scales).all():
        raise InputError(f"{where}: a scale of exp({log_scales.max():g}) is more than a float holds")
    return scales


def logarithms(scales: Floats) -> Floats:
    """Logarithms of scales as files hold them; of none or a negative one, that of the smallest there is."""
    return np.log(np.maximum(scales.astype(np.float64), SMALLEST_SCALE))


def to_bytes(values: Floats) -> Bytes:
    """Values 0..1 as the nearest of 256 steps."""
    return np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)


def from_bytes(values: Bytes) -> Floats:
    """The inverse of `to_bytes`."""
    return values.astype(np.float32) / np.float32(255)


def colours(sh0: Floats) -> Floats:
    """What is shown of constant coefficients, 0..1 where a screen can show it (`sh.to_rgb`)."""
    return sh0 * sh.C0 + 0.5


def coefficients(rgb: Floats) -> Floats:
    """The inverse of `colours`."""
    return (rgb - 0.5) / sh.C0


def to_rgba(sh0: Floats, opacities: Floats) -> Bytes:
    """[N,4] what is shown of constant coefficients and opacities 0..1 [N], in bytes."""
    return to_bytes(np.concatenate([colours(sh0), opacities[:, None]], axis=1))


def from_rgba(rgba: Bytes) -> tuple[Floats, Floats]:
    """The constant coefficients [N,3] and the logits of the opacities [N] of `to_rgba`."""
    return coefficients(from_bytes(rgba[:, :3])), logit(from_bytes(rgba[:, 3]))


def unit(quats: Floats) -> Floats:
    """Quaternions of length 1; those of length 0 become the identity, wxyz."""
    lengths = np.linalg.norm(quats.astype(np.float64), axis=1, keepdims=True)
    identity = np.array([1.0, 0.0, 0.0, 0.0])
    return np.where(lengths > 0, quats / np.where(lengths > 0, lengths, 1), identity)


def with_large_w(quats: Floats) -> Floats:
    """Unit quaternions wxyz of the same Gaussians whose w is the largest component.

    Half a turn about an axis of its own leaves a Gaussian as it is, and brings one of the other components, with some
    sign, to the place of w.
    """
    largest = np.abs(quats).argmax(axis=1)
    turned = np.take_along_axis(quats, HALF_TURNS[largest], axis=1) * HALF_TURN_SIGNS[largest]
    return turned * np.where(turned[:, :1] < 0, -1, 1)


def smallest_three(quats: Floats) -> tuple[NDArray[np.int64], Floats]:
    """Unit quaternions [N,4] as the position [N] of the largest component, and the others [N,3] with its sign removed.

    The others are within +-sqrt(1/2). They are in the order in which they are given, wxyz or xyzw.
    """
    largest = np.abs(quats).argmax(axis=1)
    rows = np.arange(len(quats))
    positive = quats * np.where(quats[rows, largest] < 0, -1.0, 1.0)[:, None]
    others = np.ones(quats.shape, dtype=bool)
    others[rows, largest] = False
    return largest, positive[others].reshape(len(quats), 3)


def from_smallest_three(largest: NDArray[np.integer], others: Floats) -> Floats:
    """The inverse of `smallest_three`; of others that are too long for a unit quaternion the largest is 0."""
    quats = np.empty((len(others), 4))
    rows = np.arange(len(others))
    places = np.ones(quats.shape, dtype=bool)
    places[rows, largest] = False
    quats[places] = others.ravel()
    quats[rows, largest] = np.sqrt(np.maximum(0.0, 1.0 - (others.astype(np.float64) ** 2).sum(axis=1)))
    return quats


def xyzw(quats: Floats) -> Floats:
    """Quaternions wxyz with w last."""
    return np.roll(quats, -1, axis=1)


def wxyz(quats: Floats) -> Floats:
    """Quaternions xyzw with w first."""
    return np.roll(quats, 1, axis=1)


def covered(rows: Rows) -> Floats:
    """[N] the logarithm of how much splats cover: opacity times the area of the larger two axes."""
    areas = np.sort(rows.log_scales, axis=1)[:, 1:].sum(axis=1, dtype=np.float64)
    return np.log(np.maximum(sigmoid(rows.logit_opacities.astype(np.float64)), 1e-30)) + areas


def morton_order(means: Floats) -> NDArray[np.int64]:
    """The order [N] of positions [N,3] along a Z-shaped curve: what is near in space is near in the file, mostly.

    Far-away strays must not squeeze all others into a few cells, so positions are taken by their rank on each axis.
    """
    code = np.zeros(len(means), dtype=np.uint64)
    for axis in range(3):
        rank = np.empty(len(means), dtype=np.uint64)
        rank[np.argsort(means[:, axis], kind="stable")] = np.arange(len(means), dtype=np.uint64)
        for bit in range(len(means).bit_length()):
            code |= ((rank >> np.uint64(bit)) & np.uint64(1)) << np.uint64(3 * bit + axis)
    return np.argsort(code, kind="stable")


def evenly_placed(placed: Tensor, where: str) -> Tensor:
    """[4,4] the place of splats in a file; `InputError` if they cannot be brought there and stay splats."""
    square = placed[:3, :3] @ placed[:3, :3].T
    even = square[0, 0] * torch.eye(3, dtype=torch.float64)
    turned = torch.allclose(square, even, rtol=1e-4, atol=float(square[0, 0]) * 1e-4)
    if not (turned and torch.isfinite(placed).all() and torch.linalg.det(placed[:3, :3]) > 1e-30):
        raise InputError(f"{where}: mirrors splats, or stretches them unevenly, or to nothing")
    return placed


def read_bytes(path: Path) -> bytes:
    """All of a file; `InputError` where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error


def check_count(count: int, size: int, where: str) -> None:
    """Refuse a number of splats that a compressed file of `size` bytes only announces, before memory is taken."""
    if count > MOST_SPLATS:
        raise InputError(f"{where}: announces {count:,} splats, more than the {MOST_SPLATS:,} that are taken")
    if count > max(FEW_SPLATS, size):
        raise InputError(f"{where}: announces {count:,} splats, and has {size:,} bytes")
