import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny
from recon.adaptive import LENGTH, OFFSET, SPREAD_ABOVE, SPREAD_SHRINK, WIDTH, Adaptive, halves, spread
from recon.config import AdaptiveConfig, MCMCConfig
from recon.mcmc import MCMC, relocation
from recon.model import RenderOutput
from recon.optim import make_optimizer
from recon.raster.reference import covariances


def optimizer_of(model):
    return make_optimizer(model.param_groups(1.0), model.device)


def seen(model, gradients) -> RenderOutput:
    """What a rasteriser tells a strategy: all visible, pulled with `gradients` [N] to the right."""
    means2d = torch.zeros(1, len(model), 2)
    means2d.grad = torch.stack([gradients, torch.zeros_like(gradients)], dim=-1)[None]
    radii = torch.ones(1, len(model), 2, dtype=torch.int32)
    picture = torch.zeros(1, 10, 20, 3)
    return RenderOutput(picture, picture[..., :1], None, means2d, radii, absgrad=2 * means2d.grad)


def after(strategy, model, optimizer, out, step, progress):
    """Tell a strategy of a step with one picture."""
    strategy.after_step(model, optimizer, strategy.found([out], progress), step, progress)


def step_through(strategy, model, optimizer, gradients, last, total=None):
    for step in range(last):
        after(strategy, model, optimizer, seen(model, gradients), step, (step + 1) / (total or last))


ADAPTIVE = AdaptiveConfig(
    max_gaussians=1000,
    refine_from=0.0,
    refine_until=1.0,
    refine_every=10,
    grad_threshold=0.5,
    absgrad=False,
)


def test_adaptive_refines_what_is_pulled_and_leaves_the_rest():
    model = tiny.gaussians(50)
    before = model.state_dict()["means"].clone()
    gradients = torch.zeros(50)
    gradients[:5] = 0.1  # times half the width, 10 px: 1.0 > 0.5
    strategy = Adaptive(ADAPTIVE, extent=1.0, seed=0)
    step_through(strategy, model, optimizer_of(model), gradients, 10)
    assert len(model) == 55
    torch.testing.assert_close(model.means.detach()[:45], before[5:])


def test_adaptive_gradients_count_in_half_images():
    for gradient, count in ((0.049, 20), (0.051, 40)):
        model = tiny.gaussians(20)
        strategy = Adaptive(ADAPTIVE, extent=1.0, seed=0)
        step_through(strategy, model, optimizer_of(model), torch.full((20,), gradient), 10)
        assert len(model) == count


def test_adaptive_absgrad_reads_the_absolute_gradients():
    model = tiny.gaussians(20)
    config = AdaptiveConfig(**{**ADAPTIVE.__dict__, "absgrad": True})
    strategy = Adaptive(config, extent=1.0, seed=0)
    assert strategy.absgrad(0.5)
    assert not strategy.absgrad(1.1)
    step_through(strategy, model, optimizer_of(model), torch.full((20,), 0.03), 10)
    assert len(model) == 40


def test_adaptive_adds_up_what_every_camera_saw():
    rows, width, height = 1003, 20, 10
    strategy = Adaptive(AdaptiveConfig(**{**ADAPTIVE.__dict__, "absgrad": True}), extent=1.0, seed=0)
    generator = torch.Generator().manual_seed(0)
    lengths, times = torch.zeros(rows, dtype=torch.float64), torch.zeros(rows)
    for _ in range(3):
        gradients = torch.rand(2, rows, 2, generator=generator)
        radii = torch.randint(0, 3, (2, rows, 1), generator=generator, dtype=torch.int32).expand(-1, -1, 2)
        picture = torch.zeros(2, height, width, 3)
        out = RenderOutput(picture, picture[..., :1], None, gradients, radii, absgrad=gradients)
        after(strategy, tiny.gaussians(rows), None, out, 0, 0.1)
        lengths += (
            (gradients.double() * torch.tensor([width, height])).norm(dim=-1).sum(dim=0)
        )  # 2 cameras, half images
        times += (radii[..., 0] > 0).sum(dim=0)
    torch.testing.assert_close(strategy.gradient_sum.double(), lengths, rtol=1e-5, atol=0)
    assert torch.equal(strategy.times_seen, times)


def test_adaptive_ramp_admits_the_most_pulled_first():
    model = tiny.gaussians(100)
    config = AdaptiveConfig(**{**ADAPTIVE.__dict__, "max_gaussians": 200})
    gradients = torch.arange(1.0, 101.0)
    kept = model.state_dict()["means"][:90].clone()
    strategy = Adaptive(config, extent=1.0, seed=0)
    step_through(strategy, model, optimizer_of(model), gradients, 10, total=100)
    assert len(model) == 110
    torch.testing.assert_close(model.means.detach()[:90], kept)


