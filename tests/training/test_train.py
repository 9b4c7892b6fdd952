"""Training as people do it: a run's folder, exact resume, several processes, kills, sweeps and failures."""

import csv
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import mtmamba
from fake_data import write_nyud
from mtmamba.benchmarks.network_cases import random_batch
from mtmamba.checkpoints import CheckpointError, read_checkpoint
from mtmamba.config import checks
from mtmamba.evaluation.checkpoint import evaluate
from mtmamba.places import find_checkpoint
from mtmamba.training import train as workflows
from mtmamba.training.checkpointing import Checkpointing
from mtmamba.training.lit_module import MultiTaskModule
from mtmamba.training.watched_losses import NonFiniteLossError

ROOT = Path(__file__).parents[2]
TRAIN = ROOT / "src/train.py"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_nyud(tmp_path_factory.mktemp("data") / "NYUDv2", train=10, val=3, size=(32, 48))


def overrides(dataset, log_dir, *more):
    """A micro run: 2 steps of 4 images an epoch (2 images are left out), on images of 32x64."""
    return [
        "data=nyud", f"data.root={dataset}", "data.crop_size=[32,64]", "data.batch_size=4", "data.val_batch_size=2",
        "data.num_workers=0", "logger=csv", "optimizer=paper", "trainer.max_steps=5", "trainer.val_check_interval=2",
        "trainer.log_every_n_steps=1", "trainer.accelerator=cpu", "baseline=false", f"log_dir={log_dir}",
        f"cache_dir={log_dir}/cache", *more,
    ]  # fmt: skip


def train(dataset, run_dir, *more):
    run_dir.mkdir(parents=True, exist_ok=True)
    return workflows.train(mtmamba.load_config(overrides(dataset, run_dir.parent, *more)), run_dir)


def run_script(*arguments, **options):
    command = [sys.executable, str(TRAIN), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, **options)


def weights(run_dir):
    return read_checkpoint(run_dir / "checkpoints/last.ckpt")["state_dict"]


