"""Captures of Agisoft Metashape (PhotoScan): the XML file that File > Export > Export Cameras writes.

document/chunk has "sensors" (a type, a resolution and a calibration), "cameras" (the photo's label, a sensor, and if it
was aligned a transform, 16 numbers row by row, from the camera's axes, which are OpenCV's, to those of its component)
and "components" or, in older files, a "transform" of the chunk's own: rotation, translation and scale to the world.
The formulas of lenses are in the manual's appendix on camera models. With x, y = X / Z, Y / Z (times atan(r) / r for a
fisheye) and r^2 = x^2 + y^2:

    x' = x (1 + K1 r^2 + K2 r^4 + K3 r^6 + K4 r^8) + P1 (r^2 + 2 x^2) + 2 P2 x y
    y' = y (1 + K1 r^2 + K2 r^4 + K3 r^6 + K4 r^8) + P2 (r^2 + 2 y^2) + 2 P1 x y
    u = width / 2 + cx + x' (f + B1) + y' B2,  v = height / 2 + cy + y' f, px from the image's corner

Points are in a .ply beside it, if there is one (`points_beside.py`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree
from xml.parsers import expat

import torch
from torch import Tensor

from recon.datasets import fields, photos
from recon.datasets.errors import InputError
from recon.datasets.images import SourceCamera
from recon.datasets.photos import Shot
from recon.datasets.projection import SMALL
from recon.datasets.scene import Scene

_NUMBERS = ("f", "cx", "cy", "b1", "b2", "k1", "k2", "k3", "k4", "p1", "p2", "p3", "p4")


def find_file(path: Path) -> Path | None:
    """The XML file with cameras in a capture's folder: cameras.xml, or else another one that has a chunk."""
    files = sorted(path.glob("*.xml"), key=lambda file: (file.name != "cameras.xml", file.name))
    return next((file for file in files if file.is_file() and _looks_right(file)), None)


def load(path: Path | str, *, downscale: float = 1, test_every: int = 8) -> Scene:
    """A capture with Metashape's cameras as a scene, in the world of the chunk (or far from its origin, see `photos`).

    Cameras that are disabled or not aligned and photos that are not there are left out with a warning.

    Args:
        path: the capture's folder or the .xml file itself.
        downscale: how many times smaller than the photos the views are to be.
        test_every: every how many photos one is held out, see `images.split_every`.
    Raises:
        InputError: a damaged file, a lens that COLMAP's models cannot express, no photo.
    """
    path = Path(path)
    file = (find_file(path) or path / "cameras.xml") if path.is_dir() else path
    root = _parse(file)
    chunk = root if root.tag == "chunk" else root.find("chunk")
    if chunk is None:
        raise InputError(f"{file}: has no chunk")
    sensors = {sensor.get("id"): sensor for sensor in chunk.findall("sensors/sensor")}
    components = {c.get("id"): _world(c.find("transform"), f"{file}") for c in chunk.findall("components/component")}
    chunk_transform = _world(chunk.find("transform"), f"{file}")
    lenses: dict[str | None, SourceCamera] = {}
    labels, cameras = [], []
    disabled = unaligned = 0
    for camera, label in _cameras(chunk, file):
        where = f"{file}: camera {label}"
        transform = camera.find("transform")
        if camera.get("enabled", "true") in ("false", "0"):
            disabled += 1
        elif transform is None:
            unaligned += 1
        else:
            sensor = camera.get("sensor_id")
            if sensor not in sensors:
                raise InputError(f"{where}: has sensor {sensor}, which is not there")
            if sensor not in lenses:
                lenses[sensor] = _lens(sensors[sensor], f"{file}: sensor {sensor}")
            world = components.get(camera.get("component_id"), chunk_transform)
            labels.append(label)
            cameras.append((lenses[sensor], _viewmat(transform, world, where), where))
    reasons = ((disabled, "are disabled"), (unaligned, "are not aligned"))
    why = ", ".join(f"{count} {what}" for count, what in reasons if count)
    found = photos.find(file, labels, downscale=downscale, why=why)
    shots = [Shot(number, photo, *cameras[number]) for number, photo in found.items()]
    return photos.scene(
        file.parent, shots, downscale=downscale, test_every=test_every, stored_pixels=True, look_for_points=True
    )


def _looks_right(file: Path) -> bool:
    with file.open("rb") as opened:
        head = opened.read(4096)
    return b"<chunk" in head


def _parse(file: Path) -> ElementTree.Element:
    """The root element. A document type, which could define entities of any size, is not read at all."""

    def refuse(*_: object) -> None:
        raise InputError(f"{file}: has a document type declaration, which is not read")

    content = file.read_bytes()
    checker = expat.ParserCreate()
    checker.StartDoctypeDeclHandler = refuse
    try:
        checker.Parse(content, True)
        return ElementTree.fromstring(content)
    except (expat.ExpatError, ElementTree.ParseError, ValueError, LookupError) as error:
        raise InputError(f"{file}: is not XML: {error}") from error


