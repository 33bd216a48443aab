"""What nerfstudio loads for `ns-train` with `recon-splats`, `recon-plenoxels` and `recon-ngp`."""

from __future__ import annotations

import torch
from nerfstudio.configs.base_config import MachineConfig, ViewerConfig
from nerfstudio.data.datamanagers.full_images_datamanager import FullImageDatamanagerConfig
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.plugins.types import MethodSpecification

from recon.config import FIELD_PRESETS, PRESETS
from recon.nerfstudio.dataparsers import CaptureConfig
from recon.nerfstudio.models import NgpConfig, PlenoxelsConfig, SceneConfig, SplatsConfig
from recon.nerfstudio.pipeline import PipelineConfig


def _trainer(name: str, steps: int, model: SceneConfig) -> TrainerConfig:
    return TrainerConfig(
        method_name=name,
        machine=MachineConfig(device_type="cuda" if torch.cuda.is_available() else "cpu"),
        max_num_iterations=steps,
        steps_per_eval_batch=0,
        steps_per_eval_all_images=0,
        steps_per_save=1000,
        mixed_precision=False,
        pipeline=PipelineConfig(
            datamanager=FullImageDatamanagerConfig(dataparser=CaptureConfig(), cache_images_type="uint8"), model=model
        ),
        optimizers={},
        viewer=ViewerConfig(num_rays_per_chunk=1 << 15),
        vis="viewer",
    )


splats = MethodSpecification(
    _trainer("recon-splats", PRESETS["default"], SplatsConfig()), "Gaussian splats, on a CPU or a GPU"
)
plenoxels = MethodSpecification(
    _trainer("recon-plenoxels", FIELD_PRESETS["plenoxels"]["default"], PlenoxelsConfig()),
    "A radiance field in a sparse grid, on a CPU or a GPU",
)
ngp = MethodSpecification(
    _trainer("recon-ngp", FIELD_PRESETS["ngp"]["default"], NgpConfig()),
    "Instant-NGP with a contracted space, on a CPU or a GPU",
)
