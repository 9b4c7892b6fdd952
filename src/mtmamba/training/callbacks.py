"""What people look at while a model trains: pictures, losses, and how fast it goes."""

import logging
import math
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.loggers import WandbLogger
from torch import Tensor

from mtmamba.metrics.segmentation import MeanIoU
from mtmamba.tasks import picture_keys, picture_row
from mtmamba.tasks.panels import IMAGE, before_and_after, panel
from mtmamba.tasks.pictures import Picture, save_picture
from mtmamba.training.checkpointing import epoch_of
from mtmamba.training.lit_module import MultiTaskModule
from mtmamba.training.wandb_run import Masks, WandbRun, masks
from mtmamba.types import Batch

log = logging.getLogger(__name__)


START, BEST = "start", "best"
"""Names of the pictures of the weights that a run begins from, and of its best ones."""


class PicturePanel(Callback):
    """Show a fixed set of validation images with every task's prediction beside its truth.

    Each validation writes ``step_NNNNNN.png``, and the same picture to Weights & Biases, where predicted and true
    classes are masks over the images, too. That of the best weights also writes ``before_and_after.png`` in a run that
    showed those it began from.

    They are written below ``pictures`` in the trainer's ``default_root_dir``.

    Args:
        count: how many images, evenly spaced over those that the first process sees.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.name: str | None = None  # instead of the step's
        self.step: int | None = None  # instead of the trainer's
        self._rows: list[Mapping[str, Picture]] = []
        self._start: list[Mapping[str, Picture]] = []
        self._masks: list[Masks] = []
        self._seen = 0
        self._chosen: set[int] = set()

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: MultiTaskModule) -> None:  # type: ignore[override]
        """Choose the images."""
        total = len(trainer.datamodule.dataset_of("val"))  # type: ignore[attr-defined]
        mine = -(-total // trainer.world_size)
        self._rows, self._masks, self._seen = [], [], 0
        self._chosen = {i * mine // self.count for i in range(self.count)} if trainer.is_global_zero else set()

    def on_validation_batch_end(  # type: ignore[override]
        self, trainer: Trainer, pl_module: MultiTaskModule, outputs: dict[str, Tensor], batch: Batch, *_: Any
    ) -> None:
        """Draw the chosen images of this batch."""
        own = trainer.datamodule.record.pictures  # type: ignore[attr-defined]
        for index in range(len(batch["id"])):
            if self._seen in self._chosen:
                row = picture_row(pl_module.tasks, batch, outputs, index, own)
                self._rows.append(row)
                maps = {name: (outputs[name][index], batch[name][index]) for name in class_metrics(pl_module)}  # type: ignore[literal-required]
                self._masks.append(masks(row[IMAGE], maps, batch["size"][index].tolist()))
            self._seen += 1

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: MultiTaskModule) -> None:  # type: ignore[override]
        """Write the panel."""
        if not self._rows:
            return
        record = trainer.datamodule.record  # type: ignore[attr-defined]
        keys = partial(picture_keys, pl_module.tasks, classes=record.classes, own=record.pictures)
        picture = panel(self._rows, keys=keys(self._rows))
        step = trainer.global_step if self.step is None else self.step
        folder = Path(trainer.default_root_dir) / "pictures"
        save_picture(folder / f"{self.name or f'step_{step:06d}'}.png", picture)
        if self.name == START:
            self._start = self._rows
        elif self.name == BEST and self._start:
            both = before_and_after(self._start, self._rows, keys=keys([*self._start, *self._rows]))
            save_picture(folder / "before_and_after.png", both)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_image("pictures", [picture], step=step)
            if isinstance(logger, WandbRun) and class_metrics(pl_module):
                logger.log_masks(self._masks, class_names(trainer, pl_module), step)


class ClassTables(Callback):
    """Give Weights & Biases a table of each class's score, of every task that has classes, after each validation."""

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: MultiTaskModule) -> None:  # type: ignore[override]
        """Log the tables, before the module scores and resets its metrics."""
        pages = [logger for logger in trainer.loggers if isinstance(logger, WandbRun)]
        if not pages or trainer.sanity_checking:
            return
        names = class_names(trainer, pl_module)
        for task, metric in class_metrics(pl_module).items():
            with metric.sync_context():  # every process takes part
                counts = metric.counts.cpu()
            for page in pages:
                page.log_classes(task, names[task], counts, trainer.global_step)


