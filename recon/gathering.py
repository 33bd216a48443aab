"""The checkpoint of a scene that is divided among processes: one file as any other, written piece by piece and read
part by part, so that no process ever holds the whole scene.

The format is safetensors' (https://github.com/huggingface/safetensors#format), whose library writes whole tensors only:
the length of a header as eight bytes, the header as JSON, and the tensors without gaps. Reading is the library's.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recon.datasets.files import atomic_write
from recon.ranks import Ranks

TYPES = {torch.float64: "F64", torch.int64: "I64", torch.float32: "F32"}
ALIGNED = 8  # bytes, of which the header is a multiple
BLOCK = 1 << 20  # rows that are read at a time


def write(path: Path, whole: dict[str, Tensor], parts: dict[str, Tensor], header: dict[str, Any], ranks: Ranks) -> None:
    """Have the first process write what all call this with. Raises OSError, and `recon.ranks.Lost`.

    Args:
        whole: what is the same in all.
        parts: rows of which each process has some; those of the first come first.
        header: for `recon`; how many rows of the model each part has becomes its `parts`.
    """
    lengths = ranks.gathered(torch.tensor([[len(value) for value in parts.values()]]))
    sizes = {name: lengths[:, column].tolist() for column, name in enumerate(parts)}
    if not ranks.first:
        for name, value in _ordered(parts):
            assert not list(ranks.pieces(value, sizes[name]))
        return
    shapes = {name: [*value.shape] for name, value in whole.items()}
    shapes |= {name: [sum(sizes[name]), *value.shape[1:]] for name, value in parts.items()}
    everything = [*_ordered(whole), *_ordered(parts)]
    header = {**header, "parts": next(iter(sizes.values()))}
    table: dict[str, Any] = {"__metadata__": {"recon": json.dumps(header)}}
    end = 0
    for name, value in everything:
        begin, end = end, end + math.prod(shapes[name]) * value.element_size()
        table[name] = {"dtype": TYPES[value.dtype], "shape": shapes[name], "data_offsets": [begin, end]}
    text = json.dumps(table).encode()
    text += b" " * (-len(text) % ALIGNED)
    with atomic_write(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, value in everything:
            pieces = ranks.pieces(value, sizes[name]) if name in parts else [value.detach().cpu().contiguous()]
            for piece in pieces:
                file.write(piece.numpy().data)


def _ordered(tensors: dict[str, Tensor]) -> list[tuple[str, Tensor]]:
    """Those of large numbers first, so that each begins where it may."""
    return sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))


def read(rows: Any, parts: Sequence[int] | None, ranks: Ranks) -> Tensor:
    """The rows of this process.

    Args:
        rows: all of them, as safetensors' `get_slice` has them.
        parts: how many each process had that wrote them. As many processes get the same again; others take turns, so
            that the part of each is a sample of the whole scene.
    """
    total = rows.get_shape()[0]
    if parts is not None and len(parts) == ranks.count and sum(parts) == total:
        ends = [0, *itertools.accumulate(parts)]
        own: Tensor = rows[ends[ranks.rank] : ends[ranks.rank + 1]]
        return own.clone()
    return torch.cat([*_turns(rows, total, ranks), rows[0:0]])


def _turns(rows: Any, total: int, ranks: Ranks) -> Iterator[Tensor]:
    for begin in range(0, total, BLOCK):
        yield rows[begin : min(begin + BLOCK, total)][(ranks.rank - begin) % ranks.count :: ranks.count]
