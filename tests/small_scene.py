"""A small capture in memory, for the tests of loaders."""

import torch

from recon.datasets.cameras import Cameras, intrinsics, look_at
from recon.datasets.images import ArrayImage
from recon.datasets.scene import Points, Scene, View


def small_scene(count: int = 5, width: int = 48, height: int = 36, channels: int = 3) -> Scene:
    """`count` cameras round the origin, random photos of 8 bits, 30 points with tracks; the first view is held out."""
    generator = torch.Generator().manual_seed(7)
    angles = torch.arange(count).double() * 0.4
    eyes = torch.stack([4 * angles.cos(), 4 * angles.sin(), 1 + 0.1 * angles], dim=-1)
    c2w = look_at(eyes, torch.tensor([0.1, 0.0, 0.3]).double().expand_as(eyes), torch.tensor([0.0, 0.0, 1.0]).double())
    cameras = Cameras.from_c2w(c2w, intrinsics(50, 50, width / 2, height / 2).expand(count, 3, 3), width, height)
    views = []
    for i in range(count):
        pixels = torch.randint(0, 256, (height, width, channels), generator=generator)
        if channels == 4:
            pixels[..., 3] = (pixels[..., 3] > 127) * 255
        views.append(View(f"photo_{i}", cameras[i], ArrayImage(pixels.float() / 255)))
    xyz = torch.randn(30, 3, generator=generator, dtype=torch.float64) * 0.5
    rgb = torch.randint(0, 256, (30, 3), generator=generator).float() / 255
    pairs = [(point, view) for view in range(count) for point in range(30) if (point + view) % 3 == 0]
    points = Points(xyz, rgb, tracks=torch.tensor(pairs))
    return Scene("small", tuple(views), tuple(range(1, count)), (0,), points)


def assert_same_cameras(scene: Scene, expected: Scene, tolerance: float = 1e-9) -> None:
    assert [view.name for view in scene.views] == [view.name for view in expected.views]
    for view, other in zip(scene.views, expected.views, strict=True):
        assert (view.camera.width, view.camera.height) == (other.camera.width, other.camera.height)
        assert torch.allclose(view.camera.viewmats, other.camera.viewmats, rtol=0, atol=tolerance), view.name
        assert torch.allclose(view.camera.Ks, other.camera.Ks, rtol=1e-6, atol=tolerance), view.name