def _cameras(chunk: ElementTree.Element, file: Path) -> Iterator[tuple[ElementTree.Element, str]]:
    """The cameras, in groups or not, with their labels."""
    listed = chunk.find("cameras")
    for number, camera in enumerate(() if listed is None else listed.iter("camera")):
        label = camera.get("label")
        if not label:
            raise InputError(f"{file}: camera {number} has no label")
        yield camera, label


def _lens(sensor: ElementTree.Element, where: str) -> SourceCamera:
    """A sensor's lens. OpenCV's p1 is Metashape's P2 and the other way round, its fx is f + B1."""
    found = sensor.findall("calibration")
    calibration = next((c for c in found if c.get("class") == "adjusted"), found[-1] if found else None)
    if calibration is None:
        raise InputError(f"{where}: has no calibration")
    kind = calibration.get("type") or sensor.get("type") or "frame"
    if kind not in ("frame", "fisheye"):
        raise InputError(f"{where}: type {kind} is neither frame nor fisheye")
    resolution = calibration.find("resolution")
    resolution = sensor.find("resolution") if resolution is None else resolution
    if resolution is None:
        raise InputError(f"{where}: has no resolution")
    width, height = (fields.spelled(resolution.get(side), 1, f"{where}: {side}")[0] for side in ("width", "height"))
    if not (width == round(width) and height == round(height)):
        raise InputError(f"{where}: resolution {width:g}x{height:g} is not of whole numbers")
    value = {c.tag: fields.spelled(c.text, 1, f"{where}: {c.tag}")[0] for c in calibration if c.tag in _NUMBERS}
    if "f" not in value:
        raise InputError(f"{where}: has no f")
    f, b2 = value["f"], value.get("b2", 0.0)
    k1, k2, k3, k4, p1, p2 = (value.get(key, 0.0) for key in ("k1", "k2", "k3", "k4", "p1", "p2"))
    if f > 0 and abs(b2) * height / 2 / f > SMALL:
        raise InputError(f"{where}: skew b2 {b2:g} is not 0, which no camera here can have")
    for key in ("p3", "p4"):
        if value.get(key):
            raise InputError(f"{where}: {key} {value[key]:g} is not 0, which no camera here can have")
    camera = (f + value.get("b1", 0.0), f, width / 2 + value.get("cx", 0.0), height / 2 + value.get("cy", 0.0))
    size = (int(width), int(height))
    if kind == "fisheye":
        if p1 == p2 == 0:
            return SourceCamera("OPENCV_FISHEYE", (*camera, k1, k2, k3, k4), *size)
        return SourceCamera("THIN_PRISM_FISHEYE", (*camera, k1, k2, p2, p1, k3, k4, 0.0, 0.0), *size)
    if f > 0 and abs(k4) * (math.hypot(width, height) / 2 / f) ** 9 * f > SMALL:
        raise InputError(f"{where}: k4 {k4:g} is not 0, which only fisheyes here can have")
    return SourceCamera("FULL_OPENCV", (*camera, k1, k2, p2, p1, k3, 0.0, 0.0, 0.0), *size)


def _world(transform: ElementTree.Element | None, where: str) -> Tensor:
    """[4,4] the similarity from a component's or a chunk's axes to the world; unity where there is none."""
    result = torch.eye(4, dtype=torch.float64)
    if transform is None:
        return result
    rotation, translation, scale = (transform.findtext(key) for key in ("rotation", "translation", "scale"))
    if rotation is not None:
        turn = torch.tensor(fields.spelled(rotation, 9, f"{where}: rotation"), dtype=torch.float64).reshape(3, 3)
        if (turn @ turn.T - torch.eye(3)).abs().max() > 1e-3 or torch.linalg.det(turn) < 0:
            raise InputError(f"{where}: rotation {' '.join(rotation.split())} of the transform is none")
        result[:3, :3] = turn
    if scale is not None:
        factor = fields.spelled(scale, 1, f"{where}: scale")[0]
        if factor <= 0:
            raise InputError(f"{where}: scale {factor:g} of the transform is not positive")
        result[:3, :3] *= factor
    if translation is not None:
        result[:3, 3] = torch.tensor(fields.spelled(translation, 3, f"{where}: translation"), dtype=torch.float64)
    return result


def _viewmat(transform: ElementTree.Element, world: Tensor, where: str) -> Tensor:
    """[4,4] world to camera; the camera's own unit grows with the world's."""
    c2w = torch.tensor(fields.spelled(transform.text, 16, f"{where}: transform"), dtype=torch.float64).reshape(4, 4)
    if abs(float(torch.linalg.det(c2w))) < 1e-12:
        raise InputError(f"{where}: transform is singular")
    moved = world @ c2w
    moved[:3, :3] /= torch.linalg.det(world[:3, :3]) ** (1 / 3)
    return torch.linalg.inv(moved)
