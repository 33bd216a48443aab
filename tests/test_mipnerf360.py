import dataclasses
import math
import warnings

import llvmlite.binding
import pytest
import torch

import tiny
from fields_cases import CPU, MIP, ZIP, begin, check_same_pictures, held_out_error, interrupted, settings_of
from recon import checkpoint, intervals, precision, rays
from recon.cone_networks import Integrated, Networks
from recon.cones import Cones
from recon.config import Mip360Config, mip360_for
from recon.datasets.cameras import Cameras, intrinsics
from recon.datasets.errors import InputError
from recon.mipnerf360 import Mip360
from recon.nerf import Nerf
from recon.options import Options
from recon.train import train
from test_rays import facing

SPARING = dataclasses.replace(MIP, gradients=0.2)
BOTH = pytest.mark.parametrize("radiance", [MIP, ZIP], ids=["ipe", "hash"])


def test_on_a_gpu_the_networks_are_the_published_ones():
    """8 layers of 1024 after encodings of 21 directions at 12 frequencies; about 9 million weights in all."""
    with torch.device("meta"):
        networks = Networks(mip360_for("ipe", on_gpu=True))
    scene = networks.scene
    assert isinstance(scene, Integrated)
    assert [layer.in_features for layer in scene.trunk] == [504, *[1024] * 4, 1528, 1024, 1024]
    assert sum(p.numel() for p in networks.parameters()) == pytest.approx(9e6, rel=0.05)
    assert len(networks.proposals) == 1
    assert [type(network) for network in networks.in_turn()] == [Integrated] * 3


def test_options_choose_the_encoding():
    hashed = Options("scene", method="mipnerf360", encoding="hash").train_config().radiance
    assert hashed == mip360_for("hash", on_gpu=False)
    large = Options("scene", method="mipnerf360").train_config(on_gpu=True).radiance
    assert isinstance(large, Mip360Config)
    assert (large.width, large.samples) == (1024, (64, 64, 32))
    for method in ("splats", "nerf"):
        with pytest.raises(InputError, match="--encoding hash: is for --method mipnerf360"):
            Options("scene", method=method, encoding="hash").train_config()


@pytest.mark.parametrize("aspect", [1.0, 1.3])
def test_a_cone_is_as_wide_as_its_pixel(aspect):
    """At the distance of the picture plane a pixel of width w has the variance w^2 / 12, a disc r^2 / 4."""
    Ks = intrinsics(50.0, 50.0 * aspect, 20, 16)
    camera = Cameras(torch.eye(4, dtype=torch.float64)[None], Ks, 40, 32)
    pixels = torch.tensor([[[20.0, 16.0], [0.5, 0.5]]], dtype=torch.float64)
    _, directions = camera.rays(pixels)
    radii = rays.cone_radii(camera, directions)[0]
    to_plane = 1 / directions[0, :, 2]
    width = (1 / 50 + 1 / (50 * aspect)) / 2
    assert torch.allclose((radii * to_plane).square() / 4, torch.full((2,), width**2 / 12, dtype=torch.float64))


@pytest.mark.parametrize("radiance", [MIP, SPARING, ZIP], ids=["ipe", "sparing", "hash"])
def test_resuming_ends_with_the_same_weights_and_another_seed_does_not(tmp_path, radiance):
    settings = settings_of("mipnerf360", 14, background="random", radiance=radiance)
    straight = begin(settings)
    train(straight, tiny.scene().train_views)
    resumed = interrupted(settings, 5, tmp_path)
    for name, value in straight.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    first = begin(settings).model.state_dict()
    for name, value in begin(dataclasses.replace(settings, seed=1)).model.state_dict().items():
        assert torch.equal(value, first[name]) == (name.endswith("bias") or "reach" in name), name


@BOTH
def test_a_checkpoint_gives_the_same_pictures_and_says_how_it_was_made(tmp_path, radiance):
    state = begin(settings_of("mipnerf360", 3, radiance=radiance))
    train(state, tiny.scene().train_views)
    checkpoint.save(state, tmp_path / "field.safetensors")
    loaded = checkpoint.load(tmp_path / "field.safetensors")
    assert loaded.config.radiance == radiance
    check_same_pictures(state.model, loaded.model)


