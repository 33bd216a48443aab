"""Captures of RealityCapture (RealityScan): the CSV file "Internal/External camera parameters" and its photos.

A row for each photo under a header: #name,x,y,alt,heading,pitch,roll,f,px,py,k1,k2,k3,k4,t1,t2; newer versions say yaw,
f_35mm, px_norm, py_norm. The camera stands at (x, y, alt), z up. Angles are in degrees: with all of them 0 the camera
looks down with the top of its photo to +y; it is then turned by roll about y, by pitch about x, and by heading about
z, clockwise as seen from above. f is the focal length on film whose longer side is 36 mm; px, py are the principal
point's distance from the centre as fractions of the photo's longer side. k1..k4 are coefficients of r^2, r^4, r^6 and
r^8; OpenCV's p1 is t2 and its p2 is t1, as RealityScan's own OpenCV export (in its calibration.xml) writes them. How
angles and principal point are meant is known from nerfstudio's process_data/realitycapture_utils.py.

Points are in a .ply beside it, if there is one (`points_beside.py`).
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from recon.datasets import fields, photos
from recon.datasets.cameras import OPENCV_FROM_OPENGL
from recon.datasets.decode import read_header
from recon.datasets.errors import InputError
from recon.datasets.images import SourceCamera
from recon.datasets.photos import Shot
from recon.datasets.projection import SMALL
from recon.datasets.scene import Scene

FILM = 36.0  # mm, the longer side
_OTHER_NAMES = {"yaw": "heading", "f_35mm": "f", "px_norm": "px", "py_norm": "py"}
_POSE = ("x", "y", "alt", "heading", "pitch", "roll")
_LENS = ("px", "py", "k1", "k2", "k3", "k4", "t1", "t2")


def find_file(path: Path) -> Path | None:
    """The first .csv file of a capture's folder that has such a header."""
    return next((file for file in sorted(path.glob("*.csv")) if file.is_file() and _looks_right(file)), None)


def load(path: Path | str, *, downscale: float = 1, test_every: int = 8) -> Scene:
    """A capture with RealityCapture's camera parameters as a scene, in their coordinate frame.

    Photos that are not there are left out with a warning.

    Args:
        path: the capture's folder or the .csv file itself.
        downscale: how many times smaller than the photos the views are to be.
        test_every: every how many photos one is held out, see `images.split_every`.
    Raises:
        InputError: a damaged file, a lens that COLMAP's models cannot express, no photo.
    """
    path = Path(path)
    file = (find_file(path) or path / "cameras.csv") if path.is_dir() else path
    rows = _read(file)
    # Lenses are for the photos' own size, which the file does not say: smaller copies would hide it.
    found = photos.find(file, [row["name"] for row in rows])
    shots = []
    for number, photo in found.items():
        row = rows[number]
        where = f"{file}: {row['name']}"
        shots.append(Shot(number, photo, _lens(row, photo, where), _viewmat(row, where), where))
    return photos.scene(
        file.parent, shots, downscale=downscale, test_every=test_every, stored_pixels=True, look_for_points=True
    )


def _looks_right(file: Path) -> bool:
    with file.open("rb") as opened:
        head = opened.read(64).removeprefix(b"\xef\xbb\xbf").lstrip(b"#").replace(b";", b",").replace(b" ", b"")
    return head.startswith(b"name,x,y,alt,")


def _read(file: Path) -> list[dict[str, str]]:
    """The rows, by the names of columns."""
    text = fields.read_text(file)
    header, _, _ = text.partition("\n")
    try:
        lines = list(csv.reader(io.StringIO(text, newline=""), delimiter=";" if ";" in header else ","))
    except csv.Error as error:
        raise InputError(f"{file}: is not CSV: {error}") from error
    columns = [name.strip().lstrip("#").lower() for name in lines[0]] if lines else []
    columns = [_OTHER_NAMES.get(name, name) for name in columns]
    missing = [name for name in ("name", *_POSE, "f") if name not in columns]
    if missing:
        raise InputError(f"{file}: has no column {missing[0]}; it is not an export of internal/external parameters")
    rows = []
    for number, line in enumerate(lines[1:], start=2):
        if not any(value.strip() for value in line):
            continue
        if len(line) != len(columns):
            raise InputError(f"{file}: line {number} has {len(line)} values, the header {len(columns)}")
        rows.append({name: value.strip() for name, value in zip(columns, line, strict=True)})
    return rows


def _lens(row: Mapping[str, str], photo: Path, where: str) -> SourceCamera:
    header = read_header(photo)
    width, height = header.width, header.height
    side = max(width, height)
    focal = _number(row, "f", where) * side / FILM
    px, py, k1, k2, k3, k4, t1, t2 = (_number(row, key, where) if key in row else 0.0 for key in _LENS)
    if focal > 0 and abs(k4) * (math.hypot(width, height) / 2 / focal) ** 9 * focal > SMALL:
        raise InputError(f"{where}: k4 {k4:g} is not 0, which no camera here can have; export with a Brown3 lens")
    centre = (width / 2 + px * side, height / 2 + py * side)
    return SourceCamera("FULL_OPENCV", (focal, focal, *centre, k1, k2, t2, t1, k3, 0.0, 0.0, 0.0), width, height)


def _viewmat(row: Mapping[str, str], where: str) -> Tensor:
    """[4,4] world to camera."""
    x, y, alt, heading, pitch, roll = (_number(row, key, where) for key in _POSE)
    c2w = torch.eye(4, dtype=torch.float64)
    c2w[:3, :3] = rotation(heading, pitch, roll)
    c2w[:3, 3] = torch.tensor([x, y, alt], dtype=torch.float64)
    return torch.linalg.inv(c2w @ OPENCV_FROM_OPENGL)


def rotation(heading: float, pitch: float, roll: float) -> Tensor:
    """[3,3] float64 from a camera's axes (OpenGL's) to the world's, from angles in degrees."""
    (sh, ch), (sp, cp), (sr, cr) = ((math.sin(a), math.cos(a)) for a in map(math.radians, (heading, pitch, roll)))
    about_z = torch.tensor([[ch, sh, 0.0], [-sh, ch, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    about_x = torch.tensor([[1.0, 0.0, 0.0], [0.0, cp, -sp], [0.0, sp, cp]], dtype=torch.float64)
    about_y = torch.tensor([[cr, 0.0, sr], [0.0, 1.0, 0.0], [-sr, 0.0, cr]], dtype=torch.float64)
    return about_z @ about_x @ about_y


def _number(row: Mapping[str, str], key: str, where: str) -> float:
    try:
        value = float(row[key])
    except ValueError:
        value = math.nan
    if not abs(value) < 1e300:
        raise InputError(f"{where}: {key} {row[key]!r} is not a finite number")
    return value
