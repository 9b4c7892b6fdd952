"""What the metrics share: sums over every valid pixel of a set, exact under any number of processes."""

from abc import abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor
from torchmetrics import Metric

from mtmamba.types import IGNORE


class PooledMetric(Metric):
    """A metric that is a function of int64 and float64 sums over the valid pixels of a whole set.

    ``statistics`` gives each image's part of the sums and ``score`` the values that belong to any sums, so that one
    pair of functions serves the whole set, a single image and every resample of a bootstrap. Processes add up their
    sums: the result does not depend on how the images were spread. Values are float64, NaN where no valid pixel was
    seen (a subset without a person, say): it is for the caller to leave such a value out. Devices without float64
    (Apple's MPS) are not supported: move the maps to the CPU.
    """

    full_state_update = False

    def add_sum(self, name: str, *shape: int, dtype: torch.dtype = torch.int64) -> None:
        """Add a state of zeros that processes sum up."""
        self.add_state(name, torch.zeros(shape, dtype=dtype), dist_reduce_fx="sum")

    @abstractmethod
    def statistics(self, prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
        """What each image of a batch adds to the sums: ``{sum: (B, *shape of the sum)}``."""

    @abstractmethod
    def score(self, sums: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The values of sums: ``{sum: (..., *shape)}`` → ``{value: float64 (...)}``."""

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Add a batch's statistics to the sums."""
        for name, values in self.statistics(prediction, target).items():
            setattr(self, name, getattr(self, name) + values.sum(0))

    def compute(self) -> dict[str, Tensor]:
        """The values of all images together."""
        return self.score(self.sums())

    def sums(self) -> dict[str, Tensor]:
        """The sums of the images that this process has seen (of all, within `compute`)."""
        return {name: getattr(self, name) for name in self._defaults}


def check_maps(prediction: Tensor, target: Tensor, channels: int | None = None) -> None:
    """Require a prediction and a target of one shape: ``(B, H, W)``, or ``(B, channels, H, W)``.

    Raises:
        TypeError: one of them is no tensor.
        ValueError: a shape is another.
    """
    for name, maps in (("prediction", prediction), ("target", target)):
        if not isinstance(maps, Tensor):
            raise TypeError(f"Expected the {name} as a torch.Tensor, got {type(maps).__name__}: use torch.as_tensor.")
        if maps.ndim != (3 if channels is None else 4) or (channels is not None and maps.shape[1] != channels):
            expected = "(B, H, W)" if channels is None else f"(B, {channels}, H, W)"
            raise ValueError(
                f"Expected the {name} of shape {expected}, got {tuple(maps.shape)}: pass the task's prediction, not "
                "its logits, with channels first and a batch axis."
            )
    if prediction.shape != target.shape:
        raise ValueError(
            f"Expected a prediction of the target's shape {tuple(target.shape)}, got {tuple(prediction.shape)}: "
            "pass the task's prediction, not its logits."
        )


def check_binary(target: Tensor) -> None:
    """Require a target of 0, 1 and 255.

    Raises:
        ValueError: it holds other values.
    """
    wrong = target[(target != 0) & (target != 1) & (target != IGNORE)]
    if wrong.numel():
        raise ValueError(f"Expected targets of 0, 1 and {IGNORE}, got {wrong[0].item():g}: correct the labels.")


def valid_prediction(prediction: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """The prediction with 0 in place of what is not valid.

    Shape: ``(B, ..., H, W)`` twice and a mask that broadcasts to them → ``(B, ..., H, W)``.

    Raises:
        ValueError: a valid prediction or target is not finite.
    """
    prediction = torch.where(valid, prediction, 0)
    broken = int((~prediction.isfinite()).sum())
    if broken:
        raise ValueError(f"Expected finite predictions, got {broken} NaN or infinite values: the model has diverged.")
    if target.is_floating_point() and not torch.where(valid, target, 0).isfinite().all():
        raise ValueError(f"Expected finite targets, got NaN or infinite values: set what is unknown to {IGNORE}.")
    return prediction


def valid_probability(prediction: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """`valid_prediction` of a prediction that must lie in [0, 1].

    Raises:
        ValueError: as `valid_prediction`, or a valid prediction lies outside [0, 1].
    """
    prediction = valid_prediction(prediction, target, valid)
    if prediction.numel() and not (prediction.min() >= 0 and prediction.max() <= 1):
        raise ValueError(
            f"Expected probabilities in [0, 1], got {prediction.min():.4g} to {prediction.max():.4g}: "
            "pass the task's prediction, not its logits."
        )
    return prediction


def per_image_counts(codes: Tensor, num_codes: int) -> Tensor:
    """How often each code 0 .. num_codes - 1 occurs in each image: integers ``(B, ...)`` → int64 ``(B, num_codes)``."""
    images = len(codes)
    first = num_codes * torch.arange(images, dtype=codes.dtype, device=codes.device)
    shifted = codes.flatten(1) + first[:, None]
    return torch.bincount(shifted.flatten(), minlength=images * num_codes).view(images, num_codes)