def rows(run_dir):
    """What training computed, by step: timings are left out."""
    with (run_dir / "metrics.csv").open() as file:
        return [{k: v for k, v in row.items() if "perf/" not in k} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def finished(dataset, tmp_path_factory):
    """One uninterrupted run: its folder and its record."""
    run_dir = tmp_path_factory.mktemp("logs") / "run"
    return run_dir, train(dataset, run_dir, "baseline=true", "pictures=2")


def test_a_run_leaves_its_folder(finished):
    run_dir, record = finished
    found = {str(p.relative_to(run_dir)) for p in run_dir.rglob("*") if p.is_file()}
    assert found == {
        "config.yaml", "environment.json", "metrics.json", "metrics.csv", "run.log", "checkpoints/last.ckpt",
        "checkpoints/best.ckpt", "pictures/step_000002.png", "pictures/step_000004.png", "pictures/step_000005.png",
        "pictures/best.png",
    }  # fmt: skip
    stored = json.loads((run_dir / "metrics.json").read_text())
    assert stored["tasks"]["depth"]["RMSE"] == record["tasks"]["depth"]["RMSE"]
    assert stored["choices"]["decoder"] == "mtmamba"
    assert stored["step"] in (2, 4, 5)
    assert stored["constant"].keys() == stored["tasks"].keys() == {"semseg", "depth", "normals", "edge"}
    assert stored["parameters"] == sum(p.numel() for p in mtmamba.load_model(run_dir).parameters())
    assert {row["step"] for row in rows(run_dir)} >= {"0", "1", "4"}


def test_no_loading_process_outlives_a_run(dataset, tmp_path):
    train(dataset, tmp_path / "run", "data.num_workers=1", "trainer.max_steps=2", "baseline=true")
    assert not multiprocessing.active_children()
    choices = [f"ckpt={tmp_path}/run", "baseline=true", "data.num_workers=1", "boundaries=null"]
    evaluate(mtmamba.load_config(choices, "eval"), tmp_path / "eval")
    assert not multiprocessing.active_children()


def test_the_best_checkpoint_has_the_best_delta_m(finished):
    run_dir, record = finished
    logged = {int(row["step"]) + 1: float(row["val/delta_m"]) for row in rows(run_dir) if row["val/delta_m"]}
    logged.pop(6, None)  # the final scoring of the best checkpoint, logged at the last step
    assert record["step"] == max(logged, key=logged.__getitem__)
    published = {"semseg": ("mIoU", 54.32), "depth": ("RMSE", -0.5166), "normals": ("mErr", -19.21)}
    gains = [100 * (record["tasks"][task][name] / abs(x) - 1) * np.sign(x) for task, (name, x) in published.items()]
    assert max(logged.values()) == pytest.approx(np.mean(gains), rel=1e-4)
    assert record["delta_m"] is None  # the published base has odsF, too, which training does not score


def test_learning_rate_decays_polynomially_to_zero(finished):
    logged = {int(row["step"]): float(row["optimizer/lr"]) for row in rows(finished[0]) if row["optimizer/lr"]}
    for step, lr in logged.items():
        assert lr == pytest.approx(1e-4 * (1 - step / 5) ** 0.9, rel=1e-6)


def test_evaluation_of_a_checkpoint_repeats_its_scores(finished, tmp_path):
    run_dir, record = finished
    cfg = mtmamba.load_config([f"ckpt={run_dir}", "trainer.accelerator=cpu", f"log_dir={tmp_path}"], "eval")
    again = evaluate(cfg, tmp_path)
    for task, scores in record["tasks"].items():
        for name, value in scores.items():
            assert name == "protocol" or again["tasks"][task][name] == pytest.approx(value, rel=1e-6)
    assert (tmp_path / "pictures/best.png").is_file()


def test_a_loaded_model_predicts_any_size(finished):
    model = mtmamba.load_model(finished[0] / "checkpoints/best.ckpt")
    assert not model.training
    with torch.no_grad():
        logits = model(torch.randn(1, 3, 50, 70))
    assert {task: tuple(x.shape) for task, x in logits.items()} == {
        "semseg": (1, 40, 50, 70), "depth": (1, 1, 50, 70), "normals": (1, 3, 50, 70), "edge": (1, 1, 50, 70),
    }  # fmt: skip


@pytest.mark.parametrize(("step", "micro", "workers"), [(1, 4, 0), pytest.param(3, 2, 2, marks=pytest.mark.slow)])
def test_interrupted_and_resumed_equals_uninterrupted(dataset, finished, tmp_path, monkeypatch, step, micro, workers):
    """Stopped in the middle of an epoch; accumulating, the weights agree with the whole batch's up to rounding."""
    options = [f"data.device_batch_size={micro}", f"data.num_workers={workers}"]
    reference = finished[0]
    if micro < 4:
        reference = tmp_path / "reference"
        train(dataset, reference, *options)
        whole = weights(finished[0])
        for name, x in weights(reference).items():
            torch.testing.assert_close(x, whole[name], rtol=1e-3, atol=1e-5)

    run_dir = tmp_path / "run"
    original = Checkpointing.on_train_batch_end

    def stop_at_step(self, trainer, *arguments):
        self.asked = trainer.global_step == step
        original(self, trainer, *arguments)

    monkeypatch.setattr(Checkpointing, "on_train_batch_end", stop_at_step)
    with pytest.raises(SystemExit):
        train(dataset, run_dir, *options)
    monkeypatch.undo()
    assert read_checkpoint(run_dir / "checkpoints/last.ckpt")["global_step"] == step
    assert not (run_dir / "metrics.json").exists()

    spare = tmp_path / "spare"
    train(dataset, spare, *options, "resume=auto")
    assert not spare.exists()
    found, expected = weights(run_dir), weights(reference)
    assert all(torch.equal(x, expected[name]) for name, x in found.items())
    resumed, whole = rows(run_dir), rows(reference)
    shared = resumed[0].keys() & whole[0].keys()
    assert [{k: row[k] for k in shared} for row in resumed] == [{k: row[k] for k in shared} for row in whole]


def test_training_without_a_folder_is_refused(tmp_path):
    with pytest.raises(checks.ConfigError, match=r"Expected data\.root=FOLDER, got null"):
        workflows.train(mtmamba.load_config(["data=nyud", "data.root=null"]), tmp_path / "run")
    assert not any(tmp_path.iterdir())


def test_a_run_with_cuda_graphs_is_a_run_without(dataset, tmp_path, monkeypatch, graph_device, replays):
    """Accumulating, with averaged weights, interrupted and resumed, its validation and its scores too."""
    options = ["data.device_batch_size=2", "ema_decay=0.5", "encoder.drop_path=0.2", "trainer.precision=32-true"]
    if graph_device.type == "cpu":
        options += ["backend=torch", "decoder=stm1"]
        monkeypatch.setattr(checks, "_refuse_cuda_graph", lambda cfg: None)
    else:
        options += ["trainer.accelerator=gpu", "data.num_workers=2"]
    plain, graphed = tmp_path / "plain", tmp_path / "graphed"
    expected = train(dataset, plain, *options, "cuda_graph=false")
    assert not replays
    original = Checkpointing.on_train_batch_end

    def stop_at_step(self, trainer, *arguments):
        self.asked = trainer.global_step == 3
        original(self, trainer, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpointing, "on_train_batch_end", stop_at_step)
        with pytest.raises(SystemExit):
            train(dataset, graphed, *options)
    found = train(dataset, graphed, *options, f"resume={graphed}")
    # Forward and backward passes of 2 micro-batches in 5 steps; the first 2 of 3 images in validations after steps 2, 4
    # and 5, and of the best weights.
    assert len(replays) == 2 * 2 * 5 + 4
    ours, theirs = (torch.cat([x.flatten().double() for x in weights(run).values()]) for run in (graphed, plain))
    noise = 0 if graph_device.type == "cpu" else 1e-4  # of sums in any order, in AdamW's signs of what is nearly 0
    assert (ours - theirs).norm() / theirs.norm() <= noise
    for task, scores in expected["tasks"].items():
        for name, value in scores.items():
            close = pytest.approx(value, rel=100 * noise) if name != "protocol" else value
            assert found["tasks"][task][name] == close, (task, name)


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_images(dataset, tmp_path, monkeypatch):
    losses = MultiTaskModule.task_losses

    def broken(self, logits, batch):
        found = losses(self, logits, batch)
        return found | {"depth": found["depth"] / (0 if self.training and self.global_step == 1 else 1)}

    monkeypatch.setattr(MultiTaskModule, "task_losses", broken)
    with pytest.raises(NonFiniteLossError, match="depth at step 1 on images"):
        train(dataset, tmp_path / "run")
    found = json.loads((tmp_path / "run/nonfinite_batch.json").read_text())
    assert found["tasks"] == ["depth"]
    assert found["step"] == 1
    assert len(found["images"]) == 4


def test_the_progress_bar_shows_the_last_losses():
    cfg = mtmamba.load_config([])
    module = workflows.build.build_module(cfg).train()
    batch = random_batch(workflows.compose.num_outputs(cfg), 2, (32, 64), torch.device("cpu"))
    assert module.latest_losses() == {}
    total = module.training_step(batch, 0)
    shown = module.latest_losses()
    assert list(shown) == ["train/loss", *(f"train/{task.name}/loss" for task in module.tasks)]
    assert shown["train/loss"] == pytest.approx(total.item())


def test_missing_data_stops_before_anything_is_built(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(workflows.build, "build_model", lambda *_: pytest.fail("built a model first"))
    frozen = ["encoder.pretrained=false", "encoder.freeze=all"]
    cfg = mtmamba.load_config(["experiment=pascal_mtmamba", f"data.root={tmp_path}/none", "logger=csv", *frozen])
    with pytest.raises(ValueError, match=r"data\.root"):
        workflows.train(cfg, tmp_path)
    assert "Expected pretrained weights with encoder.freeze=all" in caplog.text


def test_errors_of_checkpoints_name_what_came(tmp_path):
    with pytest.raises(FileNotFoundError, match="run's folder"):
        find_checkpoint(tmp_path)
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    with pytest.raises(CheckpointError, match=r"text\.ckpt, which holds something else .*\(\w+Error\): give a run's"):
        read_checkpoint(tmp_path / "text.ckpt")
    torch.save({"state_dict": {}}, tmp_path / "bare.ckpt")
    with pytest.raises(CheckpointError, match="without its description"):
        read_checkpoint(tmp_path / "bare.ckpt")


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["data.device_batch_size=1", "model.checkpointing=blocks"]])
def test_two_processes_equal_one(dataset, tmp_path, options):
    """Metrics and weights of two processes, on two GPUs with graphs where there are, against one without graphs."""
    accelerator = "gpu" if torch.cuda.device_count() > 1 else "cpu"
    options = [*options, f"trainer.accelerator={accelerator}", "trainer.precision=32-true", "baseline=true"]
    for devices, way in ((1, ["cuda_graph=false"]), (2, ["trainer.strategy=ddp"])):
        place = [f"trainer.devices={devices}", f"hydra.run.dir={tmp_path}/{devices}"]
        run_script(*overrides(dataset, tmp_path, *options, *place, *way))
    graphs = "cuda_graph: true" in (tmp_path / "2/config.yaml").read_text().splitlines()
    assert graphs == (accelerator == "gpu")
    one, two = (json.loads((tmp_path / f"{devices}/metrics.json").read_text()) for devices in (1, 2))
    for task, scores in one["tasks"].items():
        for name, value in scores.items():
            assert name == "protocol" or two["tasks"][task][name] == pytest.approx(value, rel=2e-3), (task, name)
    assert one["constant"] == two["constant"]
    first = {row["step"]: row["val/depth/RMSE"] for row in rows(tmp_path / "1") if row["val/depth/RMSE"]}
    other = {row["step"]: row["val/depth/RMSE"] for row in rows(tmp_path / "2") if row["val/depth/RMSE"]}
    assert first.keys() == other.keys()
    ours, theirs = weights(tmp_path / "1"), weights(tmp_path / "2")
    ours, theirs = (torch.cat([x.double().flatten() for x in state.values()]) for state in (ours, theirs))
    assert (ours - theirs).norm() / ours.norm() < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "send", "devices"),
    [
        (signal.SIGKILL, os.killpg, 1),
        (signal.SIGINT, os.killpg, 1),
        (signal.SIGTERM, os.killpg, 1),
        (signal.SIGTERM, os.killpg, 2),
        (signal.SIGTERM, os.kill, 2),
    ],
)
def test_a_killed_run_goes_on_where_it_was(dataset, tmp_path, number, send, devices):
    """Whether all its processes are sent the signal, as by Ctrl-C and clusters, or the first one alone."""
    options = ["callbacks.checkpoint_every=1", "trainer.max_steps=12", "data.num_workers=2"]
    options += [f"trainer.devices={devices}", "trainer.strategy=ddp"] if devices > 1 else []
    options = overrides(dataset, tmp_path, *options)
    whole = tmp_path / "whole"
    run_script(*options, f"hydra.run.dir={whole}")
    run_dir = tmp_path / "killed"
    command = [sys.executable, str(TRAIN), *options, f"hydra.run.dir={run_dir}"]
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True)
    while not (run_dir / "checkpoints/last.ckpt").is_file():
        time.sleep(0.02)
    time.sleep(0.7)
    send(process.pid, number)
    _, errors = process.communicate(timeout=60)
    assert "Traceback" not in errors
    assert process.returncode == (-number if number == signal.SIGKILL else 130)
    assert not (run_dir / "metrics.json").exists(), "the run ended before it was killed"
    for file in run_dir.rglob("*.ckpt"):
        if not file.name.startswith("."):
            read_checkpoint(file)
    run_script(*options, f"resume={run_dir}")
    found, expected = weights(run_dir), weights(whole)
    assert all(torch.equal(x, expected[name]) for name, x in found.items())
    assert not list(run_dir.rglob("*.partial"))


@pytest.mark.slow
def test_a_sweep_is_separate_runs(dataset, tmp_path):
    options = overrides(dataset, tmp_path, "trainer.max_steps=2", "logger=wandb")
    run_script("-m", *options, "decoder=stm1,stm2,stm3", env={**os.environ, "WANDB_MODE": "offline"})
    records = [json.loads(p.read_text()) for p in sorted(tmp_path.rglob("metrics.json"))]
    assert [record["choices"]["decoder"] for record in records] == ["stm1", "stm2", "stm3"]
    assert len({record["run"] for record in records}) == 3
    assert len({p.parent for p in tmp_path.rglob("*.wandb")}) == 3
