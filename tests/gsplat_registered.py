"""The stand-in as later versions of gsplat have it: functions that PyTorch has registered, with their declarations."""

from __future__ import annotations

import functools
import inspect
import sys
import types
from typing import Any

import pytest
import torch

import gsplat_stand_in

CAMERA = "Tensor viewmats, Tensor Ks, int image_width, int image_height, float eps2d"
GAUSSIANS = "Tensor means, Tensor? covars, Tensor? quats, Tensor? scales"
COLOURS = "int degrees_to_use, Tensor dirs, Tensor coeffs, Tensor? masks"
SPLATS = "Tensor means2d, Tensor conics, Tensor colors, Tensor opacities, Tensor? backgrounds, Tensor? masks"
SIZE = "int image_width, int image_height, int tile_size"
FIVE = "(Tensor, Tensor, Tensor, Tensor, Tensor)"
NINE = "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"

# As of 2026, but for what is not called.
DECLARED = {
    "projection_ewa_3dgs_fused_fwd": f"{GAUSSIANS}, Tensor? opacities, {CAMERA}, float near_plane, float far_plane,"
    f" float radius_clip, bool calc_compensations, int camera_model) -> {FIVE}",
    "projection_ewa_3dgs_fused_bwd": f"{GAUSSIANS}, {CAMERA}, int camera_model, Tensor radii, Tensor conics,"
    " Tensor? compensations, Tensor v_means2d, Tensor v_depths, Tensor v_conics, Tensor? v_compensations,"
    f" bool viewmats_requires_grad) -> {FIVE}",
    "projection_ewa_3dgs_packed_fwd": f"{GAUSSIANS}, Tensor? opacities, {CAMERA}, float near_plane, float far_plane,"
    f" float radius_clip, bool calc_compensations, int camera_model) -> {NINE}",
    "projection_ewa_3dgs_packed_bwd": f"{GAUSSIANS}, {CAMERA}, int camera_model, Tensor batch_ids, Tensor camera_ids,"
    " Tensor gaussian_ids, Tensor conics, Tensor? compensations, Tensor v_means2d, Tensor v_depths, Tensor v_conics,"
    f" Tensor? v_compensations, bool viewmats_requires_grad, bool sparse_grad) -> {FIVE}",
    "spherical_harmonics_fwd": f"{COLOURS}) -> Tensor",
    "spherical_harmonics_bwd": f"{COLOURS}, Tensor v_colors, bool compute_v_dirs) -> (Tensor, Tensor)",
    "intersect_tile": "Tensor means2d, Tensor radii, Tensor depths, Tensor? conics, Tensor? opacities,"
    " Tensor? image_ids, Tensor? gaussian_ids, int I, int tile_size, int tile_width, int tile_height, bool sort,"
    " bool segmented) -> (Tensor, Tensor, Tensor)",
    "intersect_offset": "Tensor isect_ids, int I, int tile_width, int tile_height) -> Tensor",
    "rasterize_to_pixels_3dgs_fwd": f"{SPLATS}, {SIZE}, Tensor isect_offsets, Tensor flatten_ids)"
    " -> (Tensor, Tensor, Tensor)",
    "rasterize_to_pixels_3dgs_bwd": f"{SPLATS}, {SIZE}, Tensor tile_offsets, Tensor flatten_ids, Tensor render_alphas,"
    f" Tensor last_ids, Tensor v_render_colors, Tensor v_render_alphas, bool absgrad) -> {FIVE}",
    "adam": "Tensor(a!) param, Tensor param_grad, Tensor(b!) exp_avg, Tensor(c!) exp_avg_sq, Tensor? valid, float lr,"
    " float b1, float b2, float eps) -> ()",
}


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have all that asks for gsplat's compiled functions get these."""
    gsplat_stand_in.install(monkeypatch)
    library()
    module = types.ModuleType("gsplat.csrc")
    module.__dict__["CameraModelType"] = gsplat_stand_in.CameraModelType
    monkeypatch.setattr(sys.modules["gsplat.cuda._backend"], "_C", module)


@functools.cache
def library() -> torch.library.Library:
    """PyTorch takes a name once in a process."""
    made = torch.library.Library("gsplat", "DEF")
    for name, declared in DECLARED.items():
        made.define(f"{name}({declared}")
        made.impl(name, functools.partial(_called, name), "CPU")
    return made


def _called(name: str, *given: Any) -> Any:
    """The stand-in's function with the arguments of the declaration."""
    operation = getattr(torch.ops.gsplat, name).default
    names = [argument.name.replace("isect_offsets", "tile_offsets") for argument in operation._schema.arguments]
    values = dict(zip(names, given, strict=True))
    function = getattr(gsplat_stand_in, name)
    if name == "spherical_harmonics_bwd":
        values["K"] = values["coeffs"].shape[-2]
    wanted = inspect.signature(function).parameters
    assert all(value is None for key, value in values.items() if key not in wanted)
    found = function(**{key: values[key] for key in wanted})
    if isinstance(found, tuple):
        return tuple(torch.empty(0) if value is None else value for value in found)
    return found
