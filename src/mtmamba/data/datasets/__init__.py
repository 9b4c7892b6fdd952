"""NYUDv2 and PASCAL-Context as map-style datasets: only the selected tasks' files are read, and nothing is written."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch.utils.data import Dataset

from mtmamba.data.cache import cached
from mtmamba.data.layouts import LABEL_MAP, NYUDV2, PASCAL_CONTEXT, SEMSEG_PASCAL, DatasetError, Layout, read_ids
from mtmamba.data.pascal_labels import HAS_NORMALS, boundaries, human_parts, label_map
from mtmamba.data.readers import (
    read_bytes,
    read_classes,
    read_depth,
    read_edge,
    read_normals,
    read_rgb,
    read_saliency,
)
from mtmamba.data.sampler import Key, sample_key

RawSample = dict[str, Any]
Transform = Callable[[RawSample, np.random.Generator], dict[str, Any]]


class DenseDataset(Dataset[dict[str, Any]]):
    """Images of one split with the targets of the selected tasks.

    Args:
        root: the dataset's folder, laid out as ``layout`` says.
        split: ``train`` or ``val``.
        tasks: whose targets to read.
        transform: turns a raw sample (see ``read``) and a random generator into the fields of a ``Batch``.
        seed: of the random draws. A sample's generator is ``default_rng([seed, epoch, index])``, whatever process or
            order it is made in.
        cache_dir: where results too slow to compute each time are kept; outside the dataset.

    Raises:
        DatasetError: the list of ids is missing or malformed; on access, a file is.
        ValueError: a task that the dataset does not have.
    """

    layout: ClassVar[Layout]

    def __init__(
        self,
        root: str | Path,
        split: str,
        tasks: Sequence[str],
        transform: Transform,
        *,
        seed: int = 0,
        cache_dir: str | Path,
    ) -> None:
        self.root, self.split, self.tasks, self.transform = Path(root).expanduser(), split, tuple(tasks), transform
        self.seed, self.cache_dir = seed, Path(cache_dir).expanduser()
        self.layout.files(self.tasks)  # refuses tasks that it does not have
        self.ids = read_ids(self.root, self.layout, split)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, key: Key | int) -> dict[str, Any]:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        sample = self.transform(self.read(index), np.random.default_rng([self.seed, epoch, index]))
        return {**sample, "key": torch.tensor(sample_key(self.seed, epoch, index))}

    def read(self, index: int) -> RawSample:
        """Return an image and its targets as stored, all on one grid ``(h, w)``.

        ``image (h, w, 3)`` uint8 RGB; ``semseg``, ``human_parts``, ``sal``, ``edge`` ``(h, w)`` uint8; ``depth (h, w)``
        float32 metres; ``normals (h, w, 3)`` float32 unit vectors; 255 where there is no truth; ``id`` str.
        """
        name = self.ids[index]
        image = read_rgb(self.root / self.layout.image.format(id=name))
        targets = self._targets(name, image.shape[:2])
        for task, target in targets.items():
            if target.shape[:2] != image.shape[:2]:
                file = self.root / self.layout.tasks[task][0][0].format(id=name)
                raise DatasetError(
                    f"Expected the {task} target of {name} in the image's size {image.shape[:2]}, got "
                    f"{target.shape[:2]} in {file}: extract both files from the dataset's archive again."
                )
        return {"image": image, **targets, "id": name}

    @abstractmethod
    def _targets(self, name: str, size: tuple[int, int]) -> dict[str, np.ndarray]:
        """Return the selected tasks' targets of an image of this size."""


class NYUDv2(DenseDataset):
    """NYUDv2: 795 training and 654 validation images of rooms, 425 x 560, with four tasks.

    Semantic classes are 40 (the files count from 1); unmeasured depth, zero normals and unlabelled pixels are ignored.
    """

    layout = NYUDV2

    def _targets(self, name: str, size: tuple[int, int]) -> dict[str, np.ndarray]:
        readers: dict[str, Callable[[Path], np.ndarray]] = {
            "semseg": lambda path: read_classes(path, 40, zero_is_unlabelled=True),
            "depth": read_depth,
            "normals": read_normals,
            "edge": read_edge,
        }
        return {task: readers[task](self.root / self.layout.tasks[task][0][0].format(id=name)) for task in self.tasks}


class PASCALContext(DenseDataset):
    """PASCAL-Context: 4,998 training and 5,105 validation photographs, longest side 500, with five tasks.

    ``semseg``: 21 classes with background. ``human_parts``: 7 with background, all ignored in an image without parts.
    ``sal`` and ``normals`` were distilled from networks. ``edge``: the thinned boundaries of the 459-class LabelMap.
    Boundaries and part maps are slow to compute and kept in ``cache_dir``.
    """

    layout = PASCAL_CONTEXT

    def _targets(self, name: str, size: tuple[int, int]) -> dict[str, np.ndarray]:
        readers = {
            "semseg": self._semseg,
            "human_parts": lambda name: self._human_parts(name, size),
            "sal": lambda name: read_saliency(self.root / f"sal_distill/{name}.png"),
            "normals": self._normals,
            "edge": self._edge,
        }
        return {task: readers[task](name) for task in self.tasks}

    def _semseg(self, name: str) -> np.ndarray:
        preferred, other = (self.root / pattern.format(id=name) for pattern in SEMSEG_PASCAL)
        return read_classes(preferred if preferred.exists() else other, 21, zero_is_unlabelled=False)

    def _human_parts(self, name: str, size: tuple[int, int]) -> np.ndarray:
        path = self.root / f"human_parts/{name}.mat"
        data = read_bytes(path)
        return cached(self.cache_dir, f"parts-{size[0]}x{size[1]}", data, lambda: human_parts(path, data, size))

    def _normals(self, name: str) -> np.ndarray:
        path = self.root / LABEL_MAP.format(id=name)
        valid = HAS_NORMALS[label_map(path, read_bytes(path))]
        return read_normals(self.root / f"normals_distill/{name}.png", valid)

    def _edge(self, name: str) -> np.ndarray:
        path = self.root / LABEL_MAP.format(id=name)
        data = read_bytes(path)
        return cached(self.cache_dir, "edge-1", data, lambda: boundaries(label_map(path, data)))


DATASETS: dict[str, type[DenseDataset]] = {cls.layout.name: cls for cls in (NYUDv2, PASCALContext)}