def test_adaptive_never_exceeds_the_cap_and_stops_in_time():
    model = tiny.gaussians(100)
    config = AdaptiveConfig(max_gaussians=150, refine_from=0.0, refine_until=0.5, refine_every=5)
    strategy, optimizer = Adaptive(config, extent=1.0, seed=0), optimizer_of(model)
    counts = []
    for step in range(100):
        after(strategy, model, optimizer, seen(model, torch.ones(len(model))), step, (step + 1) / 100)
        counts.append(len(model))
    assert max(counts) == 150
    assert counts[49:] == [150] * 51


def test_adaptive_prunes_the_transparent_and_after_a_reset_the_huge():
    model = tiny.gaussians(30)
    with torch.no_grad():
        model.logit_opacities[:] = 2.0
        model.logit_opacities[3] = math.log(0.004 / 0.996)
        model.log_scales[7] = 1.0
    config = AdaptiveConfig(
        max_gaussians=30, refine_from=0.0, refine_until=1.0, refine_every=10, reset_every=15, grad_threshold=9.0
    )
    strategy, optimizer = Adaptive(config, extent=10.0, seed=0), optimizer_of(model)
    counts = {}
    for step in range(30):
        after(strategy, model, optimizer, seen(model, torch.zeros(len(model))), step, (step + 1) / 30)
        counts[step + 1] = len(model)
        if step + 1 == 15:
            assert float(model.opacities.detach().max()) == pytest.approx(2 * config.prune_opacity)
    assert (counts[10], counts[19], counts[20]) == (29, 29, 28)


def test_adaptive_state_resumes_in_the_middle_of_an_interval():
    results = []
    for interrupted in (False, True):
        model = tiny.gaussians(40)
        optimizer = optimizer_of(model)
        strategy = Adaptive(ADAPTIVE, extent=1.0, seed=0)
        for step in range(20):
            if interrupted and step == 15:
                saved = {name: value.clone() for name, value in strategy.state_dict().items()}
                strategy = Adaptive(ADAPTIVE, extent=1.0, seed=0)
                strategy.load_state_dict(saved)
            pulled = torch.linspace(0, 0.1, len(model))
            after(strategy, model, optimizer, seen(model, pulled), step, (step + 1) / 20)
        results.append(model.state_dict())
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])
    assert len(results[0]["means"]) > 40


def test_halves_lie_side_by_side_along_the_longest_axis():
    model = tiny.gaussians(50)
    parents = model.rows(torch.arange(50))
    first, second = ({name: value[i : i + 50] for name, value in halves(parents).items()} for i in (0, 50))
    torch.testing.assert_close((first["means"] + second["means"]) / 2, parents["means"])
    longest = parents["log_scales"].max(dim=-1).values.exp()
    torch.testing.assert_close((first["means"] - second["means"]).norm(dim=-1), 2 * OFFSET * longest)
    # Along the line through both, the variance of the parent is the largest that there is in any direction.
    axis = torch.nn.functional.normalize(first["means"] - second["means"], dim=-1)
    covariance = covariances(parents["quats"], parents["log_scales"])
    torch.testing.assert_close(torch.einsum("ni,nij,nj->n", axis, covariance, axis), longest**2)
    sizes = (first["log_scales"] - parents["log_scales"]).exp().sort(dim=-1).values
    torch.testing.assert_close(sizes, torch.tensor([LENGTH, WIDTH, WIDTH]).expand(50, 3))


def test_what_is_spread_lies_where_its_parent_did():
    model = tiny.gaussians(1)
    parents = model.rows(torch.zeros(20_000, dtype=torch.int64))
    children = spread(parents, torch.randn(2, 20_000, 3, generator=torch.Generator().manual_seed(0)))
    offsets = children["means"] - model.means.detach()
    expected = covariances(model.quats.detach(), model.log_scales.detach())[0]
    torch.testing.assert_close(offsets.T @ offsets / len(offsets), expected, atol=0.02 * float(expected.max()), rtol=0)
    torch.testing.assert_close(children["log_scales"], parents["log_scales"].repeat(2, 1) - math.log(SPREAD_SHRINK))
    assert torch.equal(children["logit_opacities"], parents["logit_opacities"].repeat(2))


def test_only_the_largest_are_spread():
    parents = tiny.gaussians(100).rows(torch.arange(100))
    large = parents["log_scales"].amax(dim=-1).exp() > 0.15
    assert 10 < int(large.sum()) < 90
    strategy = Adaptive(ADAPTIVE, extent=0.15 / SPREAD_ABOVE, seed=0)
    children, expected = strategy.divided(parents, 10), halves(parents)
    for name, value in children.items():
        assert torch.equal(value[~large.repeat(2)], expected[name][~large.repeat(2)])
    assert not (children["means"] == expected["means"])[large.repeat(2)].any()
    assert torch.equal(children["means"], strategy.divided(parents, 10)["means"])
    assert not torch.equal(children["means"], strategy.divided(parents, 20)["means"])


