"""What a checkpoint of nerfacto holds: its settings, and its hash grids and networks as they are asked.

nerfstudio 1.1.5 keeps them in one of two ways: its own implementation in PyTorch has grids of its own manner and layers
with biases; tiny-cuda-nn has flat parameters, of networks without biases whose layers are filled up to multiples of 16
(include/tiny-cuda-nn/networks). What is fed to such a network is filled up with ones (encodings/identity.h), so these
columns of the first layer are a bias.

Shape letters: P points, F features of a level.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from recon import hashgrid
from recon.config import checked
from recon.datasets.errors import InputError
from recon.kernels import hash_grid
from recon.kernels.hash_grid import Layout
from recon.tcnn import ALIGNED

GEOMETRY = 15  # what the network at a position tells that of colours, beside the density
HARMONICS = 16  # of the direction: 4 levels
LAYERS = 2  # of the network at a position
HIDDEN = 2  # layers of the colours' whose width can be chosen

Layers = list[tuple[Tensor, Tensor | None]]  # weights [out,in] and biases [out]


@dataclass(frozen=True)
class GridSettings:
    """Of a grid and its network; the defaults are those of proposals in nerfstudio's fields/density_fields.py."""

    hidden_dim: int = 64
    num_layers: int = 2
    num_levels: int = 8
    base_res: int = 16
    max_res: int = 1024
    log2_hashmap_size: int = 18
    features_per_level: int = 2
    use_linear: bool = False

    def widths(self, out: int) -> list[int]:
        """Of what goes into each layer of the network, and what comes out of the last."""
        return [self.num_levels * self.features_per_level, *[self.hidden_dim] * (self.num_layers - 1), out]


def _small(finest: int) -> GridSettings:
    return GridSettings(hidden_dim=16, num_levels=5, max_res=finest, log2_hashmap_size=17)


@dataclass(frozen=True)
class Settings:
    """What pictures depend on, under nerfstudio's names and with what `ns-train nerfacto` trains with."""

    far_plane: float = 1000.0
    background_color: Literal["random", "last_sample", "black", "white"] = "last_sample"
    hidden_dim: int = 64
    hidden_dim_color: int = 64
    num_levels: int = 16
    base_res: int = 16
    max_res: int = 2048
    log2_hashmap_size: int = 19
    features_per_level: int = 2
    num_proposal_samples_per_ray: tuple[int, ...] = (256, 96)
    num_nerf_samples_per_ray: int = 48
    num_proposal_iterations: int = 2
    use_same_proposal_network: bool = False
    proposal_net_args_list: tuple[GridSettings, ...] = (_small(128), _small(256))
    proposal_initial_sampler: Literal["piecewise", "uniform"] = "piecewise"
    use_average_appearance_embedding: bool = True
    disable_scene_contraction: bool = False
    average_init_density: float = 0.01

    @property
    def grid(self) -> GridSettings:
        """Of the field itself."""
        sizes = (self.num_levels, self.base_res, self.max_res, self.log2_hashmap_size, self.features_per_level)
        return GridSettings(self.hidden_dim, LAYERS, *sizes)


def settings_of(values: Mapping[str, Any], source: str) -> Settings:
    """Those of a model in a config.yml; InputError, naming `source`, where one of them cannot be."""
    known = {each.name for each in fields(Settings)}
    values = {name: value for name, value in values.items() if name in known}
    proposals = values.get("proposal_net_args_list")
    if isinstance(proposals, list) and all(isinstance(each, dict) for each in proposals):
        prefix = f"{source}: proposal_net_args_list."
        values["proposal_net_args_list"] = [checked(GridSettings, each, prefix) for each in proposals]
    found = checked(Settings, values, f"{source}: ")
    rounds = found.num_proposal_iterations
    if len(found.num_proposal_samples_per_ray) < rounds or not found.proposal_net_args_list or rounds < 1:
        raise InputError(f"{source}: {rounds} rounds of proposals do not fit what is said of each")
    return found


class Asked:
    """A hash grid and the network that reads it."""

    def __init__(self, layout: Layout, table: Tensor, layers: Layers) -> None:
        self.layout, self.table, self.layers = layout, table, layers

    def __call__(self, positions: Tensor) -> Tensor:
        """[P,out] at positions [P,3], 0..1."""
        return through(self.layers, hashgrid.encode(self.layout, positions, self.table))


def through(layers: Layers, x: Tensor) -> Tensor:
    """[P,out] of [P,in] by a network with ReLU between its layers."""
    for weight, bias in layers[:-1]:
        x = functional.linear(x, weight, bias).relu_()
    return functional.linear(x, *layers[-1])


