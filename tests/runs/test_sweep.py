"""A sweep shows its rows, and called again in its folder goes on where it stopped."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from fake_data import write_nyud
from fake_training import overrides
from mtmamba.checkpoints import read_checkpoint
from mtmamba.config.settings import ConfigError
from mtmamba.jobs import rows_of
from mtmamba.runs.sweep import is_there, progress, show_rows

ROOT = Path(__file__).parents[2]
PLUGINS = {"joblib": "hydra_joblib_launcher", "submitit_local": "hydra_submitit_launcher", "ray": "hydra_ray_launcher"}
ONE_AT_A_TIME = {"joblib": ["hydra.launcher.n_jobs=1"], "ray": ["+hydra.launcher.ray.init.num_cpus=1"]}


def is_installed(launcher):
    """Whether Hydra finds a launcher; the packages of several have one name space, which may be missing, too."""
    plugin = PLUGINS.get(launcher)
    found = importlib.util.find_spec("hydra_plugins") is not None
    return plugin is None or (found and importlib.util.find_spec(f"hydra_plugins.{plugin}") is not None)


def write_row(folder, step, steps=10, finished=False, checkpoint=True):
    (folder / "checkpoints").mkdir(parents=True)
    (folder / ".hydra").mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump({"trainer": {"max_steps": steps}}))
    (folder / "metrics.csv").write_text("step,train/loss\n" + "".join(f"{i},1.0\n" for i in range(step)))
    if checkpoint:
        (folder / "checkpoints/last.ckpt").touch()
    if finished:
        scores = {"depth": {"RMSE": 0.51234, "protocol": "all"}, "semseg": {"mIoU": 33.3}}
        (folder / "metrics.json").write_text(json.dumps({"tasks": scores}))


def test_a_row_says_how_far_it_has_come(tmp_path):
    write_row(tmp_path / "0", 10, finished=True)
    write_row(tmp_path / "1", 4)
    write_row(tmp_path / "2", 0, checkpoint=False)
    found = [progress(tmp_path / str(number)) for number in range(4)]
    assert [row.state for row in found] == ["finished", "stopped", "failed", "waiting"]
    assert [(row.step, row.steps) for row in found] == [(10, 10), (4, 10), (0, 10), (0, None)]
    assert found[0].scores == "depth 0.5123, semseg 33.3"
    assert progress(tmp_path / "1", mine=True).state == "running"


@pytest.mark.parametrize("name", ["metrics.json", "config.yaml", "metrics.csv"])
def test_a_row_with_a_damaged_file_is_unreadable_and_refused_by_name(tmp_path, name):
    write_row(tmp_path, 4, finished=True)
    (tmp_path / name).write_text("{[" if name != "metrics.csv" else "step,a\nx,y\n")
    if name == "metrics.csv":
        (tmp_path / "metrics.json").unlink()
    assert progress(tmp_path).state == "unreadable"
    if name != "metrics.csv":
        with pytest.raises(ConfigError, match=f"Expected a finished row in {tmp_path}, .* got one that is unreadable"):
            is_there(None, tmp_path)


def test_a_configuration_that_unfolds_without_end_is_unreadable_at_once(tmp_path):
    """Aliases of aliases had been unfolded for longer than anybody waits."""
    write_row(tmp_path, 4)
    lines = [
        "a0: &a0 [x, x, x, x, x, x, x, x, x]",
        *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)),
    ]
    (tmp_path / "config.yaml").write_text("\n".join(lines))
    start = time.process_time()
    assert progress(tmp_path).state == "unreadable"
    assert time.process_time() - start < 1


def test_a_row_of_another_process_says_how_long_it_will_take(tmp_path):
    write_row(tmp_path, 4)
    (tmp_path / "environment.json").touch()
    os.utime(tmp_path / "environment.json", (time.time() - 40,) * 2)
    holder = f"""
