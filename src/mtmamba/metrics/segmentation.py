"""Classes: semantic segmentation and human parts."""

import torch
from torch import Tensor

from mtmamba.metrics.pooled import PooledMetric, valid_pixels
from mtmamba.types import IGNORE


def predict_classes(logits: Tensor) -> Tensor:
    """The likeliest class of each pixel: ``(B, n, H, W)`` → uint8 ``(B, H, W)``."""
    return logits.argmax(1).to(torch.uint8)


def class_counts(target: Tensor) -> Tensor:
    """Valid pixels of each class 0..254: ``(B, H, W)`` → float64 ``(255,)``."""
    return torch.bincount(target[target != IGNORE].long(), minlength=IGNORE).double()


def majority_class(counts: Tensor) -> Tensor:
    """The commonest class of `class_counts`, the constant with the best mIoU: uint8 scalar."""
    return counts.argmax().to(torch.uint8)


def confusion_counts(prediction: Tensor, target: Tensor, num_classes: int) -> Tensor:
    """True positives, false positives and false negatives of each class over the valid pixels.

    Shape: integer ``(B, H, W)`` twice → int64 ``(3, num_classes)``.

    Raises:
        ValueError: shapes differ, the prediction is no integer map, or a valid pixel's class is outside the classes.
    """
    if prediction.is_floating_point():
        raise ValueError(
            f"Expected integer classes, got {prediction.dtype}: pass the task's prediction, not its logits."
        )
    prediction, target = valid_pixels(prediction.long(), target.long(), target != IGNORE)
    for name, classes in (("predicted", prediction), ("target", target)):
        if classes.numel() and not (classes.min() >= 0 and classes.max() < num_classes):
            raise ValueError(
                f"Expected {name} classes in 0..{num_classes - 1}, got {classes.min()}..{classes.max()}: "
                "check the number of classes."
            )
    predicted = torch.bincount(prediction, minlength=num_classes)
    true = torch.bincount(target, minlength=num_classes)
    hits = torch.bincount(target[prediction == target], minlength=num_classes)
    return torch.stack((hits, predicted - hits, true - hits))


class MeanIoU(PooledMetric):
    """Mean intersection over union, ``{"mIoU": percent}``.

    Counts are taken over the whole set, then tp / (tp + fp + fn) is averaged over all classes; a class absent from
    predictions and targets counts 0.
    Source: the protocol of the released evaluation.

    Example:
        >>> metric = MeanIoU(2)
        >>> metric.update(torch.tensor([[[0, 1, 1]]]), torch.tensor([[[0, 0, 255]]]))
        >>> metric.compute()["mIoU"].item()
        25.0
    """

    counts: Tensor  # (3, num_classes): true positives, false positives, false negatives

    def __init__(self, num_classes: int):
        super().__init__()
        self.num_classes = num_classes
        self.add_sum("counts", 3, num_classes)

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Count classes ``(B, H, W)`` against targets ``(B, H, W)``."""
        self.counts = self.counts + confusion_counts(prediction, target, self.num_classes)

    def compute(self) -> dict[str, Tensor]:
        """The percentage, NaN before any valid pixel."""
        iou = self.counts[0].double() / self.counts.sum(0).clamp(min=1)
        return {"mIoU": torch.where(self.counts.any(), 100 * iou.mean(), torch.nan)}


class PartsMeanIoU(MeanIoU):
    """`MeanIoU` that leaves out every image whose target shows no part (background and 255 only)."""

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Count the images that show a part: classes ``(B, H, W)`` against targets ``(B, H, W)``."""
        shown = ((target != 0) & (target != IGNORE)).flatten(1).any(1)
        super().update(prediction, target.masked_fill(~shown[:, None, None], IGNORE))
