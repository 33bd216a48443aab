"""From a scene to one page that shows it anywhere: which splats, from where, along which path."""

from __future__ import annotations

from pathlib import Path

import torch

from recon.datasets.cameras import Cameras, intrinsics, look_at
from recon.datasets.errors import InputError
from recon.datasets.files import atomic_write
from recon.datasets.scene import Scene
from recon.subject import SplatSubject
from recon.terminal import say
from recon.viewer import tour as tours
from recon.viewer.look import Colour, Look, Vector
from recon.viewer.share import MOST, share_page
from recon.viewer.subject import Splats
from recon.viewer.tour import Tour

ORBIT = 20.0  # seconds of the path of a scene that has none


def write_page(
    out: Path,
    subject: SplatSubject,
    name: str,
    scene: Scene | None = None,
    *,
    tour: Tour | None = None,
    description: str = "",
    look: Look | None = None,
    most: int = MOST,
) -> None:
    """Write the page of `page_of`, and say how large it is."""
    page = page_of(subject, name, scene, tour=tour, description=description, look=look, most=most).encode()
    try:
        with atomic_write(out) as file:
            file.write(page)
    except OSError as error:
        raise InputError(f"{out}: cannot be written: {error.strerror or error}") from error
    kept = min(subject.count, most)
    left = f" of {subject.count:,}, those that show most" if kept < subject.count else ""
    say(f"Wrote {kept:,} splats{left}, without harmonics: {out} ({len(page) / 1e6:.1f} MB). Open it in any browser.")


def page_of(
    subject: SplatSubject,
    name: str,
    scene: Scene | None = None,
    *,
    tour: Tour | None = None,
    description: str = "",
    look: Look | None = None,
    most: int = MOST,
) -> str:
    """One page of HTML that shows a scene without a server.

    Args:
        name: the page's title.
        scene: the capture, for the path if none is given.
        tour: the path that it plays, in the world of the subject, and where it begins; by default once around.
        look: whose crop box and background count.
        most: splats; of more, those that show most.
    Raises:
        InputError: nothing is left to show.
    """
    look = Look() if look is None else look
    background = subject.background if look.background is None else look.background
    return page_from(subject.splats(most, look), tour, background, name, description, scene)


def page_from(
    splats: Splats,
    tour: Tour | None,
    background: Colour,
    title: str,
    description: str,
    scene: Scene | None,
    up: Vector = (0.0, 0.0, 1.0),
) -> str:
    """The same, of splats that were taken from a subject.

    Args:
        up: direction in which cameras are held upright.
    """
    if not len(splats.centres):
        raise InputError(f"{title}: there is no splat to share")
    if tour is None or not len(tour):
        tour = _around(scene, up)
    return share_page(
        splats,
        tour.at([0.0], 16, 9),
        title=title,
        description=description,
        tour=tour if tour.duration > 0 else None,
        up=up,
        background=background,
    )


def _around(scene: Scene | None, held: Vector) -> Tour:
    """A path where there is none: as the photos were taken, or round the middle of the world, a unit from which most of
    a file's splats are (`viewing.opened_file`)."""
    up = torch.tensor(held, dtype=torch.float64)
    if scene is not None:
        return tours.orbit(scene, ORBIT, up=up)
    side = torch.tensor([0.0, -1.0, 0.0] if abs(held[1]) < 0.5 else [1.0, 0.0, 0.0], dtype=torch.float64)
    eye = (2.2 * side + 0.9 * up)[None]
    camera = Cameras.from_c2w(look_at(eye, torch.zeros_like(eye), up), intrinsics(100, 100, 50, 50), 100, 100)
    return tours.turn(camera, torch.zeros(3), ORBIT, up=up)
