"""One centred camera for all views."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import captures
from recon.datasets.cameras import Cameras, intrinsics
from recon.datasets.centred import centred
from recon.datasets.errors import InputError
from recon.datasets.images import ArrayImage
from recon.datasets.scene import Scene, View


def directions(camera: Cameras) -> Tensor:
    """[H,W,2] x/z and y/z of the rays through the pixels' centres."""
    y, x = torch.meshgrid(torch.arange(camera.height) + 0.5, torch.arange(camera.width) + 0.5, indexing="ij")
    K = camera.Ks[0].double()
    return torch.stack([(x - K[0, 2]) / K[0, 0], (y - K[1, 2]) / K[1, 1]], dim=-1)


def look(camera: Cameras, channels: int = 3) -> Tensor:
    """A picture whose colours are linear in the rays' directions, so the mean over a pixel is that at its centre."""
    x, y = directions(camera).unbind(dim=-1)
    planes = [0.5 + 0.4 * x, 0.5 - 0.3 * y, 0.4 + 0.2 * x + 0.1 * y, torch.ones_like(x)]
    return torch.stack(planes[:channels], dim=-1).float()


def scene(lenses: list[tuple[float, float, float, float, int, int]], channels: int = 3) -> Scene:
    views = []
    for i, (fx, fy, cx, cy, width, height) in enumerate(lenses):
        camera = Cameras(captures.viewmat()[None], intrinsics(fx, fy, cx, cy), width, height)
        x = directions(camera)[..., :1]
        depth = ArrayImage(torch.where(x > 0, 2.0, 1.0).float())
        views.append(View(f"v{i}", camera, ArrayImage(look(camera, channels)), ArrayImage((x < 0.1).float()), depth))
    return Scene("s", tuple(views), tuple(range(len(views))), ())


@given(
    st.lists(
        st.tuples(st.floats(50, 65), st.floats(50, 65), st.floats(18, 22), st.floats(16, 20), st.just(40), st.just(36)),
        min_size=1,
        max_size=3,
    ),
    st.sampled_from([3, 4]),
)
@settings(deadline=None, max_examples=25)
def test_pictures_show_what_the_new_camera_sees(
    lenses: list[tuple[float, float, float, float, int, int]], channels: int
) -> None:
    before = scene(lenses, channels)
    after = centred(before, "somewhere")
    focal = min(min(lens[:2]) for lens in lenses)
    for view, old in zip(after.views, before.views, strict=True):
        camera = view.camera
        assert torch.equal(camera.viewmats, old.camera.viewmats)
        assert torch.allclose(camera.Ks[0], intrinsics(focal, focal, camera.width / 2, camera.height / 2)[0])
        # The mean over a box that is no whole number of pixels is that of a picture in steps: off by a tenth of one.
        assert torch.allclose(view.load(), look(camera, channels), rtol=0, atol=0.1 * 0.4 / 50 * 1.3)
        x = directions(camera)[..., 0]
        pixel = 1 / focal
        assert view.mask is not None
        mask = view.mask.load()[..., 0]
        assert mask[x < 0.1 - 2 * pixel].all()
        assert not mask[x > 0.1 + pixel].any()  # a pixel counts only if all of it does
        assert view.depth is not None
        depth = view.depth.load()[..., 0]
        assert set(depth.unique().tolist()) <= {1.0, 2.0}
        assert (depth[x > pixel] == 2).all()
        assert (depth[x < -pixel] == 1).all()


def test_a_shift_is_exact_and_loses_nothing_that_all_pictures_show() -> None:
    after = centred(scene([(50.0, 50.0, 20.87, 18.25, 40, 36)]), "somewhere")
    camera = after.views[0].camera
    assert (camera.width, camera.height) == (38, 35)
    assert torch.allclose(after.views[0].load(), look(camera), rtol=0, atol=2e-6)


def test_what_is_transparent_lends_no_colour() -> None:
    before = scene([(50.0, 50.0, 20.25, 18.0, 40, 36)], 4)
    image = torch.zeros(36, 40, 4)
    image[:, ::2] = torch.tensor([1.0, 0, 0, 1])
    image[:, 1::2] = torch.tensor([0.0, 1, 0, 0])
    moved = centred(replace(before, views=(replace(before.views[0], image=ArrayImage(image)),)), "somewhere")
    colour, alpha = moved.views[0].load().split([3, 1], dim=-1)
    assert torch.allclose(colour, torch.tensor([1.0, 0, 0]), atol=1e-5)
    assert torch.allclose(alpha[:, 0::2], torch.tensor(0.25), atol=1e-5)
    assert torch.allclose(alpha[:, 1::2], torch.tensor(0.75), atol=1e-5)


@pytest.mark.parametrize("odd", [(120.0, 120.0, 20.0, 18.0, 40, 36), (50.0, 50.0, 4.0, 18.0, 40, 36)])
def test_views_that_differ_too_much_are_named(odd: tuple[float, float, float, float, int, int]) -> None:
    with pytest.raises(InputError, match=r"^somewhere: view v\d would keep \d+% of its picture") as caught:
        centred(scene([(50.0, 50.0, 20.0, 18.0, 40, 36), odd]), "somewhere")
    captures.message(caught)
