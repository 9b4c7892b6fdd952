"""Kills at random moments: what a run leaves does not depend on them."""

import csv
import json
import os
import random
import signal
import time
import traceback

import pytest
import torch

import mtmamba
from fake_data import write_nyud
from mtmamba.checkpoints import read_checkpoint
from mtmamba.training.train import train

MOMENTARY = {"seconds", "run", "checkpoint", "checkpoint_sha256", "git"}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_nyud(tmp_path_factory.mktemp("data") / "NYUDv2", train=10, val=3, size=(32, 48))


def start(dataset, run_dir, options):
    """Train in a process of its own, which has everything imported already; return its number."""
    overrides = [
        "data=nyud", f"data.root={dataset}", "data.crop_size=[32,64]", "data.batch_size=4", "data.val_batch_size=2",
        "data.num_workers=0", "logger=csv", "optimizer=paper", "optimizer.lr=0.01", "trainer.log_every_n_steps=1",
        "trainer.accelerator=cpu", "callbacks.checkpoint_every=3", "monitor=val/depth/RMSE",
        f"log_dir={run_dir.parent}", f"cache_dir={run_dir.parent}/cache", "encoder.drop_path=0.2", *options,
    ]  # fmt: skip
    if (run_dir / "checkpoints/last.ckpt").is_file():
        overrides.append(f"resume={run_dir}")
    process = os.fork()
    if process == 0:
        status = 1
        try:
            run_dir.mkdir(parents=True, exist_ok=True)
            log = os.open(run_dir.with_suffix(".log"), os.O_CREAT | os.O_APPEND | os.O_WRONLY)
            os.dup2(log, 1)
            os.dup2(log, 2)
            train(mtmamba.load_config(overrides), run_dir)
            status = 0
        except BaseException:  # noqa: BLE001 - this process ends here
            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(status)
    return process


def finish(process, run_dir):
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0, run_dir.with_suffix(".log").read_text()[-2000:]


def left(run_dir):
    """What a run leaves, but for times and places."""
    with (run_dir / "metrics.csv").open() as file:
        rows = [{k: v for k, v in row.items() if "perf/" not in k} for row in csv.DictReader(file)]
    record = json.loads((run_dir / "metrics.json").read_text())
    pictures = {path.name: path.read_bytes() for path in (run_dir / "pictures").iterdir()}
    return rows, {key: value for key, value in record.items() if key not in MOMENTARY}, pictures


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "kills"),
    [
        (["trainer.max_steps=8", "trainer.val_check_interval=2", "ema_decay=0.5"], 50),
        (["trainer.max_steps=4", "trainer.val_check_interval=4"], 10),
    ],
)
def test_a_run_killed_at_random_moments_leaves_what_the_uninterrupted_one_does(dataset, tmp_path, options, kills):
    finish(start(dataset, tmp_path / "first", options), tmp_path / "first")  # compiles the scan
    whole = tmp_path / "whole"
    begun = time.monotonic()
    finish(start(dataset, whole, options), whole)
    seconds = time.monotonic() - begun
    rng = random.Random(0)
    done = runs = 0
    while done < kills:
        run_dir = tmp_path / f"killed_{runs}"
        runs += 1
        for _ in range(5):
            process = start(dataset, run_dir, options)
            time.sleep(rng.uniform(0, seconds))
            os.kill(process, signal.SIGKILL)
            if os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0:
                break
            done += 1
        if not (run_dir / "metrics.json").is_file():
            finish(start(dataset, run_dir, options), run_dir)
        assert left(run_dir) == left(whole)
        for name in ("last.ckpt", "best.ckpt"):
            mine, theirs = (read_checkpoint(folder / "checkpoints" / name) for folder in (run_dir, whole))
            assert mine["global_step"] == theirs["global_step"]
            assert mine["callbacks"]["Checkpointing"] == theirs["callbacks"]["Checkpointing"]
            assert all(torch.equal(x, theirs["state_dict"][key]) for key, x in mine["state_dict"].items())
