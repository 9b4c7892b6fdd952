"""Predictions at an image's own size: its maps are resized to it and decided there, in bounded memory."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from mtmamba.padding import resized
from mtmamba.tasks import Task

VALUES_AT_ONCE = 2**24
"""How many values of maps are held at an image's own size at once; beyond, the image is finished in bands of rows."""
TOGETHER = {"cuda": 2**27}
"""How many values of images of one size are finished together, by device; on others images are finished one by one."""
LARGE = 2**24
"""Pixels beyond which an image's predictions are held for one task at a time."""


def finished(
    tasks: Sequence[Task], maps: Mapping[str, Tensor], size: Sequence[int]
) -> Iterator[Mapping[str, NDArray[Any]]]:
    """Bring maps ``(B, m, h, w)`` to the images' own size and decide; yield each image's predictions."""
    height, width = size
    if height * width > min(LARGE, VALUES_AT_ONCE // channels(maps)):
        for index in range(len(next(iter(maps.values())))):
            large = Large(tasks, {name: x[index] for name, x in maps.items()}, (height, width))
            yield large if height * width > LARGE else dict(large)
        return
    with torch.inference_mode():
        decided = {task.name: as_array(task.decide(resized(maps[task.name].float(), size))) for task in tasks}
    for index in range(len(next(iter(decided.values())))):
        yield {name: x[index] for name, x in decided.items()}


class Large(Mapping[str, NDArray[Any]]):
    """Predictions at an image's own size, each computed whenever it is asked for, and not kept.

    Args:
        tasks: their records.
        maps: by task, ``(n, h, w)``.
        size: the image's height and width.
    """

    def __init__(self, tasks: Sequence[Task], maps: Mapping[str, Tensor], size: tuple[int, int]) -> None:
        self.tasks = {task.name: task for task in tasks}
        self.maps, self.size = maps, size

    def __iter__(self) -> Iterator[str]:
        return iter(self.tasks)

    def __len__(self) -> int:
        return len(self.tasks)

    @torch.inference_mode()
    def __getitem__(self, name: str) -> NDArray[Any]:
        """Resize a task's maps, a band of rows at a time where they are large, and decide."""
        task, x, size = self.tasks[name], self.maps[name], self.size
        rows = max(1, VALUES_AT_ONCE // (len(x) * size[1]))
        if rows >= size[0]:
            return as_array(task.decide(resized(x[None].float(), size))[0])
        for top in range(0, size[0], rows):
            bottom = min(top + rows, size[0])
            part = as_array(task.decide(band_of(x, size, top, bottom)[None])[0])
            if top == 0:
                whole = np.empty((*part.shape[:-2], *size), part.dtype)
            whole[..., top:bottom, :] = part
        return whole


def channels(maps: Mapping[str, Tensor]) -> int:
    """Return how many channels the maps of the task with most have: ``(B, m, h, w)``."""
    return max(x.shape[1] for x in maps.values())


def runs_of_one_size(sizes: Sequence[tuple[Sequence[int], tuple[int, int]]], pixels: int) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) of each run of equal sizes, inner and full, of at most so many full pixels, or of one."""
    start = 0
    for stop in range(1, len(sizes) + 1):
        height, width = sizes[start][1]
        full = (stop - start + 1) * height * width > pixels
        if stop == len(sizes) or full or sizes[stop] != sizes[start]:
            yield start, stop
            start = stop


def as_array(prediction: Tensor) -> NDArray[Any]:
    """Return a prediction as an array: classes as uint8, everything else as float32."""
    return prediction.to("cpu", torch.float32 if prediction.is_floating_point() else torch.uint8).numpy()


def band_of(maps: Tensor, size: Sequence[int], top: int, bottom: int) -> Tensor:
    """Return rows of maps ``(n, h, w)`` resized bilinearly to a size: ``(n, bottom - top, size[1])`` float32."""
    if maps.shape[-2:] == tuple(size):
        return maps[:, top:bottom].float()
    scale = maps.shape[-2] / size[0]
    rows = ((torch.arange(top, bottom, device=maps.device) + 0.5) * scale - 0.5).clamp(0, maps.shape[-2] - 1)
    low = rows.floor().long()
    high = (low + 1).clamp(max=maps.shape[-2] - 1)
    share = (rows - low)[:, None]
    tall = maps[:, low].float() * (1 - share) + maps[:, high].float() * share  # (n, rows, w)
    return F.interpolate(tall[None], (bottom - top, size[1]), mode="bilinear", align_corners=False)[0]
