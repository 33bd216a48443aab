"""A scene as 3D Gaussians (Kerbl et al. 2023): the parameters, how they start, and the one way rows come and go.

Shape letters: N Gaussians, K = (sh_degree + 1)^2.
"""

from __future__ import annotations

import math
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from recon import rng, sh
from recon.datasets.cameras import Cameras, similarity_scale
from recon.datasets.scene import Points
from recon.model import RenderOutput
from recon.optim import SelectiveAdam
from recon.raster import Rasterizer, rasterizer_for
from recon.raster.reference import rotations_from_quats

# Rows of `means` [N,3] world units, `quats` [N,4] wxyz of any length, `log_scales` [N,3], `logit_opacities` [N],
# `sh0` [N,1,3], `shN` [N,K-1,3].
PARAMETERS = ("means", "quats", "log_scales", "logit_opacities", "sh0", "shN")

# Learning rates; that of the means is per unit of scene extent. 3DGS's for 30,000 steps are the same but for the means
# (1.6e-4) and shN (1.25e-4): in a short training these two are what holds back the rest.
LEARNING_RATES = {
    "means": 3.7e-4,
    "quats": 1e-3,
    "log_scales": 5e-3,
    "logit_opacities": 5e-2,
    "sh0": 2.5e-3,
    "shN": 4.2e-4,
}
# What they decay to, as shares. 3DGS lets only the means settle.
FINAL = {"means": 0.016, "quats": 0.2, "log_scales": 0.2, "logit_opacities": 0.2, "sh0": 0.2, "shN": 0.2}

# One more SH band after each of these shares of the training: colour first, then what depends on the direction.
SH_WARMUP = 0.125

MOST = 0.8  # share of the Gaussians that counts as most of them


