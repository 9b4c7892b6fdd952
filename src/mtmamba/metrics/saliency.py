"""Saliency: the probability of foreground."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtmamba.metrics.pairs import common_length, paired, probability_map, truth_map
from mtmamba.metrics.pooled import PooledMetric, check_binary, check_maps, per_image_counts, valid_probability
from mtmamba.types import IGNORE

BETA_SQUARED = 0.3
"""Weight of recall against precision."""

THRESHOLDS = tuple(k / 20 for k in range(1, 20))
"""The thresholds of the multi-task literature."""


def threshold_counts(probability: Tensor, target: Tensor, thresholds: Sequence[float] = THRESHOLDS) -> Tensor:
    """Each image's pixels by target and by the number K of thresholds that their probability reaches (``>=``).

    Thresholds are rounded to the probability's precision, so that a float32 0.95 reaches 0.95. Pixels whose target is
    neither 0 nor 1 are left out.
    Shape: ``(B, ...)`` twice → int64 ``(B, 2, K + 1)``.
    """
    bins = len(thresholds) + 1
    reached = torch.bucketize(probability, torch.tensor(thresholds, dtype=torch.float64).to(probability), right=True)
    codes = target.long().clamp(max=2) * bins + reached
    return per_image_counts(codes, 3 * bins).view(-1, 3, bins)[:, :2]


def precision_recall(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Both at each threshold from `threshold_counts`, 0 without a true positive: ``(…, 2, K + 1)`` → ``(…, K)``."""
    # Reached at least k thresholds: a cumulative sum from the right.
    negatives, positives = counts.flip(-1).cumsum(-1).flip(-1).double().unbind(-2)
    true, predicted, relevant = positives[..., 1:], (positives + negatives)[..., 1:], positives[..., :1]
    return true / predicted.clamp(min=1), true / relevant.clamp(min=1)


def f_measure(precision: Tensor, recall: Tensor) -> Tensor:
    """F with beta² 0.3, 0 where both are 0; any shape."""
    return (1 + BETA_SQUARED) * precision * recall / (BETA_SQUARED * precision + recall).clamp(min=1e-12)


class SaliencyFMeasure(PooledMetric):
    """Maximal F-measure in percent, ``{"maxF", "maxF_published"}``.

    F with beta² 0.3 from counts over the whole set, at thresholds 0.05, 0.10 … 0.95, then the maximum.
    ``maxF_published`` is the number in the tables of InvPT, TaskPrompter, MLoRE, TSP and MTMamba: their program takes
    the sigmoid of what is a probability already, so that five cuts remain: p >= 0, 0.2007, 0.4055, 0.6190, 0.8473.
    """

    counts: Tensor  # (2, 2, 20): probability as it is and after the sigmoid; target; thresholds reached

    def __init__(self) -> None:
        super().__init__()
        self.add_sum("counts", 2, 2, len(THRESHOLDS) + 1)

    def statistics(self, prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Count probabilities ``(B, H, W)`` against targets ``(B, H, W)`` of 0, 1 and 255."""
        check_maps(prediction, target)
        check_binary(target)
        prediction = valid_probability(prediction, target, target != IGNORE)
        readings = (prediction, prediction.sigmoid())
        return {"counts": torch.stack([threshold_counts(reading, target) for reading in readings], 1)}

    def score(self, sums: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Both percentages, NaN without a valid pixel."""
        counts = sums["counts"]
        seen = (counts != 0).flatten(-3).any(-1)
        best = torch.where(seen[..., None], 100 * f_measure(*precision_recall(counts)).amax(-1), torch.nan)
        return {"maxF": best[..., 0], "maxF_published": best[..., 1]}


@dataclass(frozen=True)
class SaliencyScores:
    """A set's numbers, as fractions; maxF is F with beta² 0.3 at the best threshold, and has four meanings.

    Attributes:
        mae: mean over the images of each one's mean absolute error.
        max_f: of all images' pixels together, as `SaliencyFMeasure`.
        max_f_published: the same after a second sigmoid, at 0.05 … 0.95, as the multi-task literature prints it.
        max_f_of_images: of the mean over the images of each one's F.
        max_f_of_means: of the mean precision and the mean recall over the images.
        counts: int64 ``(images, 2, thresholds + 1)``, see `threshold_counts`.
        errors: each image's mean absolute error, ``(images,)``.
    """

    mae: float
    max_f: float
    max_f_published: float
    max_f_of_images: float
    max_f_of_means: float
    counts: NDArray[np.int64] = field(repr=False)
    errors: NDArray[np.float64] = field(repr=False)


def evaluate_saliency(
    predictions: Iterable[NDArray[Any]],
    truths: Iterable[NDArray[np.bool_]],
    *,
    thresholds: Sequence[float] = THRESHOLDS,
) -> SaliencyScores:
    """Score saliency maps of any program and size.

    Both iterables are read once, image by image. Salient object detection takes ``thresholds=[k / 255 for k in
    range(256)]`` and one of the means over images; some of its programs first stretch each map to [0, 1], and so must
    you to get their numbers.

    Args:
        predictions: probabilities ``(H, W)`` in [0, 1]; uint8 maps are divided by 255.
        truths: ``(H, W)`` bool of the same size, true in the foreground.
        thresholds: ascending, within [0, 1]; a pixel is predicted where its value reaches the threshold (``>=``).

    Raises:
        ValueError: wrong thresholds; no image; a map of another shape, type or range, named by its index; more maps
            than truths or the reverse.

    Example:
        >>> truth = np.array([[True, True, False, False]])
        >>> evaluate_saliency([np.array([[1.0, 0.5, 0.5, 0.0]])], [truth]).mae
        0.25
    """
    common_length(predictions, truths)
    levels = [float(threshold) for threshold in thresholds]
    if not levels or sorted(set(levels)) != levels or not 0 <= levels[0] <= levels[-1] <= 1:
        raise ValueError(f"Expected ascending thresholds within [0, 1], got {levels}: sort them, each once.")
    rows, published, errors = [], [], []
    for index, prediction, truth in paired(predictions, truths):
        array = probability_map(prediction, index)
        array = array / 255 if array.dtype == np.uint8 else array
        probability = torch.from_numpy(array.astype(np.float64 if array.dtype.itemsize > 4 else np.float32))[None]
        target = torch.tensor(truth_map(truth, array.shape, index))[None]
        rows.append(threshold_counts(probability, target, levels))
        published.append(threshold_counts(probability.sigmoid(), target))
        errors.append((probability.double() - target.double()).abs().mean())
    if not rows:
        raise ValueError("Expected at least one image, got none: check the list of predictions.")
    counts = torch.cat(rows)
    precision, recall = precision_recall(counts)
    return SaliencyScores(
        mae=float(torch.stack(errors).mean()),
        max_f=float(f_measure(*precision_recall(counts.sum(0))).max()),
        max_f_published=float(f_measure(*precision_recall(torch.cat(published).sum(0))).max()),
        max_f_of_images=float(f_measure(precision, recall).mean(0).max()),
        max_f_of_means=float(f_measure(precision.mean(0), recall.mean(0)).max()),
        counts=counts.numpy(),
        errors=torch.stack(errors).numpy(),
    )
