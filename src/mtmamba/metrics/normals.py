"""Surface normals."""

from collections.abc import Mapping

import torch
from torch import Tensor

from mtmamba.metrics.pooled import PooledMetric, check_maps, per_image_counts, valid_prediction
from mtmamba.types import IGNORE

BINS_PER_DEGREE = 100
"""Resolution of the histogram of errors: the median is known to half a bin, 0.005 degrees."""

SHARES = (11.25, 22.5, 30.0)
"""Errors in degrees below which the share of pixels is reported; multiples of a bin, so the shares are exact."""


def angles(prediction: Tensor, target: Tensor) -> Tensor:
    """Degrees between vectors, ``2 atan2(|p - g|, |p + g|)`` of the normalised two: exact near 0 and 180 as well.

    A vector of length 0 lies at 90 degrees from every other. Shape: ``(B, 3, ...)`` twice → float64 ``(B, ...)``.
    """
    p, g = (vectors.double() / _length(vectors.double()).clamp(min=1e-12)[:, None] for vectors in (prediction, target))
    return torch.rad2deg(2 * torch.atan2(_length(p - g), _length(p + g)))


def _length(vectors: Tensor) -> Tensor:
    """``(B, 3, ...)`` → ``(B, ...)``; on a CPU ten times as fast as `torch.linalg.vector_norm`."""
    x, y, z = vectors.unbind(1)
    return (x * x + y * y + z * z).sqrt()


class NormalsError(PooledMetric):
    """Angle between predicted and true normal over all valid pixels of the set.

    ``mErr`` and ``median`` in degrees; ``within_11.25``, ``within_22.5`` and ``within_30``: the percentage of pixels
    with a smaller error. The median (the lower one) comes from a histogram of 0.01 degrees, exact to 0.005.
    """

    total: Tensor
    histogram: Tensor  # pixels by error

    def __init__(self) -> None:
        super().__init__()
        self.add_sum("total", dtype=torch.float64)
        self.add_sum("histogram", 180 * BINS_PER_DEGREE)

    def statistics(self, prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Sum and sort the angles of vectors ``(B, 3, H, W)`` against unit vectors ``(B, 3, H, W)``."""
        check_maps(prediction, target, channels=3)
        valid = target[:, 0] != IGNORE
        prediction = valid_prediction(prediction, target, valid[:, None])
        errors = angles(prediction, target)  # (B, H, W)
        bins = len(self.histogram)
        # 180 degrees belongs to the last bin; one more collects the pixels that are not valid.
        index = torch.where(valid, (errors * BINS_PER_DEGREE).long().clamp(max=bins - 1), bins)
        histogram = per_image_counts(index, bins + 1)[:, :bins]
        return {"total": torch.where(valid, errors, 0).sum((1, 2)), "histogram": histogram}

    def score(self, sums: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The five values, NaN without a valid pixel."""
        cumulative = sums["histogram"].cumsum(-1)
        count = cumulative[..., -1]
        middle = torch.searchsorted(cumulative, ((count + 1) // 2)[..., None])[..., 0]
        median = (middle.double() + 0.5) / BINS_PER_DEGREE
        shares = {
            f"within_{degrees:g}": 100 * cumulative[..., round(degrees * BINS_PER_DEGREE) - 1].double() / count
            for degrees in SHARES
        }
        return {"mErr": sums["total"].double() / count, "median": torch.where(count > 0, median, torch.nan), **shares}
