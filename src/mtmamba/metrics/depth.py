"""Depth in metres."""

from collections.abc import Mapping

import torch
from torch import Tensor

from mtmamba.metrics.pooled import PooledMetric, check_maps, valid_prediction
from mtmamba.types import IGNORE

LOWEST_DISPARITY, HIGHEST_DISPARITY = 1e-9, 80.0
"""What predicted disparities are raised to, and below which true ones count, in pixels."""


class DepthError(PooledMetric):
    """Root mean square error over all valid pixels of the set (not per image), ``{"RMSE": metres}``.

    A negative prediction counts as 0.

    Example:
        >>> metric = DepthError()
        >>> metric.update(torch.tensor([[[1.0, 2.0, 7.0]]]), torch.tensor([[[4.0, 6.0, 255.0]]]))
        >>> round(metric.compute()["RMSE"].item(), 4)  # sqrt((9 + 16) / 2)
        3.5355
    """

    squares: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_sum("squares", dtype=torch.float64)
        self.add_sum("count")

    def statistics(self, prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Sum the squared errors of depths ``(B, H, W)`` against targets ``(B, H, W)``, both in metres."""
        check_maps(prediction, target)
        valid = target != IGNORE
        if (wrong := target[valid & (target <= 0)]).numel():
            raise ValueError(f"Expected true depths above 0 m, got {wrong[0].item():g}: mark unknown ones {IGNORE}.")
        metres = valid_prediction(prediction, target, valid).double().clamp(min=0)
        errors = metres - torch.where(valid, target, 0).double()
        return {"squares": errors.square().sum((1, 2)), "count": valid.sum((1, 2))}

    def score(self, sums: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The error, NaN without a valid pixel."""
        return {"RMSE": (sums["squares"].double() / sums["count"]).sqrt()}


class DisparityError(DepthError):
    """Root mean square error over the pixels whose true disparity lies between 0 and 80, ``{"RMSE": pixels}``.

    Disparities of 0 (the sky) or below (the release's mark of what was not measured) are not scored.
    Source: the release's evaluation on Cityscapes.

    Example:
        >>> metric = DisparityError()
        >>> metric.update(torch.tensor([[[1.0, 9.0, 9.0, 9.0]]]), torch.tensor([[[4.0, 0.0, -1.0, 80.0]]]))
        >>> metric.compute()["RMSE"].item()
        3.0
    """

    def statistics(self, prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Sum the squared errors of disparities ``(B, H, W)`` against targets ``(B, H, W)``, both in pixels."""
        scored = (target > 0) & (target < HIGHEST_DISPARITY)
        return super().statistics(prediction.clamp(min=LOWEST_DISPARITY), target.masked_fill(~scored, IGNORE))
