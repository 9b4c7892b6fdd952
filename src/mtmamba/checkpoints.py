"""Checkpoints: written whole or not at all, read without running code, found again."""

import os
import signal
import types
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from mtmamba.files import replacing
from mtmamba.models.pretrained import UNREADABLE

LAST, BEST = "last.ckpt", "best.ckpt"
FOLDER = "checkpoints"


class CheckpointError(ValueError):
    """A file is no checkpoint of this program; the message says what came instead."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write checkpoints to a temporary name beside their own, then rename; read them with ``weights_only``."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Replace ``path`` by the new checkpoint in one step."""
        with replacing(Path(path)) as partial, partial.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())

    def load_checkpoint(self, path: str | Path, *_: Any, **__: Any) -> dict[str, Any]:
        """Read a checkpoint's tensors and plain values."""
        return read_checkpoint(Path(path))


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU, with ``weights_only``.

    Raises:
        FileNotFoundError: no such file.
        CheckpointError: not written by this program.
    """
    if not path.is_file():
        raise FileNotFoundError(f"Expected a checkpoint at {path}, got none: give a run's folder or a .ckpt file.")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise CheckpointError(
            f"Expected a checkpoint of this program, got {path}, which holds something else or is damaged "
            f"({type(error).__name__}): give a run's folder or a .ckpt file from its {FOLDER}."
        ) from error
    if not isinstance(checkpoint, dict) or not {"mtmamba", "state_dict"} <= checkpoint.keys():
        raise CheckpointError(
            f"Expected a checkpoint of this program, got {path} without its description: an encoder's weights go "
            "to encoder.weights, the authors' checkpoints to src/import_checkpoint.py."
        )
    return checkpoint


def find_checkpoint(path: Path, *names: str) -> Path:
    """Return the checkpoint that a path means.

    Args:
        path: a checkpoint, or a run's folder.
        names: of the folder's checkpoints, the first that exists is taken; best before last by default.

    Raises:
        FileNotFoundError: there is none.
    """
    if path.is_dir():
        for name in names or (BEST, LAST):
            if (found := path / FOLDER / name).is_file():
                return found
    elif path.is_file():
        return path
    raise FileNotFoundError(
        f"Expected a checkpoint, or a run's folder with {FOLDER}/{LAST}, got {path}: check the path."
    )


class LastCheckpoint(Callback):
    """Write ``last.ckpt`` after every so many optimiser steps, at the end, and when asked to stop.

    Always right after an optimiser step, so that resuming repeats nothing and skips nothing. The first Ctrl-C (or
    SIGTERM), of any process, stops training in all of them after the step at hand; a second one stops at once.

    Args:
        folder: where to write it.
        every: optimiser steps between writings.
    """

    def __init__(self, folder: Path, every: int) -> None:
        self.path, self.every = folder / LAST, every
        self.asked = self.stopped = False
        self._step = self._saved = -1
        self._handlers: dict[int, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count from the step that training begins or goes on at, and listen for signals.

        Not before: Lightning's own handler, which we replace, tells the other processes in the middle of a step.
        """
        self._step = trainer.global_step
        self._handlers = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        """Stop here if asked to: the step before is in its checkpoint, and logged."""
        if self.stopped and trainer.global_step == self._saved:
            rank_zero_info(f"Stopped after step {self._saved}; go on with resume={self.path.parents[1]}")
            raise KeyboardInterrupt

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Write the checkpoint where it is due."""
        step = trainer.global_step
        if step == self._step:  # in the middle of an accumulated batch
            return
        self._step = step
        self.stopped = trainer.strategy.reduce_boolean_decision(self.asked, all=False)
        if step == trainer.max_steps:
            trainer.should_stop = True  # so that the last weights are validated wherever the interval has its multiples
        if self.stopped or step % self.every == 0 or step == trainer.max_steps:
            trainer.save_checkpoint(self.path, weights_only=False)
            self._saved = step

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the signals back."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    def _ask(self, number: int, frame: types.FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        rank_zero_info("Stopping after this step; once more to stop at once.")
