"""What a task is to the rest of the program: one record, registered by name."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from numpy.typing import NDArray
from torch import Tensor, nn

from mtmamba.metrics import delta_m
from mtmamba.padding import resized
from mtmamba.tasks import legends, panels, pictures
from mtmamba.tasks.files import ArrayFile, PredictionFile
from mtmamba.types import Images

if TYPE_CHECKING:
    from mtmamba.metrics.pooled import PooledMetric  # importing torchmetrics takes as long as importing torch


class Protocol(NamedTuple):
    """How a task is scored: the version rises whenever the same predictions get other scores."""

    name: str
    version: int = 1
    description: str = "over all valid pixels of the set"


POOLED = Protocol("pooled")
"""The protocol of a task whose record names no other."""


@dataclass(frozen=True, eq=False)
class Task:
    """Every fact about one task; training, evaluation, files and pictures know tasks by these alone.

    The first seven are needed; the others have values that suit a map of real numbers.

    Attributes:
        name: key in batches, logits, configs and metrics; the folder of its predictions.
        title: name for people.
        loss: ``(logits (B, n, H, W), target) -> (B,)``, over an image's valid pixels; 0 where there are none.
        activate: logits ``(B, n, H, W)`` → float32 maps ``(B, m, H, W)`` that can be averaged over views of an image.
        metric: builds the metric from the task's number of outputs n.
        headline: the value of the metric that stands for the task in summaries.
        units: every value of the metric with its unit.
        lower_is_better: the values of the metric that fall as the model improves.
        decide: maps of ``activate`` or their average → what metric, picture and file take, on the target's grid. By
            default the maps ``(B, m, H, W)``; a single one is ``(B, H, W)``.
        loss_weight: in ``loss=weighted``, where that names no other.
        protocol: of the metric.
        file: the format of predictions in files.
        picture: one image's prediction or target ``(H, W)`` or ``(3, H, W)`` → RGB ``(H, W, 3)``.
        legend: names of the task's classes, or none, and what draws the picture → what its colours mean.
        dtype: of the target: ``uint8`` for classes and marks, ``float32`` for measurements.
        channels: of the target, where it has an axis of them; in a batch that axis comes first.
        outputs: of the network, where that is no number of classes; ``channels``, or 1, by default.
        statistics: target of a batch → float64 vector; vectors of batches and processes add up. None: the task has no
            best constant prediction to compare with.
        constant: the sum of such vectors → the best constant prediction for one pixel.
        mirrored: the channels that change sign when the image is mirrored.
        nearer: whether values are divided by s when the image is enlarged s times, as if the camera came nearer.
        guides_crop: whether training draws a crop again that shows too few of its classes.
        finish_target: the last step on an augmented target ``(h, w)``, such as ignoring it whole.
        boundaries: whether evaluation scores its 8-bit maps by the dataset's boundary benchmark.
        benchmark_units: the values that the benchmark adds, with their units.
    """

    name: str
    title: str
    loss: Callable[[Tensor, Tensor], Tensor]
    activate: Callable[[Tensor], Tensor]
    metric: "Callable[[int], PooledMetric]"
    headline: str
    units: Mapping[str, str]
    lower_is_better: frozenset[str] = frozenset()
    decide: Callable[[Tensor], Tensor] = lambda maps: maps.squeeze(1)
    loss_weight: float = 1.0
    protocol: Protocol = POOLED
    file: PredictionFile = field(default_factory=ArrayFile)
    picture: Callable[[Tensor], pictures.Picture] = pictures.stretched
    legend: Callable[[Sequence[str], pictures.Draw], legends.Legend] = legends.no_legend
    dtype: Literal["uint8", "float32"] = "float32"
    channels: int | None = None
    outputs: int | None = None
    statistics: Callable[[Tensor], Tensor] | None = None
    constant: Callable[[Tensor], Tensor] | None = None
    mirrored: tuple[int, ...] = ()
    nearer: bool = False
    guides_crop: bool = False
    finish_target: Callable[[NDArray[Any]], NDArray[Any]] = lambda target: target
    boundaries: bool = False
    benchmark_units: Mapping[str, str] = field(default_factory=dict)

    def predict(self, logits: Tensor) -> Tensor:
        """Turn logits ``(B, n, H, W)`` into what metric and picture take, on the target's grid."""
        return self.decide(self.activate(logits))

    @property
    def all_units(self) -> dict[str, str]:
        """The units of the metric's values and of those that the benchmark adds."""
        return {**self.units, **self.benchmark_units}

    def unit(self, name: str) -> str:
        """Return the unit of one of these values."""
        return self.all_units[name]

    def arrow(self, name: str) -> str:
        """Return which way one of these values goes as the model improves."""
        return "↓" if name in self.lower_is_better else "↑"


TAKEN = {*Images.__annotations__, *dir(nn.ModuleDict())}
"""Names that a task's parts would not be found under: a batch's own, and those of the modules that hold its heads."""

_registered: dict[str, Task] = {}


def register(task: Task) -> None:
    """Make a task known by its name. The order of registration is the order of tasks everywhere.

    Registering a name again replaces its record, in its old place.

    Raises:
        ValueError: the name is no identifier or is taken, or the record contradicts itself.
    """
    if not task.name.isidentifier():
        raise ValueError(f"Expected a task's name to be an identifier such as albedo, got {task.name!r}: rename it.")
    if task.name in TAKEN:
        raise ValueError(
            f"Expected a task's name that is none of a batch's or a module's own, got {task.name!r}: rename it."
        )
    if task.headline not in task.units or not {*task.lower_is_better} <= task.units.keys():
        raise ValueError(
            f"Expected units for the headline and all of lower_is_better of task {task.name}, got {dict(task.units)}: "
            "add them."
        )
    _registered[task.name] = task


