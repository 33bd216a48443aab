"""Writing files so that nothing is ever half-written."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from recon.datasets.errors import InputError

TEMPORARY = ".tmp"  # how the names of unfinished files end
LOCKED_BYTE = 1 << 20  # that Windows locks in a lock file


@contextlib.contextmanager
def naming(path: Path | str) -> Iterator[None]:
    """Errors of the system inside name `path`, also those that come without a name, as a full disk does."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


@contextlib.contextmanager
def atomic_write(path: Path | str) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path`; on success it is synced and renamed over `path`.

    Whatever happens in between (an exception, a kill, a full disk), `path` holds either its old content or the
    whole new one. Missing parent folders are made.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    fd, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=TEMPORARY)
    temporary = Path(name)
    try:
        with naming(path), os.fdopen(fd, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_directory(path.parent)


@contextlib.contextmanager
def only_one(path: Path, taken: str) -> Iterator[None]:
    """While inside, no other process is. The file `path` says which one is; the system's lock on it, which ends with
    the process however that ends, is what counts. `InputError`, which begins with `taken`, if there is one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            _lock(file.fileno())
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):  # or else this file system has no locks
                file.seek(0)
                process = file.read().strip()
                by = f" by process {process}" if process else ""
                raise InputError(f"{taken}{by}; wait until it has ended") from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def _lock(fd: int) -> None:
    """Lock an open file for this process; `OSError` where another has it."""
    if sys.platform == "win32":
        import msvcrt

        os.lseek(fd, LOCKED_BYTE, os.SEEK_SET)  # a byte behind the text, which others may still read
        msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        os.lseek(fd, 0, os.SEEK_SET)
    else:
        import fcntl

        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextlib.contextmanager
def new_folder(path: Path | str) -> Iterator[Path]:
    """A temporary folder beside `path`, which becomes `path` on success, and is removed otherwise.

    Raises `InputError` where there is something already, other than an empty folder: nothing is ever overwritten.
    """
    given, path = path, Path(os.path.abspath(path))  # "." has no name
    if path.is_symlink() or (path.exists() and not (path.is_dir() and not any(path.iterdir()))):
        raise InputError(f"{given}: is there already, and is not overwritten; give the name of a new folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=TEMPORARY))
    try:
        with naming(path):
            yield temporary
        temporary.chmod(0o777 & ~_umask())
        if path.is_dir():
            path.rmdir()
        temporary.rename(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _sync_directory(path.parent)


def _umask() -> int:
    """The process's umask; it can only be read by setting it. `mkstemp` makes private files, users expect theirs."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_directory(directory: Path) -> None:
    """Make a rename durable. Windows cannot open a directory, and needs no such step."""
    if os.name == "nt":
        return
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
