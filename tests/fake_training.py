"""Micro runs of training, for tests."""

import csv
from pathlib import Path

import mtmamba
from mtmamba.training.train import train


def overrides(dataset: Path, log_dir: Path, *more: str) -> list[str]:
    """A micro run: 2 steps of 4 images an epoch (2 of 10 images are left out), on images of 32x64."""
    return [
        "data=nyud", f"data.root={dataset}", "data.crop_size=[32,64]", "data.batch_size=4", "data.val_batch_size=2",
        "data.num_workers=0", "logger=csv", "optimizer=paper", "trainer.max_steps=5", "trainer.val_check_interval=2",
        "trainer.log_every_n_steps=1", "trainer.accelerator=cpu", "baseline=false", f"log_dir={log_dir}",
        f"cache_dir={log_dir}/cache", *more,
    ]  # fmt: skip


def run(dataset: Path, run_dir: Path, *more: str) -> dict:
    """Train in a folder."""
    run_dir.mkdir(parents=True, exist_ok=True)
    return train(mtmamba.load_config(overrides(dataset, run_dir.parent, *more)), run_dir)


def rows(run_dir: Path) -> list[dict[str, str]]:
    """What training logged, by step: timings are left out."""
    with (run_dir / "metrics.csv").open() as file:
        return [{k: v for k, v in row.items() if "perf/" not in k} for row in csv.DictReader(file)]
