"""Small nerfactos as nerfstudio's checkpoints hold them, in both ways that it keeps weights."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from recon.kernels import hash_grid
from recon.nerfstudio.nerfacto_weights import GEOMETRY, HARMONICS, GridSettings, Settings

LIGHT = 4  # numbers of each photo's appearance
PHOTOS = 3
PROPOSAL = GridSettings(hidden_dim=16, num_levels=2, base_res=4, max_res=12, log2_hashmap_size=8)
SMALL = Settings(
    hidden_dim=16,
    hidden_dim_color=16,
    num_levels=3,
    base_res=4,
    max_res=21,
    log2_hashmap_size=9,
    num_proposal_samples_per_ray=(12, 8),
    num_nerf_samples_per_ray=6,
    proposal_net_args_list=(PROPOSAL, PROPOSAL),
    average_init_density=0.5,
)
OF_MODEL = f"""  model: !!python/object:nerfstudio.models.nerfacto.NerfactoModelConfig
    _target: !!python/name:nerfstudio.models.nerfacto.NerfactoModel ''
    average_init_density: 0.5
    background_color: last_sample
    base_res: 4
    camera_optimizer: !!python/object:nerfstudio.cameras.camera_optimizers.CameraOptimizerConfig
      base_res: 99
      mode: SO3xR3
    collider_params:
      far_plane: 6.0
      near_plane: 2.0
    disable_scene_contraction: false
    far_plane: 1000.0
    hidden_dim: 16
    hidden_dim_color: 16
    log2_hashmap_size: 9
    max_res: 21
    num_levels: 3
    num_nerf_samples_per_ray: 6
    num_proposal_samples_per_ray: !!python/tuple
    - 12
    - 8
    predict_normals: false
    proposal_net_args_list:
{
    "".join(
        '''    - base_res: 4
      hidden_dim: 16
      log2_hashmap_size: 8
      max_res: 12
      num_levels: 2
      use_linear: false
'''
        for _ in range(2)
    )
}    proposal_warmup: 5000
project_name: nerfstudio-project
"""


def draw(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def layers(widths: Sequence[int], seed: int) -> list[tuple[Tensor, Tensor]]:
    generator = draw(seed)
    return [
        (torch.randn(after, before, generator=generator) / before**0.5, torch.randn(after, generator=generator) / 4)
        for before, after in pairwise(widths)
    ]


def widths_of(settings: Settings) -> list[list[int]]:
    """Of the networks of the field, of a proposal and of colours."""
    colours = [HARMONICS + GEOMETRY + LIGHT, settings.hidden_dim_color, settings.hidden_dim_color, 3]
    return [settings.grid.widths(1 + GEOMETRY), settings.proposal_net_args_list[0].widths(1), colours]


def shared(settings: Settings) -> dict[str, Any]:
    light = torch.randn(PHOTOS, LIGHT, generator=draw(7))
    return {
        "field.aabb": torch.tensor([[-1.0, -1, -1], [1, 1, 1]]),
        "field.embedding_appearance.embedding.weight": light,
        "camera_optimizer.pose_adjustment": torch.zeros(PHOTOS, 6),
    }


def in_torch(settings: Settings = SMALL) -> dict[str, Any]:
    """As its own implementation has them."""
    tensors = shared(settings)
    of_field, of_proposal, of_colours = widths_of(settings)

    def add(grid: str, network: str, sizes: GridSettings, widths: Sequence[int], seed: int) -> None:
        rows = sizes.num_levels << sizes.log2_hashmap_size
        tensors[f"{grid}.hash_table"] = torch.randn(rows, sizes.features_per_level, generator=draw(seed))
        put(network, widths, seed + 10)

    def put(network: str, widths: Sequence[int], seed: int) -> None:
        for number, (weight, bias) in enumerate(layers(widths, seed)):
            tensors[f"{network}.layers.{number}.weight"], tensors[f"{network}.layers.{number}.bias"] = weight, bias

    add("field.mlp_base.model.0", "field.mlp_base.model.1", settings.grid, of_field, 1)
    for number, sizes in enumerate(settings.proposal_net_args_list):
        name = f"proposal_networks.{number}"
        add(f"{name}.encoding", f"{name}.mlp_base.1", sizes, of_proposal, 2 + number)
    put("field.mlp_head", of_colours, 5)
    return tensors


def flat(widths: Sequence[int], seed: int) -> Tensor:
    """A network as tiny-cuda-nn has it, filled up with numbers that must not matter, or count as a bias."""
    filled = [-(-widths[0] // 16) * 16, *widths[1:-1], -(-widths[-1] // 16) * 16]
    return torch.cat([weight.reshape(-1) for weight, _ in layers(filled, seed)])


def table_of(sizes: GridSettings, seed: int) -> Tensor:
    layout = hash_grid.layout(
        sizes.num_levels, sizes.features_per_level, sizes.log2_hashmap_size, sizes.base_res, sizes.max_res
    )
    return torch.randn(layout.rows * layout.features, generator=draw(seed))


def in_tcnn(settings: Settings = SMALL) -> dict[str, Any]:
    """As they are with tiny-cuda-nn."""
    of_field, of_proposal, of_colours = widths_of(settings)
    tensors = shared(settings) | {
        "field.mlp_base.model.params": torch.cat([flat(of_field, 11), table_of(settings.grid, 1)]),
        "field.mlp_head.tcnn_encoding.params": flat(of_colours, 15),
    }
    for number, sizes in enumerate(settings.proposal_net_args_list):
        name = f"proposal_networks.{number}"
        tensors[f"{name}.encoding.tcnn_encoding.params"] = table_of(sizes, 2 + number)
        tensors[f"{name}.mlp_base.1.tcnn_encoding.params"] = flat(of_proposal, 12 + number)
    return tensors


def in_pipeline(tensors: dict[str, Any]) -> dict[str, Any]:
    return {f"_model.{name}": value for name, value in tensors.items()}
