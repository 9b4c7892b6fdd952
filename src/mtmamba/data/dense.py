"""A dataset's split as a map-style dataset: only the selected tasks' files are read, and nothing is written there."""

import itertools
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from mtmamba.data.datasets import DatasetRecord, Source, get_dataset
from mtmamba.data.layouts import DatasetError
from mtmamba.data.partial import find_labels, loss_weights
from mtmamba.data.readers import read_rgb
from mtmamba.data.sampler import Key, sample_key
from mtmamba.tasks import get_task
from mtmamba.types import IGNORE

RawSample = dict[str, Any]
Transform = Callable[[RawSample, np.random.Generator], dict[str, Any]]


class DenseDataset(Dataset[dict[str, Any]]):
    """Images of one split with the targets of the selected tasks.

    Args:
        dataset: a record, or the name of a registered one.
        root: the dataset's folder, laid out as the record says.
        split: ``train`` or ``val``.
        tasks: whose targets to read.
        transform: turns a raw sample (see ``read``) and a random generator into the fields of a ``Batch``.
        seed: of the random draws. A sample's generator is ``default_rng([seed, epoch, index])``, whatever process or
            order it is made in.
        cache_dir: where results too slow to compute each time are kept; outside the dataset.
        partial: whether images may lack labels, or which are drawn: `mtmamba.data.partial.find_labels`.
        invalid: what pixels without truth hold: `Source`.

    Attributes:
        ids: of the images, in the order of the split's list.
        labelled: ``(images, tasks)`` bool, None where every image has every label.

    Raises:
        DatasetError: the list of ids is missing or malformed; on access, a file is.
        ValueError: a task that the dataset does not have.
    """

    def __init__(
        self,
        dataset: str | DatasetRecord,
        root: str | Path,
        split: str,
        tasks: Sequence[str],
        transform: Transform,
        *,
        seed: int = 0,
        cache_dir: str | Path,
        partial: bool | str = False,
        invalid: str = "ignored",
    ) -> None:
        self.record = get_dataset(dataset) if isinstance(dataset, str) else dataset
        self.record.check_tasks(tasks)
        self.source = Source(Path(root).expanduser(), self.record.layout, Path(cache_dir).expanduser(), invalid)
        self.split, self.tasks, self.transform, self.seed = split, tuple(tasks), transform, seed
        self.ids = self.record.read_ids(self.source.root, split)
        self.labelled = find_labels(partial, self.source.layout, self.source.root, self.ids, self.tasks, split)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, key: Key | int) -> dict[str, Any]:
        epoch, index, *given = key if isinstance(key, tuple) else (0, key)
        sample = self.transform(self.read(index), np.random.default_rng([self.seed, epoch, index]))
        sample["key"] = torch.tensor(sample_key(self.seed, epoch, index))
        if self.labelled is not None:
            weights = torch.from_numpy(given[0] if given else loss_weights(self.labelled)[index])
            sample["labels"] = dict(zip(self.tasks, weights, strict=True))
        return sample

    def keep(self, ids: Collection[str]) -> None:
        """Leave out the images that are not named."""
        kept = [index for index, name in enumerate(self.ids) if name in ids]
        self.ids = [self.ids[index] for index in kept]
        self.labelled = None if self.labelled is None else self.labelled[kept]

    def ids_with(self, task: str) -> list[str]:
        """Return the ids of the images that have a task's label."""
        return [name for index, name in enumerate(self.ids) if task in self.tasks_of(index)]

    def tasks_of(self, index: int) -> tuple[str, ...]:
        """Return the tasks that an image has the label of."""
        return self.tasks if self.labelled is None else tuple(itertools.compress(self.tasks, self.labelled[index]))

    def image_path(self, name: str) -> Path:
        """Return where an image lies."""
        return self.record.layout.image_path(self.source.root, name)

    def read(self, index: int) -> RawSample:
        """Return an image and its targets as stored, all on one grid ``(h, w)``.

        ``image (h, w, 3)`` uint8 RGB; each task's target ``(h, w)`` or ``(h, w, channels)``, 255 where there is no
        truth, all of it where the image lacks the label; ``id`` str.
        """
        name = self.ids[index]
        image = read_rgb(self.image_path(name))
        size = image.shape[0], image.shape[1]
        there = self.tasks_of(index)
        targets = {
            task: self.record.readers[task](self.source, task, name, size) if task in there else _no_label(task, size)
            for task in self.tasks
        }
        for task, target in targets.items():
            if target.shape[:2] != size:
                raise DatasetError(
                    f"Expected the {task} target of {name} in the image's size {size}, got {target.shape[:2]} in "
                    f"{self.source.path(task, name)}: extract both files from the dataset's archive again."
                )
        return {"image": image, **targets, "id": name}


def _no_label(task: str, size: tuple[int, int]) -> np.ndarray:
    record = get_task(task)
    return np.full((*size, record.channels) if record.channels else size, IGNORE, record.dtype)
