"""nerfstudio itself: our methods in its commands, what it writes read here, and what is written here read there.

scripts/test_nerfstudio makes an environment that has it; elsewhere all of this is skipped.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import re
import socket
import subprocess
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from recon import cli, export, metrics, opening
from recon.datasets import load_scene, nerfstudio, synthetic
from recon.datasets.cameras import OPENCV_FROM_OPENGL
from recon.datasets.convert import convert
from recon.datasets.images import ArrayImage
from recon.datasets.scene import Scene, View
from recon.gaussians import Gaussians
from recon.loading import load, load_state, trained_scene
from recon.nerfstudio import runs
from recon.ngp import Ngp
from recon.plenoxels import Plenoxels
from recon.rays import all_pixels
from recon.render import pictures

found = importlib.util.find_spec("nerfstudio")
pytestmark = [
    pytest.mark.nerfstudio,
    pytest.mark.skipif(found is None or found.origin is None, reason="nerfstudio is not installed"),
]

STEPS = 200

# Stand-ins, where the packages cannot be had, for the little that nerfstudio's commands ask of them at the start.
STAND_INS = {
    "torchvision": {
        "torchvision/__init__.py": "from torchvision import transforms, utils\n",
        "torchvision/utils.py": "",
        "torchvision/transforms/__init__.py": "from torchvision.transforms import functional\n",
        "torchvision/transforms/functional.py": (
            "import torch\n\n\ndef resize(image, size, antialias=None):\n"
            "    factor = size / min(image.shape[-2:])\n"
            "    return torch.nn.functional.interpolate(image[None].float(), scale_factor=factor)[0].to(image.dtype)\n"
        ),
    },
    "pymeshlab": {"pymeshlab.py": ""},
}


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("stand-ins")
    for name, files in STAND_INS.items():
        if importlib.util.find_spec(name) is None:
            for file, text in files.items():
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                (folder / file).write_text(text)
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    return os.environ | {"PYTHONPATH": path, "COLUMNS": "200"}


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("captures") / "diorama"
    synthetic.write(synthetic.make(views=16, width=120, height=90, points=2000), folder, "nerfstudio")
    return folder


def command(environment: dict[str, str], *words: object) -> str:
    program, *rest = map(str, words)
    done = subprocess.run(
        [str(Path(sys.executable).with_name(program)), *rest],
        capture_output=True,
        text=True,
        env=environment,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def ns_train(environment: dict[str, str], out: Path, method: str, capture: Path, steps: int, *words: object) -> Path:
    """Train; the run's folder."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command(
        environment,
        *("ns-train", method, "--data", capture, "--output-dir", out, "--max-num-iterations", steps),
        *("--vis", "viewer+tensorboard", "--viewer.websocket-port", port, "--viewer.websocket-host", "127.0.0.1"),
        *("--viewer.quit-on-train-completion", "True", *words),
    )
    checkpoint = runs.find(out)
    assert checkpoint is not None
    return checkpoint.parent.parent


