"""nerfstudio's nerfacto, read and rendered without it; tests/nerfstudio compares the pictures with its own."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

import nerfacto_cases as cases
import tiny
from recon import cli, hashgrid, opening, sh
from recon.datasets import nerfstudio
from recon.datasets.errors import InputError
from recon.kernels import hash_grid
from recon.loading import load_state, trained_scene
from recon.nerfstudio import nerfacto, runs, settings
from recon.nerfstudio.nerfacto import Nerfacto
from recon.nerfstudio.nerfacto_weights import Settings, Weights, own_layout, settings_of, through
from recon.tcnn import ALIGNED
from small_scene import small_scene
from test_nerfstudio_runs import write_run

BOTH = pytest.mark.parametrize("stored", [cases.in_torch, cases.in_tcnn], ids=["torch", "tcnn"])


def written(folder: Path, tensors: dict[str, Any], parser: str = "", **options: Any) -> Path:
    """A run of a small nerfacto."""
    run = write_run(folder, cases.in_pipeline(tensors), **options)
    file = run / runs.CONFIG
    head = file.read_text().partition("  model:")[0]
    file.write_text(head + parser + cases.OF_MODEL)
    return run


def even(density: float, **changes: Any) -> Nerfacto:
    """One of this density everywhere, all of one colour, whose proposals find nothing: samples are even."""
    tensors = cases.in_torch()
    for name, value in tensors.items():
        if "layers" in name:
            tensors[name] = torch.zeros_like(value)
    wishes = dataclasses.replace(cases.SMALL, **changes)
    for name in ("proposal_networks.0.mlp_base.1", "proposal_networks.1.mlp_base.1"):
        tensors[f"{name}.layers.1.bias"][0] = -30
    tensors["field.mlp_base.model.1.layers.1.bias"][0] = math.log(density / wishes.average_init_density)
    tensors["field.mlp_head.layers.2.bias"] = torch.tensor([0.0, 1.0, -1.0])
    return Nerfacto(wishes, tensors)


# ---- settings


def test_the_settings_of_a_config_are_those_of_the_model_alone() -> None:
    found = settings_of(settings.below("pipeline:\n" + cases.OF_MODEL, "model"), "config.yml")
    assert found == cases.SMALL


def test_without_a_config_they_are_those_of_the_method() -> None:
    assert settings_of({}, "config.yml") == Settings()
    assert Settings().grid.widths(16) == [32, 64, 16]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("    background_color: plaid", "background_color cannot be 'plaid'"),
        ("    hidden_dim: many", "hidden_dim cannot be 'many'"),
        ("    num_proposal_iterations: 3", "3 rounds of proposals"),
        ("    num_proposal_iterations: 0", "0 rounds of proposals"),
        ("    proposal_net_args_list: []", "proposal_net_args_list cannot be"),
        ("    proposal_net_args_list:\n    - hidden_dim: 16\n      colour: 3", "proposal_net_args_list.colour"),
    ],
)
def test_settings_that_cannot_be_are_refused_in_one_line(tmp_path: Path, line: str, said: str) -> None:
    run = written(tmp_path, cases.in_torch())
    (run / runs.CONFIG).write_text(f"  model: x\n{line}\n")
    with pytest.raises(InputError, match=rf"config\.yml: {said}") as caught:
        load_state(run)
    assert "\n" not in str(caught.value)


@given(st.dictionaries(st.sampled_from("abcd"), st.one_of(st.integers(), st.booleans(), st.floats(allow_nan=False))))
def test_plain_values_come_back(values: dict[str, Any]) -> None:
    lines = "".join(f"    {name}: {str(value).lower()}\n" for name, value in values.items())
    assert settings.below(f"x: 1\n  model: !!python/object:some.Thing\n{lines}y: 2\n", "model") == values


# ---- weights


def test_its_own_grid_is_that_of_its_definition() -> None:
    """All levels are hashed, of corners below and above the scaled position."""
    layout = own_layout(cases.SMALL.grid)
    assert layout.scales.tolist() == [4, 9, 21]
    table = torch.randn(layout.rows, layout.features, generator=cases.draw(0))
    positions = torch.rand(50, 3, generator=cases.draw(1))
    positions[0] = 0
    expected = torch.zeros(50, layout.levels, layout.features)
    size = 1 << layout.log2_rows
    for point, position in enumerate(positions):
        for level, scale in enumerate(layout.scales.tolist()):
            scaled = (position * scale).tolist()
            for corner in range(8):
                weight, mixed = 1.0, 0
                for axis, (value, prime) in enumerate(zip(scaled, (1, 2654435761, 805459861), strict=True)):
                    upper = corner >> axis & 1
                    share = value - math.floor(value)
                    weight *= share if upper else 1 - share
                    mixed ^= (math.ceil(value) if upper else math.floor(value)) * prime
                expected[point, level] += weight * table[level * size + mixed % size]
    assert torch.allclose(hashgrid.encode(layout, positions, table), expected.flatten(1), atol=1e-5)
    assert torch.allclose(hashgrid.encode_in_torch(layout, positions, table), expected.flatten(1), atol=1e-5)


def test_flat_parameters_are_networks_filled_up_and_then_the_grid() -> None:
    tensors = cases.in_tcnn()
    weights = Weights(tensors, "cpu")
    of_field, of_proposal, of_colours = cases.widths_of(cases.SMALL)
    asked = weights.field(cases.SMALL)
    positions = torch.rand(40, 3, generator=cases.draw(3))
    sizes = cases.SMALL.grid
    layout = hash_grid.layout(
        sizes.num_levels, sizes.features_per_level, sizes.log2_hashmap_size, sizes.base_res, sizes.max_res
    )
    table = cases.table_of(sizes, 1).reshape(layout.rows, layout.features)
    encoded = hashgrid.encode_in_torch(layout, positions, table)

    def by_hand(x: torch.Tensor, widths: list[int], seed: int, fill: float) -> torch.Tensor:
        filled = [-(-widths[0] // ALIGNED) * ALIGNED, *widths[1:-1], -(-widths[-1] // ALIGNED) * ALIGNED]
        x = functional.pad(x, (0, filled[0] - widths[0]), value=fill)
        matrices = [weight for weight, _ in cases.layers(filled, seed)]
        for matrix in matrices[:-1]:
            x = (x @ matrix.T).relu()
        return (x @ matrices[-1].T)[:, : widths[-1]]

    assert torch.allclose(asked(positions), by_hand(encoded, of_field, 11, 0.0), atol=1e-5)
    proposal = weights.proposal(1, cases.SMALL)
    given = torch.rand(40, of_proposal[0], generator=cases.draw(4))
    assert torch.allclose(through(proposal.layers, given), by_hand(given, of_proposal, 13, 1.0), atol=1e-5)
    seen = torch.rand(40, 31, generator=cases.draw(5))
    light = tensors["field.embedding_appearance.embedding.weight"].mean(dim=0).expand(40, -1)
    whole = torch.cat([seen, light], dim=-1)
    assert torch.allclose(through(weights.colours(cases.SMALL), seen), by_hand(whole, of_colours, 15, 1.0), atol=1e-5)
    dark = dataclasses.replace(cases.SMALL, use_average_appearance_embedding=False)
    whole = torch.cat([seen, torch.zeros_like(light)], dim=-1)
    assert torch.allclose(through(weights.colours(dark), seen), by_hand(whole, of_colours, 15, 1.0), atol=1e-5)


def test_harmonics_of_splats_are_those_of_tcnn_but_for_signs() -> None:
    """Of a direction whose place in 0..1 is on the sphere, too, nerfstudio's are the same up to their signs."""
    ahead = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    moved = 2 * ahead - 1  # what it makes these of
    signs = torch.tensor([1.0, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1])
    assert torch.allclose(nerfacto.sh_of_torch(moved), signs * sh.basis(ahead, 3), atol=1e-6)


