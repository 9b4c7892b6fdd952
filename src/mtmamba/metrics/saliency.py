"""Saliency: the probability of foreground."""

from collections.abc import Mapping

import torch
from torch import Tensor

from mtmamba.metrics.pooled import PooledMetric, per_image_counts, valid_probability
from mtmamba.types import IGNORE

BETA_SQUARED = 0.3
"""Weight of recall against precision."""

STEPS = 20
"""Thresholds are 1/20, 2/20 … 19/20."""


def saliency_probability(logits: Tensor) -> Tensor:
    """Probability of class 1: ``(B, 2, H, W)`` → float32 ``(B, 1, H, W)``."""
    return logits.float().softmax(1)[:, 1:]


def all_foreground(counts: Tensor) -> Tensor:
    """The constant with the best maxF, whatever was counted: float32 scalar 1."""
    return torch.ones((), device=counts.device)


def threshold_counts(probability: Tensor, target: Tensor) -> Tensor:
    """Each image's pixels by target and by the number of thresholds that their probability reaches (``>=``).

    Thresholds are rounded to the probability's precision, so that a float32 0.95 reaches 0.95. Pixels whose target is
    neither 0 nor 1 are left out.
    Shape: ``(B, ...)`` twice → int64 ``(B, 2, 20)``.
    """
    thresholds = (torch.arange(1, STEPS, dtype=torch.float64) / STEPS).to(probability)
    reached = torch.bucketize(probability, thresholds, right=True)
    codes = target.long().clamp(max=2) * STEPS + reached
    return per_image_counts(codes, 3 * STEPS).view(-1, 3, STEPS)[:, :2]


def f_measures(counts: Tensor) -> Tensor:
    """F at each threshold from `threshold_counts`, 0 without a true positive: ``(…, 2, 20)`` → float64 ``(…, 19)``."""
    # Reached at least k thresholds: a cumulative sum from the right.
    negatives, positives = counts.flip(-1).cumsum(-1).flip(-1).double().unbind(-2)
    true, predicted, relevant = positives[..., 1:], (positives + negatives)[..., 1:], positives[..., :1]
    return (1 + BETA_SQUARED) * true / (BETA_SQUARED * relevant + predicted).clamp(min=1e-12)


class SaliencyFMeasure(PooledMetric):
    """Maximal F-measure in percent, ``{"maxF", "maxF_published"}``.

    F with beta² 0.3 from counts over the whole set, at thresholds 0.05, 0.10 … 0.95, then the maximum.
    ``maxF_published`` is the number in the tables of InvPT, TaskPrompter, MLoRE, TSP and MTMamba: their program takes
    the sigmoid of what is a probability already, so that five cuts remain: p >= 0, 0.2007, 0.4055, 0.6190, 0.8473.
    """

    counts: Tensor  # (2, 2, 20): probability as it is and after the sigmoid; target; thresholds reached

    def __init__(self) -> None:
        super().__init__()
        self.add_sum("counts", 2, 2, STEPS)

    def statistics(self, prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Count probabilities ``(B, H, W)`` against targets ``(B, H, W)`` of 0, 1 and 255."""
        prediction = valid_probability(prediction, target, target != IGNORE)
        readings = (prediction, prediction.sigmoid())
        return {"counts": torch.stack([threshold_counts(reading, target) for reading in readings], 1)}

    def score(self, sums: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Both percentages, NaN without a valid pixel."""
        counts = sums["counts"]
        seen = (counts != 0).flatten(-3).any(-1)
        best = torch.where(seen[..., None], 100 * f_measures(counts).amax(-1), torch.nan)
        return {"maxF": best[..., 0], "maxF_published": best[..., 1]}