class Weights:
    """The tensors of a checkpoint by their names; KeyError for one that is not there, ValueError if it does not fit."""

    def __init__(self, tensors: Mapping[str, Any], device: torch.device | str) -> None:
        self._tensors, self._device = tensors, device

    def get(self, name: str, *shape: int) -> Tensor:
        """A tensor of this shape, float32; of any without."""
        value = self._tensors[name]
        if not isinstance(value, Tensor) or (shape and value.shape != shape):
            found = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"{name} is {found}, not {list(shape)}")
        return value.detach().to(self._device, torch.float32).contiguous()

    def field(self, settings: Settings) -> Asked:
        """Density and geometry."""
        grid, name = settings.grid, "field.mlp_base.model"
        widths = grid.widths(1 + GEOMETRY)
        if f"{name}.params" not in self._tensors:
            return Asked(*self._own_grid(f"{name}.0", grid), self._own_layers(f"{name}.1.layers", widths))
        layout, flat = _layout(grid), self.get(f"{name}.params")
        count = len(flat) - layout.rows * layout.features
        if count < 0:
            raise ValueError(f"{name}.params has {len(flat)} numbers, fewer than its grid")
        table = flat[count:].reshape(layout.rows, layout.features).contiguous()
        return Asked(layout, table, _flat_layers(f"{name}.params", flat[:count], widths, filled_with=0))

    def proposal(self, number: int, settings: Settings) -> Asked:
        """The density of one round of proposals."""
        sizes, name = settings.proposal_net_args_list, f"proposal_networks.{number}"
        grid = sizes[min(number, len(sizes) - 1)]
        widths = grid.widths(1)
        flat = f"{name}.encoding.tcnn_encoding.params"
        if flat in self._tensors:
            layout = _layout(grid)
            table = self.get(flat, layout.rows * layout.features).reshape(layout.rows, layout.features)
        else:
            layout, table = self._own_grid(f"{name}.encoding", grid)
        if grid.use_linear:
            weight = self.get(f"{name}.linear.weight", 1, widths[0])
            return Asked(layout, table, [(weight, self.get(f"{name}.linear.bias", 1))])
        return Asked(layout, table, self._layers(f"{name}.mlp_base.1", widths))

    def colours(self, settings: Settings) -> Layers:
        """Colours of harmonics of the direction and geometry, as no photo in particular shows them."""
        name = "field.embedding_appearance.embedding.weight"
        light = self.get(name).mean(dim=0) if name in self._tensors else torch.zeros(0, device=self._device)
        given, width = HARMONICS + GEOMETRY, settings.hidden_dim_color
        layers = self._layers("field.mlp_head", [given + len(light), *[width] * HIDDEN, 3])
        weight, bias = layers[0]
        if settings.use_average_appearance_embedding:  # the same for all: part of the bias
            lit = weight[:, given:] @ light
            bias = lit if bias is None else bias + lit
        return [(weight[:, :given].contiguous(), bias), *layers[1:]]

    def _layers(self, name: str, widths: list[int]) -> Layers:
        flat = f"{name}.tcnn_encoding.params"
        if flat in self._tensors:
            return _flat_layers(flat, self.get(flat), widths, filled_with=1)
        return self._own_layers(f"{name}.layers", widths)

    def _own_layers(self, name: str, widths: list[int]) -> Layers:
        return [
            (self.get(f"{name}.{i}.weight", after, before), self.get(f"{name}.{i}.bias", after))
            for i, (before, after) in enumerate(pairwise(widths))
        ]

    def _own_grid(self, name: str, grid: GridSettings) -> tuple[Layout, Tensor]:
        layout = own_layout(grid)
        return layout, self.get(f"{name}.hash_table", layout.rows, layout.features)


def _layout(grid: GridSettings) -> Layout:
    """tiny-cuda-nn's."""
    return hash_grid.layout(
        grid.num_levels, grid.features_per_level, grid.log2_hashmap_size, grid.base_res, grid.max_res
    )


def own_layout(grid: GridSettings) -> Layout:
    """That of nerfstudio in PyTorch (field_components/encodings.py): every level is hashed, its scale is a whole
    number, found in single precision, and corners are not moved by half a cell."""
    levels, rows = grid.num_levels, 1 << grid.log2_hashmap_size
    growth = hash_grid.growth_of(levels, grid.base_res, grid.max_res)
    scales = torch.floor(grid.base_res * growth ** torch.arange(levels)).numpy()
    return Layout(
        *(grid.features_per_level, grid.log2_hashmap_size, grid.base_res, grid.max_res, scales),
        resolutions=scales.astype(np.int64) + 1,
        offsets=np.arange(levels + 1, dtype=np.int64) * rows,
        hashed=np.ones(levels, dtype=np.uint8),
        shift=0.0,
    )


def _flat_layers(name: str, flat: Tensor, widths: list[int], *, filled_with: int) -> Layers:
    """tiny-cuda-nn's, one after the other, as layers without what they were filled up with."""
    given, out, hidden = widths[0], widths[-1], widths[1:-1]
    filled_up = [-(-width // ALIGNED) * ALIGNED for width in (given, out)]
    sizes = [filled_up[0], *hidden, filled_up[1]]
    shapes = [(rows, columns) for columns, rows in pairwise(sizes)]
    if len(flat) != sum(rows * columns for rows, columns in shapes):
        raise ValueError(f"{name} has {len(flat)} numbers, which are not the layers {sizes}")
    parts = flat.split([rows * columns for rows, columns in shapes])
    weights = [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]
    weights[-1] = weights[-1][:out]
    first = weights[0]
    bias = filled_with * first[:, given:].sum(dim=1) if first.shape[1] > given else None
    return [(first[:, :given].contiguous(), bias), *((weight, None) for weight in weights[1:])]