class Gaussians:
    """The trainable parameters of N Gaussians, and how they are rendered.

    Rows change only through `edit_rows`, which carries the optimiser's state along.
    """

    means: Tensor
    quats: Tensor
    log_scales: Tensor
    logit_opacities: Tensor
    sh0: Tensor
    shN: Tensor

    def __init__(
        self,
        means: Tensor,
        quats: Tensor,
        log_scales: Tensor,
        logit_opacities: Tensor,
        sh0: Tensor,
        shN: Tensor,
        *,
        rasterizer: Rasterizer | None = None,
        opacity_reg: float = 0.0,
        scale_reg: float = 0.0,
        antialiased: bool = False,
    ) -> None:
        """
        Args:
            means, ...: see `PARAMETERS`; copied to contiguous leaves that require gradients.
            rasterizer: None for the fast one of the parameters' device.
            opacity_reg, scale_reg: weights of the mean opacity and of the mean scale in the loss (3DGS-MCMC, eq. 10).
            antialiased: whether it is drawn so, see `Rasterizer`; a scene looks right as it was trained.
        """
        count = means.shape[0]
        coefficients = 1 + shN.shape[1]
        shapes = [(count, 3), (count, 4), (count, 3), (count,), (count, 1, 3), (count, coefficients - 1, 3)]
        values = (means, quats, log_scales, logit_opacities, sh0, shN)
        for name, value, shape in zip(PARAMETERS, values, shapes, strict=True):
            if value.shape != shape:
                raise ValueError(f"{name} is {tuple(value.shape)}, not {shape}")
            setattr(self, name, _leaf(value))
        self.sh_degree = sh.degree_of(coefficients)
        self.rasterizer = rasterizer
        self.opacity_reg = opacity_reg
        self.scale_reg = scale_reg
        self.antialiased = antialiased

    @classmethod
    def from_points(
        cls,
        points: Points,
        *,
        sh_degree: int = 3,
        opacity: float = 0.1,
        scale: float = 1.0,
        seed: int = 0,
        **options: Any,
    ) -> Self:
        """One Gaussian for each point; its size is `scale` times its distance to its three nearest neighbours (RMS)."""
        count = len(points)
        if count == 0:
            raise ValueError("no points to start from")
        means = points.xyz.float()
        log_scales = (neighbour_distances(points.xyz) * scale).log().float()
        quats = torch.randn(count, 4, generator=rng.generator(seed, "initial rotations"))
        return cls(
            means,
            torch.nn.functional.normalize(quats, dim=-1),
            log_scales[:, None].expand(-1, 3),
            torch.full((count,), logit(opacity)),
            sh.from_rgb(points.rgb.float())[:, None],
            torch.zeros(count, sh.num_coefficients(sh_degree) - 1, 3),
            **options,
        )

    def __len__(self) -> int:
        return self.means.shape[0]

    @property
    def device(self) -> torch.device:
        return self.means.device

    @property
    def scales(self) -> Tensor:
        """[N,3] standard deviations along the axes, world units."""
        return self.log_scales.exp()

    @property
    def opacities(self) -> Tensor:
        """[N] 0..1."""
        return self.logit_opacities.sigmoid()

    def to(self, device: torch.device | str) -> Self:
        """A copy on a device."""
        return self.like(*(value.to(device) for value in self.state_dict().values()))

    def like(self, *values: Tensor) -> Self:
        """Others, which are drawn and trained as these are.

        Args:
            values: of `PARAMETERS`.
        """
        return type(self)(
            *values,
            rasterizer=self.rasterizer,
            opacity_reg=self.opacity_reg,
            scale_reg=self.scale_reg,
            antialiased=self.antialiased,
        )

    def parameters(self) -> dict[str, Tensor]:
        return {name: getattr(self, name) for name in PARAMETERS}

    def state_dict(self) -> dict[str, Tensor]:
        return {name: value.detach() for name, value in self.parameters().items()}

    def render(
        self,
        cameras: Cameras,
        *,
        pixels: Tensor | None = None,
        background: Tensor | None = None,
        train_frac: float = 1.0,
        depth: bool = True,
        absgrad: bool = False,
        median_depth: bool = False,
    ) -> RenderOutput:
        """See `recon.model.Model.render`."""
        if pixels is not None:
            raise ValueError("Gaussians render whole images, not single pixels")
        rasterize = self.rasterizer or rasterizer_for(self.device)
        return rasterize(
            self.means,
            self.quats,
            self.log_scales,
            self.logit_opacities,
            self.sh0,
            self.shN,
            cameras.to(self.device, torch.float32),
            sh_degree=self.degree_at(train_frac),
            background=background,
            depth=depth,
            absgrad=absgrad,
            median_depth=median_depth,
            antialiased=self.antialiased,
        )

    def degree_at(self, train_frac: float) -> int:
        """The degree of the harmonics in use after a share of the training."""
        return min(self.sh_degree, int(train_frac / SH_WARMUP))

    def param_groups(self, extent: float) -> list[dict[str, Any]]:
        """One optimiser group for each parameter."""
        groups = []
        for name, value in self.parameters().items():
            lr = LEARNING_RATES[name] * (extent if name == "means" else 1.0)
            groups.append({"params": [value], "lr": lr, "lr_final": lr * FINAL[name], "name": name})
        return groups

    def regularisers(self) -> dict[str, Tensor]:
        """The terms with a weight other than zero."""
        terms = {}
        if self.opacity_reg > 0:
            terms["opacity"] = self.opacity_reg * self.opacities.mean()
        if self.scale_reg > 0:
            terms["scale"] = self.scale_reg * self.scales.mean()
        return terms

    @torch.no_grad()
    def edit_rows(self, optimizer: torch.optim.Optimizer, keep: Tensor, new: dict[str, Tensor] | None = None) -> None:
        """Replace the rows by those of `keep` followed by `new`.

        Args:
            optimizer: its groups must be those of `param_groups`. Kept rows keep their moments; new rows have none.
            keep: [N] bool, or row numbers in the wanted order.
            new: rows for every parameter, in stored form.
        """
        groups = {group["name"]: group for group in optimizer.param_groups}
        if isinstance(optimizer, SelectiveAdam):
            optimizer.forget_arrays()
        for name, old in self.parameters().items():
            extra = old.new_zeros(0, *old.shape[1:]) if new is None else new[name].detach().to(old)
            replacement = _leaf(torch.cat([old[keep], extra]))
            state = optimizer.state.pop(old, {})
            for key in ("exp_avg", "exp_avg_sq"):
                if key in state:
                    state[key] = torch.cat([state[key][keep], torch.zeros_like(extra)])
            if state:
                optimizer.state[replacement] = state
            groups[name]["params"] = [replacement]
            setattr(self, name, replacement)

    def rows(self, index: Tensor) -> dict[str, Tensor]:
        """Copies of the rows `index` of every parameter: what `edit_rows` takes as `new`."""
        return {name: value.detach()[index].clone() for name, value in self.parameters().items()}

    @torch.no_grad()
    def transformed(self, target_from_world: Tensor) -> Self:
        """The same scene after a similarity [4,4] (rotation, uniform scale, translation) of its world, SH included."""
        transform = target_from_world.double().cpu()
        scale = float(similarity_scale(transform))
        rotation = transform[:3, :3] / scale
        if torch.linalg.det(rotation) < 0:
            raise ValueError("a mirrored world cannot be written as rotated Gaussians")
        turned = sh.rotate(torch.cat([self.sh0, self.shN], dim=1), rotation)
        turn = quat_from_rotation(rotation).to(self.quats)
        return self.like(
            (self.means.double() @ transform[:3, :3].T.to(self.device) + transform[:3, 3].to(self.device)).to(
                self.means
            ),
            quat_multiply(turn, self.quats),
            self.log_scales + math.log(scale),
            self.logit_opacities,
            turned[:, :1],
            turned[:, 1:],
        )

    @torch.no_grad()
    def bulk(self) -> tuple[Tensor, float]:
        """The middle [3] of the centres, float64 on the CPU, and the radius around it in which most of them lie."""
        means = self.means.double().cpu().numpy()
        middle = np.median(means, axis=0)
        return torch.from_numpy(middle), float(np.quantile(np.linalg.norm(means - middle, axis=1), MOST))

    @torch.no_grad()
    def normals(self) -> Tensor:
        """[N,3] unit normals: the axis of the smallest scale, of either sign."""
        axes = rotations_from_quats(self.quats)
        thinnest = self.log_scales.argmin(dim=-1)
        return axes[torch.arange(len(self), device=self.device), :, thinnest]


