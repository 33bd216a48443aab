"""A cloud of Gaussians as the page takes it."""

from __future__ import annotations

from recon import sh
from recon.gaussians import Gaussians
from recon.raster.reference import rotations_from_quats
from recon.viewer.subject import Splats


def splats_of(model: Gaussians) -> Splats:
    """All of them, in the colours of the constant harmonic."""
    state = model.state_dict()
    axes = rotations_from_quats(state["quats"]) * model.scales.detach()[:, None]
    return Splats(
        state["means"].numpy(),
        (axes @ axes.transpose(1, 2)).numpy(),
        sh.to_rgb(state["sh0"][:, 0]).clamp(0, 1).numpy(),
        model.opacities.detach()[:, None].numpy(),
    )
