import pytest

from recon import runs
from recon.datasets.errors import InputError
from recon.runs import Run

OPTIONS: dict = {"options": {}}


def add_checkpoint(run: Run, step: int) -> None:
    run.checkpoint_file(step).parent.mkdir(exist_ok=True)
    run.checkpoint_file(step).touch()


def test_runs_have_folders_of_their_own(tmp_path):
    made = [runs.create(tmp_path, "my scene/1", "splats", {"n": n}) for n in range(3)]
    assert len({run.path for run in made}) == 3
    assert {run.path.parent for run in made} == {tmp_path / "my_scene_1" / "splats"}
    assert [run.config()["n"] for run in made] == [0, 1, 2]


def test_a_run_is_found_from_its_folder_its_files_and_from_above(tmp_path):
    first = runs.create(tmp_path, "a", "splats", OPTIONS)
    newest = Run(first.path.with_name("2999-01-01_000000"))
    runs.write_json(newest.config_file, OPTIONS)
    add_checkpoint(newest, 5)
    assert runs.find(first.path) == first
    assert runs.find(newest.checkpoint_file(5)) == newest
    assert runs.find(newest.path / "checkpoints") == newest
    assert runs.find(tmp_path) == newest


def test_a_run_without_checkpoints_does_not_hide_one_that_has_some(tmp_path):
    useful = runs.create(tmp_path, "a", "splats", OPTIONS)
    add_checkpoint(useful, 5)
    empty = Run(useful.path.with_name("2999-01-01_000000"))
    runs.write_json(empty.config_file, OPTIONS)
    assert runs.find(tmp_path) == useful


def test_config_files_of_other_programs_make_no_run(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    run = runs.create(tmp_path / "runs", "a", "splats", OPTIONS)
    assert runs.find(tmp_path / "runs") == run
    assert runs.find(tmp_path / "runs" / "a") == run


def test_what_is_no_run_is_named(tmp_path):
    with pytest.raises(InputError, match=r"gone: no such run"):
        runs.find(tmp_path / "gone")
    with pytest.raises(InputError, match=r"not a run"):
        runs.find(tmp_path)


def test_old_checkpoints_go(tmp_path):
    run = runs.create(tmp_path, "a", "splats", {})
    for step in (5, 100, 20):
        add_checkpoint(run, step)
    run.drop_old_checkpoints()
    assert run.checkpoints() == [run.checkpoint_file(100), run.checkpoint_file(20)]


def test_metrics_survive_a_kill_and_a_resume_forgets_what_it_repeats(tmp_path):
    run = runs.create(tmp_path, "a", "splats", {})
    for step in (10, 20, 30):
        runs.append_line(run.metrics_file, {"step": step})
    with run.metrics_file.open("a") as file:
        file.write('{"step": 40, "lo')
    assert [line["step"] for line in runs.read_lines(run.metrics_file)] == [10, 20, 30]
    add_checkpoint(run, 20)
    add_checkpoint(run, 30)
    unfinished = run.checkpoint_file(30).with_name(".step_00000030.safetensors.abc.tmp")
    unfinished.touch()
    runs.forget_after(run, 20)
    assert run.checkpoints() == [run.checkpoint_file(20)]
    assert not unfinished.exists()
    runs.append_line(run.metrics_file, {"step": 30})
    assert [line["step"] for line in runs.read_lines(run.metrics_file)] == [10, 20, 30]


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe"])
def test_a_damaged_config_is_named(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(InputError, match=r"config.json: "):
        Run(tmp_path).config()


@pytest.mark.parametrize("line", ["5", "[]", '{"step": "a"}', "{}"])
def test_lines_that_say_no_step_end_the_metrics(tmp_path, line):
    (tmp_path / "metrics.jsonl").write_text(f'{{"step": 1}}\n{line}\n{{"step": 2}}\n')
    assert runs.read_lines(tmp_path / "metrics.jsonl") == [{"step": 1}]
