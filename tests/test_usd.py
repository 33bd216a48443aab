"""USD's fields of Gaussian splats: what OpenUSD itself sees in our files, files written by hand, and files that lie."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from recon import sh
from recon.datasets.errors import InputError
from recon.export import export, load
from recon.export.usd import save_z_up
from recon.exporting import export_to
from recon.parts import Place
from test_splat_formats import angles_between, assert_alike, scene_of

pytest.importorskip("pxr", reason="usd-core is not installed")
from pxr import Usd, UsdGeom, UsdValidation, UsdVol

KINDS = (".usda", ".usdc", ".usdz")
# One splat, as the guide to the schema has its attributes: w of an orientation comes first, scales are linear.
SPLAT = """
    point3f[] positions = [(1, 2, 3)]
    quatf[] orientations = [(0.5, 0.5, -0.5, 0.5)]
    float3[] scales = [(0.1, 0.2, 0.4)]
    float[] opacities = [0.75]
    uniform int radiance:sphericalHarmonicsDegree = 1
    float3[] radiance:sphericalHarmonicsCoefficients = [(0.1, 0.2, 0.3), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
"""


def by_hand(path: Path, body: str = SPLAT, *, up: str = "Y", before: str = "", after: str = "") -> Path:
    splats = f'def ParticleField3DGaussianSplat "Splats" {{\n{body}\n}}\n'
    path.write_text(f'#usda 1.0\n(\n    upAxis = "{up}"\n)\n{before}\n{splats}{after}')
    return path


def attribute(path: Path, name: str) -> np.ndarray:
    stage = Usd.Stage.Open(str(path))
    stage.Reload()  # it may be known as it was before it was written again
    return np.array(stage.GetDefaultPrim().GetAttribute(name).Get())


@pytest.mark.parametrize("degree", [0, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_openusd_sees_the_scene_with_y_up(tmp_path: Path, kind: str, degree: int) -> None:
    scene, path = scene_of(50, degree), tmp_path / f"scene{kind}"
    export(scene, path)
    stage = Usd.Stage.Open(str(path))
    assert UsdVol.ParticleField3DGaussianSplat(stage.GetDefaultPrim())
    assert UsdGeom.GetStageUpAxis(stage) == "Y"
    flip = np.array([1, -1, -1], np.float32)
    values = {name: value.detach().numpy() for name, value in scene.parameters().items()}
    assert np.array_equal(attribute(path, "positions"), values["means"] * flip)
    np.testing.assert_allclose(attribute(path, "scales"), np.exp(values["log_scales"]), rtol=1e-5)
    np.testing.assert_allclose(attribute(path, "opacities"), torch.sigmoid(scene.logit_opacities).detach(), rtol=1e-5)
    assert attribute(path, "radiance:sphericalHarmonicsDegree") == degree
    harmonics = attribute(path, "radiance:sphericalHarmonicsCoefficients").reshape(50, -1, 3)
    assert harmonics.shape[1] == sh.num_coefficients(degree)
    # The radiance along a direction is that of the scene along the direction turned with it.
    direction = torch.nn.functional.normalize(torch.randn(50, 3, generator=torch.Generator().manual_seed(0)), dim=-1)
    ours = (sh.basis(direction, degree)[..., None] * torch.cat([scene.sh0, scene.shN], 1)).sum(dim=1)
    theirs = (sh.basis(direction * torch.from_numpy(flip), degree)[..., None] * torch.from_numpy(harmonics)).sum(dim=1)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    low, high = attribute(path, "extent")
    assert (low < attribute(path, "positions")).all()
    assert (high > attribute(path, "positions")).all()


@pytest.mark.parametrize("kind", KINDS)
def test_openusd_finds_nothing_wrong(tmp_path: Path, kind: str) -> None:
    export(scene_of(50, 3), tmp_path / f"scene{kind}")
    validators = UsdValidation.ValidationRegistry().GetOrLoadAllValidators()
    assert validators
    stage = Usd.Stage.Open(str(tmp_path / f"scene{kind}"))
    assert [error.GetMessage() for error in UsdValidation.ValidationContext(validators).Validate(stage)] == []


def test_a_file_written_by_hand_is_read(tmp_path: Path) -> None:
    splat = load(by_hand(tmp_path / "hand.usda"))
    assert splat.means.tolist() == [[1, -2, -3]]
    # The same rotation about axes whose y and z are negated.
    assert angles_between(splat.quats, torch.tensor([[0.5, 0.5, 0.5, -0.5]])).max() < 1e-3
    torch.testing.assert_close(splat.scales, torch.tensor([[0.1, 0.2, 0.4]]))
    torch.testing.assert_close(splat.opacities, torch.tensor([0.75]))
    torch.testing.assert_close(splat.sh0[0, 0], torch.tensor([0.1, 0.2, 0.3]))
    # Of degree 1 there are y, z and x, of which the first two change their signs.
    torch.testing.assert_close(splat.shN[0], torch.diag(torch.tensor([-1.0, -1.0, 1.0])))


def test_what_is_not_there_is_as_the_schema_says(tmp_path: Path) -> None:
    body = "point3f[] positions = [(0, 0, 0), (1, 0, 0)]\nfloat[] opacities = [0.5]\nfloat3[] scales = [(2,2,2)]"
    splats = load(by_hand(tmp_path / "bare.usda", body))
    assert splats.opacities.tolist() == pytest.approx([1, 1], abs=1e-5)  # one is too few for two splats
    assert splats.scales.tolist() == [[1, 1, 1]] * 2
    assert angles_between(splats.quats, torch.tensor([[1.0, 0, 0, 0]]).repeat(2, 1)).max() == 0
    assert splats.sh0.abs().max() == 0
    assert splats.sh_degree == 0
    assert len(load(by_hand(tmp_path / "none.usda", ""))) == 0


def test_halves_are_read_where_there_are_no_floats(tmp_path: Path) -> None:
    body = "point3h[] positionsh = [(1, 2, 3)]\nhalf[] opacitiesh = [0.25]\nquath[] orientationsh = [(0, 1, 0, 0)]"
    splat = load(by_hand(tmp_path / "half.usda", body))
    assert splat.means.tolist() == [[1, -2, -3]]
    assert splat.opacities.tolist() == pytest.approx([0.25])
    assert splat.quats[0].abs().tolist() == [0, 1, 0, 0]
    both = load(by_hand(tmp_path / "both.usda", body + "\npoint3f[] positions = [(7, 8, 9)]"))
    assert both.means.tolist() == [[7, -8, -9]]


def test_a_file_with_z_up_is_turned(tmp_path: Path) -> None:
    upright = load(by_hand(tmp_path / "y.usda"))
    turned = load(by_hand(tmp_path / "z.usda", up="Z"))
    assert turned.means.tolist() == [[1, -3, 2]]  # up, which is -y here, and away
    quarter = torch.tensor([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])  # of the first to the second
    torch.testing.assert_close(turned.means, upright.means @ quarter.T)


def test_prims_are_placed_and_hidden_ones_left_out(tmp_path: Path) -> None:
    inner = f'def ParticleField3DGaussianSplat "A" {{\n{SPLAT}\n}}'
    hidden = f'def ParticleField3DGaussianSplat "B" {{\n{SPLAT}\ntoken visibility = "invisible"\n}}'
    outer = (
        'def Xform "W" {\n double3 xformOp:translate = (10, 0, 0)\n float xformOp:rotateZ = 90\n'
        ' float3 xformOp:scale = (2, 2, 2)\n uniform token[] xformOpOrder = '
        '["xformOp:translate", "xformOp:rotateZ", "xformOp:scale"]\n'
    )  # fmt: skip
    path = by_hand(tmp_path / "placed.usda", before=f"{outer}{inner}\n{hidden}\n}}")
    splats = load(path)
    assert len(splats) == 2
    # (1, 2, 3) twice as large is (2, 4, 6), a quarter turn (-4, 2, 6), and moved (6, 2, 6); then y and z are negated.
    torch.testing.assert_close(splats.means, torch.tensor([[6.0, -2, -6], [1, -2, -3]]))
    torch.testing.assert_close(splats.scales[0].sort().values, torch.tensor([0.2, 0.4, 0.8]))
    squeezed = by_hand(path, before=outer.replace("(2, 2, 2)", "(2, 2, 1)") + inner + "\n}")
    with pytest.raises(InputError, match=r"placed\.usda: /W/A: mirrors splats, or stretches them unevenly"):
        load(squeezed)


def test_a_scene_that_is_written_with_z_up_says_so(tmp_path: Path) -> None:
    scene = scene_of(20, 1)
    export(scene, tmp_path / "scene.ply")
    export_to(tmp_path / "scene.ply", tmp_path / "z.usda", Place(frame="z-up"))
    assert UsdGeom.GetStageUpAxis(Usd.Stage.Open(str(tmp_path / "z.usda"))) == "Z"
    assert_alike(load(tmp_path / "z.usda"), scene)
    export_to(tmp_path / "scene.ply", tmp_path / "y.usda", Place(frame="y-up"))
    assert_alike(load(tmp_path / "y.usda"), scene)
    save_z_up(scene, tmp_path / "direct.usda")
    assert (attribute(tmp_path / "direct.usda", "positions") == attribute(tmp_path / "y.usda", "positions")).all()


def test_nothing_that_a_file_refers_to_is_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    by_hand(tmp_path / "other.usda")
    refers = (
        'def Xform "R" (\n references = @./other.usda@</Splats>\n) { }\n'
        'def Xform "P" (\n payload = @./other.usda@</Splats>\n) { }\n'
        'def ParticleField3DGaussianSplat "I" (\n inherits = </Splats>\n) { }\n'
    )
    path = by_hand(tmp_path / "refers.usda", after=refers)
    path.write_text(path.read_text().replace('upAxis = "Y"', 'upAxis = "Y"\n subLayers = [@./other.usda@]'))
    with caplog.at_level(logging.WARNING, "recon"):
        assert len(load(path)) == 1
    assert "left out what it refers to: ./other.usda" in caplog.text


def test_prims_that_repeat_each_other_do_not_become_many(tmp_path: Path) -> None:
    levels = ""
    for i in range(12):
        ten = "".join(f'def Xform "c{k}" (\n references = </L{i + 1}>\n) {{ }}\n' for k in range(10))
        levels += f'def Xform "L{i}" {{\n{ten}}}\n'
    assert len(load(by_hand(tmp_path / "many.usda", before=levels))) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_are_refused_in_one_line(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"scene{kind}"
    export(scene_of(40, 1), path)
    whole = path.read_bytes()
    generator = np.random.default_rng(0)
    said = []
    for trial in range(3):
        data = bytearray(whole[: len(whole) // 2] if trial == 0 else whole)
        for at in generator.integers(8, len(data), 30):
            data[at] ^= 1 << int(generator.integers(8))
        path.write_bytes(data)
        try:
            load(path)
        except InputError as error:
            said.append(str(error))
    assert said
    assert all(line.startswith(f"{path}: ") and "\n" not in line for line in said)
    path.write_bytes(b"something else")
    with pytest.raises(InputError, match=f"not a {kind} file"):
        load(path)


def test_other_scenes_hold_no_splats(tmp_path: Path) -> None:
    (tmp_path / "cube.usda").write_text('#usda 1.0\ndef Cube "C" { }\n')
    with pytest.raises(InputError, match=r"cube\.usda: holds no splats"):
        load(tmp_path / "cube.usda")
