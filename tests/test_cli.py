"""The commands as a user types them: what they leave behind, and what they say when the input is wrong."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import recon
import tiny
from recon import checkpoint, cli, runs
from recon.config import SurfaceConfig
from recon.datasets import nerfstudio
from recon.datasets.files import naming
from recon.datasets.normalize import normalize
from recon.datasets.ply import read_vertices
from recon.datasets.point_cloud import NORMALS
from recon.viewer import tour
from shared_pages import data_in


@pytest.fixture(scope="module")
def capture(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("captures") / "cloud"
    nerfstudio.save(tiny.scene(), folder)
    return folder


def run_cli(monkeypatch, *words: object) -> None:
    monkeypatch.setattr(sys, "argv", ["recon", *map(str, words)])
    cli.main()


def start_cli(*words: object) -> subprocess.Popen:
    command = [sys.executable, "-m", "recon", *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def trained(capture, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("runs")
    process = start_cli("train", capture, "--output", output, "--steps", 60, "--seed", 3)
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    assert "photos to train on, 1 held out, 40x32" in stdout
    return runs.find(output).path


def test_a_trained_run_is_complete(trained):
    run = runs.find(trained)
    assert trained.parent.name == "splats"
    assert trained.parent.parent.name == "cloud"
    assert run.config()["train"]["steps"] == 60
    assert [line["step"] for line in runs.read_lines(run.metrics_file)] == [10, 20, 30, 40, 50, 60]
    summary = runs.read_json(run.summary_file)
    assert summary["step"] == 60
    assert summary["psnr"] > 15
    assert checkpoint.load(run.checkpoints()[0]).step == 60
    assert list(run.eval_folder.glob("*.png"))


def test_a_training_for_a_mesh_says_so(trained, capture, tmp_path, monkeypatch, capsys):
    assert runs.read_json(runs.find(trained).summary_file)["for_mesh"] is False
    run_cli(monkeypatch, "train", capture, "--output", tmp_path, "--steps", 20, "--for-mesh")
    assert "20 steps for a mesh, " in " ".join(capsys.readouterr().out.split())
    run = runs.find(tmp_path)
    assert runs.read_json(run.summary_file)["for_mesh"] is True
    assert checkpoint.load(run.checkpoints()[0]).config.surface == SurfaceConfig()


def test_eval_gives_the_figures_of_the_training(trained, monkeypatch, capsys):
    run = runs.find(trained)
    before = runs.read_json(run.summary_file)
    run_cli(monkeypatch, "eval", trained)
    after = runs.read_json(run.summary_file)
    assert after["psnr"] == pytest.approx(before["psnr"], abs=1e-4)
    assert "PSNR" in capsys.readouterr().out


def test_export_and_load_give_the_scene_in_the_frame_of_the_capture(trained, capture, tmp_path, monkeypatch):
    run_cli(monkeypatch, "export", trained, tmp_path / "scene.ply")
    exported = recon.load(tmp_path / "scene.ply")
    view = recon.load_scene(capture).views[0]
    state = checkpoint.load(runs.find(trained).checkpoints()[0])
    assert not torch.allclose(state.source_from_world, torch.eye(4, dtype=torch.float64))
    normalised = view.camera.transformed(state.source_from_world.inverse())
    with torch.no_grad():
        expected, picture = state.model.render(normalised).rgb, exported.render(view.camera).rgb
    assert float((expected - picture).abs().max()) < 2e-3


def test_export_of_a_run_says_what_a_format_costs_on_the_held_out_photos(trained, tmp_path, monkeypatch, capsys):
    run_cli(monkeypatch, "export", trained, tmp_path / "scene.spz", "--max-count", 20, "--sh-degree", 1)
    loaded = recon.load(tmp_path / "scene.spz")
    assert (len(loaded), loaded.sh_degree) == (20, 1)
    said = capsys.readouterr().out
    wanted = r"Held-out views \(\d+\) differ by [\d.]+ dB; against the photos [\d.]+ dB became [\d.]+ dB"
    assert re.search(wanted, said), said


@pytest.mark.parametrize(("frame", "axis"), [("y-up", 1), ("z-up", 2)])
def test_export_turns_up_where_it_is_asked_to_be(trained, capture, tmp_path, monkeypatch, frame, axis):
    run_cli(monkeypatch, "export", trained, tmp_path / "scene.ply", "--frame", frame)
    exported = recon.load(tmp_path / "scene.ply")
    state = checkpoint.load(runs.find(trained).checkpoints()[0])
    moved, offset = points_between(state.model.means.detach().double(), exported.means.detach().double())
    assert torch.allclose(moved[:, 2] / moved[:, 2].norm(), torch.eye(3).double()[axis], atol=1e-5)  # the world's up
    view = normalize(recon.load_scene(capture)).views[0]
    file_from_world = torch.eye(4, dtype=torch.float64)
    file_from_world[:3, :3], file_from_world[:3, 3] = moved, offset
    with torch.no_grad():
        expected = state.model.render(view.camera).rgb
        picture = exported.render(view.camera.transformed(file_from_world)).rgb
    assert float((expected - picture).abs().max()) < 2e-3


def points_between(before, after):
    """The linear part [3,3] and the offset [3] that lead from points [N,3] to others."""
    rows = torch.cat([before, torch.ones_like(before[:, :1])], dim=1)
    solved = torch.linalg.lstsq(rows, after).solution
    return solved[:3].T, solved[3]


def test_export_of_points_turns_normals_to_the_cameras(trained, capture, tmp_path, monkeypatch, capsys):
    run_cli(monkeypatch, "export", trained, tmp_path / "scene.points.ply", "--min-opacity", 0.01)
    assert "either way" not in capsys.readouterr().out
    rows = read_vertices(tmp_path / "scene.points.ply")
    xyz, normals = (torch.from_numpy(np.stack([rows[n] for n in names], 1)).double() for names in ("xyz", NORMALS))
    eyes = torch.cat([view.camera.positions for view in recon.load_scene(capture).views]).double()
    near = torch.cdist(xyz, eyes).topk(4, largest=False).indices
    towards = torch.nn.functional.normalize(eyes[near] - xyz[:, None], dim=-1).sum(dim=1)
    assert len(rows) > 10
    assert float((towards * normals).sum(dim=1).min()) > -1e-5


def test_export_makes_the_page_to_share_of_what_is_left(trained, tmp_path, monkeypatch, capsys):
    run_cli(monkeypatch, "export", trained, tmp_path / "page.html")
    run_cli(monkeypatch, "view", trained, "--share-page", tmp_path / "same.html")
    assert (tmp_path / "page.html").read_bytes() == (tmp_path / "same.html").read_bytes()
    run_cli(monkeypatch, "export", trained, tmp_path / "few.html", "--max-count", 20)
    assert "Wrote 20 splats" in capsys.readouterr().out
    run_cli(monkeypatch, "export", trained, tmp_path / "scene.spz")
    run_cli(monkeypatch, "export", tmp_path / "scene.spz", tmp_path / "file.html", "--remove-floaters")
    assert data_in((tmp_path / "file.html").read_text("utf-8"))["seconds"] > 0


@pytest.mark.parametrize("mode", ["rgb", "depth", "normals"])
def test_render_writes_the_frames_asked_for(trained, tmp_path, monkeypatch, mode):
    import imageio.v3 as iio

    run_cli(monkeypatch, "render", trained, tmp_path / "out", "--frames", 3, "--mode", mode, "--width", 60)
    frames = sorted((tmp_path / "out").glob("*.png"))
    assert len(frames) == 3
    assert iio.imread(frames[0]).shape == (48, 60, 3)


def test_render_makes_a_video(trained, tmp_path, monkeypatch):
    import imageio.v3 as iio

    run_cli(monkeypatch, "render", trained, tmp_path / "orbit.mp4", "--frames", 5, "--path", "photos")
    assert np.asarray(iio.imread(tmp_path / "orbit.mp4")).shape == (5, 32, 40, 3)


def test_render_takes_a_camera_path_made_in_the_viewer(trained, tmp_path, monkeypatch):
    import imageio.v3 as iio

    state = checkpoint.load(runs.find(trained).checkpoints()[0])
    path = tour.orbit(tiny.scene().views[0].camera, 1.0, stops=4)
    tour.save(path, tmp_path / "path.json", torch.eye(4), width=40, height=32, fps=5)
    run_cli(monkeypatch, "render", trained, tmp_path / "out", "--cameras", tmp_path / "path.json")
    frames = sorted((tmp_path / "out").glob("*.png"))
    assert len(frames) == 5
    with torch.no_grad():
        camera = path.cameras(40, 32, 5)[1].transformed(state.source_from_world.inverse())
        expected = state.model.render(camera).rgb[0].clamp(0, 1) * 255
    assert np.abs(iio.imread(frames[1]) - expected.numpy()).max() < 2


def test_a_wrong_number_of_threads_in_the_environment_is_named():
    command = [sys.executable, "-m", "recon", "info"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"RECON_NUM_THREADS": "two"})
    assert (done.returncode, done.stderr) == (2, "error: RECON_NUM_THREADS=two: not a positive number\n")


def test_info_says_what_is_there(monkeypatch, capsys):
    run_cli(monkeypatch, "info")
    shown = capsys.readouterr().out
    assert recon.__version__ in shown
    assert "threads" in shown
    assert "GPU" in shown


def wait_for(run_root: Path, process: subprocess.Popen) -> runs.Run:
    """The run that `process` started, once it has a checkpoint and a logged step."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        found = list(run_root.glob("**/checkpoints/step_*.safetensors"))
        run = runs.find(found[0]) if found else None
        if run is not None and runs.read_lines(run.metrics_file):
            return run
        time.sleep(0.02)
    raise AssertionError(f"no checkpoint came: {process.communicate()}")


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_training_is_saved_and_goes_on(capture, tmp_path, signum):
    process = start_cli("train", capture, "--output", tmp_path, "--steps", 100_000, "--save-every", 0.2)
    run = wait_for(tmp_path, process)
    process.send_signal(signum)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + signum, stderr
    assert "Traceback" not in stderr
    assert f"recon train --resume {run.path}" in stdout
    saved = checkpoint.load(run.checkpoints()[0])
    last_logged = runs.read_lines(run.metrics_file)[-1]["step"]
    assert saved.step >= last_logged

    process = start_cli("train", "--resume", run.path, "--save-every", 0.2)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and runs.read_lines(run.metrics_file)[-1]["step"] <= saved.step + 20:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert checkpoint.load(run.checkpoints()[0]).step > saved.step + 10
    steps = [line["step"] for line in runs.read_lines(run.metrics_file)]
    assert steps == list(range(10, steps[-1] + 1, 10))


