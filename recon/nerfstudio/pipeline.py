"""Training in nerfstudio's loop: its data, viewer, logs and checkpoints around our steps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes
from nerfstudio.pipelines.base_pipeline import VanillaPipeline, VanillaPipelineConfig
from torch import Tensor

from recon.nerfstudio.models import TrainedModel
from recon.nerfstudio.photos import scene_of


@dataclass
class PipelineConfig(VanillaPipelineConfig):
    """Configuration for pipeline instantiation"""

    _target: type = field(default_factory=lambda: Pipeline)
    """target class to instantiate"""


class Pipeline(VanillaPipeline):
    """Each of nerfstudio's steps is one of ours, with our photos of the step, optimiser and schedules."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.world_size > 1:
            raise SystemExit("recon's methods train on one device in nerfstudio; on several: torchrun -m recon train")

    @property
    def trained(self) -> TrainedModel:
        assert isinstance(self.model, TrainedModel)
        return self.model

    def get_training_callbacks(self, attributes: TrainingCallbackAttributes) -> list[TrainingCallback]:
        """Called when all is loaded and the number of steps is known: the training begins here."""
        assert attributes.trainer is not None
        self.trained.begin(scene_of(self.datamanager), attributes.trainer.config.max_num_iterations)
        return super().get_training_callbacks(attributes)

    def get_train_loss_dict(self, step: int) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
        """Take a step. The loss that nerfstudio goes back from leads to a parameter without elements, so to nothing."""
        loss = self.trained.learn()
        nothing = self.model.device_indicator_param.sum()
        state = self.trained.state
        return {}, {"loss": loss.to(nothing) + nothing}, {"count": 0 if state is None else len(state.model)}
