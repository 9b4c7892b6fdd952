"""Every file of a dataset read, in parallel: what is missing, what is broken, and what the rest holds."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from mtmamba.data.datasets import SPLITS, DatasetRecord, Source
from mtmamba.data.layouts import DatasetError
from mtmamba.data.readers import read_rgb
from mtmamba.tasks import get_task
from mtmamba.types import IGNORE

IMAGE = "image"


@dataclass
class Found:
    """What the files of a task, or the images, are.

    Attributes:
        sound: how many could be read.
        missing: ids without a file.
        broken: what is wrong with those that could not be read.
        low, high: of all valid values.
        valid: pixels that hold a truth, and ``pixels`` of all.
        counts: pixels by class or mark, ``(256,)``; None of real numbers.
    """

    sound: int = 0
    missing: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    low: float = np.inf
    high: float = -np.inf
    valid: int = 0
    pixels: int = 0
    counts: NDArray[np.int64] | None = None

    def add(self, values: NDArray[Any]) -> None:
        """Add a map ``(h, w)`` or ``(h, w, c)``, 255 where there is no truth."""
        known = values[(values != IGNORE).all(-1) if values.ndim == 3 else values != IGNORE]
        self.sound += 1
        self.pixels += values.shape[0] * values.shape[1]
        self.valid += len(known)
        if known.size:
            self.low, self.high = min(self.low, float(known.min())), max(self.high, float(known.max()))
        if values.dtype == np.uint8 and values.ndim == 2:
            counts = np.bincount(values.ravel(), minlength=IGNORE + 1)
            self.counts = counts if self.counts is None else self.counts + counts

    def merge(self, other: "Found") -> None:
        """Add what another has found."""
        self.sound += other.sound
        self.missing += other.missing
        self.broken += other.broken
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        self.valid += other.valid
        self.pixels += other.pixels
        if other.counts is not None:
            self.counts = other.counts if self.counts is None else self.counts + other.counts


class _Images(Dataset[dict[str, Found]]):
    """Each image's `Found` by task, computed where it is read."""

    def __init__(self, record: DatasetRecord, source: Source, ids: Sequence[str], tasks: Sequence[str]) -> None:
        self.record, self.source, self.ids, self.tasks = record, source, ids, tasks

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Found]:
        name, found = self.ids[index], {key: Found() for key in (IMAGE, *self.tasks)}
        path = self.record.layout.image_path(self.source.root, name)
        if not os.path.lexists(path):
            found[IMAGE].missing.append(name)
            return found
        try:
            image = read_rgb(path)
        except DatasetError as error:
            found[IMAGE].broken.append(str(error))
            return found
        found[IMAGE].sound, found[IMAGE].pixels = 1, image.shape[0] * image.shape[1]
        for task in self.tasks:
            if not self.record.layout.exists(self.source.root, task, name):
                found[task].missing.append(name)
                continue
            try:
                target = self.record.readers[task](self.source, task, name, image.shape[:2])
                _require_fitting(target, task, image.shape[:2], self.source.path(task, name))
            except DatasetError as error:
                found[task].broken.append(str(error))
            else:
                found[task].add(target)
        return found


def _require_fitting(target: NDArray[Any], task: str, size: tuple[int, ...], path: Path) -> None:
    if target.shape[:2] != size or target.dtype != get_task(task).dtype:
        raise DatasetError(
            f"Expected {get_task(task).dtype} of the image's size {size} in {path}, got {target.dtype} "
            f"{target.shape[:2]}: correct the file."
        )


def inspect(
    record: DatasetRecord,
    root: Path,
    tasks: Sequence[str],
    *,
    cache_dir: Path,
    workers: int,
    rank: int = 0,
    world_size: int = 1,
) -> Mapping[str, Mapping[str, Found]]:
    """Read every image and target of both splits: ``{split: {"image" or task: Found}}``.

    Args:
        record: of the dataset.
        root: its folder.
        tasks: whose targets to read.
        cache_dir: where results too slow to compute each time are kept.
        workers: reading processes; 0 to read in this one.
        rank: of this process among those that share the images.
        world_size: how many they are.
    """
    source = Source(root, record.layout, cache_dir)
    whole: dict[str, dict[str, Found]] = {}
    for split in SPLITS:
        whole[split] = {key: Found() for key in (IMAGE, *tasks)}
        images = _Images(record, source, record.read_ids(root, split)[rank::world_size], tasks)
        for found in DataLoader(images, batch_size=None, num_workers=workers):
            for key, part in found.items():
                whole[split][key].merge(part)
    return whole
