"""Pictures of an evaluation: evenly spaced images with every task, and each task's worst images."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from mtmamba.data.dense import DenseDataset
from mtmamba.evaluation.statistics import Assessment
from mtmamba.tasks import Task, picture_keys, picture_row
from mtmamba.tasks.panels import IMAGE, panel
from mtmamba.tasks.pictures import Picture, save_picture

Predict = Callable[[Mapping[str, Any]], Mapping[str, Tensor]]
"""A sample of a dataset → each task's prediction on the sample's grid, without a batch axis."""

_CAPTION_WIDTH, _CAPTION_HEIGHT = 416, 36  # twice as wide as the panel's tiles


def worst_images(
    assessment: Assessment, tasks: Sequence[Task], headlines: Mapping[str, str], ids: Sequence[str], count: int
) -> dict[str, list[dict[str, Any]]]:
    """Return each task's worst images by its headline, the worst first: ``{task: [{id, score}, ...]}``.

    Args:
        assessment: of the images.
        tasks: to look at.
        headlines: by task, the metric to go by.
        ids: the images, in the assessment's order.
        count: how many; images that the metric cannot score are none.
    """
    worst = {}
    for task in tasks:
        values = assessment.images[task.name][headlines[task.name]]
        order = values.argsort(descending=headlines[task.name] in task.lower_is_better, stable=True).tolist()
        scored = [i for i in order if not values[i].isnan()]
        worst[task.name] = [{"id": ids[i], "score": float(values[i])} for i in scored[:count]]
    return worst


def save_worst(
    folder: Path,
    tasks: Sequence[Task],
    worst: Mapping[str, Sequence[Mapping[str, Any]]],
    headlines: Mapping[str, str],
    dataset: DenseDataset,
    predict: Predict,
) -> None:
    """Write ``worst_TASK.png`` for each task: the images of `worst_images` with id and score, prediction and truth."""
    for task in tasks:
        metric = headlines[task.name]
        rows = []
        for found in worst[task.name]:
            row = _row([task], dataset, dataset.ids.index(found["id"]), predict)
            text = f"{found['id']}  {metric} {found['score']:.4g} {task.unit(metric)}"
            rows.append({title: _captioned(p, text) if title == IMAGE else p for title, p in row.items()})
        if rows:
            save_picture(folder / f"worst_{task.name}.png", _panel([task], dataset, rows))


def save_overview(path: Path, tasks: Sequence[Task], dataset: DenseDataset, predict: Predict, count: int) -> None:
    """Write one panel of evenly spaced images with every task's prediction and truth."""
    indices = sorted({i * len(dataset) // count for i in range(count)})
    if indices:
        save_picture(path, _panel(tasks, dataset, [_row(tasks, dataset, i, predict) for i in indices]))


def _row(tasks: Sequence[Task], dataset: DenseDataset, index: int, predict: Predict) -> dict[str, Picture]:
    """Return `picture_row` of one of a dataset's images."""
    sample = dataset[index]
    batch = {name: value[None] if isinstance(value, Tensor) else [value] for name, value in sample.items()}
    with torch.no_grad():
        predictions = {name: value[None] for name, value in predict(sample).items()}
    return picture_row(tasks, batch, predictions, 0, dataset.record.pictures)


def _panel(tasks: Sequence[Task], dataset: DenseDataset, rows: Sequence[Mapping[str, Picture]]) -> Picture:
    return panel(rows, keys=picture_keys(tasks, rows, dataset.record.classes, dataset.record.pictures))


def _captioned(picture: Picture, text: str) -> Picture:
    """A photograph in a width at which text can be read, below a line of white text on black."""
    height = round(picture.shape[0] * _CAPTION_WIDTH / picture.shape[1])
    band = np.zeros((_CAPTION_HEIGHT, _CAPTION_WIDTH, 3), np.uint8)
    cv2.putText(band, text, (8, _CAPTION_HEIGHT - 12), cv2.FONT_HERSHEY_SIMPLEX, 0.8, (255,) * 3, 2, cv2.LINE_AA)
    return np.vstack((band, cv2.resize(picture, (_CAPTION_WIDTH, height), interpolation=cv2.INTER_AREA)))