def test_a_training_killed_at_its_beginning_can_be_resumed(capture, tmp_path):
    process = start_cli("train", capture, "--output", tmp_path, "--steps", 100_000)
    run = wait_for(tmp_path, process)
    process.kill()
    process.communicate(timeout=60)
    assert checkpoint.load(run.checkpoints()[0]).step == 0
    assert runs.find(tmp_path) == run


def test_a_moved_capture_is_found_again_and_a_changed_one_refused(trained, capture, tmp_path, monkeypatch, capsys):
    shutil.copytree(trained, tmp_path / "run")
    shutil.copytree(capture, tmp_path / "moved")
    run_cli(monkeypatch, "train", tmp_path / "moved", "--resume", tmp_path / "run")
    assert runs.find(tmp_path / "run").config()["options"]["scene"] == str(tmp_path / "moved")
    run_cli(monkeypatch, "eval", tmp_path / "run")
    next((tmp_path / "moved").glob("**/*003*")).unlink()
    with pytest.raises(SystemExit):
        run_cli(monkeypatch, "train", "--resume", tmp_path / "run")
    assert "does not fit" in capsys.readouterr().err


def test_a_killed_training_leaves_a_run_that_loads(capture, tmp_path):
    process = start_cli("train", capture, "--output", tmp_path, "--steps", 100_000, "--save-every", 0.05)
    run = wait_for(tmp_path, process)
    time.sleep(0.3)
    process.kill()
    process.communicate(timeout=60)
    assert len(recon.load(run.path)) > 0
    runs.read_lines(run.metrics_file)


