"""Gaussians as the viewer is handed them: drawn in every way, picked, selected, deleted, saved.

Shape letters: N splats, H and W image size.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon import render, sh
from recon.colormap import TABLES
from recon.datasets.cameras import Cameras
from recon.datasets.errors import InputError
from recon.edits import Edits
from recon.export import export
from recon.gaussians import Gaussians
from recon.looks import Looks, Parameters
from recon.model import RenderOutput
from recon.raster import ALPHA_MIN, rasterizer_for
from recon.raster.reference import covariances
from recon.raster.solid import rasterize_solid
from recon.render import Colour
from recon.selecting import Cloud, Mask, combined, in_box, within
from recon.torch_threads import one_torch_thread
from recon.viewer.look import Box, How, Look, Shape, Vector
from recon.viewer.subject import Splats

LOOKED_AT = 160  # pixels along the shorter side that tell the range of depths


class SplatSubject:
    """A `Subject` and an `Editor` of Gaussians whose own tensors are never changed: what is deleted is hidden, and left
    out of what is saved."""

    def __init__(
        self, model: Gaussians, background: Colour = (0.0, 0.0, 0.0), source_from_world: Tensor | None = None
    ) -> None:
        """
        Args:
            background: what the scene was trained over, 0..1.
            source_from_world: [4,4] float64 similarity to the frame that files are written in; None: as the model is.
        """
        self.background = background
        self._source_from_world = torch.eye(4, dtype=torch.float64) if source_from_world is None else source_from_world
        self._looks = Looks(model)
        self.follow(model)

    def follow(self, model: Gaussians) -> None:
        """Show a model as it is now, with no edits: to be called whenever its values or rows have changed.

        While a scene is trained, that is before every picture; it costs next to nothing.
        """
        self._model = model
        self._looks.follow(model)
        self._edits = Edits(len(model))
        self._previewed: Mask | None = None
        self._previews = 0
        self._hidden_in: tuple[Hashable, Mask] | None = None
        self.__dict__.pop("_cloud", None)

    @functools.cached_property
    def _cloud(self) -> Cloud:  # made when the first edit or crop needs it
        values = (self._model.means, self._model.scales, self._model.opacities)
        return Cloud(*(value.detach().cpu().numpy() for value in values))

    # Subject

    @property
    def count(self) -> int:
        return len(self._model) - self.deleted

    @property
    def sh_degree(self) -> int:
        return self._model.sh_degree

    def draw(self, camera: Cameras, look: Look) -> NDArray[np.uint8]:
        """See `recon.viewer.subject.Subject.draw`."""
        with torch.no_grad(), one_torch_thread(self._model.device):
            background = self.background if look.background is None else look.background
            out = self._rendered(self._parameters(camera, look), camera, look, background)
            return drawn(out, camera, look, background)

    def pick(self, camera: Cameras, x: float, y: float, look: Look) -> Vector | None:
        """See `recon.viewer.subject.Subject.pick`."""
        K = camera.Ks.clone()
        K[0, :2, 2] += K.new_tensor([0.5 - x, 0.5 - y])
        pixel = Cameras(camera.viewmats, K, 1, 1)
        with torch.no_grad(), one_torch_thread(self._model.device):
            hidden, version = self._hidden(look.crop)
            parameters = self._looks.splats(hidden, None, look.size if look.mode != "points" else 1.0, version)
            out = self._rendered(parameters, pixel, Look("depth", near=look.near, far=look.far), (0.0, 0.0, 0.0))
        if float(out.alpha) <= render.SOLID:
            return None
        return point_at(camera, x, y, float(render.depth_of(out)))

    def splats(self, most: int, look: Look) -> Splats:
        """See `recon.viewer.subject.Subject.splats`.

        Those that show most are those of the most opacity times area as seen from where the area is largest: what is
        left out then takes least from a picture, wherever it is seen from.
        """
        with torch.no_grad(), one_torch_thread(self._model.device):
            hidden, version = self._hidden(look.crop)
            size = look.size if look.mode != "points" else 1.0
            p = self._looks.splats(hidden, self._tinted, size, (version, self._previews))
            opacities = p.logit_opacities.sigmoid()
            area = p.log_scales.sum(dim=-1) - p.log_scales.min(dim=-1).values
            shown = (opacities > ALPHA_MIN).nonzero()[:, 0]
            if len(shown) > most:
                shows = opacities[shown].log() + area[shown]
                shown = shown[shows.topk(most, sorted=False).indices.sort().values]
            values = (
                p.means[shown],
                covariances(p.quats[shown], p.log_scales[shown]),
                sh.to_rgb(p.sh0[shown, 0]).clamp(0, 1),
                opacities[shown, None],
            )
            return Splats(*(value.cpu().numpy() for value in values))

    def saver(self, look: Look) -> Callable[[Path], int]:
        """See `recon.viewer.subject.Subject.saver`."""
        hidden, _ = self._hidden(look.crop)
        kept = np.ones(len(self._model), bool) if hidden is None else ~hidden
        if not kept.any():
            raise InputError("Every splat is deleted or outside the crop box: nothing is left to save.")
        larger = torch.diag(torch.tensor([self.scale, self.scale, self.scale, 1.0], dtype=torch.float64))
        rows = torch.from_numpy(kept).to(self._model.device)
        copy, frame = self._model.like(*self._model.rows(rows).values()), larger @ self._source_from_world

        def save(path: Path) -> int:
            export(copy, path, source_from_world=frame)
            return path.stat().st_size

        return save

    def _rendered(self, parameters: Parameters, camera: Cameras, look: Look, background: Colour) -> RenderOutput:
        degree = self.sh_degree if look.sh_degree is None else min(look.sh_degree, self.sh_degree)
        device = self._model.device
        camera, colour = camera.to(device, torch.float32), torch.tensor(background, dtype=torch.float32, device=device)
        if look.mode == "ellipsoids" and device.type == "cpu":
            rgb, alpha = rasterize_solid(parameters, camera, background=colour, near=look.near, far=look.far)
            return RenderOutput(rgb, alpha)
        rasterize = self._model.rasterizer or rasterizer_for(device)
        return rasterize(
            *parameters,
            camera,
            sh_degree=0 if look.mode == "ellipsoids" else degree,
            background=colour,
            near=look.near,
            far=look.far,
            depth=look.mode in ("depth", "normals"),
            antialiased=self._model.antialiased and look.mode == "splats",
        )

    def _parameters(self, camera: Cameras, look: Look) -> Parameters:
        hidden, version = self._hidden(look.crop)
        arguments = (hidden, self._tinted, look.size, (version, self._previews))
        if look.mode == "points":
            return self._looks.points(*arguments, camera)
        if look.mode == "ellipsoids":
            return self._looks.ellipsoids(*arguments)
        return self._looks.splats(*arguments)

    @property
    def _tinted(self) -> Mask | None:
        """Which splats are shown as selected."""
        mask = self._edits.selected if self._previewed is None else self._previewed
        return mask if mask.any() else None

    def _hidden(self, crop: Box | None) -> tuple[Mask | None, Hashable]:
        """Which splats are not there, and a key of that answer."""
        key = (self._edits.version, crop)
        if crop is None and not self._edits.deleted.any():
            return None, key
        if self._hidden_in is None or self._hidden_in[0] != key:
            self._hidden_in = (key, ~self._there(crop))
        return self._hidden_in[1], key

    def _there(self, crop: Box | None) -> Mask:
        there = ~self._edits.deleted
        return there if crop is None else there & in_box(crop, self._cloud.means)

    # Editor

    @property
    def selected(self) -> int:
        return int(self._edits.selected.sum())

    @property
    def deleted(self) -> int:
        return int(self._edits.deleted.sum())

    @property
    def undoable(self) -> int:
        return self._edits.undoable

    @property
    def redoable(self) -> int:
        return self._edits.redoable

    @property
    def scale(self) -> float:
        return self._edits.scale

    def select(self, shape: Shape, how: How = "replace", crop: Box | None = None) -> int:
        """See `recon.viewer.subject.Editor.select`."""
        self.preview(None)
        self._edits.select(self._selection(shape, how, crop))
        return self.selected

    def preview(self, shape: Shape | None, how: How = "replace", crop: Box | None = None) -> int:
        """See `recon.viewer.subject.Editor.preview`."""
        self._previews += 1
        self._previewed = None if shape is None else self._selection(shape, how, crop)
        return self.selected if self._previewed is None else int(self._previewed.sum())

    def _selection(self, shape: Shape, how: How, crop: Box | None) -> Mask:
        return combined(self._edits.selected, within(shape, self._cloud, self._there(crop)), how)

    def invert(self, crop: Box | None = None) -> int:
        """Select what is not selected, and nothing of what is; outside `crop` nothing changes."""
        self.preview(None)
        self._edits.select(self._edits.selected ^ self._there(crop))
        return self.selected

    def clear(self) -> None:
        """Select nothing."""
        self.preview(None)
        self._edits.select(np.zeros(len(self._model), bool))

    def delete(self) -> int:
        """Delete what is selected; returns how many that were."""
        self.preview(None)
        return self._edits.delete()

    def undo(self) -> bool:
        """Take the last step back."""
        self.preview(None)
        return self._edits.undo()

    def redo(self) -> bool:
        """Take again what was taken back."""
        self.preview(None)
        return self._edits.redo()

    def set_scale(self, factor: float) -> None:
        """See `recon.viewer.subject.Editor.set_scale`."""
        self._edits.set_scale(factor)


def drawn(out: RenderOutput, camera: Cameras, look: Look, background: Colour) -> NDArray[np.uint8]:
    """What was rendered of a scene, as the look wants it shown."""
    alpha = out.alpha[0, ..., 0]
    if look.mode == "alpha":
        picture = alpha[..., None].expand(-1, -1, 3)
    elif look.mode == "normals":
        picture = render.draw_normals(render.depth_of(out), alpha, camera)
    elif look.mode == "depth":
        depth = render.depth_of(out)
        seen = look.depth_range or _range_in(depth, alpha)
        picture = render.draw_depth(depth, alpha, seen, background, TABLES[look.colour_map])
    else:
        picture = out.rgb[0]
    return render.to_uint8(picture)


def point_at(camera: Cameras, x: float, y: float, depth: float) -> Vector:
    """The point of the world that is seen at a pixel position, at a depth along the axis."""
    position = torch.tensor([x, y, 1.0], dtype=torch.float64)
    inside = torch.linalg.inv(camera.Ks[0].double()) @ position * depth
    point = camera.c2w[0].double() @ torch.cat([inside, inside.new_ones(1)])
    return float(point[0]), float(point[1]), float(point[2])


def _range_in(depth: Tensor, alpha: Tensor) -> tuple[float, float]:
    """The range of depths that a picture [H,W] needs."""
    step = max(1, min(depth.shape) // LOOKED_AT)
    depth, alpha = depth[::step, ::step], alpha[::step, ::step]
    return render.range_of(depth[(alpha > render.SOLID) & (depth > 0)].cpu().numpy())
