"""Scenes as files that other programs read: one format, one file; how the name ends chooses."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from torch import Tensor

from recon.datasets.errors import InputError
from recon.export import compressed_ply, glb, ksplat, ply, sog, splat, spz, streamed, usd
from recon.gaussians import Gaussians


def _load_ply(path: Path) -> Gaussians:
    """A .ply of either kind."""
    return compressed_ply.load(path) if compressed_ply.is_packed(path) else ply.load(path)


SAVERS: dict[str, Callable[[Gaussians, Path], None]] = {
    ".ply": ply.save,
    ".compressed.ply": compressed_ply.save,
    ".spz": spz.save,
    ".sog": sog.save,
    sog.META: sog.save,
    streamed.META: streamed.save,
    ".splat": splat.save,
    ".ksplat": ksplat.save,
    ".glb": glb.save,
    ".spz.glb": glb.save_packed,
    **dict.fromkeys(usd.SUFFIXES, usd.save),
}
SAVERS_Z_UP: dict[str, Callable[[Gaussians, Path], None]] = dict.fromkeys(usd.SUFFIXES, usd.save_z_up)
LOADERS: dict[str, Callable[[Path], Gaussians]] = {
    ".ply": _load_ply,
    ".spz": spz.load,
    ".sog": sog.load,
    sog.META: sog.load,
    streamed.META: streamed.load,
    ".splat": splat.load,
    ".ksplat": ksplat.load,
    ".glb": glb.load,
    **dict.fromkeys(usd.SUFFIXES, usd.load),
}


# Formats that store other axes than those of a .ply: the signs to and from them. Who asks for a direction of up means
# that of the file as other programs see it.
AXES: dict[str, tuple[int, int, int]] = {
    ".spz": spz.AXES,
    ".glb": glb.AXES,
    ".spz.glb": glb.AXES,
    **dict.fromkeys(usd.SUFFIXES, usd.AXES),
}

# What is lost in a format, for those who write it; in the others it is nothing but the last bits of a float.
LOSSES: dict[str, str] = {
    ".compressed.ply": compressed_ply.LOSS,
    ".spz": spz.LOSS,
    ".spz.glb": spz.LOSS,
    ".sog": sog.LOSS,
    sog.META: sog.LOSS,
    streamed.META: streamed.LOSS,
    ".splat": splat.LOSS,
    ".ksplat": ksplat.LOSS,
}


# Those that say whether a scene is to be drawn antialiased; glTF within its .spz.
SAY_ANTIALIASED = (".spz", ".spz.glb", ".sog", sog.META, streamed.META)


def export(model: Gaussians, path: Path | str, *, source_from_world: Tensor | None = None, z_up: bool = False) -> None:
    """Write a scene in the format that the name of `path` ends with.

    Args:
        source_from_world: [4,4] similarity to the frame to write in, usually that of the capture's files
            (`Scene.source_from_world`); None: as the model is.
        z_up: +z is up as other programs see the file, which matters where a format says which axis is.
    Raises:
        InputError: no format has this suffix, the scene cannot be written in it, or the file cannot be written.
    """
    path = Path(path)
    suffix = suffix_of(path, SAVERS)
    save = SAVERS_Z_UP.get(suffix, SAVERS[suffix]) if z_up else SAVERS[suffix]
    if source_from_world is not None:
        model = model.transformed(source_from_world)
    try:
        save(model, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error


def load(path: Path | str) -> Gaussians:
    """Read a scene of Gaussians in the format that its name ends with; `InputError` says what is wrong with it.

    A folder is one of SOG's images, or of streamed SOG.
    """
    path = Path(path)
    for module in (streamed, sog):
        if path.is_dir() and module.is_folder(path):
            return module.load(path)
    return LOADERS[suffix_of(path, LOADERS)](path)


def is_splats(path: Path) -> bool:
    """Whether this is something that `load` reads: a file by its name, a folder by what is in it."""
    if path.is_dir():
        return sog.is_folder(path) or streamed.is_folder(path)
    return bool(_suffixes(path, LOADERS))


def bytes_of(path: Path) -> int:
    """The size of what `export` wrote; a meta.json has images beside it, and a lod-meta.json folders."""
    lists = {sog.META: sog.files_of, streamed.META: streamed.files_of}
    beside = lists[path.name.lower()](path) if path.name.lower() in lists else []
    return sum(file.stat().st_size for file in [path, *beside])


def suffix_of(path: Path, formats: Iterable[str]) -> str:
    """The longest of the endings of `formats` that a name has; `InputError` if it has none."""
    found = _suffixes(path, formats)
    if not found:
        there = ", ".join(sorted(formats))
        raise InputError(f"{path}: no splat format has the suffix '{path.suffix}'; there is {there}")
    return max(found, key=len)


def _suffixes(path: Path, formats: Iterable[str]) -> list[str]:
    name = path.name.lower()
    return [suffix for suffix in formats if (name.endswith(suffix) if suffix[0] == "." else name == suffix)]