def corrupt_run(trained: Path, folder: Path) -> Path:
    (folder / "corrupt" / "checkpoints").mkdir(parents=True)
    (folder / "corrupt" / "config.json").write_text(json.dumps(runs.find(trained).config()))
    (folder / "corrupt" / "checkpoints" / "step_00000060.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0garbage")
    return folder / "corrupt"


def edited_run(trained: Path, folder: Path, **options: object) -> Path:
    shutil.copytree(trained, folder / "edited")
    run = runs.find(folder / "edited")
    values = run.config()
    runs.write_json(run.config_file, values | {"options": values["options"] | options})
    return run.path


# The words of a command, of the capture, the trained run and an empty folder; what its one line must contain.
BAD_INPUT = {
    "no scene": (lambda c, t, e: ["train"], "give the folder of a capture"),
    "no photos": (lambda c, t, e: ["capture", e, "-o", e / "scene"], "no photos here"),
    "no folder": (lambda c, t, e: ["capture", e / "gone", "-o", e / "scene"], "gone: there is no such folder"),
    "capture over photos": (lambda c, t, e: ["capture", c, "-o", c], "a folder of its own"),
    "capture threads": (lambda c, t, e: ["capture", c, "-o", e / "scene", "--threads", 0], "--threads 0"),
    "missing folder": (lambda c, t, e: ["train", e / "gone"], "gone"),
    "empty folder": (lambda c, t, e: ["train", e], "a_bad_input"),
    "downscale": (lambda c, t, e: ["train", c, "--downscale", 0], "downscale"),
    "huge downscale": (lambda c, t, e: ["train", c, "--downscale", 1000], "1000"),
    "test_every": (lambda c, t, e: ["train", c, "--test-every", 1], "test_every 1"),
    "steps": (lambda c, t, e: ["train", c, "--steps", 0], "--steps 0"),
    "count": (lambda c, t, e: ["train", c, "--max-gaussians", -1], "--max-gaussians -1"),
    "threads": (lambda c, t, e: ["train", c, "--threads", 0], "--threads 0"),
    "cuda": (lambda c, t, e: ["train", c, "--device", "cuda"], "--device cuda"),
    "resume with options": (lambda c, t, e: ["train", "--resume", t, "--steps", 90], "leave out --steps"),
    "resume of another scene": (lambda c, t, e: ["train", e, "--resume", t], "a_bad_input"),
    "budget": (lambda c, t, e: ["train", c, "--budget-seconds", 0.5], "--budget-seconds 0.5"),
    "endless budget": (lambda c, t, e: ["train", c, "--budget-seconds", "inf"], "--budget-seconds inf"),
    "steps and budget": (lambda c, t, e: ["train", c, "--budget-seconds", 9, "--steps", 9], "leave one out"),
    "seed": (lambda c, t, e: ["train", c, "--seed", -1], "--seed -1"),
    "save_every": (lambda c, t, e: ["train", c, "--save-every", "nan"], "--save-every nan"),
    "other strategy's": (lambda c, t, e: ["train", c, "--strategy", "mcmc", "--no-absgrad"], "--absgrad"),
    "edited config": (lambda c, t, e: ["eval", edited_run(t, e, downscale="two")], "options.downscale cannot be 'two'"),
    "moved capture": (lambda c, t, e: ["eval", edited_run(t, e, scene="/gone")], "no longer at /gone"),
    "another capture": (lambda c, t, e: ["eval", edited_run(t, e, downscale=2)], "does not fit"),
    "no such file": (lambda c, t, e: ["export", e / "typo", e / "a.ply"], "typo: no such run or file"),
    "fps": (lambda c, t, e: ["render", t, e / "a.mp4", "--fps", 0], "--fps 0"),
    "output": (lambda c, t, e: ["train", c, "--output", __file__], "test_cli.py"),
    "views": (lambda c, t, e: ["demo", "--views", 1], "--views 1"),
    "no run": (lambda c, t, e: ["eval", e / "gone"], "gone: no such run"),
    "not a run": (lambda c, t, e: ["eval", c], "not a run"),
    "corrupt checkpoint": (lambda c, t, e: ["eval", corrupt_run(t, e)], "step_00000060.safetensors"),
    "suffix": (lambda c, t, e: ["export", t, e / "scene.xyz"], "scene.xyz"),
    "not a splat": (lambda c, t, e: ["export", __file__, e / "scene.ply"], "test_cli.py"),
    "frames": (lambda c, t, e: ["render", t, e / "a.mp4", "--frames", 0], "--frames 0"),
    "width": (lambda c, t, e: ["render", t, e / "a.mp4", "--width", 10**6], "--width 1000000"),
    "video suffix": (lambda c, t, e: ["render", t, e / "a.mov2"], "a.mov2"),
}


