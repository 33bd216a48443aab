"""gsplat's compiled functions, called as version 1.5.3 declares them, wherever an installed one keeps them.

1.5.3 has them in its extension module. What has been developed since, which for now bears the same number, has PyTorch
register them (`torch.ops.gsplat`), with a few arguments more or less; PyTorch knows their names, so that it can be seen
which.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Sequence
from typing import Any

import torch

_CAMERA = ("viewmats", "Ks", "image_width", "image_height", "eps2d")
_TILES = ("masks", "image_width", "image_height", "tile_size", "tile_offsets", "flatten_ids")
_SPLATS = ("means2d", "conics", "colors", "opacities", "backgrounds", *_TILES)
_COLOURS = ("degrees_to_use", "dirs", "coeffs", "masks")
_PROJECTED = ("conics", "compensations", "v_means2d", "v_depths", "v_conics", "v_compensations")

# The functions that are called, and the arguments that they are given, in order.
ARGUMENTS: dict[str, tuple[str, ...]] = {
    "projection_ewa_3dgs_fused_fwd": (
        *("means", "covars", "quats", "scales", "opacities", *_CAMERA, "near_plane", "far_plane", "radius_clip"),
        *("calc_compensations", "camera_model"),
    ),
    "projection_ewa_3dgs_fused_bwd": (
        *("means", "covars", "quats", "scales", *_CAMERA, "camera_model", "radii", *_PROJECTED),
        "viewmats_requires_grad",
    ),
    "projection_ewa_3dgs_packed_fwd": (
        *("means", "covars", "quats", "scales", "opacities", *_CAMERA, "near_plane", "far_plane", "radius_clip"),
        *("calc_compensations", "camera_model"),
    ),
    "projection_ewa_3dgs_packed_bwd": (
        *("means", "covars", "quats", "scales", *_CAMERA, "camera_model", "batch_ids", "camera_ids", "gaussian_ids"),
        *(*_PROJECTED, "viewmats_requires_grad", "sparse_grad"),
    ),
    "spherical_harmonics_fwd": _COLOURS,
    "spherical_harmonics_bwd": ("K", *_COLOURS, "v_colors", "compute_v_dirs"),
    "intersect_tile": (
        *("means2d", "radii", "depths", "image_ids", "gaussian_ids", "I"),
        *("tile_size", "tile_width", "tile_height", "sort", "segmented"),
    ),
    "intersect_offset": ("isect_ids", "I", "tile_width", "tile_height"),
    "rasterize_to_pixels_3dgs_fwd": _SPLATS,
    "rasterize_to_pixels_3dgs_bwd": (
        *(*_SPLATS, "render_alphas", "last_ids", "v_render_colors", "v_render_alphas"),
        "absgrad",
    ),
    "adam": ("param", "param_grad", "exp_avg", "exp_avg_sq", "valid", "lr", "b1", "b2", "eps"),
}

# Those that can be done without, and how many values they return.
PACKED = {"projection_ewa_3dgs_packed_fwd": 9, "projection_ewa_3dgs_packed_bwd": 5}


class UnknownGsplat(Exception):
    """A gsplat whose functions are not those that are known here; says which."""


def functions() -> Any:
    """What has the functions of `ARGUMENTS` as attributes, and `CameraModelType`; None if none are compiled.

    Those of `PACKED` may be missing.

    Raises `UnknownGsplat`, and whatever an import of gsplat does, which may compile it.
    """
    from gsplat.cuda._backend import _C

    if _C is None or hasattr(_C, "projection_ewa_3dgs_fused_fwd"):
        return _C
    return _registered(_C)


@functools.lru_cache(maxsize=1)
def _registered(compiled: Any) -> types.SimpleNamespace:
    """Those that PyTorch has registered."""
    found = {}
    for name, arguments in ARGUMENTS.items():
        try:
            found[name] = _adapted(name, arguments)
        except UnknownGsplat:
            if name not in PACKED:
                raise
    if not hasattr(compiled, "CameraModelType"):
        raise UnknownGsplat("it has no CameraModelType")
    camera = types.SimpleNamespace(PINHOLE=int(compiled.CameraModelType.PINHOLE))  # there it is a number
    return types.SimpleNamespace(CameraModelType=camera, **found)


def _adapted(name: str, arguments: Sequence[str]) -> Callable[..., Any]:
    """A registered function, to be called with these arguments."""
    try:
        operation = getattr(torch.ops.gsplat, name).default
    except AttributeError as error:
        raise UnknownGsplat(f"it has no {name}") from error
    if len(operation._schema.returns) != PACKED.get(name, len(operation._schema.returns)):
        raise UnknownGsplat(f"its {name} returns {len(operation._schema.returns)} values")
    order = _order(name, arguments, operation._schema.arguments)
    if order == list(range(len(arguments))):
        return operation  # type: ignore[no-any-return]
    return lambda *given: operation(*(None if at is None else given[at] for at in order))


def _order(name: str, arguments: Sequence[str], wanted: Sequence[Any]) -> list[int | None]:
    """Which of the arguments each one is that a function wants; None where it can do without, and is to.

    Those that it does not know are not given to it; one that has another name is in the place of ours.
    """
    order: list[int | None] = []
    at = 0
    for each in wanted:
        if each.name in arguments[at:]:
            at = arguments.index(each.name, at)
        elif isinstance(each.type, torch.OptionalType):
            order.append(None)
            continue
        elif at >= len(arguments):
            raise UnknownGsplat(f"its {name} wants {each.name}")
        order.append(at)
        at += 1
    return order
