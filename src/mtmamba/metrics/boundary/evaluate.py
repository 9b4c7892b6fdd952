"""The boundary benchmark over a set of images."""

import operator
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from mtmamba.cache import cached
from mtmamba.metrics.boundary.matching import Matching
from mtmamba.metrics.boundary.protocols import THRESHOLDS, Mask
from mtmamba.metrics.boundary.scores import BoundaryScores, pool
from mtmamba.metrics.boundary.suppression import suppress_non_maxima
from mtmamba.metrics.boundary.thinning import thin as thin_map
from mtmamba.metrics.pairs import common_length, paired, probability_map, truth_map
from mtmamba.workers import Workers, usable_cores

VERSION = "boundary-1"
"""Name of the cache's entries: raise it with every change of what is counted."""

AHEAD = 4  # images per worker that wait or are worked on, so that few are held in memory


@dataclass(frozen=True)
class _Settings:
    max_dist: float
    thresholds: tuple[float, ...]
    suppress: bool
    thin: bool


def evaluate_boundaries(
    predictions: Iterable[NDArray[Any]],
    truths: Iterable[Sequence[Mask]],
    *,
    max_dist: float,
    thresholds: Sequence[float] = THRESHOLDS,
    suppress: bool = True,
    thin: bool = True,
    empty_precision: float = 0.0,
    workers: int | None = None,
    cache: Path | None = None,
    progress: bool = True,
) -> BoundaryScores:
    """Score boundary maps against their annotators' as the Berkeley benchmark does.

    Both iterables are read once and as far as the work goes, so the images need not fit into memory.

    Args:
        predictions: probabilities ``(H, W)`` in [0, 1], each map in its image's original size; truncated to 8 bits,
            ``int(255 p)``, as the benchmark's PNG files. uint8 maps are taken for such files: 255 means 1.
        truths: for each map its annotators' boundaries, ``(H, W)`` bool each; see `boundary_truth`.
        max_dist: the farthest that a match may be, as a share of the image's diagonal.
        thresholds: ascending, within [0, 1); a pixel is predicted where its value / 255 exceeds the threshold.
        suppress: whether non-maximum suppression precedes the thresholds.
        thin: whether each binary map is thinned.
        empty_precision: at a threshold where nothing is predicted in the whole set; only AP depends on it.
        workers: processes; all CPUs that this process may use by default; with 1, this process itself.
        cache: a folder that keeps each image's counts by the content they come from, so that a run that was broken
            off goes on where it was.
        progress: whether to show a progress bar on a terminal.

    Raises:
        ValueError: settings out of range; no image; a map of another shape, type or range, named by its index; an
            image without annotator; more maps than truths or the reverse.

    Example:
        >>> line = np.zeros((40, 40), bool)
        >>> line[20, 10:30] = True
        >>> evaluate_boundaries([line.astype(float)], [[line]], max_dist=0.01, suppress=False, workers=1).ods
        1.0
    """
    settings = checked_settings(max_dist, thresholds, suppress, thin)
    workers = usable_cores() if workers is None else workers
    if workers < 1:
        raise ValueError(
            f"Expected at least 1 worker, got {workers}: 1 for this process alone, or leave it out to use all CPUs."
        )
    total = common_length(predictions, truths)
    if total is not None:
        workers = max(1, min(workers, total))
    done = count_all(checked_pairs(predictions, truths, suppress), settings, cache, workers)
    console = Console(stderr=True)
    shown = progress and console.is_terminal
    counts = list(track(done, "Matching boundaries", total, console=console, transient=True, disable=not shown))
    if not counts:
        raise ValueError("Expected at least one image, got none: check the list of predictions.")
    return pool(np.stack(counts), settings.thresholds, empty_precision)


