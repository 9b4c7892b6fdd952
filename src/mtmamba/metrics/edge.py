"""Boundaries: the probability of an edge."""

from collections.abc import Mapping

import torch
from torch import Tensor

from mtmamba.losses import edge_weights
from mtmamba.metrics.pooled import PooledMetric, check_binary, check_maps, valid_probability
from mtmamba.types import IGNORE

RESOLUTION = 2.0**-24
"""Probabilities are taken no closer to 0 or 1 than this, float32's resolution below 1: no pixel's loss exceeds 15.9."""


class EdgeLoss(PooledMetric):
    """The training loss over all valid pixels of the set, ``{"loss"}``: cross entropy weighted 0.95 and 0.05."""

    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_sum("total", dtype=torch.float64)
        self.add_sum("count")

    def statistics(self, prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Sum the losses of probabilities ``(B, H, W)`` against targets ``(B, H, W)`` of 0, 1 and 255."""
        check_maps(prediction, target)
        check_binary(target)
        valid = target != IGNORE
        probability = valid_probability(prediction, target, valid).double().clamp(RESOLUTION, 1 - RESOLUTION)
        positive = target == 1
        losses = torch.where(positive, probability, 1 - probability).log().neg() * edge_weights(positive.double())
        return {"total": torch.where(valid, losses, 0).sum((1, 2)), "count": valid.sum((1, 2))}

    def score(self, sums: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The loss, NaN without a valid pixel."""
        return {"loss": sums["total"].double() / sums["count"]}
