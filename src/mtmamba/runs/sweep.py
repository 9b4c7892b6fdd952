"""The rows of a sweep: which are finished, and how far the others have come, from their folders alone."""

import csv
import fcntl
import functools
import itertools
import json
import logging
import os
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from statistics import mean
from typing import IO, NamedTuple

from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from rich.table import Table
from yaml import YAMLError

from mtmamba.config import compose
from mtmamba.config.decisive import differences
from mtmamba.config.settings import ConfigError
from mtmamba.places import FOLDER, LAST
from mtmamba.plain_yaml import plain_yaml
from mtmamba.runs.environment import visible_gpus
from mtmamba.runs.folder import is_at_work, speak
from mtmamba.runs.names import CURVES, ENVIRONMENT, SCORES, SETTINGS
from mtmamba.runs.table import show
from mtmamba.tasks import get_task

log = logging.getLogger(__name__)

HELD: list[IO[str]] = []
"""Files whose locks this process holds as long as it lives."""

SHOWN: set[Path] = set()
"""Sweeps whose rows this process has shown."""


class Progress(NamedTuple):
    """How far a row has come.

    Attributes:
        state: ``finished``, ``running``, ``stopped`` (with a checkpoint to go on from), ``failed`` (perhaps with one),
            ``waiting``, or ``unreadable`` (a file of its folder is damaged).
        step: optimiser steps that are logged.
        steps: of the whole training; None before it begins.
        scores: the tasks' headlines, in the end.
        seconds: left of a running row, at the speed that it has had; None where that is not known.
        took: the seconds of a finished row, where they are known.
    """

    state: str
    step: int = 0
    steps: int | None = None
    scores: str = ""
    seconds: float | None = None
    took: float | None = None


def is_there(cfg: DictConfig, folder: Path) -> bool:
    """Return whether a row is finished, in which case nothing is to be done.

    Raises:
        ConfigError: what is finished in its folder is another training.
    """
    if not (folder / SCORES).is_file():
        return False
    if (state := progress(folder).state) != "finished":
        raise ConfigError(
            f"Expected a finished row in {folder}, which has a metrics.json, got one that is {state}: move it away to "
            "train the row again."
        )
    found = plain_yaml((folder / SETTINGS).read_text(encoding="utf-8"))
    mine = compose.with_choices(cfg.copy())
    differing = differences(compose.describe(mine), {"choices": found["choices"], "values": found})
    steps = found["trainer"]["max_steps"]
    if steps != mine.trainer.max_steps:
        differing["trainer.max_steps"] = f"trainer.max_steps is {steps} there, {mine.trainer.max_steps} here"
    if differing:
        raise ConfigError(
            f"Expected this row of the sweep in {folder}, got another training: {'; '.join(differing.values())}. Call "
            "the sweep as before, or leave out hydra.sweep.dir."
        )
    speak()
    log.info("Finished before: %s", folder)
    return True


def failure(folder: Path) -> Path:
    """Return the file that says that a row failed: beside the row's folder, which may be removed then."""
    return folder.with_name(f".failed{folder.name}")


def progress(folder: Path, mine: bool = False) -> Progress:
    """Read how far a row has come.

    Args:
        folder: the row's.
        mine: whether this process is at it.
    """
    try:
        return _progress(folder, mine)
    except (AttributeError, KeyError, TypeError, ValueError, OSError, YAMLError, OmegaConfBaseException):
        return Progress("unreadable")


def _progress(folder: Path, mine: bool) -> Progress:
    steps, start = _steps(folder), folder / ENVIRONMENT
    begun = start.stat().st_mtime if start.is_file() else None
    if (folder / SCORES).is_file():
        record = json.loads((folder / SCORES).read_text(encoding="utf-8"))
        scores = {task: values.get(get_task(task).headline) for task, values in record["tasks"].items()}
        shown = [f"{task} {value:.4g}" for task, value in scores.items() if value is not None]
        took = (folder / SCORES).stat().st_mtime - begun if begun else None
        return Progress("finished", steps or 0, steps, ", ".join(shown), took=took)
    step = _logged(folder)
    if mine or (folder.is_dir() and is_at_work(folder)):
        left = (steps - step) * (time.time() - begun) / step if steps is not None and step and begun else None
        return Progress("running", step, steps, seconds=None if mine else left)
    if failure(folder).exists():
        return Progress("failed", step, steps)
    if (folder / FOLDER / LAST).is_file():
        return Progress("stopped", step, steps)
    return Progress("failed" if (folder / ".hydra").is_dir() else "waiting", step, steps)


def show_rows(sweep_dir: Path, rows: Sequence[Sequence[str]], mine: Path | None = None) -> None:
    """Print a sweep's rows; those that have not begun are taken to last as long as the finished ones have.

    Args:
        sweep_dir: the sweep's folder, which holds those of its rows by their numbers.
        rows: overrides of each.
        mine: the folder of the row that this process is at.
    """
    SHOWN.add(sweep_dir)
    common = set.intersection(*map(set, rows))
    folders = [sweep_dir / str(number) for number in range(len(rows))]
    found = [progress(folder, mine is not None and folder.resolve() == mine.resolve()) for folder in folders]
    took = [row.took for row in found if row.took is not None]
    table = Table("", "Row", "State", "Step", "Scores", "Left", title=str(sweep_dir))
    for number, (overrides, (state, step, steps, scores, seconds, _)) in enumerate(zip(rows, found, strict=True)):
        name = " ".join(override for override in overrides if override not in common) or " ".join(overrides)
        if seconds is None and took and state not in ("finished", "failed"):
            seconds = mean(took) * (1 - step / steps if steps else 1)
        left = "" if seconds is None else str(timedelta(seconds=round(seconds)))
        table.add_row(str(number), name, state, "" if steps is None else f"{step} of {steps}", scores, left)
    show(table)


@functools.cache
def take_gpu(sweep_dir: Path) -> None:
    """Let this process see one GPU, which no other process of the sweep has while there are enough for all.

    To be called before anything asks for a GPU. Processes, and not rows, have one: they work on row after row.

    Args:
        sweep_dir: the sweep's folder, where ``.gpuN`` is locked as long as this process lives.
    """
    if len(gpus := visible_gpus()) < 2:
        return
    for number in itertools.count():
        file = (sweep_dir / f".gpu{number}").open("a")
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            continue
        HELD.append(file)
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]
        return


def _logged(folder: Path) -> int:
    """Return the optimiser steps that a run has logged."""
    if not (folder / CURVES).is_file():
        return 0
    with (folder / CURVES).open(newline="", encoding="utf-8") as file:
        return max((int(row["step"]) + 1 for row in csv.DictReader(file)), default=0)


def _steps(folder: Path) -> int | None:
    """Return the length of a run's training."""
    path = folder / SETTINGS
    return int(plain_yaml(path.read_text(encoding="utf-8"))["trainer"]["max_steps"]) if path.is_file() else None
