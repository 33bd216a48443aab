"""Our scenes as nerfstudio's models, which it renders, scores and saves.

A model holds a `TrainState`, and nothing of it as parameters of a torch module: rows of Gaussians come and go, and the
optimiser is ours. nerfstudio saves it as one value, a checkpoint of our own.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from nerfstudio.cameras.cameras import Cameras as TheirCameras
from nerfstudio.data.scene_box import OrientedBox
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes
from nerfstudio.models.base_model import Model, ModelConfig
from nerfstudio.models.splatfacto import SplatfactoModel
from torch import Tensor
from torch.nn import Parameter

from recon import checkpoint, metrics, opening
from recon.datasets.scene import Scene
from recon.evaluate import over_background
from recon.export.rows import Rows
from recon.gaussians import Gaussians
from recon.nerfstudio.cameras import cameras_of
from recon.nerfstudio.runs import unpacked
from recon.options import Options
from recon.torch_threads import one_torch_thread
from recon.train import Learner, TrainState, learner_for, start, take_step


@dataclass
class SceneConfig(ModelConfig):
    """What all our methods can be asked for"""

    _target: type = field(default_factory=lambda: TrainedModel)
    """target class to instantiate"""
    background: Literal["auto", "black", "white", "random"] = "auto"
    """what stands behind the scene and behind photos with alpha; auto is what the capture says"""
    seed: int = 0
    """of all that is random"""

    def options(self, steps: int) -> Options:
        """The same, as our own command is asked."""
        return Options("", steps=steps, background=self.background, seed=self.seed)


@dataclass
class SplatsConfig(SceneConfig):
    """Gaussian splats"""

    _target: type = field(default_factory=lambda: SplatsModel)
    """target class to instantiate"""
    strategy: Literal["adaptive", "mcmc"] = "adaptive"
    """when Gaussians are added and removed"""
    max_gaussians: int | None = None
    """how many there may be; by default what the number of steps is best used for"""
    exposure: bool = True
    """learn how each photo was exposed"""
    sh_degree: ClassVar[int] = 3

    def options(self, steps: int) -> Options:
        return dataclasses.replace(
            super().options(steps),
            strategy=self.strategy,
            max_gaussians=self.max_gaussians,
            exposure=self.exposure,
        )


@dataclass
class PlenoxelsConfig(SceneConfig):
    """A radiance field: a sparse grid"""

    def options(self, steps: int) -> Options:
        return dataclasses.replace(super().options(steps), method="plenoxels")


@dataclass
class NgpConfig(SceneConfig):
    """A radiance field: a hash grid and small networks"""

    def options(self, steps: int) -> Options:
        return dataclasses.replace(super().options(steps), method="ngp")


class TrainedModel(Model):
    """A scene of any kind that is trained here."""

    config: SceneConfig

    def populate_modules(self) -> None:
        self.state: TrainState | None = None
        self._learner: Learner | None = None
        self._behind: Tensor | None = None  # what the viewer wants behind the scene
        self._box: OrientedBox | None = None

    def begin(self, scene: Scene, steps: int) -> None:
        """Get ready for so many steps on the photos of a scene, from where a checkpoint that was loaded stopped."""
        if self.state is None:
            settings = self.config.options(steps).train_config()
            model = opening.first_model(scene, settings, self.device)
            self.state = start(model, settings, scene)
        else:
            self.state.config = dataclasses.replace(self.state.config, steps=self.state.step + steps)
        self._learner = learner_for(self.state, scene.train_views)

    def learn(self) -> Tensor:
        """Take a step; returns the loss."""
        state, learner = self.trained(), self._learner
        assert learner is not None, "`begin` comes first"
        with one_torch_thread(self.device):
            return take_step(state, learner)

    def trained(self) -> TrainState:
        """The scene. (No property: nerfstudio's viewer asks for all of these before there is one.)"""
        assert self.state is not None, "neither begun nor loaded"
        return self.state

    def get_extra_state(self) -> Tensor:
        data = b"" if self.state is None else checkpoint.packed(self.state)
        return torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        self._learner = None
        self.state = unpacked(state, Path("checkpoint"), self.device) if len(state) else None

    def get_param_groups(self) -> dict[str, list[Parameter]]:
        return {}

    def get_training_callbacks(self, attributes: TrainingCallbackAttributes) -> list[TrainingCallback]:
        return []

    def get_outputs_for_camera(self, camera: TheirCameras, obb_box: OrientedBox | None = None) -> dict[str, Tensor]:
        self._box = obb_box
        return self.get_outputs(camera)

    @torch.no_grad()
    def get_outputs(self, camera: TheirCameras) -> dict[str, Tensor]:
        """A picture [H,W,...] of one camera; of a training that has not begun, the background."""
        ours = cameras_of(camera)
        colour = self._behind
        if colour is None:
            colour = torch.tensor((0.0, 0.0, 0.0) if self.state is None else opening.background_of(self.state))
        colour = colour.float().to(self.device)
        behind = colour.expand(ours.height, ours.width, 3)
        if self.state is None:
            nothing = torch.zeros(ours.height, ours.width, 1, device=self.device)
            return {"rgb": behind, "depth": nothing, "accumulation": nothing, "background": behind}
        with one_torch_thread(self.device):
            out = self._shown().render(ours, background=colour, depth=True)
        assert out.depth is not None
        depth = torch.where(out.alpha[0] > 0, out.depth[0], out.depth[0].max())
        values = {"rgb": out.rgb[0].clamp(0, 1), "depth": depth, "accumulation": out.alpha[0]}
        return {name: value.contiguous() for name, value in values.items()} | {"background": behind}

    def _shown(self) -> Any:
        return self.trained().model

    def _photo(self, batch: dict[str, Any], outputs: dict[str, Tensor]) -> Tensor:
        image = batch["image"].to(self.device)
        image = image.float() / 255 if image.dtype == torch.uint8 else image
        return over_background(image, outputs["background"])

    def get_metrics_dict(self, outputs: dict[str, Tensor], batch: dict[str, Any]) -> dict[str, Any]:
        return {"psnr": metrics.psnr(outputs["rgb"], self._photo(batch, outputs)), "count": len(self.trained().model)}

    def get_loss_dict(
        self, outputs: dict[str, Tensor], batch: dict[str, Any], metrics_dict: dict[str, Any] | None = None
    ) -> dict[str, Tensor]:
        return {"rgb": (outputs["rgb"] - self._photo(batch, outputs)).abs().mean()}

    def get_image_metrics_and_images(
        self, outputs: dict[str, Tensor], batch: dict[str, Any]
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        photo, picture, mask = self._photo(batch, outputs), outputs["rgb"], batch.get("mask")
        if mask is not None:
            mask = mask.to(self.device).reshape(*photo.shape[:2], 1)
        scores = {
            "psnr": metrics.psnr(picture, photo, mask=mask),
            "ssim": metrics.ssim(picture, photo, mask=mask),
            "lpips": metrics.lpips(picture, photo, mask=mask),
        }
        known = {name: float(value) for name, value in scores.items() if value is not None}
        return known, {"img": torch.cat([photo, picture], dim=1)}


class SplatsModel(TrainedModel, SplatfactoModel):
    """Gaussians. One of nerfstudio's own splats to its viewer and to ns-export, which look for `gauss_params`."""

    config: SplatsConfig

    load_state_dict = torch.nn.Module.load_state_dict  # splatfacto's expects its parameters there

    @property
    def gauss_params(self) -> dict[str, Tensor]:
        """The parameters under splatfacto's names; of none before the training begins."""
        values = (Rows.none().gaussians("") if self.state is None else self.state.gaussians).state_dict()
        return {
            "means": values["means"],
            "scales": values["log_scales"],
            "quats": values["quats"],
            "features_dc": values["sh0"][:, 0],
            "features_rest": values["shN"],
            "opacities": values["logit_opacities"][:, None],
        }

    def set_background(self, background_color: Tensor) -> None:
        self._behind = background_color

    def _shown(self) -> Gaussians:
        model = self.trained().gaussians
        if self._box is None:
            return model
        inside = self._box.within(model.means.detach()).reshape(-1)
        return model.like(*(value[inside] for value in model.state_dict().values()))
