"""A sweep's rows are tried again where that may help, as commands of their own, and share out a machine's GPUs."""

import multiprocessing
import os
import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from mtmamba import jobs
from mtmamba.config.settings import ConfigError
from mtmamba.runs.sweep import progress, take_gpu
from mtmamba.shipped import config_dir

CALLED = ["/there/train.py", "--config-dir", "mine", "-m", "seed=1,2"]


@pytest.fixture
def row(tmp_path):
    """Compose the first row of a sweep, as a launcher does, and return its configuration and folder."""

    def begin(*overrides):
        folder = tmp_path / "sweep/0"
        folder.mkdir(parents=True)
        own = ["seed=1", "hydra.mode=MULTIRUN", f"hydra.sweep.dir={folder.parent}"]
        with initialize_config_dir(str(config_dir()), version_base="1.3"):
            cfg = compose("train", [*own, *overrides], return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)
        record = {"hydra": {"sweeper": {"params": None}, "overrides": {"task": ["seed=1,2"]}}}
        OmegaConf.save(record, folder.parent / "multirun.yaml")
        return cfg, folder

    yield begin
    HydraConfig.instance().cfg = None


@pytest.fixture
def alone(monkeypatch):
    """What was run as a command of its own; the errors that one puts into the list are its failures."""
    calls, failures = [], []

    def run(*arguments):
        calls.append(arguments)
        if failures:
            raise failures.pop()

    monkeypatch.setattr(jobs, "run_alone", run)
    return calls, failures


@pytest.mark.parametrize("checkpoint", [True, False])
def test_a_row_that_failed_is_shown_so_until_it_is_tried_again(row, alone, checkpoint):
    """It had been shown as one that was stopped, or as one that waits once its folder was removed."""
    cfg, folder = row("retries=0")
    with pytest.raises(RuntimeError):
        jobs.work_on_row(cfg, folder, fails(RuntimeError("CUDA error: unknown"), checkpoint), CALLED)
    assert progress(folder).state == "failed"
    shutil.rmtree(folder)
    assert progress(folder).state == "failed"
    jobs.work_on_row(cfg, folder, lambda *_: None, CALLED)
    assert progress(folder).state == "waiting"


def fails(error, checkpoint):
    """Work that ends in an error, after its first checkpoint or before."""

    def work(cfg, folder):
        if checkpoint:
            (folder / "checkpoints").mkdir()
            (folder / "checkpoints/last.ckpt").touch()
        raise error

    return work


@pytest.mark.parametrize("error", [RuntimeError("CUDA error: unknown"), OSError(5, "Input/output error")])
@pytest.mark.parametrize("checkpoint", [True, False])
def test_a_row_that_failed_is_tried_again_alone_from_its_checkpoint(row, alone, error, checkpoint, capsys):
    cfg, folder = row()
    jobs.work_on_row(cfg, folder, fails(error, checkpoint), CALLED)
    assert alone[0] == [(folder, CALLED, [f"resume='{folder}'"] if checkpoint else [])]
    assert capsys.readouterr().out.count("seed=2") == 2  # the table, before and after


@pytest.mark.parametrize(("number", "tables"), [("0", 0), ("1", 1)])
def test_a_finished_sweep_called_again_shows_its_rows_once(row, monkeypatch, capsys, number, tables):
    monkeypatch.setattr("mtmamba.runs.sweep.is_there", lambda *_: True)
    cfg, folder = row()
    for name in ("0", "1"):
        (folder.parent / name).mkdir(exist_ok=True)
        (folder.parent / name / "metrics.json").write_text('{"tasks": {"depth": {"RMSE": 0.25}}}')
    jobs.work_on_row(cfg, folder.parent / number, fails(AssertionError, False), CALLED)
    said = capsys.readouterr().out
    assert said.count(" finished ") == said.count("depth 0.25") == 2 * tables


def test_a_row_of_several_devices_is_tried_as_often_as_is_said(row, alone):
    calls, failures = alone
    failures += [jobs.JobError(), jobs.JobError(), jobs.JobError()]
    cfg, folder = row("trainer.devices=2", "retries=2")
    with pytest.raises(jobs.JobError):
        jobs.work_on_row(cfg, folder, fails(AssertionError, False), CALLED)
    assert calls == 3 * [(folder, CALLED, [])]


@pytest.mark.parametrize(
    ("error", "overrides"),
    [
        (ConfigError("Expected a decoder, got none."), []),
        (FileNotFoundError("Expected a file, got none."), []),
        (RuntimeError("CUDA error: unknown"), ["retries=0"]),
        (KeyboardInterrupt(), []),
    ],
)
def test_a_row_is_not_tried_again_in_vain(row, alone, error, overrides):
    cfg, folder = row(*overrides)
    with pytest.raises(type(error)):
        jobs.work_on_row(cfg, folder, fails(error, False), CALLED)
    assert alone[0] == []