@pytest.fixture(scope="module")
def splats(environment: dict[str, str], capture: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ns_train(environment, tmp_path_factory.mktemp("runs") / "out", "recon-splats", capture, STEPS)


def psnr(model: Any, views: Sequence[View]) -> float:
    """The mean over photos, most of which were trained on."""
    return sum(
        metrics.psnr(picture, view.load())
        for view in views
        for picture in pictures(model, view.camera.to(dtype=torch.float32))
    ) / len(views)


def test_splats_trained_there_lie_in_the_capture_here(splats: Path, capture: Path, tmp_path: Path) -> None:
    state = load_state(splats)
    assert state.step == STEPS
    cli.export(splats, tmp_path / "splats.ply")
    assert psnr(export.load(tmp_path / "splats.ply"), load_scene(capture).views) > 20
    scene = trained_scene(splats, state, torch.device("cpu"))
    assert psnr(state.model, scene.views) > 20


def test_its_other_commands_know_our_splats(environment: dict[str, str], splats: Path, tmp_path: Path) -> None:
    config = splats / runs.CONFIG
    command(environment, "ns-eval", "--load-config", config, "--output-path", tmp_path / "scores.json")
    assert json.loads((tmp_path / "scores.json").read_text())["results"]["psnr"] > 15
    command(environment, "ns-render", "dataset", "--load-config", config, "--output-path", tmp_path, "--split", "test")
    assert len(list((tmp_path / "test" / "rgb").iterdir())) == 2
    command(environment, "ns-export", "gaussian-splat", "--load-config", config, "--output-dir", tmp_path)
    theirs, ours = export.load(tmp_path / "splat.ply"), load(splats)
    camera = trained_scene(splats, load_state(splats), torch.device("cpu")).views[0].camera
    (one,), (other,) = pictures(theirs, camera), pictures(ours, camera)
    assert torch.allclose(one, other, atol=2 / 255)


def test_a_training_goes_on(environment: dict[str, str], splats: Path, capture: Path, tmp_path: Path) -> None:
    models = splats / runs.MODELS
    later = ns_train(environment, tmp_path, "recon-splats", capture, 20, "--load-dir", models)
    assert load_state(later).step == STEPS + 20


def test_its_own_dataparser_feeds_our_splats(environment: dict[str, str], capture: Path, tmp_path: Path) -> None:
    run = ns_train(environment, tmp_path, "recon-splats", capture, STEPS, "nerfstudio-data", "--load-3D-points", "True")
    cli.export(run, tmp_path / "splats.ply")
    assert psnr(export.load(tmp_path / "splats.ply"), load_scene(capture).views) > 20


@pytest.mark.parametrize(("method", "kind"), [("recon-plenoxels", Plenoxels), ("recon-ngp", Ngp)])
def test_a_field_trained_there_is_looked_at_here(
    method: str, kind: type, environment: dict[str, str], capture: Path, tmp_path: Path
) -> None:
    run = ns_train(environment, tmp_path / "out", method, capture, 60)
    state = load_state(run)
    assert isinstance(state.model, kind)
    scene = trained_scene(run, state, torch.device("cpu"))
    assert psnr(state.model, scene.views) > 14
    cli.render(run, tmp_path / "frames", frames=1)
    assert len(list((tmp_path / "frames").iterdir())) == 1


@pytest.fixture
def no_lpips(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is torchvision's, whose weights are far away."""
    lpips = types.SimpleNamespace(LearnedPerceptualImagePatchSimilarity=lambda **_: torch.nn.Identity())
    monkeypatch.setitem(sys.modules, "torchmetrics.image.lpip", lpips)


@pytest.mark.usefixtures("no_lpips")
def test_what_splatfacto_saves_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its model and its optimisers, which need no GPU to be made and saved."""
    from nerfstudio.data.scene_box import SceneBox
    from nerfstudio.engine.optimizers import AdamOptimizerConfig, Optimizers
    from nerfstudio.engine.schedulers import ExponentialDecaySchedulerConfig
    from nerfstudio.models.splatfacto import SplatfactoModel, SplatfactoModelConfig

    sizes = np.ones((50, 3), np.float32)
    monkeypatch.setattr(SplatfactoModel, "k_nearest_sklearn", lambda *_: (sizes, None))  # of scikit-learn

    box = SceneBox(torch.tensor([[-1.0, -1, -1], [1, 1, 1]]))
    model = SplatfactoModelConfig(random_init=True, num_random=50).setup(scene_box=box, num_train_data=1)
    decay = {"optimizer": AdamOptimizerConfig(), "scheduler": ExponentialDecaySchedulerConfig(lr_final=1e-6)}
    groups = model.get_gaussian_param_groups()
    optimizers = Optimizers(dict.fromkeys(groups, decay), groups)
    for values in groups.values():
        values[0].grad = torch.ones_like(values[0])
    for name in groups:
        optimizers.optimizer_step(name)
        optimizers.scheduler_step(name)
    models = tmp_path / runs.MODELS
    models.mkdir()
    stored = {
        "step": 7,
        "pipeline": {f"_model.{name}": value for name, value in model.state_dict().items()},
        "optimizers": {name: each.state_dict() for name, each in optimizers.optimizers.items()},
        "schedulers": {name: each.state_dict() for name, each in optimizers.schedulers.items()},
        "scalers": {},
    }
    torch.save(stored, models / "step-000000007.ckpt")
    loaded = load(tmp_path)
    assert isinstance(loaded, Gaussians)
    assert torch.equal(loaded.means, model.means)
    assert torch.equal(loaded.log_scales, model.scales)
    assert torch.equal(loaded.sh0[:, 0], model.features_dc)
    assert torch.equal(loaded.logit_opacities[:, None], model.opacities)


SMALL = {
    "num_levels": 6,
    "log2_hashmap_size": 12,
    "max_res": 200,
    "num_proposal_samples_per_ray": (40, 24),
    "num_nerf_samples_per_ray": 16,
}
PROPOSALS = [{"hidden_dim": 16, "log2_hashmap_size": 10, "num_levels": 3, "max_res": 64, "use_linear": True}]


@pytest.mark.usefixtures("no_lpips")
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"background_color": "white", "hidden_dim": 32, "hidden_dim_color": 48, "appearance_embed_dim": 5},
        {"use_same_proposal_network": True, "proposal_net_args_list": PROPOSALS, "predict_normals": True},
        {"proposal_net_args_list": PROPOSALS, "use_average_appearance_embedding": False, "base_res": 8},
        {"disable_scene_contraction": True, "proposal_initial_sampler": "uniform", "far_plane": 6.0},
        {"use_appearance_embedding": False, "background_color": "random", "average_init_density": 1.0},
    ],
    ids=lambda changes: ",".join(changes),
)
def test_pictures_of_nerfacto_are_its_own(tmp_path: Path, changes: dict[str, Any]) -> None:
    from nerfstudio.data.scene_box import SceneBox
    from nerfstudio.models.nerfacto import NerfactoModelConfig

    from recon.nerfstudio.cameras import theirs_of

    torch.manual_seed(3)
    config = NerfactoModelConfig(implementation="torch", **({"average_init_density": 0.3} | SMALL | changes))
    box = SceneBox(torch.tensor([[-1.0, -1, -1], [1, 1, 1]]))
    model = config.setup(scene_box=box, num_train_data=4).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "hash_table" in name:
                value.normal_()
    yaml: Any = importlib.import_module("yaml")  # as its trainer writes
    (tmp_path / runs.CONFIG).write_text(yaml.dump({"pipeline": {"model": config}}))
    (tmp_path / runs.MODELS).mkdir()
    stored = {"step": 7, "pipeline": {f"_model.{name}": value for name, value in model.state_dict().items()}}
    torch.save(stored, tmp_path / runs.MODELS / "step-000000007.ckpt")
    state = load_state(tmp_path)
    made = synthetic.make(views=2, width=24, height=18, points=10).scene
    for view in made.views:
        camera = view.camera.to(dtype=torch.float32)
        out = state.model.render(camera, background=torch.tensor(opening.background_of(state)))
        theirs = model.get_outputs_for_camera(theirs_of([camera]))
        assert torch.allclose(out.rgb[0], theirs["rgb"], rtol=0, atol=1e-4)
        assert torch.allclose(out.alpha[0], theirs["accumulation"], rtol=0, atol=1e-4)
        assert 0.02 < float(out.alpha.mean()) < 0.999
        _, directions = camera.rays(all_pixels(camera))  # along which their depth is
        along = (directions[0] @ camera.forward[0].float()).reshape(out.alpha[0].shape)
        assert out.depth is not None
        seen = out.alpha[0] > 1e-3
        assert torch.allclose(out.depth[0][seen], (theirs["expected_depth"] * along)[seen], rtol=1e-3, atol=1e-4)


def opencv_c2w(theirs: Any) -> Tensor:
    c2w = torch.eye(4, dtype=torch.float64).repeat(len(theirs), 1, 1)
    c2w[:, :3] = theirs.camera_to_worlds.double()
    return c2w @ OPENCV_FROM_OPENGL


def assert_same_cameras(theirs: Any, views: list[View], back: Tensor, scale: float) -> None:
    """Their cameras, of which [4,4] `back` and then a division by `scale` lead to the capture, are those of views."""
    for c2w, K, width, height, view in zip(
        opencv_c2w(theirs),
        theirs.get_intrinsics_matrices(),
        theirs.width,
        theirs.height,
        views,
        strict=True,
    ):
        expected = view.camera.c2w[0].double()
        position = back @ torch.cat([c2w[:3, 3] / scale, torch.ones(1).double()])
        assert torch.allclose(position[:3], expected[:3, 3], atol=1e-4)
        assert torch.allclose(back[:3, :3] @ c2w[:3, :3], expected[:3, :3], atol=1e-5)
        assert torch.allclose(K.double(), view.camera.Ks[0].double(), atol=1e-3)
        assert (int(width), int(height)) == (view.camera.width, view.camera.height)


def test_what_convert_writes_its_dataparser_reads_alike(tmp_path: Path) -> None:
    from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

    made = synthetic.make(views=10, width=64, height=48, points=300).scene
    mask = torch.ones(48, 64, 1)
    mask[:, :20] = 0

    def shifted(view: View) -> View:
        """With a principal point out of the middle, and a mask."""
        Ks = view.camera.Ks.clone()
        Ks[:, 0, 2] += 3.25
        return dataclasses.replace(
            view, camera=dataclasses.replace(view.camera, Ks=Ks), mask=ArrayImage(mask), image=ArrayImage(view.load())
        )

    scene: Scene = dataclasses.replace(made, views=tuple(shifted(view) for view in made.views))
    nerfstudio.save(scene, tmp_path / "first")
    convert(tmp_path / "first", tmp_path / "second", "nerfstudio")
    parser = NerfstudioDataParserConfig(
        data=tmp_path / "second",
        orientation_method="none",
        center_method="none",
        auto_scale_poses=False,
        load_3D_points=True,
        downscale_factor=1,
    ).setup()
    for split, numbers in (("train", scene.train), ("test", scene.test)):
        outputs = parser.get_dataparser_outputs(split)
        views = [scene.views[number] for number in numbers]
        assert_same_cameras(outputs.cameras, views, torch.eye(4).double(), 1.0)
        assert [re.sub(r"\W.*", "", file.name) for file in outputs.image_filenames] == [view.name for view in views]
        assert torch.all(outputs.cameras.distortion_params == 0)
        assert outputs.mask_filenames is not None
        for files in (outputs.image_filenames, outputs.mask_filenames, outputs.metadata["depth_filenames"]):
            assert len(files) == len(views)
            assert all(file.is_file() for file in files)
    assert scene.points is not None
    assert torch.allclose(outputs.metadata["points3D_xyz"].double(), scene.points.xyz.double(), atol=1e-5)
    assert (outputs.metadata["points3D_rgb"].float() / 255 - scene.points.rgb).abs().max() < 1.5 / 255


@pytest.mark.parametrize("downscale", [1, 2])
def test_our_dataparser_reads_other_formats(tmp_path: Path, downscale: int) -> None:
    from PIL import Image

    from recon.nerfstudio.dataparsers import CaptureConfig

    synthetic.write(synthetic.make(views=9, width=64, height=48, points=300), tmp_path / "capture", "colmap")
    parser = CaptureConfig(data=tmp_path / "capture", downscale=downscale).setup()
    scene = load_scene(tmp_path / "capture", downscale=downscale)
    for split, views in (("train", scene.train_views), ("val", scene.test_views)):
        outputs = parser.get_dataparser_outputs(split)
        back = torch.eye(4).double()
        back[:3] = outputs.dataparser_transform.double()
        assert_same_cameras(outputs.cameras, views, torch.linalg.inv(back), outputs.dataparser_scale)
        for file, view in zip(outputs.image_filenames, views, strict=True):
            assert Image.open(file).size == (view.camera.width, view.camera.height)
    assert scene.points is not None
    assert len(outputs.metadata["points3D_xyz"]) == len(scene.points)


def test_a_capture_that_is_none_is_refused_in_one_line(environment: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="no capture is recognised here"):
        ns_train(environment, tmp_path, "recon-splats", tmp_path, 1)


def test_learned_exposures_stay_with_the_training(splats: Path) -> None:
    """Their photos are in another order there."""
    state = load_state(splats)
    assert state.exposure is None
    assert opening.background_of(state) == (0, 0, 0)
