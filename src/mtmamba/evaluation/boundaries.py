"""The boundary benchmark over 8-bit maps in a folder, as statistics of each image."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtmamba.data.datasets import DatasetRecord
from mtmamba.data.datasets.record import read_lines
from mtmamba.data.dense import DenseDataset
from mtmamba.data.layouts import DatasetError
from mtmamba.evaluation.formats import prediction_path
from mtmamba.evaluation.statistics import Statistics
from mtmamba.metrics.boundary import BoundaryProtocol, BoundaryScores, boundary_truth, evaluate_boundaries, protocol
from mtmamba.metrics.boundary.scores import average_precision, f_measure, precision_recall
from mtmamba.tasks.files import PredictionsError

VERSION = 2
"""Version of how this program carries out a protocol: it rises whenever the same maps get other scores."""


def choose_protocol(name: str | None, record: DatasetRecord) -> BoundaryProtocol | None:
    """Return the protocol that ``boundaries`` names: the dataset's for ``auto``, None for null.

    ``auto`` is null for a dataset without a protocol.

    Raises:
        ValueError: another name, or a protocol for other labels than this dataset's.
    """
    own = None
    if record.boundary_labels is not None and record.protocol is not None:
        own = protocol(record.protocol)
    if name is None or (name == "auto" and own is None):
        return None
    if own is None or name not in ("auto", own.name):
        choices = "auto or null" if own is None else f"auto, {own.name} or null"
        raise ValueError(f"Expected boundaries={choices} for {record.title}, got {name}: choose one of those.")
    return own


def score_maps(
    folder: Path,
    task: str,
    dataset: DenseDataset,
    ids: Sequence[str],
    chosen: BoundaryProtocol,
    *,
    workers: int | None,
    cache: Path | None,
) -> BoundaryScores:
    """Benchmark ``FOLDER/TASK/ID.png`` of these images.

    Args:
        folder: of the predictions.
        task: whose.
        dataset: of the images, whatever its tasks.
        ids: of the images.
        chosen: the protocol.
        workers: processes; this machine's CPUs when None.
        cache: a folder for each image's counts.
    """

    def predictions() -> Iterator[NDArray[np.uint8]]:
        for name in ids:
            path = prediction_path(folder, task, name)
            image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
            if image is None:
                raise PredictionsError(f"Expected a complete PNG {path}, got none: write it again.")
            yield np.asarray(image, np.uint8)

    labels = dataset.record.boundary_labels
    assert labels is not None, "its protocol was chosen"
    truths = (boundary_truth(labels(dataset.source, name), chosen) for name in ids)
    return evaluate_boundaries(predictions(), truths, workers=workers, cache=cache, **chosen.settings)


def boundary_statistics(scores: BoundaryScores, scored: Sequence[str], ids: Sequence[str]) -> dict[str, Tensor]:
    """Return each image's counts and those at its own best threshold; zeros for an image that was not scored.

    Args:
        scores: of the benchmark.
        scored: its images.
        ids: all images, the rows of the result.

    Shape: ``boundary_counts`` int64 ``(N, thresholds, 4)`` and ``boundary_own`` int64 ``(N, 4)``.
    """
    rows = [list(ids).index(name) for name in scored]
    counts = np.zeros((len(ids), *scores.counts.shape[1:]), np.int64)
    counts[rows] = scores.counts
    own = f_measure(*precision_recall(counts)).argmax(1)
    return {
        "boundary_counts": torch.from_numpy(counts),
        "boundary_own": torch.from_numpy(counts[np.arange(len(ids)), own]),
    }


def boundary_score(sums: Statistics, empty_precision: float) -> dict[str, Tensor]:
    """The benchmark's scores in percent: sums ``(..., thresholds, 4)`` and ``(..., 4)`` → ``(...)``, NaN of no counts.

    odsF takes the best threshold of the sums, so that a resample has its own; as `mtmamba.metrics.boundary.pool`.
    """
    counts, own = sums["boundary_counts"].numpy(), sums["boundary_own"].numpy()
    precision, recall = precision_recall(counts, empty_precision)
    size = counts.shape[-2]
    curves = zip(precision.reshape(-1, size), recall.reshape(-1, size), strict=True)
    found: dict[str, Any] = {
        "odsF": f_measure(precision, recall).max(-1),
        "oisF": f_measure(*precision_recall(own)),
        "AP": np.reshape([average_precision(*curve) for curve in curves], counts.shape[:-2]),
    }
    counted = torch.from_numpy(np.asarray(counts.any((-2, -1))))
    return {name: torch.where(counted, 100 * torch.as_tensor(value), torch.nan) for name, value in found.items()}


def read_id_list(path: str | None, known: Sequence[str]) -> list[str]:
    """Return the ids in a file, one a line, in the order of the known ones; all of these without a file.

    Raises:
        DatasetError: there is no such file, it is empty, or it names others.
    """
    if path is None:
        return list(known)
    named = set(read_lines(Path(path), "Correct the path."))
    unknown = sorted(named - set(known))
    if unknown or not named:
        raise DatasetError(
            f"Expected ids among the {len(known)} images in {path}, got {len(unknown)} others"
            f"{f', such as {unknown[0]}' if unknown else ' and none of them'}: correct the list, or split."
        )
    return [name for name in known if name in named]
