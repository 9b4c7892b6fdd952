"""Every image's part of the sums that metrics are computed from, and what follows from it.

The score of a set, of one image, or of a resample of the set is the same function of sums. So intervals need neither
the pixels nor the model again: a bootstrap sample is a weighted sum of the images' statistics.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mtmamba.metrics.pooled import PooledMetric

Statistics = Mapping[str, Tensor]
"""One task's statistics by the name of the sum, each ``(N, *shape)`` with a row per image."""

Score = Callable[[Statistics], Mapping[str, Tensor]]
"""Sums ``(..., *shape)`` → values ``(...)``, as `PooledMetric.score`."""

CONFIDENCE = 0.95
_CHUNK = 50  # sums scored at once: a histogram of normals' errors has 18,000 numbers


def image_statistics(
    metrics: Mapping[str, PooledMetric], predictions: Mapping[str, Tensor], targets: Mapping[str, Any]
) -> dict[str, dict[str, Tensor]]:
    """Return the statistics of a batch's images, on the CPU, from predictions and targets as the metrics take them."""
    return {
        task: {name: _compact(x) for name, x in metric.statistics(predictions[task], targets[task]).items()}
        for task, metric in metrics.items()
    }


class ImageStatistics:
    """Collect each image's statistics over the batches of one process, or of several.

    Args:
        tasks: their names.
    """

    def __init__(self, tasks: Iterable[str]) -> None:
        self._ids: list[str] = []
        self._found: dict[str, list[Statistics]] = {task: [] for task in tasks}

    def add(self, ids: Sequence[str], found: Mapping[str, Statistics]) -> None:
        """Add a batch's `image_statistics`."""
        self._ids += ids
        for task, parts in self._found.items():
            parts.append(found[task])

    def gather(self, order: Sequence[str]) -> dict[str, dict[str, Tensor]] | None:
        """Return the images of every process in this order; None in all processes but the first.

        Args:
            order: each image's id once.
        """
        mine = (self._ids, {task: _joined(parts) for task, parts in self._found.items()})
        parts = [mine]
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            first = torch.distributed.get_rank() == 0
            parts = [mine] * torch.distributed.get_world_size()
            torch.distributed.gather_object(mine, parts if first else None)
            if not first:
                return None
        place = {image: i for i, image in enumerate(image for ids, _ in parts for image in ids)}
        rows = torch.tensor([place[image] for image in order])
        return {
            task: {name: values[rows] for name, values in _joined([found[task] for ids, found in parts if ids]).items()}
            for task in self._found
        }


@dataclass(frozen=True)
class Assessment:
    """Scores of a set of images by task and metric.

    Attributes:
        scores: of the whole set, NaN where nothing could be scored.
        intervals: percentile intervals of 95 % over resamples of the images.
        resamples: each resample's values ``(R,)``; the same resamples for all tasks.
        images: each image's own values ``(N,)``.
    """

    scores: dict[str, dict[str, float]]
    intervals: dict[str, dict[str, tuple[float, float]]]
    resamples: dict[str, dict[str, Tensor]]
    images: dict[str, dict[str, Tensor]]


def assess(
    statistics: Mapping[str, Statistics], score: Mapping[str, Score], *, resamples: int, seed: int
) -> Assessment:
    """Score a set of images, each image, and resamples of the set.

    Args:
        statistics: by task, the same images in the same order.
        score: by task.
        resamples: of the bootstrap; 0 for no intervals.
        seed: of the resamples.
    """
    result = Assessment({}, {}, {}, {})
    weights: Tensor | None = None
    for task, found in statistics.items():
        whole = score[task]({name: values.sum(0) for name, values in found.items()})
        result.scores[task] = {name: float(value) for name, value in whole.items()}
        result.images[task] = _score_rows(
            score[task], ({name: values[rows] for name, values in found.items()} for rows in _chunks(found))
        )
        if resamples:
            if weights is None:
                weights = resample_weights(len(next(iter(found.values()))), resamples, seed)
            result.resamples[task] = bootstrap(found, score[task], weights)
            result.intervals[task] = {name: interval(values) for name, values in result.resamples[task].items()}
    return result


def resample_weights(images: int, resamples: int, seed: int) -> Tensor:
    """How often each image is drawn in each resample with replacement: float64 ``(resamples, images)``."""
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.multinomial(images, np.full(images, 1 / images), resamples).astype(np.float64))


def bootstrap(statistics: Statistics, score: Score, weights: Tensor) -> dict[str, Tensor]:
    """Score every resample: weights ``(R, N)`` → ``{value: (R,)}``.

    A class that the whole set shows and a resample does not counts 0 there, by mIoU's definition: on few images the
    interval of mIoU reaches low.
    """
    flat = {name: values.reshape(len(values), -1).double() for name, values in statistics.items()}
    return _score_rows(
        score,
        (
            {name: (rows @ flat[name]).view(-1, *values.shape[1:]) for name, values in statistics.items()}
            for rows in weights.split(_CHUNK)
        ),
    )


def interval(values: Tensor) -> tuple[float, float]:
    """The percentile interval of resampled values ``(R,)``, those left out that are NaN; NaN where all are."""
    finite = values[~values.isnan()]
    if not len(finite):
        return float("nan"), float("nan")
    tail = (1 - CONFIDENCE) / 2
    low, high = torch.quantile(finite, finite.new_tensor([tail, 1 - tail])).tolist()
    return low, high


def _compact(values: Tensor) -> Tensor:
    """Move to the CPU; an image's counts fit 32 bits."""
    return (values if values.is_floating_point() else values.int()).cpu()


def _score_rows(score: Score, chunks: Iterable[Statistics]) -> dict[str, Tensor]:
    """Score sums that come in chunks ``(n, *shape)``: ``{value: (all,)}``."""
    return _joined([score(chunk) for chunk in chunks])


def _chunks(statistics: Statistics) -> list[slice]:
    return [slice(i, i + _CHUNK) for i in range(0, len(next(iter(statistics.values()))), _CHUNK)]


def _joined(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]} if parts else {}
