"""Compiled kernels on disk: loading one takes milliseconds, compiling it seconds.

Each kernel is a file of its own in the user's cache folder, under a key of all that its code depends on: the sources of
the kernels, the versions of Python and of the compiler, and the processor with its features. So processes of several
machines with one home folder may read and write at once. A file is written whole or not at all and says when it is
damaged; whatever is wrong with the cache costs time, never a result.

Numba has a cache too, but finds out of date only what changed in a function's own file, lets two processes write one
index, and imports all of Numba's library (a quarter of a second) before it loads what does not need it any more.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import logging
import os
import pickle
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite
import llvmlite.binding
import numba
import platformdirs
from numba.core import codegen, serialize
from numba.core.compiler import CompileResult
from numba.core.runtime import rtsys

from recon.kernels.simd import CHECKED, LANES

KEPT = 8  # folders of other keys, the newest, that stay in the user's cache
SUFFIX = ".kernel"

log = logging.getLogger("recon")

_folder: Path | None = None


def folder() -> Path:
    """Where compiled kernels of exactly this key are kept; a temporary folder where the user's cannot be written."""
    global _folder
    if _folder is None:
        wanted = Path(platformdirs.user_cache_dir("recon")) / "kernels" / _key()
        try:
            _folder = _prepared(wanted)
        except OSError as error:
            log.warning("kernels are compiled at every start, since %s cannot be written (%s)", wanted, error.strerror)
            _folder = Path(tempfile.mkdtemp(prefix="recon-kernels-"))
            atexit.register(_remove, _folder, os.getpid())
    return _folder


def use_folder(path: Path) -> None:
    """Keep compiled kernels there; the folder is of this key and can be written."""
    global _folder
    _folder = path


def load(dispatcher: Any, function: Callable[..., Any], signature: str) -> bool:
    """Give a Numba dispatcher the code that some process compiled for it; False where there is none that fits."""
    path = _path(function, signature)
    if path is None:
        return False
    try:
        digest, content = (data := path.read_bytes())[:32], data[32:]
        if hashlib.sha256(content).digest() != digest:
            return False
        rtsys.initialize(dispatcher.targetctx)
        dispatcher.add_overload(CompileResult._rebuild(dispatcher.targetctx, *pickle.loads(content)))
    except FileNotFoundError:
        return False
    except Exception as error:  # these are Numba's insides, and another version may have others
        log.debug("%s is compiled again: %s", path, error)
        return False
    return True


def save(dispatcher: Any, function: Callable[..., Any], signature: str) -> None:
    """Keep what a dispatcher has compiled."""
    path = _path(function, signature)
    if path is None:
        return
    try:
        (compiled,) = dispatcher.overloads.values()
        content = serialize.dumps(compiled._reduce())
        _write(path, hashlib.sha256(content).digest() + content)
    except Exception as error:  # a full disk, or see `load`
        log.warning("compiled kernels cannot be kept (%s)", error)


def is_empty() -> bool:
    """Whether no kernel of this key was compiled before."""
    return next(folder().glob(f"*{SUFFIX}"), None) is None


def _path(function: Callable[..., Any], signature: str) -> Path | None:
    """The file of a function; None where its source, or what a closure has bound, cannot be told."""
    try:
        source = _source_digest(function.__code__.co_filename)
    except OSError:
        return None
    if function.__closure__:
        return None
    name = f"{function.__module__}.{function.__qualname__}"
    key = hashlib.sha256(f"{name} {signature} {source}".encode()).hexdigest()[:12]
    return folder() / f"{name.rpartition('.')[2]}-{key}{SUFFIX}"


@functools.cache
def _source_digest(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _key() -> str:
    """Differs where compiled code may."""
    processor = (
        llvmlite.binding.get_process_triple(),
        numba.config.CPU_NAME or llvmlite.binding.get_host_cpu_name(),
        codegen.get_host_cpu_features() if numba.config.CPU_FEATURES is None else numba.config.CPU_FEATURES,
    )
    versions = (sys.implementation.cache_tag, numba.__version__, llvmlite.__version__, numba.config.OPT)
    digest = hashlib.sha256(repr((*processor, *map(str, versions), LANES, CHECKED)).encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.name.encode() + source.read_bytes())
    return digest.hexdigest()[:16]


def _prepared(path: Path) -> Path:
    """The folder, made and tried; those of keys that were long not used are removed."""
    path.mkdir(parents=True, exist_ok=True)
    os.utime(path)
    _write(path / ".writable", b"")
    older = sorted((f for f in path.parent.iterdir() if f != path), key=lambda f: f.stat().st_mtime)
    for old in older[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)
    return path


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all; a crash of the system may leave a damaged file, which `load` notices."""
    fd, name = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(content)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def _remove(path: Path, owner: int) -> None:
    if os.getpid() == owner:  # not a fork
        shutil.rmtree(path, ignore_errors=True)
