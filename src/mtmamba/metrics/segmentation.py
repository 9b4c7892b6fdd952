"""Classes: semantic segmentation and human parts."""

from collections.abc import Mapping

import torch
from torch import Tensor

from mtmamba.metrics.pooled import PooledMetric, check_maps, per_image_counts, valid_prediction
from mtmamba.types import IGNORE


def confusion_counts(prediction: Tensor, target: Tensor, num_classes: int) -> Tensor:
    """True positives, false positives and false negatives of each class over each image's valid pixels.

    Shape: integer ``(B, H, W)`` twice → int64 ``(B, 3, num_classes)``.

    Raises:
        ValueError: shapes differ, the prediction is no integer map, or a valid pixel's class is outside the classes.
    """
    for classes in (prediction, target):
        if isinstance(classes, Tensor) and classes.is_floating_point():
            raise ValueError(
                f"Expected integer classes, got {classes.dtype}: pass the task's prediction, not its logits."
            )
    check_maps(prediction, target)
    valid = target != IGNORE
    prediction = valid_prediction(prediction, target, valid)
    for name, classes in (("predicted", prediction), ("target", torch.where(valid, target, 0))):
        if classes.numel() and not (classes.min() >= 0 and classes.max() < num_classes):
            raise ValueError(
                f"Expected {name} classes in 0..{num_classes - 1}, got {classes.min()}..{classes.max()}: "
                "check the number of classes."
            )
    # Rows are target classes, and one more for the pixels that are not valid; columns are predicted classes.
    codes = torch.where(valid, target, num_classes).int() * num_classes + prediction.int()
    pairs = per_image_counts(codes, (num_classes + 1) * num_classes).view(-1, num_classes + 1, num_classes)
    pairs = pairs[:, :num_classes]
    hits = pairs.diagonal(dim1=1, dim2=2)
    return torch.stack((hits, pairs.sum(1) - hits, pairs.sum(2) - hits), 1)


def class_iou(counts: Tensor) -> Tensor:
    """Intersection over union of each class, 0 where it never occurs: ``(..., 3, n)`` → float64 ``(..., n)``."""
    return counts[..., 0, :].double() / counts.sum(-2).clamp(min=1)


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
        if not 1 <= num_classes <= IGNORE:
            raise ValueError(
                f"Expected 1 to {IGNORE} classes, got {num_classes}: {IGNORE} marks what is ignored, so the last class "
                f"is {IGNORE - 1}."
            )
        self.num_classes = num_classes
        self.add_sum("counts", 3, num_classes)

    def statistics(self, prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Count classes ``(B, H, W)`` against targets ``(B, H, W)``."""
        return {"counts": confusion_counts(prediction, target, self.num_classes)}

    def score(self, sums: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The percentage, NaN without a valid pixel."""
        seen = (sums["counts"] != 0).flatten(-2).any(-1)
        return {"mIoU": torch.where(seen, 100 * class_iou(sums["counts"]).mean(-1), torch.nan)}


class PartsMeanIoU(MeanIoU):
    """`MeanIoU` that leaves out every image whose target shows no part (background and 255 only)."""

    def statistics(self, prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Count the images that show a part: classes ``(B, H, W)`` against targets ``(B, H, W)``."""
        check_maps(prediction, target)
        shown = ((target != 0) & (target != IGNORE)).flatten(1).any(1)
        return super().statistics(prediction, target.masked_fill(~shown[:, None, None], IGNORE))