@BOTH
def test_weights_that_are_not_there_or_do_not_fit_are_refused(
    tmp_path: Path, stored: Callable[[], dict[str, Any]]
) -> None:
    for name, value in stored().items():
        if name.startswith("camera"):
            continue
        tensors = stored()
        tensors[name] = value[:-1]
        if "embedding" not in name:
            with pytest.raises(InputError, match=r"\.ckpt: its nerfacto is not what config\.yml says: ") as caught:
                load_state(written(tmp_path, tensors))
            assert "\n" not in str(caught.value)
        del tensors[name]
        with pytest.raises(InputError, match=r"\.ckpt: "):
            load_state(written(tmp_path, tensors))


# ---- pictures


def test_an_even_fog_stops_as_much_light_as_is_computed() -> None:
    model = even(2.0, far_plane=1.0, background_color="black")
    out = model.render(tiny.ring(1))
    seen = 8 / 9 * 6 / 7  # each round leaves out half a sample at both ends
    assert torch.allclose(out.alpha, torch.tensor(1 - math.exp(-2 * seen)), atol=1e-4)
    colour = torch.tensor([0.0, 1.0, -1.0]).sigmoid()
    assert torch.allclose(out.rgb, out.alpha * colour, atol=1e-5)
    behind = model.render(tiny.ring(1), background=torch.ones(3)).rgb
    assert torch.allclose(behind, out.rgb + 1 - out.alpha, atol=1e-5)
    assert torch.allclose(model.density(torch.randn(20, 3)), torch.tensor(2.0), rtol=1e-5)


def test_the_last_sample_is_the_background_and_no_other_shows() -> None:
    model = even(0.01, far_plane=1.0, background_color="last_sample")
    out = model.render(tiny.ring(1), background=torch.ones(3))
    assert torch.allclose(out.rgb, torch.tensor([0.0, 1.0, -1.0]).sigmoid().expand_as(out.rgb), atol=1e-5)
    assert float(out.alpha.max()) < 0.02


