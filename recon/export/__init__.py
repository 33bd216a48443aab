"""Scenes as files that other programs read: one format, one file; the suffix chooses."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from torch import Tensor

from recon.datasets.errors import InputError
from recon.export import ply
from recon.gaussians import Gaussians

SAVERS: dict[str, Callable[[Gaussians, Path], None]] = {".ply": ply.save}
LOADERS: dict[str, Callable[[Path], Gaussians]] = {".ply": ply.load}


def export(model: Gaussians, path: Path | str, *, source_from_world: Tensor | None = None) -> None:
    """Write a scene in the format of the suffix of `path`.

    Args:
        source_from_world: [4,4] similarity to the frame to write in, usually that of the capture's files
            (`Scene.source_from_world`); None: as the model is.
    Raises:
        InputError: no format has this suffix, the scene cannot be written in it, or the file cannot be written.
    """
    path = Path(path)
    save = SAVERS.get(path.suffix.lower())
    if save is None:
        raise _unknown_suffix(path, SAVERS)
    if source_from_world is not None:
        model = model.transformed(source_from_world)
    try:
        save(model, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error


def load(path: Path | str) -> Gaussians:
    """Read a scene of Gaussians in the format of the suffix of `path`; InputError says what is wrong with it."""
    path = Path(path)
    read = LOADERS.get(path.suffix.lower())
    if read is None:
        raise _unknown_suffix(path, LOADERS)
    return read(path)


def _unknown_suffix(path: Path, formats: Iterable[str]) -> InputError:
    return InputError(f"{path}: no splat format has the suffix '{path.suffix}'; there is {', '.join(sorted(formats))}")