@pytest.mark.parametrize("name", BAD_INPUT)
def test_wrong_input_gets_one_line_and_exit_code_2(name, capture, trained, tmp_path, monkeypatch, capsys):
    if name == "cuda" and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    words, expected = BAD_INPUT[name]
    empty = tmp_path / "a_bad_input"
    empty.mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        run_cli(monkeypatch, *words(capture, trained, empty))
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    assert expected in message


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_says_where_the_last_checkpoint_is(capture, tmp_path, monkeypatch, capsys):
    real, saves = checkpoint.save, []

    def fill_up(state, path):
        saves.append(path)
        if len(saves) > 2:
            with naming(path), open("/dev/full", "wb", buffering=0) as full:
                full.write(b"x")
        real(state, path)

    monkeypatch.setattr(checkpoint, "save", fill_up)
    with pytest.raises(SystemExit) as stop:
        run_cli(monkeypatch, "train", capture, "--output", tmp_path, "--steps", 100_000, "--save-every", 0.05)
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert "No space left on device" in message
    newest = runs.find(tmp_path).checkpoints()[0]
    assert str(newest) in message
    assert checkpoint.load(newest).step > 0


def test_help_loads_nothing_heavy():
    for words in (["--help"], ["train", "--help"]):
        code = (
            "import sys; sys.argv = ['recon', *sys.argv[1:]]; from recon.cli import main\n"
            "try: main()\nexcept SystemExit: pass\n"
            "print('heavy:', sorted({'torch', 'numba', 'pycolmap', 'imageio', 'scipy'} & set(sys.modules)))"
        )
        shown = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
        assert "heavy: []" in shown.stdout
        assert "usage: recon" in shown.stdout


def test_large_photos_are_reduced_by_default(tmp_path, monkeypatch, capsys):
    nerfstudio.save(tiny.scene(3, 1000, 400), tmp_path / "large")
    run_cli(monkeypatch, "train", tmp_path / "large", "--output", tmp_path / "runs", "--steps", 1)
    assert "500x200 (--downscale 2)" in capsys.readouterr().out
