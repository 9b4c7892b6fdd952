"""Going on with an interrupted run: which one, whether it may, and the validation that it may still owe."""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig

from mtmamba.checkpoints import CheckpointError, glance, read_checkpoint, save_checkpoint
from mtmamba.config import compose
from mtmamba.config.decisive import check_resumed
from mtmamba.config.settings import ConfigError
from mtmamba.data.datamodule import DenseDataModule
from mtmamba.places import BEST, FOLDER, LAST, find_checkpoint
from mtmamba.runs.folder import find_unfinished
from mtmamba.training.callbacks import name_pictures
from mtmamba.training.checkpointing import Checkpointing, log_validation
from mtmamba.training.validations import Validations

log = logging.getLogger(__name__)

CHOSEN = "MTMAMBA_RESUMED"
"""Tells the processes that Lightning starts which run the first one has chosen."""


@dataclass(frozen=True)
class Resumed:
    """A checkpoint to go on from.

    Attributes:
        path: of the file.
        content: read once, for everything that asks for it.
    """

    path: Path
    content: dict[str, Any]

    @property
    def run_dir(self) -> Path:
        """The run's folder."""
        return self.path.parents[1]

    @property
    def step(self) -> int:
        """Optimiser steps that are done."""
        return int(self.content["global_step"])


def find_resumed(cfg: DictConfig) -> Resumed | None:
    """Read the checkpoint that ``resume`` means: a path's, the newest unfinished run's for ``auto``, or None.

    Raises:
        FileNotFoundError: there is none at the path.
        CheckpointError: it is damaged.
        ConfigError: it is of a run that makes other updates.
    """
    path = _path(cfg)
    if path is None:
        return None
    content = read_checkpoint(path)
    check_resumed(compose.describe(cfg), content["mtmamba"])
    return Resumed(path, content)


def _path(cfg: DictConfig) -> Path | None:
    if cfg.resume is None:
        return None
    if cfg.resume != "auto":
        path = find_checkpoint(Path(cfg.resume), LAST).resolve()
        if path.parent.name != FOLDER:
            raise ConfigError(
                f"Expected a checkpoint in its run's folder, RUN/{FOLDER}/{LAST}, got {path}, which has none to go on "
                "in: give the run, or begin a new one from its weights with init=CHECKPOINT."
            )
        return path
    if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
        found = find_unfinished(compose.describe(cfg), Path(cfg.log_dir))
        os.environ[CHOSEN] = "" if found is None else str(found.resolve())
    chosen = os.environ.get(CHOSEN)
    if not chosen:
        return None
    log.info("resume=auto: going on with %s.", chosen)
    return Path(chosen) / FOLDER / LAST


def restore_record(validations: Validations, resumed: Resumed) -> None:
    """Read the record of validations from the checkpoint, and what is best from ``best.ckpt`` itself.

    So it is right wherever the folder was moved to, and where the run was killed between writing the two.

    Raises:
        ConfigError: the best went by another score.
    """
    state = resumed.content.get("callbacks", {}).get("Checkpointing")
    if state is not None:
        with _record_of(resumed.path):
            validations.load_state_dict(state)
    best = resumed.path.parent / BEST
    with _record_of(best):
        validations.best = _best(glance(best), validations) if best.is_file() else None
    if validations.best is None and validations.scores:
        log.warning("No %s: the next validation is the best one.", best)


@contextmanager
def _record_of(path: Path) -> Iterator[None]:
    """Say whose record of validations it is that cannot be read."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        if str(error).startswith("Expected "):
            raise
        raise CheckpointError(
            f"Expected a record of validations in {path}, got none that can be read ({error!r}): use another "
            "checkpoint."
        ) from error


def _best(content: Mapping[str, Any], validations: Validations) -> tuple[int, float] | None:
    step = int(content["global_step"])
    for name, state in content.get("callbacks", {}).items():
        if name == "Checkpointing" and state["best"] is not None:
            validations.require(state["monitor"])
            return step, float(state["best"][1])
        if name.startswith("ModelCheckpoint"):  # before version 0.2
            validations.require(state["monitor"])
            return step, float(state["best_model_score"])
    return None


def validate_due(
    trainer: Trainer, module: LightningModule, data: DenseDataModule, checkpointing: Checkpointing, resumed: Resumed
) -> None:
    """Run the validation that belongs after the checkpoint's step, where the run was killed before it was recorded.

    What it would have left is written: its row, its picture, ``best.ckpt`` and ``last.ckpt`` with the record.
    """
    if not checkpointing.is_due(trainer, resumed.step):
        return
    log.info("First the validation after step %d, which the run was stopped before.", resumed.step)
    module.load_state_dict(resumed.content["state_dict"])
    name_pictures(trainer, f"step_{resumed.step:06d}", resumed.step)
    trainer.validate(module, data, verbose=False)
    name_pictures(trainer, None, None)
    log_validation(trainer, resumed.step - 1)
    validations = checkpointing.validations
    score = float(trainer.callback_metrics.get(validations.monitor, float("nan")))
    is_best = validations.add(resumed.step, score)
    resumed.content.setdefault("callbacks", {})["Checkpointing"] = validations.state_dict()
    if trainer.is_global_zero:
        for name in [BEST, LAST] if is_best else [LAST]:
            save_checkpoint(resumed.content, resumed.path.parent / name)
    trainer.strategy.barrier("validate_due")
