"""Going on with a run: what is refused, what may change, and what a stopped or failed run leaves to go on from."""

import json
import math
import multiprocessing
import os
import shutil
import time

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

import mtmamba
import toy_network  # noqa: F401 - registers encoder=toy
from fake_data import write_nyud
from fake_training import overrides, rows, run
from mtmamba.checkpoints import CheckpointError, read_checkpoint, save_checkpoint
from mtmamba.config.checks import ConfigError
from mtmamba.config.compose import describe
from mtmamba.runs.folder import find_unfinished, locked
from mtmamba.training.lit_module import MultiTaskModule
from mtmamba.training.train import train

LAST, BEST = "checkpoints/last.ckpt", "checkpoints/best.ckpt"
TOY = ("encoder=toy", "decoder=toy", "tasks=[depth]")
SHORT = (*TOY, "trainer.max_steps=2", "trainer.val_check_interval=2", "pictures=1")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_nyud(tmp_path_factory.mktemp("data") / "NYUDv2", train=10, val=3, size=(32, 48))


@pytest.fixture(scope="module")
def finished(dataset, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("logs") / "run"
    return run_dir, run(dataset, run_dir, *SHORT)


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_task_without_validation_labels_is_left_out_and_named(dataset, tmp_path, caplog):
    blind = tmp_path / "NYUDv2"
    write_nyud(blind, train=10, val=3, size=(32, 48))
    for number in range(11, 14):
        np.save(blind / f"depth/{number:04d}.npy", np.zeros((32, 48), np.float32))  # metres, 0 is unknown
    options = ["trainer.max_steps=4", "optimizer.lr=0.01", *TOY[:2], "tasks=[depth,normals]"]
    record = run(blind, tmp_path / "run", *options)
    assert "val/depth/RMSE" in caplog.text
    scores = {int(row["step"]): float(row["val/delta_m"]) for row in rows(tmp_path / "run") if row.get("val/delta_m")}
    assert record["tasks"]["depth"]["RMSE"] != record["tasks"]["depth"]["RMSE"]
    gain = 100 * (19.21 - record["tasks"]["normals"]["mErr"]) / 19.21
    assert max(scores.values()) == pytest.approx(gain)
    assert record["delta_m"] is None  # of some of the base's tasks
    assert record["step"] == max(scores, key=lambda step: (scores[step], -step)) + 1 or record["step"] == 4


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ("optimizer.lr=1e-5", r"optimizer\.lr=1e-05 instead of 0\.0001"),
        ("optimizer.betas=[0.5,0.9]", r"optimizer\.betas=\[0\.5, 0\.9\] instead of \[0\.9, 0\.999\]"),
        ("data.batch_size=2", r"data\.batch_size=2 instead of 4"),
        ("loss=weighted", "loss=weighted instead of log"),
        ("seed=1", "seed=1 instead of 0"),
        ("ema_decay=0.9", r"ema_decay=0\.9 instead of None"),
        ("monitor=val/depth/RMSE", r"Expected monitor=val/delta_m of the run to resume, got val/depth/RMSE"),
    ],
)
def test_other_updates_are_refused_by_name_and_nothing_is_written(dataset, finished, tmp_path, changed, named):
    before = contents(finished[0])
    with pytest.raises(ConfigError, match=named):
        run(dataset, tmp_path / "new", *SHORT, f"resume={finished[0]}", changed)
    assert contents(finished[0]) == before


def test_no_run_begins_over_anothers_checkpoints(dataset, finished):
    before = contents(finished[0])
    with pytest.raises(ConfigError, match=r"got \S+/run with checkpoints/last\.ckpt of another: .* resume=\S+"):
        run(dataset, finished[0], *SHORT)
    assert contents(finished[0]) == before


def test_a_checkpoint_without_its_runs_folder_is_not_gone_on_with(dataset, finished, tmp_path):
    shutil.copy(finished[0] / LAST, tmp_path / "last.ckpt")
    with pytest.raises(ConfigError, match=r"Expected a checkpoint in its run's folder, .*, got \S+/last\.ckpt"):
        run(dataset, tmp_path / "logs/nyud/new", *SHORT, f"resume={tmp_path}/last.ckpt")


def test_a_call_that_is_gone_on_elsewhere_leaves_no_empty_folders(dataset, finished, tmp_path):
    """Neither where the checkpoint is refused after the run's own folder has been taken for the call's."""
    shutil.copytree(finished[0], tmp_path / "run")
    content = read_checkpoint(tmp_path / "run" / LAST)
    save_checkpoint(content | {"global_step": 1}, tmp_path / "run" / LAST)
    with pytest.raises(CheckpointError, match="to be the count of the loops"):
        run(dataset, tmp_path / "logs/nyud/new", *SHORT, f"resume={tmp_path}/run")
    assert {path.name for path in tmp_path.iterdir()} <= {"run", "cache"}