def test_halves_hide_about_as_much_as_their_parent():
    model = tiny.gaussians(1)
    with torch.no_grad():
        model.quats[:] = torch.tensor([1.0, 0, 0, 0])
        model.log_scales[:] = torch.tensor([[1.0, 0.5, 0.2]]).log()
        model.logit_opacities[:] = 0.0
    parent = model.rows(torch.tensor([0]))
    grid = torch.linspace(-5, 5, 201)

    def hidden(rows):
        """In total, of what is seen along the third axis."""
        x = grid[None, :, None] - rows["means"][:, 0, None, None]
        y = grid[None, None, :] - rows["means"][:, 1, None, None]
        scales = rows["log_scales"].exp()[:, :, None, None]
        alpha = rows["logit_opacities"].sigmoid()[:, None, None]
        alpha = alpha * torch.exp(-0.5 * ((x / scales[:, 0]) ** 2 + (y / scales[:, 1]) ** 2))
        return float((1 - (1 - alpha).prod(dim=0)).sum())

    assert 0.45 < hidden(halves(parent)) / hidden(parent) < 1


@settings(deadline=None)
@given(st.floats(0.01, 0.99), st.integers(1, 20))
def test_relocation_keeps_the_opacity_at_the_centre(opacity, copies):
    shared, factor = relocation(torch.tensor([opacity], dtype=torch.float64), torch.tensor([copies]))
    expected = 1 - (1 - opacity) ** (1 / copies)
    assert float(shared) == pytest.approx(max(expected, 0.005))
    assert 0 < float(factor) <= 1 + 1e-9


@pytest.mark.parametrize("copies", [1, 2, 5, 20])
def test_relocation_keeps_the_integral_of_the_opacity(copies):
    """Along a line through the centre, N copies hide in total as much as the one did (the derivation of eq. 8)."""
    opacity = 0.7
    shared, factor = relocation(torch.tensor([opacity], dtype=torch.float64), torch.tensor([copies]))
    x = torch.linspace(-12, 12, 200001, dtype=torch.float64)
    before = opacity * torch.exp(-0.5 * x**2)
    after = 1 - (1 - shared * torch.exp(-0.5 * (x / factor) ** 2)) ** copies
    assert float(after.sum()) == pytest.approx(float(before.sum()), rel=1e-6)


def test_mcmc_relocates_the_dead_and_grows_to_the_cap():
    model = tiny.gaussians(100)
    with torch.no_grad():
        model.logit_opacities[:10] = -8.0
    dead = model.state_dict()["means"][:10].clone()
    config = MCMCConfig(max_gaussians=108, refine_from=0.0, refine_until=1.0, refine_every=10, growth=0.05, noise=0.0)
    strategy, optimizer = MCMC(config, seed=0), optimizer_of(model)
    for step in range(100):
        after(strategy, model, optimizer, seen(model, torch.zeros(len(model))), step, (step + 1) / 100)
        if step + 1 == 10:
            assert len(model) == 105
            assert float(model.opacities.detach().min()) > config.dead_opacity * 0.99
            assert not any((model.means.detach() == row).all(dim=-1).any() for row in dead)
    assert len(model) == 108


def test_mcmc_noise_spares_the_opaque_and_repeats_with_the_seed():
    moved = []
    for seed in (0, 0, 1):
        model = tiny.gaussians(100)
        with torch.no_grad():
            model.logit_opacities[:50] = 6.0
            model.logit_opacities[50:] = -6.0
        before = model.state_dict()["means"].clone()
        strategy = MCMC(MCMCConfig(refine_from=1.0), seed=seed)
        after(strategy, model, optimizer_of(model), seen(model, torch.zeros(100)), 0, 0.001)
        moved.append((model.means.detach() - before).norm(dim=-1))
    assert float(moved[0][:50].max()) < 1e-6
    assert float(moved[0][50:].min()) > 1e-6
    assert torch.equal(moved[0], moved[1])
    assert not torch.equal(moved[0], moved[2])


def test_mcmc_with_everything_dead_does_not_fail():
    model = tiny.gaussians(10)
    with torch.no_grad():
        model.logit_opacities[:] = -9.0
    config = MCMCConfig(max_gaussians=10, refine_from=0.0, refine_every=1)
    after(MCMC(config, seed=0), model, optimizer_of(model), seen(model, torch.zeros(10)), 0, 0.1)
    assert len(model) == 10