@BOTH
def test_a_step_moves_every_network(radiance):
    state = begin(settings_of("mipnerf360", 1, radiance=radiance))
    before = {name: value.clone() for name, value in state.model.state_dict().items()}
    train(state, tiny.scene().train_views)
    after = state.model.state_dict()
    still = {name for name, value in after.items() if torch.equal(value, before[name])}
    assert {name for name in still if not name.startswith("reach")} == set()


def test_the_gradient_is_no_longer_than_it_may_be():
    scene, lengths = tiny.scene(), []
    for longest in (1e-3, 0.0):
        state = begin(settings_of("mipnerf360", 1, radiance=dataclasses.replace(MIP, longest_gradient=longest)))
        model = state.model
        assert isinstance(model, Mip360)
        model.learn(rays.RayBatches(scene.train_views, state.config, (0.0, 0.0, 0.0), CPU).at(0), 0.0)
        lengths.append(math.hypot(*(float(p.grad.norm()) for p in model.networks.parameters())))
    assert lengths[0] == pytest.approx(1e-3, rel=1e-3)
    assert lengths[1] > 2e-3


def test_decay_is_of_each_level_whatever_its_size():
    networks = Networks(ZIP)
    grid = networks.scene
    with torch.no_grad():
        grid.table[:] = 1.0
        grid.table[: int(grid.layout.offsets[1])] = 3.0
    assert float(grid.squared().detach()) == pytest.approx(9 + grid.layout.levels - 1)


def test_features_finer_than_a_ball_fade():
    """With all features 1, what is left of a level is erf(1 / (sqrt(8) deviation cells))."""
    grid = Networks(ZIP).scene
    with torch.no_grad():
        grid.table[:] = 1.0
    seen = Cones(torch.tensor([[0.2, 0.1, 0.0]]), torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([0.5]))
    t = torch.tensor([[0.3, 0.4, 0.5]])
    found = grid.encoded(seen, t, None).reshape(2, grid.layout.levels, -1)
    for k in range(2):
        for level, cells in enumerate(grid.layout.scales):
            distances = torch.linspace(float(t[0, k]), float(t[0, k + 1]), 200)  # within the unit ball: not contracted
            deviations = 0.5 * 0.5 * distances / math.sqrt(2)
            near, far = (math.erf(1 / (math.sqrt(8) * float(d) / 4 * float(cells))) for d in deviations[[0, -1]])
            assert far - 1e-5 <= float(found[k, level, 0].detach()) <= near + 1e-5
    assert bool((found.diff(dim=1) <= 0).all())


def test_captures_that_face_one_way_begin_at_the_unit_sphere_and_give_distances_of_the_world():
    scene = facing()
    state = begin(settings_of("mipnerf360", 1), scene)
    model = state.model
    assert isinstance(model, Mip360)
    assert model.reach.frame is not None
    origins = torch.cat([view.camera.positions for view in scene.views]).float()
    seen = Cones(origins, torch.tensor([[0.0, 0.0, -1.0]]).expand(len(origins), 3), torch.full((len(origins),), 0.01))
    placed, unit, near = model._placed(seen)
    assert torch.allclose(placed.origins.mean(dim=0), torch.zeros(3), atol=1e-5)
    assert unit == model.reach.near
    (_, alpha, distance), rounds = model._seen(seen, None, 1.0)
    s, weights = rounds[-1]
    middle = (weights * (s[:, 1:] + s[:, :-1]) / 2).sum(dim=-1) / alpha
    assert torch.allclose(distance, unit * intervals.distances(middle, near, model.config.far))
    train(state, scene.train_views)