def count_image(prediction: NDArray[np.uint8], truths: Sequence[Mask], settings: _Settings) -> NDArray[np.int64]:
    """Count one image's pixels at each threshold, in the order of `COLUMNS`.

    A predicted pixel is matched if any annotator's boundary has it as partner; true pixels add up over annotators.
    Thresholds are visited from the highest, where few pixels are predicted, and the matching goes along. Before
    thinning the binary maps are nested, so that maps of equal size are equal.

    Shape: ``(H, W)``, and ``(H, W)`` per annotator → ``(thresholds, 4)``.
    """
    probability = prediction / 255
    if settings.suppress:
        probability = suppress_non_maxima(probability)
    radius = settings.max_dist * float(np.hypot(*prediction.shape))
    candidates = probability > settings.thresholds[0]
    matchings = [Matching(candidates, truth, radius) for truth in truths]
    num_truths = sum(int(truth.sum()) for truth in truths)
    rows = [(0, num_truths, 0, 0)]  # of no prediction, then from the highest threshold down
    size = 0
    for threshold in reversed(settings.thresholds):
        predicted = probability > threshold
        if int(predicted.sum()) == size:
            rows.append(rows[-1])
            continue
        size = int(predicted.sum())
        predicted = thin_map(predicted) if settings.thin else predicted
        for matching in matchings:
            matching.update(predicted)
        matched = np.stack([matching.matched for matching in matchings])  # (annotators, candidates)
        rows.append((int(matched.sum()), num_truths, int(matched.any(0).sum()), int(predicted.sum())))
    return np.array(rows[:0:-1], np.int64)


def checked_settings(max_dist: float, thresholds: Sequence[float], suppress: bool, thin: bool) -> _Settings:
    """Return the settings, or raise ValueError for one that cannot be."""
    if not 0 < max_dist < 1:
        raise ValueError(
            f"Expected max_dist within (0, 1), got {max_dist}: it is a share of the diagonal, not a number of pixels."
        )
    values = tuple(float(threshold) for threshold in thresholds)
    ascending = all(map(operator.lt, values, values[1:]))
    if not values or not ascending or not 0 <= values[0] <= values[-1] < 1:
        raise ValueError(f"Expected ascending thresholds within [0, 1), got {list(values)}: sort them, each once.")
    return _Settings(max_dist, values, suppress, thin)


def checked_pairs(
    predictions: Iterable[Any], truths: Iterable[Any], suppress: bool
) -> Iterator[tuple[NDArray[np.uint8], list[Mask]]]:
    """Each image's prediction, in 8 bits, with its truths."""
    for index, prediction, annotations in paired(predictions, truths):
        eight_bits = _eight_bits(probability_map(prediction, index))
        if suppress and min(eight_bits.shape) < 2:
            raise ValueError(
                f"Expected prediction {index} of at least 2 x 2 pixels, got {eight_bits.shape}: without neighbours "
                "there are no maxima; pass suppress=False."
            )
        masks = [truth_map(annotation, eight_bits.shape, index) for annotation in annotations]
        if not masks:
            raise ValueError(f"Expected at least one annotator for image {index}, got none: leave the image out.")
        yield eight_bits, masks


def _eight_bits(prediction: NDArray[Any]) -> NDArray[np.uint8]:
    if prediction.dtype == np.uint8:
        return prediction
    precise = prediction if prediction.dtype.itemsize >= 4 else prediction.astype(np.float32)
    return (255 * precise).astype(np.uint8)


def count_all(
    pairs: Iterator[tuple[NDArray[np.uint8], list[Mask]]], settings: _Settings, cache: Path | None, workers: int
) -> Iterator[NDArray[np.int64]]:
    """Each image's counts, in order."""
    if workers == 1:
        for pair in pairs:
            yield _count_or_recall(*pair, settings, cache)
        return
    with Workers(workers, cv2.setNumThreads, 1) as pool:  # after an error, or Ctrl-C, the rest is not worth waiting for
        waiting: deque[Future[NDArray[np.int64]]] = deque()
        for pair in pairs:
            waiting.append(pool.submit(_count_or_recall, *pair, settings, cache))
            if len(waiting) >= AHEAD * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _count_or_recall(
    prediction: NDArray[np.uint8], truths: list[Mask], settings: _Settings, cache: Path | None
) -> NDArray[np.int64]:
    if cache is None:
        return count_image(prediction, truths, settings)
    source = [repr((prediction.shape, settings)).encode(), prediction.tobytes()]
    source += [np.packbits(truth).tobytes() for truth in truths]
    return cached(cache, VERSION, b"".join(source), lambda: count_image(prediction, truths, settings))
