"""PlayCanvas's streamed SOG: a lod-meta.json, and SOG folders for parts of the scene in several levels of detail.

Viewers load what they need. A tree of boxes says which splats of which folder are in a box, for each level; of the
leaves, level 0 has all splats and each further one a quarter of those before, the ones that cover the most, a little
larger so that they cover as much together. Loss: that of SOG. The order of the splats changes. Coordinates are those
of a .ply. Read is the finest level that is there, box by box, and what surrounds the scene ("environment").

Layout: https://developer.playcanvas.com/user-manual/gaussian-splatting/formats/streamed-sog. Shape letters as in
`rows`.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recon.datasets.errors import InputError
from recon.datasets.fields import entry, read_json, shown, whole
from recon.datasets.files import atomic_write
from recon.export import sog
from recon.export.rows import Floats, Rows, covered, joined, morton_order
from recon.gaussians import Gaussians

log = logging.getLogger("recon")

META = "lod-meta.json"
LOSS = f"{sog.LOSS}; coarser levels are beside the whole one"
LEAF = 1 << 15  # splats in a box, at most
FILE = 1 << 19  # splats in a folder, about, as in PlayCanvas's own
LEVELS = 4
SHARE = 4  # of the splats of a level, one in so many is in the next
FEWEST = 1_000  # splats that are worth another level
REACH = 3.0  # standard deviations that are in a box
MOST_META = 1 << 24  # bytes
MOST_NODES = 100_000  # that are walked through

Node = dict[str, Any]


def save(gaussians: Gaussians, path: Path | str) -> None:
    """Write a lod-meta.json and the folders beside it; levels are made as long as they have splats."""
    path = Path(path)
    rows = Rows.of(gaussians, path)
    levels = max(1, min(LEVELS, 1 + math.floor(math.log(max(len(rows), 1) / FEWEST, SHARE))))
    boxes = list(_boxes(rows.means, np.arange(len(rows)))) if len(rows) else []
    names: list[str] = []
    leaves: list[Node] = [{"bound": _bound(rows, box), "lods": {}} for box in boxes]
    counts = []
    for level in range(levels):
        kept = [_most_covering(rows, box, SHARE**level) for box in boxes]
        counts.append(sum(map(len, kept)))
        for number, group in enumerate(_files(kept)):
            names.append(f"{level}_{number}/{sog.META}")
            start = 0
            for leaf in group:
                leaves[leaf]["lods"][str(level)] = {"file": len(names) - 1, "offset": start, "count": len(kept[leaf])}
                start += len(kept[leaf])
            some, whole_boxes = (rows.taken(np.concatenate([each[leaf] for leaf in group])) for each in (kept, boxes))
            target = path.parent / names[-1]
            sog.write_folder(_grown(some, whole_boxes), target, antialiased=gaussians.antialiased)
    empty = {"bound": {"min": [0.0] * 3, "max": [0.0] * 3}, "children": []}
    meta = {
        "version": 1,
        "asset": {"generator": "recon"},
        "count": sum(counts),
        "counts": counts,
        "lodLevels": levels,
        "filenames": names,
        "tree": _tree(leaves) if leaves else empty,
    }
    with atomic_write(path) as file:
        file.write(json.dumps(meta, separators=(",", ":")).encode())


def load(path: Path | str) -> Gaussians:
    """Read a lod-meta.json, or its folder; `InputError` says what is wrong with it or with a folder that it names."""
    path = Path(path)
    path = path / META if path.is_dir() else path
    if path.is_file() and path.stat().st_size > MOST_META:
        raise InputError(f"{path}: {path.stat().st_size:,} bytes are more than the {MOST_META:,} that are taken")
    meta = read_json(path)
    names = entry(meta, "filenames", list, str(path))
    files = [_beside(path, name) for name in names]
    if len(set(files)) < len(files):
        raise InputError(f"{path}: filenames has one of them twice")
    wanted: dict[int, list[tuple[int, int]]] = {}
    coarser = 0
    for lods in _leaves(entry(meta, "tree", dict, str(path)), str(path)):
        level, number = _finest(lods, files, str(path))
        coarser += level > 0
        where = f"{path}: level {level} of a box"
        start, count = whole(lods[str(level)], "offset", where), whole(lods[str(level)], "count", where)
        wanted.setdefault(number, []).append((start, count))
    if coarser:
        log.warning("%s: the finest splats of %d boxes are not there; coarser ones are read", path, coarser)
    parts, antialiased = [], False
    for number, ranges in sorted(wanted.items()):
        some = sog.load(files[number])
        rows, antialiased = Rows.of(some, files[number]), antialiased or some.antialiased
        if any(start < 0 or count < 0 or start + count > len(rows) for start, count in ranges):
            raise InputError(f"{path}: boxes have splats that {names[number]} has not, which has {len(rows):,}")
        if sum(count for _, count in ranges) > len(rows):
            raise InputError(f"{path}: several boxes have the same splats of {names[number]}")
        parts += [rows.taken(np.arange(start, start + count)) for start, count in sorted(ranges)]
    if meta.get("environment") is not None:
        around = _beside(path, meta["environment"])
        parts.append(Rows.of(sog.load(around), around))
    return joined(parts or [Rows.none()]).gaussians(str(path), antialiased=antialiased)


def is_folder(path: Path) -> bool:
    return (path / META).is_file()


def files_of(path: Path) -> list[Path]:
    """The files in the folders of a lod-meta.json that `save` wrote."""
    metas = [path.parent / name for name in json.loads(path.read_bytes())["filenames"]]
    return [file for meta in metas for file in [meta, *sog.files_of(meta)]]


def _boxes(means: Floats, members: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Halves of halves along the longest side, which are neighbours in this order."""
    if len(members) <= LEAF:
        yield members
        return
    own = means[members]
    axis = int(np.argmax(own.max(axis=0) - own.min(axis=0)))
    order = members[np.argsort(own[:, axis], kind="stable")]
    yield from _boxes(means, order[: len(order) // 2])
    yield from _boxes(means, order[len(order) // 2 :])


def _most_covering(rows: Rows, box: NDArray[np.int64], share: int) -> NDArray[np.int64]:
    """One in `share` of the splats of a box, in an order in which neighbours lie together."""
    count = -(-len(box) // share)
    kept = box[np.argsort(-covered(rows.taken(box)), kind="stable")[:count]]
    return kept[morton_order(rows.means[kept])]


def _grown(some: Rows, rows: Rows) -> Rows:
    """Some of the splats of boxes, so much larger that they cover as much as all of them do."""
    if len(some) == len(rows):
        return some
    most = covered(rows).max()
    share = np.exp(covered(some) - most).sum() / np.exp(covered(rows) - most).sum()
    return replace(some, log_scales=some.log_scales - np.float32(math.log(share) / 2))


def _files(kept: list[NDArray[np.int64]]) -> Iterator[list[int]]:
    """The boxes of a level, by the folders that hold them."""
    group: list[int] = []
    size = 0
    for leaf, members in enumerate(kept):
        if group and size + len(members) > FILE:
            yield group
            group, size = [], 0
        group.append(leaf)
        size += len(members)
    if group:
        yield group


def _bound(rows: Rows, box: NDArray[np.int64]) -> Node:
    reach = REACH * np.exp(rows.log_scales[box].max(axis=1, keepdims=True).astype(np.float64))
    low, high = (rows.means[box] - reach).min(axis=0), (rows.means[box] + reach).max(axis=0)
    return {"min": low.tolist(), "max": high.tolist()}


def _tree(leaves: list[Node]) -> Node:
    if len(leaves) == 1:
        return leaves[0]
    children = [_tree(leaves[: len(leaves) // 2]), _tree(leaves[len(leaves) // 2 :])]
    low = np.min([child["bound"]["min"] for child in children], axis=0)
    high = np.max([child["bound"]["max"] for child in children], axis=0)
    return {"bound": {"min": low.tolist(), "max": high.tolist()}, "children": children}


def _beside(path: Path, name: Any) -> Path:
    """A meta.json that a lod-meta.json names, which has to be in its folder or below."""
    parts = PurePosixPath(name).parts if isinstance(name, str) and 0 < len(name) < 1000 else ()
    if not parts or name[0] == "/" or ".." in parts or parts[-1] != sog.META or set(name) & {"\\", "\0", ":"}:
        raise InputError(f"{path}: {shown(name)} is not the name of a {sog.META} in its folder")
    return path.parent.joinpath(*parts)


def _leaves(tree: Mapping[str, Any], where: str) -> Iterator[Mapping[str, Any]]:
    """What levels the boxes have, in the order of the tree."""
    open_: list[Any] = [tree]
    walked = 0
    while open_:
        node = open_.pop()
        walked += 1
        if walked > MOST_NODES or not isinstance(node, dict):
            raise InputError(f"{where}: its tree has more than {MOST_NODES:,} boxes, or something else among them")
        if "children" in node:
            open_ += reversed(entry(node, "children", list, where))
        else:
            yield entry(node, "lods", dict, f"{where}: a box")


def _finest(lods: Mapping[str, Any], files: list[Path], where: str) -> tuple[int, int]:
    """The finest level of a box whose file is there, and the number of that file."""
    levels = sorted(int(key) for key in lods if key.isdecimal() and len(key) < 4 and str(int(key)) == key)
    numbers = []
    for level in levels:
        number = whole(entry(lods, str(level), dict, where), "file", f"{where}: level {level} of a box")
        if not 0 <= number < len(files):
            raise InputError(f"{where}: file {number} of a box: there are {len(files)}")
        if files[number].is_file():
            return level, number
        numbers.append(number)
    missing = f": {files[numbers[0]].parent.name}/{sog.META} is not there" if numbers else ""
    raise InputError(f"{where}: a box has splats of no level{missing}")