def test_a_longer_run_has_the_new_schedules_rate_at_once(dataset, finished, tmp_path):
    longer = tmp_path / "run"
    run(dataset, longer, *SHORT)
    record = run(dataset, tmp_path / "new", *SHORT, "trainer.max_steps=4", f"resume={longer}")
    rates = {int(row["step"]): float(row["optimizer/lr"]) for row in rows(longer) if row["optimizer/lr"]}
    assert rates[2] == pytest.approx(1e-4 * (1 - 2 / 4) ** 0.9)
    assert rates[3] == pytest.approx(1e-4 * (1 - 3 / 4) ** 0.9)
    assert record["step"] in (2, 4)
    assert read_checkpoint(longer / LAST)["global_step"] == 4


def test_a_run_without_validations_ends_with_weights_and_the_scores_of_all_images(dataset, tmp_path):
    cfg = mtmamba.load_config(overrides(dataset, tmp_path, *SHORT))
    OmegaConf.update(cfg, "trainer.limit_val_batches", 0, force_add=True)  # which load_config refuses by now
    record = train(cfg, tmp_path / "run")
    assert (record["images"], record["step"]) == (3, 2)
    assert record["checkpoint"].endswith(LAST)
    assert math.isfinite(record["tasks"]["depth"]["RMSE"])


def test_an_exception_leaves_the_last_complete_step(dataset, tmp_path, monkeypatch):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    options = [*TOY, "trainer.max_steps=4", "trainer.val_check_interval=4", "data.device_batch_size=2"]
    run(dataset, whole, *options)
    original, calls = MultiTaskModule.training_step, []

    def fails(self, batch, batch_idx):
        calls.append(batch_idx)
        if len(calls) == 6:  # in the middle of the third step
            raise OSError("Expected an image, got a broken file.")
        return original(self, batch, batch_idx)

    monkeypatch.setattr(MultiTaskModule, "training_step", fails)
    with pytest.raises(OSError, match="broken file"):
        run(dataset, broken, *options)
    monkeypatch.undo()
    assert read_checkpoint(broken / LAST)["global_step"] == 2
    run(dataset, tmp_path / "new", *options, f"resume={broken}")
    ours, theirs = (read_checkpoint(folder / LAST)["state_dict"] for folder in (broken, whole))
    assert all(torch.equal(x, theirs[name]) for name, x in ours.items())


@pytest.mark.parametrize("stop", [2, 3])
def test_an_averaged_run_at_a_constant_rate_goes_on_as_if_nothing_had_happened(dataset, tmp_path, stop):
    """Stopped where a validation was due, or between two: by the end of a shorter run, which makes the same updates."""
    options = [
        *TOY, "trainer.max_steps=5", "trainer.val_check_interval=2", "pictures=0", "ema_decay=0.9",
        "optimizer.schedule=null", "optimizer.lr=0.01",
    ]  # fmt: skip
    whole = run(dataset, tmp_path / "whole", *options)
    run(dataset, tmp_path / "parts", *options, f"trainer.max_steps={stop}")
    resumed = run(dataset, tmp_path / "parts", *options, f"resume={tmp_path}/parts")
    ours, theirs = (read_checkpoint(tmp_path / name / LAST) for name in ("parts", "whole"))
    moved = "model.encoder.layers.0.weight"
    assert not torch.equal(ours["state_dict"][moved], ours["current_model_state"][moved])
    for part in ("state_dict", "current_model_state", "averaging_state"):
        assert ours[part].keys() == theirs[part].keys()
        assert all(torch.equal(x, theirs[part][name]) for name, x in ours[part].items()), part
    assert resumed["tasks"] == whole["tasks"]
    assert resumed["step"] == whole["step"]


def test_best_weights_that_are_gone_are_said_to_be(dataset, finished, tmp_path, caplog):
    run_dir = tmp_path / "run"
    run(dataset, run_dir, *SHORT)
    (run_dir / BEST).unlink()
    (run_dir / "metrics.json").unlink()
    record = run(dataset, tmp_path / "new", *SHORT, "trainer.max_steps=3", f"resume={run_dir}")
    assert "the next validation is the best one" in caplog.text
    assert record["step"] == 3


