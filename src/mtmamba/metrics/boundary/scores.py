"""From counts to precision, recall and F."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

COLUMNS = ("matched_truths", "truths", "matched_predictions", "predictions")
"""What is counted of each image at each threshold, in pixels; truths add up over the annotators."""


@dataclass(frozen=True)
class BoundaryScores:
    """The benchmark's numbers, as fractions.

    Attributes:
        ods: the best F of any one threshold for the whole set (optimal dataset scale), odsF.
        ois: F of the counts summed over each image's own best threshold (optimal image scale).
        ap: average precision, a hundredth of the sum of the curve's heights at the recalls 0, 0.01 … 1.
        threshold: where F is best, the lowest of equals.
        precision: at that threshold.
        recall: at that threshold.
        counts: int64 ``(images, thresholds, 4)``, in the order of `COLUMNS`.
        thresholds: ``(thresholds,)``, ascending.
        empty_precision: where nothing is predicted.
    """

    ods: float
    ois: float
    ap: float
    threshold: float
    precision: float
    recall: float
    counts: NDArray[np.int64] = field(repr=False)
    thresholds: Floats = field(repr=False)
    empty_precision: float = field(repr=False)

    def curve(self) -> tuple[Floats, Floats]:
        """Precision and recall of the whole set at each threshold: ``(thresholds,)`` twice."""
        return precision_recall(self.counts.sum(0), self.empty_precision)


def precision_recall(counts: NDArray[np.int64], empty_precision: float = 0.0) -> tuple[Floats, Floats]:
    """Precision and recall of counts ``(…, 4)``.

    Where nothing is predicted the precision is ``empty_precision``; where there is no truth the recall is 0.
    """
    matched_truths, truths, matched_predictions, predictions = np.moveaxis(counts, -1, 0)
    precision = np.where(predictions > 0, matched_predictions / np.maximum(predictions, 1), empty_precision)
    return precision, matched_truths / np.maximum(truths, 1)


def f_measure(precision: Floats, recall: Floats) -> Floats:
    """Harmonic mean of precision and recall, 0 where both are 0; any shape."""
    total = precision + recall
    return 2 * precision * recall / np.where(total > 0, total, 1)


def average_precision(precision: Floats, recall: Floats) -> float:
    """0.01 times the sum, over recalls 0, 0.01 … 1, of the precision interpolated linearly; 0 beyond the curve's ends.

    Of several points with the same recall the first counts.
    """
    recalls, first = np.unique(recall, return_index=True)
    heights = np.interp(np.arange(101) / 100, recalls, precision[first], left=0, right=0)
    return float(heights.sum() / 100)


def pool(counts: NDArray[np.int64], thresholds: Sequence[float], empty_precision: float = 0.0) -> BoundaryScores:
    """Score the counts of a set of images: first sums, then ratios.

    Args:
        counts: ``(images, thresholds, 4)``, in the order of `COLUMNS`; parts of a set may be joined along the images.
        thresholds: that they were counted at, ascending.
        empty_precision: at a threshold where nothing is predicted in the whole set; only AP depends on it.

    Example:
        >>> pool(np.array([[[1, 2, 1, 1]], [[1, 2, 2, 3]]]), [0.5])
        BoundaryScores(ods=0.6, ois=0.6, ap=0.0075, threshold=0.5, precision=0.75, recall=0.5)
    """
    precision, recall = precision_recall(counts.sum(0), empty_precision)
    f = f_measure(precision, recall)
    best = int(f.argmax())
    own = f_measure(*precision_recall(counts)).argmax(1)
    own_counts = counts[np.arange(len(counts)), own].sum(0)
    return BoundaryScores(
        ods=float(f[best]),
        ois=float(f_measure(*precision_recall(own_counts))),
        ap=average_precision(precision, recall),
        threshold=float(thresholds[best]),
        precision=float(precision[best]),
        recall=float(recall[best]),
        counts=counts,
        thresholds=np.array(thresholds, np.float64),
        empty_precision=empty_precision,
    )
