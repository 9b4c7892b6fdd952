"""One record per task: every fact about a task stands here, what computes it in losses, metrics and pictures."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from torch import Tensor

from mtmamba import losses
from mtmamba.metrics import DepthError, EdgeLoss, MeanIoU, NormalsError, PartsMeanIoU, SaliencyFMeasure, delta_m
from mtmamba.metrics.depth import depth_metres, depth_sums, mean_depth
from mtmamba.metrics.edge import edge_base_rate, edge_probability
from mtmamba.metrics.normals import mean_normal, normal_sums, unit_normals
from mtmamba.metrics.pooled import PooledMetric
from mtmamba.metrics.saliency import all_foreground, saliency_probability
from mtmamba.metrics.segmentation import class_counts, class_probabilities, likeliest_class, majority_class
from mtmamba.tasks import pictures
from mtmamba.types import TASKS


@dataclass(frozen=True, eq=False)
class Task:
    """What training, evaluation and pictures need to know about one task.

    Attributes:
        name: key in batches, logits, configs and metrics.
        title: name for people.
        loss: ``(logits (B, n, H, W), target) -> (B,)``.
        activate: logits ``(B, n, H, W)`` → float32 maps ``(B, m, H, W)`` that can be averaged over views of an image.
        decide: such maps or their average → what metric and picture take, on the target's grid.
        metric: builds the metric from the task's number of outputs n.
        headline: the value of the metric that stands for the task in summaries.
        units: every value of the metric with its unit.
        benchmark_units: the values that an evaluation adds from predictions in files, with their units.
        lower_is_better: the values of the metric that fall as the model improves.
        picture: one image's prediction or target ``(H, W)`` or ``(3, H, W)`` → RGB ``(H, W, 3)``.
        statistics: target of a batch → float64 vector; vectors of batches and processes add up.
        constant: the sum of such vectors → the best constant prediction for one pixel.
        mirrored: the channels of the activated maps that change sign when the image is mirrored.
        nearer: whether the maps are divided by s when the image is enlarged s times, as if the camera came nearer.
    """

    name: str
    title: str
    loss: Callable[[Tensor, Tensor], Tensor]
    activate: Callable[[Tensor], Tensor]
    decide: Callable[[Tensor], Tensor]
    metric: Callable[[int], PooledMetric]
    headline: str
    units: Mapping[str, str]
    lower_is_better: frozenset[str]
    picture: Callable[[Tensor], pictures.Picture]
    statistics: Callable[[Tensor], Tensor]
    constant: Callable[[Tensor], Tensor]
    benchmark_units: Mapping[str, str] = field(default_factory=dict)
    mirrored: tuple[int, ...] = ()
    nearer: bool = False

    def predict(self, logits: Tensor) -> Tensor:
        """Turn logits ``(B, n, H, W)`` into what metric and picture take, on the target's grid."""
        return self.decide(self.activate(logits))

    def unit(self, name: str) -> str:
        """Return the unit of one of the metric's or the benchmark's values."""
        return {**self.units, **self.benchmark_units}[name]


def _only(maps: Tensor) -> Tensor:
    """``(B, 1, H, W)`` → ``(B, H, W)``."""
    return maps[:, 0]