import fcntl, time
file = open({str(tmp_path / ".lock")!r}, "a")
fcntl.lockf(file, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(60)"""
    with subprocess.Popen([sys.executable, "-c", holder], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        row = progress(tmp_path)
        process.kill()
    assert row.state == "running"
    assert row.seconds == pytest.approx(60, abs=5)  # six steps at ten seconds each


def test_a_table_names_rows_by_what_differs(tmp_path, capsys):
    write_row(tmp_path / "0", 10, finished=True)
    show_rows(tmp_path, [["seed=0", "decoder=stm1"], ["seed=0", "decoder=stm2"]])
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    assert ["0", "decoder=stm1", "finished", "10 of 10", "depth 0.5123, semseg 33.3", ""] in lines
    assert ["1", "decoder=stm2", "waiting", "", "", ""] in lines


def test_rows_to_come_last_as_long_as_those_that_are_finished(tmp_path, capsys):
    for number, took in enumerate((40, 80)):
        write_row(tmp_path / str(number), 10, finished=True)
        (tmp_path / f"{number}/environment.json").touch()
        end = (tmp_path / f"{number}/metrics.json").stat().st_mtime
        os.utime(tmp_path / f"{number}/environment.json", (end - took,) * 2)
    write_row(tmp_path / "2", 4)
    write_row(tmp_path / "3", 0, checkpoint=False)
    show_rows(tmp_path, [[f"seed={seed}"] for seed in range(5)])
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    assert [(line[2], line[-1]) for line in lines if len(line) > 2] == [
        ("finished", ""), ("finished", ""), ("stopped", "0:00:36"), ("failed", ""), ("waiting", "0:01:00"),
    ]  # fmt: skip


def test_a_row_that_begins_is_running_wherever_its_folder_is_told_from(tmp_path, monkeypatch, capsys):
    """Hydra gives the sweep's folder as it was written, and a row's from the root of the file system."""
    (tmp_path / "sweep/0/.hydra").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    show_rows(Path("sweep"), [["seed=0"], ["seed=1"]], tmp_path / "sweep/0")
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    assert [line[2] for line in lines if len(line) > 2] == ["running", "waiting"]


def test_the_rows_of_a_sweep_are_those_that_hydra_runs(tmp_path):
    called = {"task": ["seed=1,2", "tasks=[depth,semseg]", "decoder=stm1", "decoder=stm2"]}
    content = {"hydra": {"sweeper": {"params": {"ablation": "g0,g1"}}, "overrides": called}}
    (tmp_path / "multirun.yaml").write_text(yaml.safe_dump(content))
    rest = ["tasks=[depth,semseg]", "decoder=stm2"]
    assert rows_of(tmp_path) == [[f"ablation={a}", f"seed={s}", *rest] for a in ("g0", "g1") for s in (1, 2)]


def test_a_launcher_that_is_not_installed_is_named_with_its_extra():
    missing = [name for name in PLUGINS if not is_installed(name)]
    if not missing:
        pytest.skip("all launchers are installed")
    call = [sys.executable, str(ROOT / "src/train.py"), "-m", f"hydra/launcher={missing[0]}", "seed=0,1"]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"for hydra/launcher={missing[0]}, got none: pip install 'mtmamba[" in done.stderr


def sweep(folder, dataset, *more):
    settings = overrides(dataset, folder.parent, "trainer.max_steps=8", "trainer.val_check_interval=4", "pictures=0")
    settings += ["callbacks.checkpoint_every=1", "seed=0,1,2", f"hydra.sweep.dir={folder}", *more]
    call = [sys.executable, str(ROOT / "src/train.py"), "-m", *settings]
    return subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)


def weights(folder):
    return read_checkpoint(folder / "checkpoints/last.ckpt")["state_dict"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A data set, and the folder of a sweep that nothing has stopped."""
    folder = tmp_path_factory.mktemp("whole")
    dataset = write_nyud(folder / "data")
    said, _ = sweep(folder / "sweep", dataset).communicate()
    assert (folder / "sweep/2/metrics.json").is_file(), said
    return dataset, folder / "sweep"


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["basic", *PLUGINS])
def test_a_sweep_that_was_killed_goes_on(whole, tmp_path, launcher):
    if not is_installed(launcher):
        pytest.skip(f"needs the plugin of hydra/launcher={launcher}")
    dataset, uncut = whole
    more = [f"hydra/launcher={launcher}", *ONE_AT_A_TIME.get(launcher, [])]
    folder = tmp_path / "sweep"
    with sweep(folder, dataset, *more) as process:
        while not list(folder.glob("1/checkpoints/last.ckpt")):
            assert process.poll() is None, process.stdout.read()
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
    for row in (0, 1, 2):  # rows of submitit are processes of their own
        while (folder / str(row) / "run.log").is_file() and progress(folder / str(row)).state == "running":
            time.sleep(0.5)
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*/metrics.json")}
    assert launcher == "submitit_local" or len(before) < 3

    said, _ = sweep(folder, dataset, *more).communicate()
    assert {path: path.stat().st_mtime_ns for path in before} == before
    for row in ("0", "1", "2"):
        mine, its = weights(folder / row), weights(uncut / row)
        assert all(torch.equal(mine[name], value) for name, value in its.items()), said
    if launcher == "basic":
        assert said.count("Finished before:") == len(before) == 1
        assert "8 of 8" in said


FAILS_ONCE = """
from pathlib import Path
from lightning.pytorch import Callback
class FailsOnce(Callback):
    def on_train_batch_start(self, trainer, *_):
        marker = Path(trainer.default_root_dir, "failed")
        if trainer.global_step == 5 and not marker.exists():
            marker.touch()
            raise RuntimeError("a library's")
"""


@pytest.mark.slow
def test_a_row_that_fails_goes_on_within_the_sweep(whole, tmp_path, monkeypatch):
    dataset, uncut = whole
    (tmp_path / "fails_once.py").write_text(FAILS_ONCE)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT / "src")]))
    said, _ = sweep(tmp_path / "sweep", dataset, "+callbacks.fails._target_=fails_once.FailsOnce").communicate()
    for row in ("0", "1", "2"):
        assert (tmp_path / "sweep" / row / "failed").exists()
        mine, its = weights(tmp_path / "sweep" / row), weights(uncut / row)
        assert all(torch.equal(mine[name], value) for name, value in its.items()), said
    assert said.count("it is tried again") == 3


@pytest.mark.slow
def test_another_sweep_in_the_same_folder_is_refused(whole):
    dataset, folder = whole
    said, _ = sweep(folder, dataset, "optimizer.lr=0.5").communicate()
    assert said.count("Expected this row of the sweep in") == 3
    assert "optimizer.lr" in said