def all_tasks() -> dict[str, Task]:
    """Return every registered task by name, in order."""
    return dict(_registered)


def get_task(name: str) -> Task:
    """Return a task by name.

    Raises:
        ValueError: there is none of this name.
    """
    return select_tasks([name])[0]


def select_tasks(names: Iterable[str]) -> list[Task]:
    """The named tasks' records in the order of registration, whatever the order of the names.

    Raises:
        ValueError: a name is unknown or given twice, or there is none.

    Example:
        >>> [task.title for task in select_tasks(["edge", "depth"])]
        ['Depth', 'Boundaries']
    """
    chosen = list(names)
    if not chosen or not set(chosen) <= _registered.keys() or len(set(chosen)) < len(chosen):
        raise ValueError(
            f"Expected one or more different tasks among {', '.join(_registered)}, got {chosen}: correct `tasks`, "
            "or name the file that registers yours in extensions=[FILE.py]."
        )
    return [task for task in _registered.values() if task.name in chosen]


def relative_gain(
    tasks: Iterable[Task],
    scores: Mapping[str, Mapping[str, float]],
    base: Mapping[str, Mapping[str, float]],
    *,
    partly: bool = False,
) -> float | None:
    """Return Delta_m in percent; None without a base, or where a task of the base has no score, or NaN.

    Args:
        tasks: to look at.
        scores: ``{task: {metric: value}}``.
        base: the single-task models' scores, one metric a task.
        partly: take the tasks that have both; such a figure compares the steps of one training, and with no other.
    """
    pairs = {
        task.name: (scores[task.name][metric], value, metric in task.lower_is_better)
        for task in tasks
        for metric, value in base.get(task.name, {}).items()
        if metric in scores[task.name] and not math.isnan(scores[task.name][metric])
    }
    if not pairs or (not partly and pairs.keys() != base.keys()):
        return None
    values, bases, lower = ({name: pair[i] for name, pair in pairs.items()} for i in range(3))
    return delta_m(values, bases, lower)


def constant_prediction(task: Task, statistics: Tensor, target: Tensor) -> Tensor:
    """The best constant prediction for every pixel of a target, as the task's metric takes it.

    Args:
        task: the record, with a ``constant``.
        statistics: the sum of ``task.statistics`` over the training set.
        target: a batch's target; only its shape and device matter.

    Raises:
        ValueError: the statistics saw no valid pixel.
    """
    assert task.constant is not None, f"{task.name} has no constant prediction"
    if not statistics.any():
        raise ValueError(f"Expected a valid {task.name} pixel in the training set, got none: check its targets.")
    return task.constant(statistics).to(target.device).expand(target.shape)


def target_grid(batch: Mapping[str, Any], tasks: Sequence[Task]) -> tuple[int, int]:
    """Return height and width of the targets in a batch, or a sample of one."""
    height, width = batch[tasks[0].name].shape[-2:]
    return height, width


def picture_row(
    tasks: Sequence[Task],
    batch: Mapping[str, Any],
    predictions: Mapping[str, Tensor],
    index: int,
    own: Mapping[str, Callable[[Tensor], pictures.Picture]],
) -> dict[str, pictures.Picture]:
    """One image of a batch and, for each task, its prediction beside its truth: a row of `panels.panel`.

    Args:
        tasks: the tasks to show.
        batch: a `Batch`: the image, the tasks' targets, and the size before padding, which is cut off.
        predictions: ``task.predict``'s results for the batch, by task name.
        index: which image of the batch.
        own: by task, the dataset's way to draw its maps, where that is not `Task.picture` (`DatasetRecord.pictures`).
    """
    row = {panels.IMAGE: pictures.photograph(resized(batch["image"], target_grid(batch, tasks))[index])}
    for task in tasks:
        draw = own.get(task.name, task.picture)
        row[task.title + panels.PREDICTION] = draw(predictions[task.name][index])
        row[task.title + panels.TRUTH] = draw(batch[task.name][index])
    height, width = batch["size"][index].tolist()
    return {title: pictures.without_padding(picture, (height, width)) for title, picture in row.items()}


def picture_keys(
    tasks: Sequence[Task],
    rows: Sequence[Mapping[str, pictures.Picture]],
    classes: Mapping[str, Sequence[str]],
    own: Mapping[str, Callable[[Tensor], pictures.Picture]],
) -> dict[str, Callable[[int], pictures.Picture]]:
    """What draws the key to each task's colours, for `pictures.panel`; of classes, to those that the rows show.

    Args:
        tasks: the tasks of the rows.
        rows: of `picture_row`.
        classes: the dataset's names by task (`DatasetRecord.classes`).
        own: see `picture_row`.
    """
    keys: dict[str, Callable[[int], pictures.Picture]] = {}
    for task in tasks:
        legend = task.legend(classes.get(task.name, ()), own.get(task.name, task.picture))
        if task.dtype == "uint8" and not legend.bar:
            legend = legend.of_shown(
                p for row in rows for title, p in row.items() if title.startswith(f"{task.title}\n")
            )
        keys[task.title] = legend.drawn
    return keys
