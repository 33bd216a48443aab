"""What the viewer is handed: something that can be drawn, and perhaps edited. It knows no more of a scene than this.

Everything here is called from one thread at a time, the one that renders (`RenderQueue`), so none of it needs a lock;
only what `Subject.saver` returns is not.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from recon.datasets.cameras import Cameras
from recon.viewer.look import Box, Colour, How, Look, Shape, Vector


class Splats(NamedTuple):
    """Gaussians as a browser draws them: no harmonics."""

    centres: NDArray[np.float32]  # [N,3] world units
    covariances: NDArray[np.float32]  # [N,3,3]
    rgbs: NDArray[np.float32]  # [N,3] 0..1
    opacities: NDArray[np.float32]  # [N,1] 0..1


class Subject(Protocol):
    """A scene that can be drawn, in the coordinates of the normalised world (+z up, cameras about a unit away)."""

    @property
    def count(self) -> int:
        """How many splats there are, those deleted left out; 0 for a field."""
        ...

    @property
    def background(self) -> Colour:
        """What is behind it, where `Look.background` names nothing else."""
        ...

    @property
    def sh_degree(self) -> int:
        """The most that `Look.sh_degree` can ask for."""
        ...

    def draw(self, camera: Cameras, look: Look) -> NDArray[np.uint8]:
        """A picture [H,W,3] through a batch of one. What is selected is tinted in "rgb", "ellipsoids" and "points"."""
        ...

    def pick(self, camera: Cameras, x: float, y: float, look: Look) -> Vector | None:
        """The point of the surface that the pixel position (x, y) shows; None where there is none."""
        ...

    def splats(self, most: int, look: Look) -> Splats | None:
        """At most so many splats, those that show most; None for what is not made of splats."""
        ...

    def saver(self, look: Look) -> Callable[[Path], int]:
        """What writes the scene as it is now, deletions, crop and scale included, in the format of the suffix of a path
        and in the capture's coordinates, and returns its bytes. It may be called on any thread: some formats take long.
        """
        ...


class Editor(Protocol):
    """Selecting and deleting splats; every step can be undone."""

    @property
    def selected(self) -> int: ...

    @property
    def deleted(self) -> int: ...

    @property
    def undoable(self) -> int:
        """How many steps `undo` can take back."""
        ...

    @property
    def redoable(self) -> int: ...

    def select(self, shape: Shape, how: How = "replace", crop: Box | None = None) -> int:
        """Change the selection by the splats of a shape, deleted ones and those outside `crop` never among them;
        returns how many are selected then."""
        ...

    def preview(self, shape: Shape | None, how: How = "replace", crop: Box | None = None) -> int:
        """Show as selected what `select` would select, and change nothing; None: show the selection again, as every
        edit does. Returns how many are shown."""
        ...

    def invert(self, crop: Box | None = None) -> int: ...

    def clear(self) -> None:
        """Select nothing."""
        ...

    def delete(self) -> int:
        """Delete what is selected; returns how many that were."""
        ...

    def undo(self) -> bool: ...

    def redo(self) -> bool: ...

    def set_scale(self, factor: float) -> None:
        """What is saved is so many times larger than the capture's own coordinates: 1 at first. Can be undone."""
        ...

    @property
    def scale(self) -> float: ...
