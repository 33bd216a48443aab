"""What of a scene is written, and where it lies in the file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from recon import sh
from recon.datasets.errors import InputError
from recon.datasets.normalize import rotation_to_z
from recon.export.rows import Rows, covered, joined, sigmoid
from recon.floaters import loneliness, threshold
from recon.gaussians import Gaussians
from recon.loading import load_with_frame

Frame = Literal["capture", "world", "y-up", "z-up"]
Triple = tuple[float, float, float]

STRENGTH = 0.5  # of looking for floaters, as the viewer's slider stands
Y_FROM_Z = torch.tensor([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]], dtype=torch.float64)  # front becomes -z, as in OpenGL


@dataclass(frozen=True)
class Place:
    """Where a scene lies in the file. It is put into a frame, then scaled, then turned, then moved.

    Attributes:
        frame: capture is that of the capture's own files, world the normalised one that was trained in; y-up and z-up
            are the capture's, turned about its origin so that up is +y or +z. Its scale stays.
        scale: how many times as large, from the origin of the frame.
        rotate: degrees about the x, then the y, then the z axis of the frame, counterclockwise as seen from their ends.
        translate: units of the file, along the axes of the frame.
    """

    frame: Frame = "capture"
    scale: float = 1.0
    rotate: Triple = (0.0, 0.0, 0.0)
    translate: Triple = (0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        if not (self.scale > 0 and math.isfinite(self.scale)):
            raise InputError(f"--scale {self.scale:g}: must be more than 0")
        for name, values in (("rotate", self.rotate), ("translate", self.translate)):
            if not all(map(math.isfinite, values)):
                raise InputError(f"--{name} {' '.join(f'{v:g}' for v in values)}: must be finite")

    @property
    def is_turned_up(self) -> bool:
        return self.frame in ("y-up", "z-up")

    def file_from_world(self, source_from_world: Tensor, up: Tensor) -> Tensor:
        """[4,4] float64 from the world of a model to the file.

        Args:
            source_from_world: [4,4] to the capture's frame.
            up: [3] in the capture's frame, of any length.
        """
        from scipy.spatial.transform import Rotation

        frame = torch.eye(4, dtype=torch.float64) if self.frame == "world" else source_from_world.double()
        if self.is_turned_up:
            turn = torch.eye(4, dtype=torch.float64)
            turn[:3, :3] = rotation_to_z(up.double() / up.double().norm())
            if self.frame == "y-up":
                turn[:3, :3] = Y_FROM_Z @ turn[:3, :3]
            frame = turn @ frame
        move = torch.eye(4, dtype=torch.float64)
        turned = Rotation.from_euler("xyz", self.rotate, degrees=True).as_matrix()
        move[:3, :3] = self.scale * torch.from_numpy(turned)
        move[:3, 3] = torch.tensor(self.translate, dtype=torch.float64)
        return move @ frame


@dataclass(frozen=True)
class Parts:
    """What of a scene is written. Boxes and sizes are in the coordinates of the file.

    Attributes:
        merge: scenes that are put to it first, as they are.
        crop: lowest x, y, z and highest x, y, z of the centres that are kept.
        min_opacity: 0..1; what is less opaque is left out. None: nothing of splats, of points what `clouds` says.
        max_size: the largest standard deviation that is kept.
        floaters: 0..1, how much of what hangs in the air is left out (`floaters.threshold`); None: nothing. Looked for
            among what the others leave.
        max_count: how many are kept at most, of what is left then: those that cover the most, by opacity and area.
        sh_degree: harmonics of higher degrees are left out.
    """

    merge: Sequence[Path] = ()
    crop: tuple[float, float, float, float, float, float] | None = None
    min_opacity: float | None = None
    max_size: float | None = None
    floaters: float | None = None
    max_count: int | None = None
    sh_degree: int | None = None

    def __post_init__(self) -> None:
        if self.crop is not None and not all(a < b for a, b in zip(self.crop[:3], self.crop[3:], strict=True)):
            raise InputError(f"--crop {' '.join(f'{v:g}' for v in self.crop)}: not lowest x y z and highest x y z")
        if self.min_opacity is not None and not 0 <= self.min_opacity <= 1:
            raise InputError(f"--min-opacity {self.min_opacity}: not between 0 and 1")
        if self.max_size is not None and not self.max_size > 0:
            raise InputError(f"--max-size {self.max_size}: must be more than 0")
        if self.floaters is not None and not 0 <= self.floaters <= 1:
            raise InputError(f"--remove-floaters {self.floaters}: not between 0 and 1")
        if self.max_count is not None and self.max_count < 1:
            raise InputError(f"--max-count {self.max_count}: must be at least 1")
        if self.sh_degree is not None and not 0 <= self.sh_degree <= sh.MAX_DEGREE:
            raise InputError(f"--sh-degree {self.sh_degree}: not between 0 and {sh.MAX_DEGREE}")


@torch.no_grad()
def chosen(model: Gaussians, parts: Parts) -> Gaussians:
    """What `parts` leave of a scene; `InputError` if that is nothing."""
    scenes = [model]
    for path in parts.merge:
        scenes.append(load_with_frame(path)[0])
        if scenes[-1].antialiased != model.antialiased:
            raise InputError(
                f"{path}: one of the scenes was trained antialiased and one was not, so they cannot be one"
            )
    rows = joined([Rows.of(scene, Path("scene")) for scene in scenes])
    kept = np.ones(len(rows), dtype=bool)
    if parts.crop is not None:
        kept &= ((rows.means >= parts.crop[:3]) & (rows.means <= parts.crop[3:])).all(axis=1)
    opacities = sigmoid(rows.logit_opacities.astype(np.float64))
    if parts.min_opacity is not None:
        kept &= opacities >= parts.min_opacity
    if parts.max_size is not None:
        kept &= rows.log_scales.max(axis=1) <= math.log(parts.max_size)
    index = np.flatnonzero(kept)
    if parts.floaters is not None and len(index):
        lonely = loneliness(rows.means[index], np.exp(rows.log_scales[index]), opacities[index].astype(np.float32))
        index = index[lonely <= threshold(parts.floaters)]
    if parts.max_count is not None and len(index) > parts.max_count:
        index = np.sort(index[np.argsort(-covered(rows.taken(index)), kind="stable")[: parts.max_count]])
    if not len(index):
        raise InputError(f"nothing of {len(rows):,} Gaussians is left to write")
    degree = sh.degree_of(1 + rows.shN.shape[1])
    rows = rows.taken(index).cut(degree if parts.sh_degree is None else min(degree, parts.sh_degree))
    return rows.gaussians("scene", antialiased=model.antialiased)