def test_a_moved_run_remembers_its_best(tmp_path):
    """Its second validation is worse, since the training images are of other depths."""
    dataset = write_nyud(tmp_path / "NYUDv2", train=10, val=3, size=(32, 48))
    for number in range(11, 14):
        np.save(dataset / f"depth/{number:04d}.npy", np.full((32, 48), 0.1, np.float32))
    options = [*TOY, "trainer.max_steps=4", "optimizer.lr=0.05", "monitor=val/depth/RMSE"]
    whole = run(dataset, tmp_path / "whole", *options)
    assert whole["step"] == 2
    run(dataset, tmp_path / "here", *options)
    (tmp_path / "here/metrics.json").unlink()
    (tmp_path / "here").rename(tmp_path / "there")
    record = run(dataset, tmp_path / "new", *options, f"resume={tmp_path}/there")
    assert record["step"] == 2
    assert record["tasks"] == whole["tasks"]


def hold(run_dir, begun):
    with locked(run_dir):
        begun.set()
        time.sleep(600)


def test_a_run_that_somebody_is_at_is_left_alone(dataset, tmp_path):
    run(dataset, tmp_path / "run", *SHORT)
    (tmp_path / "run/metrics.json").unlink()
    description = describe(mtmamba.load_config(overrides(dataset, tmp_path, *SHORT)))
    assert find_unfinished(description, tmp_path) == tmp_path / "run"
    fork = multiprocessing.get_context("fork")  # which has everything imported already
    begun = fork.Event()
    other = fork.Process(target=hold, args=(tmp_path / "run", begun))
    other.start()
    try:
        assert begun.wait(60)
        assert find_unfinished(description, tmp_path) is None
        with pytest.raises(ConfigError, match="another process is training"), locked(tmp_path / "run"):
            pass
    finally:
        other.kill()
        other.join()
    assert find_unfinished(description, tmp_path) == tmp_path / "run"


def test_what_does_not_make_the_updates_is_not_compared_and_the_nearest_run_is_named(dataset, tmp_path, caplog):
    run(dataset, tmp_path / "run", *SHORT)
    (tmp_path / "run/metrics.json").unlink()
    (tmp_path / "broken/checkpoints").mkdir(parents=True)
    (tmp_path / "broken/checkpoints/last.ckpt").touch()
    (tmp_path / "broken/config.yaml").write_text("a: [")
    shutil.copytree(tmp_path / "broken", tmp_path / "pipe")
    (tmp_path / "pipe/config.yaml").unlink()
    os.mkfifo(tmp_path / "pipe/config.yaml")  # which would be read for ever
    same = [*SHORT, "data.num_workers=1", "logger=wandb", "callbacks.checkpoint_every=7", "label=other", "pictures=0"]
    assert find_unfinished(describe(mtmamba.load_config(overrides(dataset, tmp_path, *same))), tmp_path)
    assert "broken, whose config.yaml cannot be read" in caplog.text
    assert "pipe, whose config.yaml cannot be read (a pipe)" in caplog.text
    with caplog.at_level("INFO", "mtmamba"):
        for seed in (3, 0):
            options = [*SHORT, f"seed={seed}", "trainer.max_steps=9"]
            assert (
                find_unfinished(describe(mtmamba.load_config(overrides(dataset, tmp_path, *options))), tmp_path) is None
            )
    assert "seed=3 instead of 0, optimizer.schedule.max_steps=9 instead of 2.\n" in caplog.text
    assert f"but optimizer.schedule.max_steps=9 instead of 2; resume={tmp_path}/run would go on with it." in caplog.text


def test_scores_are_written_although_no_training_label_is_known(tmp_path, caplog):
    blind = write_nyud(tmp_path / "NYUDv2", train=10, val=3, size=(32, 48))
    for number in range(1, 11):
        np.save(blind / f"depth/{number:04d}.npy", np.zeros((32, 48), np.float32))
    run(blind, tmp_path / "run", *SHORT, "tasks=[depth,normals]", "baseline=true")
    record = json.loads((tmp_path / "run/metrics.json").read_text())
    assert record["constant"].keys() == {"normals"}
    assert "No valid training label for depth" in caplog.text


def test_a_yaml_bomb_beside_the_runs_is_passed_over(tmp_path, caplog):
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    (tmp_path / "run/checkpoints/last.ckpt").touch()
    lines = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)]
    (tmp_path / "run/config.yaml").write_text("\n".join(["a0: &a0 [1, 1]", *lines]))
    assert find_unfinished({}, tmp_path) is None
    assert "cannot be read (it holds an alias" in caplog.text