def _leaf(value: Tensor) -> Tensor:
    return value.detach().clone(memory_format=torch.contiguous_format).requires_grad_()


def logit(probability: float) -> float:
    """The inverse of the sigmoid."""
    return math.log(probability / (1 - probability))


def neighbour_distances(xyz: Tensor, neighbours: int = 3) -> Tensor:
    """Root mean square distance [P] of each point to its nearest neighbours; a lone point gets 1.

    Points that coincide get the smallest distance that is not zero, so that every Gaussian has a size.
    """
    from scipy.spatial import cKDTree

    positions = xyz.double().numpy()
    count = min(neighbours, len(positions) - 1)
    if count == 0:
        return torch.ones(len(positions), dtype=torch.float64)
    nearest = cKDTree(positions).query(positions, k=count + 1)[0][:, 1:]
    distances = np.sqrt((nearest**2).mean(axis=1))
    positive = distances[distances > 0]
    return torch.from_numpy(np.maximum(distances, positive.min() if len(positive) else 1.0))


def quat_multiply(a: Tensor, b: Tensor) -> Tensor:
    """Hamilton products [...,4] of quaternions wxyz: the rotation `b`, then `a`."""
    aw, ax, ay, az = a.unbind(-1)
    bw, bx, by, bz = b.unbind(-1)
    return torch.stack(
        [
            aw * bw - ax * bx - ay * by - az * bz,
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
        ],
        dim=-1,
    )


def quat_from_rotation(rotation: Tensor) -> Tensor:
    """The unit quaternion [4] wxyz of a rotation matrix [3,3]."""
    from scipy.spatial.transform import Rotation

    x, y, z, w = Rotation.from_matrix(rotation.double().numpy()).as_quat()
    return torch.tensor([w, x, y, z], dtype=rotation.dtype)