def class_metrics(module: MultiTaskModule) -> dict[str, MeanIoU]:
    """Return the metrics of the tasks that have classes, by task."""
    return {name: metric for name, metric in module.metrics.items() if isinstance(metric, MeanIoU)}


def class_names(trainer: Trainer, module: MultiTaskModule) -> dict[str, Sequence[str]]:
    """Return names of the classes by task: the dataset's, or numbers where it has none."""
    named = trainer.datamodule.record.classes  # type: ignore[attr-defined]
    return {
        task: named.get(task) or [str(number) for number in range(metric.num_classes)]
        for task, metric in class_metrics(module).items()
    }


def name_pictures(trainer: Trainer, name: str | None, step: int | None = None) -> None:
    """Give the panel of the validations to come a name and a step of its own, or with None the usual ones."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, PicturePanel):
            callback.name, callback.step = name, step


class ProgressBar(TQDMProgressBar):
    """Show a bar with the training loss; where the output is no terminal, a line at each of the trainer's intervals.

    Not by ``log(prog_bar=True)``: for that Lightning reads every value after every batch, and the GPU runs dry.

    Args:
        refresh_rate: micro-batches between updates of the bar; 0 for neither bar nor lines.
    """

    def __init__(self, refresh_rate: int) -> None:
        self._lines = refresh_rate > 0 and not sys.stdout.isatty()
        super().__init__(refresh_rate=0 if self._lines else refresh_rate)
        self._since = (0, 0.0)
        self._said = 0

    def get_metrics(self, trainer: Trainer, pl_module: MultiTaskModule) -> dict[str, Any]:  # type: ignore[override]
        """Return the last micro-batch's loss."""
        return {"loss": pl_module.latest_losses().get("train/loss", math.nan)}

    def on_train_start(self, trainer: Trainer, pl_module: MultiTaskModule) -> None:  # type: ignore[override]
        """Note when and where the steps begin."""
        super().on_train_start(trainer, pl_module)
        self._since = (trainer.global_step, time.perf_counter())
        self._said = trainer.global_step

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: Trainer, pl_module: MultiTaskModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Say how far training has come, once for each interval."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        step = trainer.global_step
        if not self._lines or step == self._said or step % trainer.log_every_n_steps:  # type: ignore[attr-defined]
            return
        self._said = step
        first, start = self._since
        left = (trainer.max_steps - step) * (time.perf_counter() - start) / (step - first)
        loss = self.get_metrics(trainer, pl_module)["loss"]
        log.info("Step %d of %d: loss %.4g, %s left", step, trainer.max_steps, loss, timedelta(seconds=round(left)))


class Throughput(Callback):
    """Log training images per second, the learning rate, and the GPU memory's peak (GiB)."""

    def __init__(self) -> None:
        self._images = self._step = 0
        self._since = 0.0
        self._lr = 0.0

    def on_train_batch_start(  # type: ignore[override]
        self, trainer: Trainer, pl_module: MultiTaskModule, batch: Batch, batch_idx: int
    ) -> None:
        """Note the learning rate of the step to come."""
        self._lr = trainer.optimizers[0].param_groups[0]["lr"]

    def on_train_start(self, trainer: Trainer, pl_module: MultiTaskModule) -> None:  # type: ignore[override]
        """Start counting."""
        self._images, self._since, self._step = 0, time.perf_counter(), trainer.global_step

    def on_validation_end(self, trainer: Trainer, pl_module: MultiTaskModule) -> None:  # type: ignore[override]
        """Leave validation out of the count."""
        self._images, self._since = 0, time.perf_counter()

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: Trainer, pl_module: MultiTaskModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Count, and log at the trainer's interval."""
        self._images += len(batch["id"]) * trainer.world_size
        accumulating, self._step = trainer.global_step == self._step, trainer.global_step
        if accumulating or trainer.global_step % trainer.log_every_n_steps:  # type: ignore[attr-defined]
            return
        now = time.perf_counter()
        values = {
            "perf/images_per_second": self._images / (now - self._since),
            "optimizer/lr": self._lr,
            "epoch": epoch_of(trainer, trainer.global_step - 1),
        }
        if pl_module.device.type == "cuda":
            values["perf/gpu_memory_gib"] = torch.cuda.max_memory_allocated(pl_module.device) / 2**30
        pl_module.log_dict(values)
        self._images, self._since = 0, now