def test_a_job_is_called_as_the_sweep_was_with_its_own_settings(row, tmp_path):
    _, folder = row()
    script = tmp_path / "script.py"
    script.write_text(
        "import pathlib, sys; pathlib.Path(__file__).with_suffix('.txt').write_text(' '.join(sys.argv[1:]))"
    )
    jobs.run_alone(folder, [str(script), *CALLED[1:]], ["more=1"])
    said = script.with_suffix(".txt").read_text()
    assert said == f"--config-dir mine seed=1 more=1 hydra.mode=RUN hydra.run.dir='{folder}'"


@pytest.mark.parametrize(("status", "error"), [(130, KeyboardInterrupt), (1, jobs.JobError), (-9, jobs.JobError)])
def test_a_job_that_was_stopped_ends_the_sweep_and_one_that_failed_does_not(row, tmp_path, status, error):
    _, folder = row()
    script = tmp_path / "script.py"
    script.write_text(f"import os, sys; os.kill(os.getpid(), 9) if {status} < 0 else sys.exit({status})")
    with pytest.raises(error):
        jobs.run_alone(folder, [str(script)])


def see(connection):
    """Take a GPU, twice, and say which one; live until asked to end."""
    take_gpu(Path.cwd())
    take_gpu(Path.cwd())
    connection.send(os.environ.get("CUDA_VISIBLE_DEVICES"))
    connection.recv()


@pytest.mark.parametrize(
    ("visible", "count", "gpus"), [(None, 2, ["0", "1"]), ("3,GPU-5a", 2, ["3", "GPU-5a"]), ("7", 1, ["7", "7"])]
)
def test_processes_have_gpus_of_their_own_while_there_are_enough(tmp_path, monkeypatch, visible, count, gpus):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    context, ends, processes = multiprocessing.get_context("fork"), [], []

    def start():
        end, other = context.Pipe()
        processes.append(context.Process(target=see, args=(other,)))
        processes[-1].start()
        ends.append(end)
        return end.recv()

    found = [start(), start(), start()]
    ends[1].send("end")  # its GPU is free again
    processes[1].join()
    found.append(start())
    for end in (ends[0], *ends[2:]):
        end.send("end")
    assert found == [gpus[0], gpus[1], gpus[0], gpus[1]]


@pytest.mark.parametrize(
    ("launcher", "visible", "number", "shown", "kept"),
    [
        ("submitit_local", "2,3,GPU-5a", 2, "0,1", "2,3"),
        ("submitit_local", "2,3", None, "", "2,3"),
        ("submitit_local", None, 2, "0,1", "0,1"),
        ("submitit_local", None, None, "", None),
        ("submitit_local", "", 2, "0,1", ""),
        ("submitit_local", "2,3", 0, "", ""),
        ("submitit_slurm", "2,3", 2, "0,1", "0,1"),  # SLURM knows what it gives
    ],
)
def test_a_local_job_of_submitit_sees_the_gpus_that_the_sweep_was_called_with(
    monkeypatch, launcher, visible, number, shown, kept
):
    """It had taken the machine's first ones, or none, whatever the user had left it."""
    called = {"launcher": {"gpus_per_node": number}, "runtime": {"choices": {"hydra/launcher": launcher}}}
    monkeypatch.setattr(HydraConfig, "get", lambda: OmegaConf.create(called))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
    jobs.keep_gpus(visible)
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == kept


@pytest.mark.parametrize(
    ("variables", "overrides", "said"),
    [
        ({"TORCHELASTIC_RUN_ID": "none"}, ["hydra.mode=MULTIRUN"], "Expected one run with torchrun, got a sweep"),
        ({"TORCHELASTIC_RUN_ID": "none"}, [], "Expected hydra.run.dir=FOLDER with torchrun"),
        ({"SLURM_NTASKS": "2"}, [], "Expected hydra.run.dir=FOLDER with srun"),
        ({"SLURM_NTASKS": "2", "SLURM_JOB_NAME": "bash"}, [], None),
        ({"SLURM_NTASKS": "1"}, [], None),
        ({}, ["+trainer.num_nodes=2"], "Expected hydra.run.dir=FOLDER with trainer.num_nodes"),
        ({"SLURM_NTASKS": "2"}, ["hydra.run.dir=there"], None),
        ({"SLURM_NTASKS": "2"}, ["hydra.run.dir=there", "resume=auto"], "Expected resume=RUN with srun"),
    ],
)
def test_processes_that_others_start_are_told_what_they_share(row, monkeypatch, variables, overrides, said):
    for name in ("TORCHELASTIC_RUN_ID", "SLURM_NTASKS", "SLURM_JOB_NAME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    cfg, _ = row("hydra.mode=RUN", *overrides)
    with pytest.raises(ConfigError, match=said) if said else nullcontext():
        jobs.check_launched(cfg)
