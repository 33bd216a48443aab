import pytest

from recon import runs
from recon.datasets.errors import InputError
from recon.runs import Run


def test_runs_have_folders_of_their_own(tmp_path):
    made = [runs.create(tmp_path, "my scene/1", "splats", {"n": n}) for n in range(3)]
    assert len({run.path for run in made}) == 3
    assert {run.path.parent for run in made} == {tmp_path / "my_scene_1" / "splats"}
    assert [run.config()["n"] for run in made] == [0, 1, 2]


def test_a_run_is_found_from_its_folder_its_files_and_from_above(tmp_path):
    first = runs.create(tmp_path, "a", "splats", {})
    newest = Run(first.path.with_name("2999-01-01_000000"))
    runs.write_json(newest.config_file, {})
    newest.checkpoint_file(5).parent.mkdir()
    newest.checkpoint_file(5).touch()
    assert runs.find(first.path) == first
    assert runs.find(newest.checkpoint_file(5)) == newest
    assert runs.find(tmp_path) == newest


def test_what_is_no_run_is_named(tmp_path):
    with pytest.raises(InputError, match=r"gone: no such run"):
        runs.find(tmp_path / "gone")
    with pytest.raises(InputError, match=r"not a run"):
        runs.find(tmp_path)


def test_old_checkpoints_go(tmp_path):
    run = runs.create(tmp_path, "a", "splats", {})
    for step in (5, 100, 20):
        run.checkpoint_file(step).parent.mkdir(exist_ok=True)
        run.checkpoint_file(step).touch()
    run.drop_old_checkpoints()
    assert run.checkpoints() == [run.checkpoint_file(100), run.checkpoint_file(20)]


def test_metrics_survive_a_kill_and_a_resume_forgets_what_it_repeats(tmp_path):
    run = runs.create(tmp_path, "a", "splats", {})
    for step in (10, 20, 30):
        runs.append_line(run.metrics_file, {"step": step})
    with run.metrics_file.open("a") as file:
        file.write('{"step": 40, "lo')
    assert [line["step"] for line in runs.read_lines(run.metrics_file)] == [10, 20, 30]
    runs.forget_after(run, 20)
    runs.append_line(run.metrics_file, {"step": 30})
    assert [line["step"] for line in runs.read_lines(run.metrics_file)] == [10, 20, 30]


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe"])
def test_a_damaged_config_is_named(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(InputError, match=r"config.json: "):
        runs.find(tmp_path).config()