def test_without_a_contraction_there_is_nothing_outside_of_the_box() -> None:
    model = even(2.0, disable_scene_contraction=True)
    places = torch.tensor([[0.0, 0, 0], [0.9, -0.9, 0.9], [1.1, 0, 0], [0, 0, -5]])
    assert torch.allclose(model.density(places), torch.tensor([2.0, 2, 0, 0]), rtol=1e-5)


@pytest.mark.parametrize(("sampler", "far", "middle"), [("piecewise", 1.0, 0.5), ("uniform", 3.0, 1.5)])
def test_the_mean_distance_is_that_of_what_is_seen(sampler: str, far: float, middle: float) -> None:
    model = even(1e-3, far_plane=far, proposal_initial_sampler=sampler)
    camera = tiny.ring(1)
    out = model.render(camera, pixels=camera.Ks[:, None, :2, 2])
    assert out.depth is not None
    assert float(out.depth) == pytest.approx(middle, rel=1e-3)


@BOTH
def test_pixels_are_those_of_the_picture(stored: Callable[[], dict[str, Any]]) -> None:
    model = Nerfacto(cases.SMALL, stored())
    camera = tiny.ring(1)
    whole = model.render(camera).rgb[0]
    assert float(whole.std()) > 1e-3
    some = model.render(camera, pixels=torch.tensor([[[3.5, 5.5], [10.5, 2.5]]])).rgb[0]
    assert torch.allclose(some, torch.stack([whole[5, 3], whole[2, 10]]), atol=1e-5)
    assert sum(value.numel() for value in model.state_dict().values()) == len(model)


@given(st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=3))
def test_all_of_space_is_in_the_cube(place: list[float]) -> None:
    point = torch.tensor([place])
    (found,) = nerfacto.contract(point)
    assert float(found.abs().max()) <= 2
    if float(point.abs().max()) < 1:
        assert torch.equal(found, point[0])
    else:
        assert float(found.abs().max()) == pytest.approx(2 - 1 / float(point.abs().max()), rel=1e-5)


# ---- runs


PARSER = """    dataparser: !!python/object:some.DataParserConfig
      eval_interval: 2
      eval_mode: {mode}
      train_split_fraction: 0.6
"""


def capture_without_split(folder: Path) -> Path:
    nerfstudio.save(dataclasses.replace(small_scene(), train=tuple(range(5)), test=()), folder)
    return folder


@pytest.mark.parametrize(("mode", "held"), [("fraction", (1, 3)), ("interval", (0, 2, 4)), ("all", ())])
def test_photos_are_held_out_as_its_dataparser_did(tmp_path: Path, mode: str, held: tuple[int, ...]) -> None:
    capture = capture_without_split(tmp_path / "capture")
    run = written(tmp_path / "run", cases.in_torch(), PARSER.format(mode=mode), data=capture)
    scene = trained_scene(run, load_state(run), torch.device("cpu"))
    assert scene.test == held
    assert scene.train == tuple(n for n in range(5) if n not in held)


@BOTH
def test_a_run_is_rendered_and_scored(tmp_path: Path, stored: Callable[[], dict[str, Any]]) -> None:
    capture = capture_without_split(tmp_path / "capture")
    run = written(tmp_path / "run", stored(), PARSER.format(mode="fraction"), data=capture)
    state = load_state(run)
    assert isinstance(state.model, Nerfacto)
    assert opening.background_of(state) == (0, 0, 0)
    with pytest.raises(InputError, match="trained as a radiance field"):
        _ = state.gaussians
    cli.render(run, tmp_path / "frames", frames=2, threads=1)
    assert len(list((tmp_path / "frames").glob("*.png"))) == 2
    cli.evaluate(run, threads=1)
    assert {file.name for file in (run / "eval").iterdir()} == {"000_photo_1.png", "001_photo_3.png"}


@pytest.mark.slow
def test_a_run_is_exported_as_splats_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = written(tmp_path / "run", cases.in_torch(), data=capture_without_split(tmp_path / "capture"))
    cli.export(run, tmp_path / "out.ply", distil_steps=30, threads=1)
    assert len(list((run / "distilled").glob("*.safetensors"))) == 1
    cli.export(run, tmp_path / "again.ply", threads=1)
    assert "were made before" in capsys.readouterr().out


def test_a_checkpoint_without_its_config_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = written(tmp_path, cases.in_torch())
    (run / runs.CONFIG).unlink()
    with pytest.raises(InputError, match="its nerfacto is not what"):
        load_state(run)
    assert "config.yml: is not there" in caplog.text


def test_it_is_not_trained() -> None:
    model = even(1.0)
    for call in (model.start, model.restore, model.memory, model.learn, model.after_step):
        with pytest.raises(InputError, match="not trained"):
            call()
