"""A run's page on Weights & Biases: sections by task, scores with their direction, masks, class tables, its row."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from numpy.typing import NDArray
from torch import Tensor

from mtmamba.metrics.segmentation import class_iou
from mtmamba.padding import crop
from mtmamba.runs.names import SETTINGS
from mtmamba.tasks import Task
from mtmamba.tasks.pictures import Picture
from mtmamba.training.validations import directions
from mtmamba.types import IGNORE

STEP = "trainer/global_step"
"""Lightning's name of the horizontal axis."""
ROW = "row"
"""The section for the numbers of `metrics.json`."""


class Masks(NamedTuple):
    """An image and, by a task's name, predicted and true classes ``(h, w)`` of its pixels, both of uint8."""

    image: Picture
    maps: Mapping[str, tuple[NDArray[np.uint8], NDArray[np.uint8]]]


def masks(image: Picture, maps: Mapping[str, tuple[Tensor, Tensor]], size: Sequence[int]) -> Masks:
    """Return an image and its classes, whose padding is cut off.

    Args:
        image: RGB ``(h, w, 3)``.
        maps: predicted and true classes ``(H, W)`` by task.
        size: h and w.
    """
    cut = {task: [crop(x, size).numpy(force=True) for x in both] for task, both in maps.items()}
    return Masks(image, {task: (mine, its) for task, (mine, its) in cut.items()})


def sectioned(name: str) -> str:
    """Return a metric's name with the task first, after which Weights & Biases sorts panels into sections.

    >>> sectioned("val/depth/RMSE"), sectioned("val/delta_m"), sectioned("epoch")
    ('depth/val/RMSE', 'val/delta_m', 'epoch')
    """
    return re.sub("^(train|val)/([^/]+)/(.+)$", r"\2/\1/\3", name)


class WandbRun(WandbLogger):
    """Lightning's logger, with a page that is sorted by task.

    Args:
        keep_checkpoint: whether the scored checkpoint becomes an artifact of the run; offline it is a copy that
            ``wandb sync`` sends.
        settings: Lightning's.
    """

    def __init__(self, *, keep_checkpoint: bool = False, **settings: Any) -> None:
        super().__init__(**settings)
        self.keep_checkpoint = keep_checkpoint

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log values under their task's section."""
        super().log_metrics({sectioned(name): value for name, value in metrics.items()}, step)

    @rank_zero_only
    def define(self, tasks: Sequence[Task]) -> None:
        """Say of every score whether its least or its greatest value is best: the run's summary holds that one."""
        for name, direction in directions(tasks).items():
            name = sectioned(name).replace(".", r"\.")  # a bare point would be a level of nesting
            self.experiment.define_metric(name, step_metric=STEP, step_sync=True, summary=direction)

    @rank_zero_only
    def log_masks(self, images: Sequence[Masks], classes: Mapping[str, Sequence[str]], step: int) -> None:
        """Log images under layers of classes that can be switched on and off.

        Args:
            images: what to show.
            classes: names of the classes by task.
            step: of the optimiser.
        """
        import wandb  # a second to import, and logger=csv does without it

        shown = []
        for image, maps in images:
            layers = {
                f"{task} {kind}": {
                    "mask_data": values,
                    "class_labels": {**dict(enumerate(classes[task])), IGNORE: "ignored"},
                }
                for task, both in maps.items()
                for kind, values in zip(("prediction", "truth"), both, strict=True)
            }
            shown.append(wandb.Image(image, masks=layers))
        self.experiment.log({"pictures/classes": shown, STEP: step})

    @rank_zero_only
    def log_classes(self, task: str, classes: Sequence[str], counts: Tensor, step: int) -> None:
        """Log a table of classes: intersection over union, and the pixels that have the class and that are given it.

        Args:
            task: whose classes.
            classes: their names.
            counts: of `mtmamba.metrics.segmentation.MeanIoU`, ``(3, n)``.
            step: of the optimiser.
        """
        hits, wrong, missed = counts.tolist()
        values = zip(
            classes, (100 * class_iou(counts)).tolist(), map(sum, zip(hits, missed, strict=True)),
            map(sum, zip(hits, wrong, strict=True)), strict=True,
        )  # fmt: skip
        columns = ["class", "IoU, %", "pixels", "predicted pixels"]
        self.log_table(f"{task}/classes", columns, [list(row) for row in values], step=step)

    @rank_zero_only
    def log_row(self, record: Mapping[str, Any], checkpoint: Path) -> None:
        """Put the run's row of the table into its summary, and its checkpoint beside it where that is asked for.

        Args:
            record: of ``metrics.json``.
            checkpoint: the scored one.
        """
        row = {
            f"{ROW}/{task}/{metric}": value
            for task, values in record["tasks"].items()
            for metric, value in values.items()
            if metric != "protocol"
        }
        names = ("delta_m", "parameters", "step", "seconds", "images")
        row |= {f"{ROW}/{name}": record[name] for name in names if record[name] is not None}
        self.experiment.summary.update(row)
        if self.keep_checkpoint:
            import wandb

            artifact = wandb.Artifact(f"model-{self.version}", "model", metadata=row)
            artifact.add_file(str(checkpoint))
            artifact.add_file(str(checkpoint.parents[1] / SETTINGS))
            self.experiment.log_artifact(artifact, aliases=["best"])