_RECORDS = (
    Task(
        name="semseg",
        title="Semantic segmentation",
        loss=losses.cross_entropy,
        activate=class_probabilities,
        decide=likeliest_class,
        metric=MeanIoU,
        headline="mIoU",
        units={"mIoU": "%"},
        lower_is_better=frozenset(),
        picture=pictures.class_colours,
        statistics=class_counts,
        constant=majority_class,
    ),
    Task(
        name="depth",
        title="Depth",
        loss=losses.depth_l1,
        activate=depth_metres,
        decide=_only,
        metric=lambda _: DepthError(),
        headline="RMSE",
        units={"RMSE": "m"},
        lower_is_better=frozenset({"RMSE"}),
        picture=pictures.depth_colours,
        statistics=depth_sums,
        constant=mean_depth,
        nearer=True,
    ),
    Task(
        name="human_parts",
        title="Human parts",
        loss=losses.cross_entropy,
        activate=class_probabilities,
        decide=likeliest_class,
        metric=PartsMeanIoU,
        headline="mIoU",
        units={"mIoU": "%"},
        lower_is_better=frozenset(),
        picture=pictures.class_colours,
        statistics=class_counts,
        constant=majority_class,
    ),
    Task(
        name="sal",
        title="Saliency",
        loss=losses.balanced_cross_entropy,
        activate=saliency_probability,
        decide=_only,
        metric=lambda _: SaliencyFMeasure(),
        headline="maxF",
        units={"maxF": "%", "maxF_published": "%"},
        lower_is_better=frozenset(),
        picture=pictures.greys,
        statistics=class_counts,
        constant=all_foreground,
    ),
    Task(
        name="normals",
        title="Surface normals",
        loss=losses.normals_l1,
        activate=unit_normals,
        decide=unit_normals,
        metric=lambda _: NormalsError(),
        headline="mErr",
        units={"mErr": "°", "median": "°", "within_11.25": "%", "within_22.5": "%", "within_30": "%"},
        lower_is_better=frozenset({"mErr", "median"}),
        picture=pictures.normal_colours,
        statistics=normal_sums,
        constant=mean_normal,
        mirrored=(0,),
    ),
    Task(
        name="edge",
        title="Boundaries",
        loss=losses.edge_cross_entropy,
        activate=edge_probability,
        decide=_only,
        metric=lambda _: EdgeLoss(),
        headline="loss",
        units={"loss": ""},
        lower_is_better=frozenset({"loss"}),
        picture=pictures.greys,
        statistics=class_counts,
        constant=edge_base_rate,
        benchmark_units={"odsF": "%", "oisF": "%", "AP": "%"},
    ),
)

TASK_RECORDS: Mapping[str, Task] = MappingProxyType({task.name: task for task in _RECORDS})
"""The records by name, in the canonical order."""


def select_tasks(names: Iterable[str]) -> list[Task]:
    """The named tasks' records in the canonical order, whatever the order of the names.

    Raises:
        ValueError: a name is unknown or given twice, or there is none.

    Example:
        >>> [task.title for task in select_tasks(["edge", "depth"])]
        ['Depth', 'Boundaries']
    """
    chosen = list(names)
    if not chosen or not set(chosen) <= set(TASKS) or len(set(chosen)) < len(chosen):
        raise ValueError(
            f"Expected one or more different tasks among {', '.join(TASKS)}, got {chosen}: correct `tasks`."
        )
    return [task for task in TASK_RECORDS.values() if task.name in chosen]


def relative_gain(
    tasks: Iterable[Task],
    scores: Mapping[str, Mapping[str, float]],
    base: Mapping[str, Mapping[str, float]],
) -> float | None:
    """Return Delta_m in percent over the tasks that have both a score and a base; None where there is none.

    Args:
        tasks: to look at.
        scores: ``{task: {metric: value}}``.
        base: the single-task models' scores, one metric a task.
    """
    pairs = {
        task.name: (scores[task.name][metric], value, metric in task.lower_is_better)
        for task in tasks
        for metric, value in base.get(task.name, {}).items()
        if metric in scores[task.name]
    }
    if not pairs:
        return None
    values, bases, lower = ({name: pair[i] for name, pair in pairs.items()} for i in range(3))
    return delta_m(values, bases, lower)


def constant_prediction(task: Task, statistics: Tensor, target: Tensor) -> Tensor:
    """The best constant prediction for every pixel of a target, as the task's metric takes it.

    Args:
        task: the record.
        statistics: the sum of ``task.statistics`` over the training set.
        target: a batch's target; only its shape and device matter.

    Raises:
        ValueError: the statistics saw no valid pixel.
    """
    if not statistics.any():
        raise ValueError(f"Expected a valid {task.name} pixel in the training set, got none: check its targets.")
    return task.constant(statistics).to(target.device).expand(target.shape)


def picture_row(
    tasks: Sequence[Task], batch: Mapping[str, Any], predictions: Mapping[str, Tensor], index: int
) -> dict[str, pictures.Picture]:
    """One image of a batch and, for each task, its prediction beside its truth: a row of `pictures.panel`.

    Args:
        tasks: the tasks to show.
        batch: a `Batch`: the image, the tasks' targets, and the size before padding, which is cut off.
        predictions: ``task.predict``'s results for the batch, by task name.
        index: which image of the batch.
    """
    row = {"Image": pictures.photograph(batch["image"][index])}
    for task in tasks:
        row[f"{task.title}\nprediction"] = task.picture(predictions[task.name][index])
        row[f"{task.title}\ntruth"] = task.picture(batch[task.name][index])
    height, width = batch["size"][index].tolist()
    return {title: pictures.without_padding(picture, (height, width)) for title, picture in row.items()}
