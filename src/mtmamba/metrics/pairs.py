"""Predictions and truths from anywhere, image by image: paired, counted and checked."""

from collections.abc import Iterable, Iterator, Sized
from itertools import zip_longest
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MISSING: Any = object()


def common_length(predictions: Iterable[Any], truths: Iterable[Any]) -> int | None:
    """Return the number of images, where it is known.

    Raises:
        ValueError: there are more of the one than of the other.
    """
    lengths = [len(images) for images in (predictions, truths) if isinstance(images, Sized)]
    if len(set(lengths)) > 1:
        raise ValueError(f"Expected a truth for each prediction, got {lengths[0]} and {lengths[1]}: pair them by id.")
    return lengths[0] if lengths else None


def paired(predictions: Iterable[Any], truths: Iterable[Any]) -> Iterator[tuple[int, Any, Any]]:
    """Yield each image's index, prediction and truth.

    Raises:
        ValueError: one side ends before the other.
    """
    for index, (prediction, truth) in enumerate(zip_longest(predictions, truths, fillvalue=_MISSING)):
        if prediction is _MISSING or truth is _MISSING:
            short = "prediction" if prediction is _MISSING else "truth"
            raise ValueError(
                f"Expected a truth for each prediction, got no {short} for image {index}: pair them by id."
            )
        yield index, prediction, truth


def probability_map(prediction: Any, index: int) -> NDArray[Any]:
    """Return a map of probabilities as an array: ``(H, W)``, uint8 as it is, any other type within [0, 1].

    Raises:
        ValueError: another shape, type or range, NaN included.
    """
    array = _plain(prediction)
    if array.ndim != 2 or not array.size or array.dtype.kind not in "fbiu":
        raise ValueError(
            f"Expected prediction {index} as (H, W) numbers, got {array.dtype} of shape {array.shape}: pass one "
            "channel of probabilities."
        )
    low, high = array.min(), array.max()
    if array.dtype != np.uint8 and not (low >= 0 and high <= 1):  # NaN fails too
        raise ValueError(
            f"Expected prediction {index} within [0, 1], got {low} to {high} as {array.dtype}: pass probabilities "
            "without NaN, or uint8 for 0 to 255."
        )
    return array


def truth_map(truth: Any, shape: tuple[int, ...], index: int) -> NDArray[np.bool_]:
    """Return a binary truth as an array of its prediction's shape.

    Raises:
        ValueError: another shape or type.
    """
    array = _plain(truth)
    if array.dtype != bool or array.shape != shape:
        remedy = "evaluate in the image's original size" if array.ndim == 2 else "pass one (H, W) map each"
        if array.dtype != bool:
            remedy = "compare it with a threshold, such as truth > 0"
        raise ValueError(
            f"Expected truths of image {index} as bool maps of the prediction's shape {shape}, got {array.dtype} of "
            f"shape {array.shape}: {remedy}."
        )
    return array


def _plain(values: Any) -> NDArray[Any]:
    """A copy that may be written to, row by row and in this machine's byte order, whatever came."""
    array = np.asarray(values)
    return np.array(array, dtype=array.dtype.newbyteorder("="), order="C")
