"""When checkpoints are written: so that a killed run repeats nothing, skips nothing and forgets no validation."""

import logging
import signal
import types
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn

from mtmamba.places import BEST, FOLDER, LAST
from mtmamba.stops import STOPS, listen
from mtmamba.training.validations import Validations

log = logging.getLogger(__name__)


class Checkpointing(Checkpoint):
    """Write ``last.ckpt`` and ``best.ckpt`` below the trainer's ``default_root_dir``, and stop when asked to.

    ``last.ckpt`` is written after every so many optimiser steps, before and after each validation, at the end, and when
    an exception or a signal ends the run; the loggers' files before it. It holds the state right after an optimiser
    step and the record of all validations up to it. The first Ctrl-C (or SIGTERM, or SIGHUP), of any process, stops
    training in all of them after the step at hand; a second one stops at once.

    Args:
        every: optimiser steps between writings.
        validations: the record, which checkpoints carry.
    """

    def __init__(self, every: int, validations: Validations) -> None:
        self.every, self.validations = every, validations
        self.asked = self.stopped = False
        self._due = self._stepping = False
        self._saved: int  # the step of the last writing, known when training starts
        self._complete: tuple[int, dict[str, Any], int] | None = None  # the last step, its loops' state, its epoch
        self._handlers: dict[int, Any] = {}

    @property
    def state_key(self) -> str:
        """Where checkpoints keep the record."""
        return "Checkpointing"

    def state_dict(self) -> dict[str, Any]:
        """Return the record of validations."""
        return self.validations.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with a checkpoint's record; what ``best.ckpt`` itself says of the best has been read already."""
        best = self.validations.best
        self.validations.load_state_dict(state_dict)
        self.validations.best = best

    def is_due(self, trainer: Trainer, step: int) -> bool:
        """Whether a validation belongs after an optimiser step that the record does not know."""
        if step == 0 or step in self.validations.scores or trainer.limit_val_batches == 0:
            return False
        interval = trainer.val_check_interval  # in micro-batches
        at_interval = isinstance(interval, int) and step * trainer.accumulate_grad_batches % interval == 0
        return at_interval or step == trainer.max_steps

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen for signals.

        Not before: Lightning's own handler, which we replace, tells the other processes in the middle of a step.
        """
        self._saved = trainer.global_step
        self._handlers = listen(self._ask, *STOPS)

    def on_before_optimizer_step(self, *_: Any) -> None:
        """Note that the weights are about to change."""
        self._stepping = True

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Note the state of the loops where an optimiser step is complete."""
        step = trainer.global_step
        if step == (self._complete[0] if self._complete else self._saved):  # in the middle of an accumulated batch
            return
        self._stepping = False
        self._complete = (step, trainer.fit_loop.state_dict(), trainer.current_epoch)
        self.stopped = trainer.strategy.reduce_boolean_decision(self.asked, all=False)
        if step == trainer.max_steps:
            trainer.should_stop = True  # so that the last weights are validated wherever the interval has its multiples
        self._due = self.stopped or step % self.every == 0

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        """Write what is due of the step before, which is logged by now, and stop if asked to."""
        if self._due:
            self._save_last(trainer)
        self._stop_if_asked(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the step's checkpoint before its validation; if asked to stop, leave that to who goes on."""
        if self._is_training(trainer):
            self._save_last(trainer)
            self._stop_if_asked(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log and record the validation, and write the best checkpoint before the last, which says that it is there."""
        if not self._is_training(trainer):
            return
        log_validation(trainer, trainer.global_step - 1)
        score = float(trainer.callback_metrics.get(self.validations.monitor, float("nan")))
        if self.validations.add(trainer.global_step, score):
            trainer.save_checkpoint(self._folder(trainer) / BEST, weights_only=False)
        self._save_last(trainer, again=True)
        self.stopped = trainer.strategy.reduce_boolean_decision(self.asked, all=False)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the last step's checkpoint, whatever ended training."""
        self._save_last(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Write the last complete step's checkpoint.

        Not where the weights are half of the next step's, nor where other processes would have to write along.
        """
        failed = isinstance(exception, Exception) and trainer.state.fn == TrainerFn.FITTING
        if failed and not self._stepping and trainer.world_size == 1:
            self._save_last(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Let the loops stand right after the step, wherever in them it is written, and note the number of threads."""
        checkpoint["threads"] = torch.get_num_threads()
        if self._complete is not None and self._complete[0] == checkpoint["global_step"]:
            _, checkpoint["loops"]["fit_loop"], checkpoint["epoch"] = self._complete

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the signals back."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    def _save_last(self, trainer: Trainer, again: bool = False) -> None:
        if self._complete is None or (trainer.global_step == self._saved and not again):
            return
        for logger in trainer.loggers:
            logger.save()
        trainer.save_checkpoint(self._folder(trainer) / LAST, weights_only=False)
        self._saved = trainer.global_step

    def _stop_if_asked(self, trainer: Trainer) -> None:
        if self.stopped:
            folder = Path(trainer.default_root_dir)
            of_sweep = (folder.parent / "multirun.yaml").is_file()  # Hydra's record of the call
            how = f"the same call and hydra.sweep.dir={folder.parent}" if of_sweep else f"resume={folder}"
            log.info("Stopped after step %d; go on with %s", self._saved, how)
            raise KeyboardInterrupt

    @staticmethod
    def _folder(trainer: Trainer) -> Path:
        return Path(trainer.default_root_dir) / FOLDER

    @staticmethod
    def _is_training(trainer: Trainer) -> bool:
        return trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking

    def _ask(self, number: int, frame: types.FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        log.info("Stopping after this step; once more to stop at once.")


def log_validation(trainer: Trainer, row: int) -> None:
    """Log the scores of the validation that has just ended, to a row of our own choice.

    Lightning's counters of rows and epochs are not there yet in a run that begins with a validation, or has all its
    steps behind it.
    """
    values = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
    for logger in trainer.loggers:
        logger.log_metrics({"epoch": epoch_of(trainer, row), **values}, row)
        logger.save()


def epoch_of(trainer: Trainer, step: int) -> int:
    """Return the epoch of an optimiser step, both from 0: Lightning's own is one less after some resumes."""
    data = trainer.datamodule  # type: ignore[attr-defined]
    return step // max(1, len(data.dataset_of("train")) // int(data.batch_size))