@BOTH
@pytest.mark.parametrize("faces", [False, True])
def test_density_is_that_of_a_short_and_narrow_frustum_of_the_world(radiance, faces):
    scene = facing() if faces else tiny.scene()
    model = begin(settings_of("mipnerf360", 1, radiance=radiance), scene).model
    assert isinstance(model, Mip360)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.networks.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=generator))
        origins = torch.randn(20, 3, generator=generator)
        ahead = torch.nn.functional.normalize(torch.randn(20, 3, generator=generator), dim=-1)
        narrow, unit, _ = model._placed(Cones(origins, ahead, torch.full((20,), 1e-6)))
        t = torch.tensor([[1.0, 1.0001]]).expand(20, 2)
        expected = model.networks.scene(narrow, t, None)[0][:, 0] / unit
        found = model.density(origins + 1.00005 * unit * ahead)
    assert torch.allclose(found, expected, rtol=0.02)


def test_rays_that_meet_nothing_have_no_depth():
    state = begin(settings_of("mipnerf360", 1))
    model = state.model
    assert isinstance(model, Mip360)
    with torch.no_grad():
        model.networks.scene.density.weight.zero_()
        model.networks.scene.density.bias.fill_(-1e4)
        out = model.render(tiny.ring(3)[0], background=torch.tensor([0.2, 0.4, 0.6]))
    assert out.depth is not None
    assert float(out.depth.abs().max()) == 0
    assert torch.allclose(out.rgb, torch.tensor([0.2, 0.4, 0.6]).expand_as(out.rgb))


@pytest.mark.parametrize(("features", "halves"), [({"avx512bf16": True}, True), ({"avx512f": True}, False)])
def test_a_cpu_multiplies_in_half_precision_where_it_can_and_layers_are_wide(monkeypatch, features, halves):
    monkeypatch.setattr(llvmlite.binding, "get_host_cpu_features", lambda: features)
    precision._cpu_multiplies.cache_clear()
    try:
        assert isinstance(precision.mixed(CPU, precision.WORTH_IT), torch.autocast) == halves
        assert not isinstance(precision.mixed(CPU, precision.WORTH_IT - 1), torch.autocast)
    finally:
        precision._cpu_multiplies.cache_clear()


@pytest.mark.parametrize(("method", "radiance"), [("mipnerf360", MIP), ("mipnerf360", ZIP), ("nerf", None)])
def test_half_precision_changes_pictures_little_and_no_weights(monkeypatch, method, radiance):
    """As on a GPU, of which a CPU's bfloat16 is all that can be tried without one."""
    settings = settings_of(method, 1) if radiance is None else settings_of(method, 1, radiance=radiance)
    model = begin(settings).model
    assert isinstance(model, (Mip360, Nerf))
    camera = tiny.ring(5)[2]
    with torch.no_grad():
        exact = model.render(camera).rgb
    with warnings.catch_warnings(action="ignore"):  # that there is none
        on_gpu = precision.mixed(torch.device("cuda"))
    assert isinstance(on_gpu, torch.autocast)
    assert on_gpu.fast_dtype == torch.bfloat16
    for module in ("recon.cone_networks.mixed", "recon.nerf.mixed"):
        monkeypatch.setattr(module, lambda *_: torch.autocast("cpu", torch.bfloat16))
    out = model.render(camera)
    assert out.rgb.dtype == torch.float32
    out.rgb.square().mean().backward()
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in model.networks.parameters() if p.grad is not None)
    difference = (out.rgb.detach() - exact).abs()
    assert 0 < float(difference.max()) < 0.05


@pytest.mark.slow
@pytest.mark.parametrize(("radiance", "steps"), [(MIP, 300), (ZIP, 200)], ids=["ipe", "hash"])
def test_small_networks_converge_on_small_photos(radiance, steps):
    scene = tiny.scene(24, 50, 50)
    radiance = dataclasses.replace(radiance, rays=256, samples=(16, 16, 12))
    state = begin(settings_of("mipnerf360", steps, radiance=radiance), scene)
    blank = float(scene.test_views[0].load().square().mean())  # of a black picture
    train(state, scene.train_views)
    assert held_out_error(state, scene) < blank / 4
