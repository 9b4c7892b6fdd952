"""What balancing the tasks costs, and how their losses fall: docs/balancing.csv and the table of docs/training.md.

``python -m mtmamba.benchmarks.balancing FILE.csv [SETTINGS]`` trains the demo's micro model on the demo's rooms, on a
CPU, with each method in turn, from the same weights on the same images, and prints the table. Settings are those of
``src/train.py``.
"""

import csv
import logging
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

from lightning import seed_everything
from lightning.pytorch import Callback, Trainer

from mtmamba import build
from mtmamba.config import compose
from mtmamba.config.checks import settle_auto
from mtmamba.files import replacing
from mtmamba.markdown import table_lines
from mtmamba.shipped import config_dir
from mtmamba.training.lit_module import MultiTaskModule
from mtmamba.training.step_check import StepCheck

SETTINGS = (
    "loss=weighted", "optimizer.schedule=null", "trainer.max_steps=200", "trainer.accelerator=cpu", "data.scenes.val=4",
)  # fmt: skip
WINDOW = 10
"""Steps that make a point of a curve."""

Point = Mapping[str, Any]
"""A point of a curve: ``balancing``, ``step``, ``ms`` of a step, and each task's loss."""


class Steps(Callback):
    """Note each step's losses, and its milliseconds of this process's processor time, whatever else a machine does."""

    def __init__(self) -> None:
        self.milliseconds: list[float] = []
        self.losses: list[dict[str, float]] = []
        self._since: float | None = None

    def on_train_batch_start(self, *_: Any) -> None:
        """Note the time: of a step and what follows it, up to the next one's beginning."""
        now = time.process_time()
        if self._since is not None:
            self.milliseconds.append(1000 * (now - self._since))
        self._since = now

    def on_train_batch_end(self, trainer: Trainer, pl_module: MultiTaskModule, *_: Any) -> None:  # type: ignore[override]
        """Note the losses before the step."""
        found = pl_module.latest_losses()
        self.losses.append({task.name: found[f"train/{task.name}/loss"] for task in pl_module.tasks})


def methods() -> list[str]:
    """Return the choices of ``balancing``, ``none`` first."""
    return sorted((path.stem for path in (config_dir() / "balancing").glob("*.yaml")), key=lambda x: (x != "none", x))


def curve(method: str, settings: Sequence[str]) -> list[Point]:
    """Train with a method; return the points of its curve, medians of times and means of losses."""
    cfg = compose.load_config([*SETTINGS, *settings, f"balancing={method}"])
    settle_auto(cfg)
    seed_everything(cfg.seed, verbose=False)
    steps = Steps()
    with tempfile.TemporaryDirectory() as folder:
        trainer = build.build_trainer(
            cfg, callbacks=[StepCheck(), steps], logger=False, enable_checkpointing=False, enable_progress_bar=False,
            limit_val_batches=0, check_val_every_n_epoch=None, default_root_dir=folder,
        )  # fmt: skip
        data = build.build_datamodule(cfg)
        data.prepare_data()
        trainer.fit(build.build_module(cfg), data)
    points: list[Point] = []
    for first in range(0, len(steps.losses), WINDOW):
        window = steps.losses[first : first + WINDOW]
        means = {task: round(fmean(losses[task] for losses in window), 4) for task in window[0]}
        milliseconds = round(median(steps.milliseconds[first : first + WINDOW]), 1)
        points.append({"balancing": method, "step": first + len(window), "ms": milliseconds, **means})
    return points


def table(points: Sequence[Point]) -> Iterator[str]:
    """Yield the lines of the table: a step's time over that of ``none``, and losses of each curve's last point."""
    tasks = list(points[0])[3:]
    curves: dict[str, list[Point]] = {}
    for point in points:
        curves.setdefault(point["balancing"], []).append(point)
    times = {method: median(float(point["ms"]) for point in found) for method, found in curves.items()}
    yield from table_lines(
        ["", "a step takes", *tasks],
        (
            [f"`{method}`", f"{times[method] / times['none']:.2f}", *(f"{float(found[-1][t]):.3f}" for t in tasks)]
            for method, found in curves.items()
        ),
    )


def main(path: Path, settings: Sequence[str]) -> None:
    """Write the curves to a file and print the table."""
    points = [point for method in methods() for point in curve(method, settings)]
    with replacing(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(points[0]))
        writer.writeheader()
        writer.writerows(points)
    sys.stdout.write("".join(f"{line}\n" for line in table(points)))


if __name__ == "__main__":
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    main(Path(sys.argv[1]), sys.argv[2:])
