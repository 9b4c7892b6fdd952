"""What the metrics share: sums over every valid pixel of a set, exact under any number of processes."""

import torch
from torch import Tensor
from torchmetrics import Metric


class PooledMetric(Metric):
    """A metric computed from int64 and float64 sums over the valid pixels of a whole set.

    Processes add up their sums, so the result does not depend on how the images were spread. ``compute`` returns
    float64 values by name, NaN where no valid pixel was seen (a subset without a person, say): it is for the caller
    to leave such a value out. Devices without float64 (Apple's MPS) are not supported: move the maps to the CPU.
    """

    full_state_update = False

    def add_sum(self, name: str, *shape: int, dtype: torch.dtype = torch.int64) -> None:
        """Add a state of zeros that processes sum up."""
        self.add_state(name, torch.zeros(shape, dtype=dtype), dist_reduce_fx="sum")


def valid_pixels(prediction: Tensor, target: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """The prediction's and the target's values where ``valid``, as lists of pixels.

    Shape: ``(B, H, W, …)`` twice and ``(B, H, W)`` → ``(N, …)`` twice.

    Raises:
        ValueError: the shapes differ, or a picked prediction is not finite.
    """
    if prediction.shape != target.shape:
        raise ValueError(
            f"Expected a prediction of the target's shape {tuple(target.shape)}, got {tuple(prediction.shape)}: "
            "pass the task's prediction, not its logits."
        )
    prediction, target = prediction[valid], target[valid]
    broken = int((~prediction.isfinite()).sum())
    if broken:
        raise ValueError(f"Expected finite predictions, got {broken} NaN or infinite values: the model has diverged.")
    return prediction, target


def valid_probabilities(prediction: Tensor, target: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """`valid_pixels` of a prediction that must lie in [0, 1].

    Raises:
        ValueError: as `valid_pixels`, or a picked prediction lies outside [0, 1].
    """
    prediction, target = valid_pixels(prediction, target, valid)
    if prediction.numel() and not (prediction.min() >= 0 and prediction.max() <= 1):
        raise ValueError(
            f"Expected probabilities in [0, 1], got {prediction.min():.4g} to {prediction.max():.4g}: "
            "pass the task's prediction, not its logits."
        )
    return prediction, target
