"""What was predicted of one image: values, pictures, sheets, files."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from mtmamba.config.settings import KINDS
from mtmamba.evaluation.formats import prediction_path, save_prediction
from mtmamba.inference.images import Photo
from mtmamba.inference.sheets import WIDTH, Tile, sheet
from mtmamba.inference.sources import SourceError
from mtmamba.tasks import Task
from mtmamba.tasks.legends import Legend
from mtmamba.tasks.pictures import Draw, Picture, save_picture

SHEET_QUALITY = 92


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """The predictions of one image, at its own size and the right way up.

    ``result[TASK]`` is a numpy array: classes uint8 ``(H, W)``, metres float32 ``(H, W)``, unit normals float32
    ``(3, H, W)`` (x right, y down, z away from the viewer), probabilities float32 ``(H, W)``.

    Attributes:
        photo: the image, where it came from, and what was done to it.
        name: of its files.
        values: by task; of a large image each is computed when it is asked for (`mtmamba.inference.own_size.Large`).
        tasks: their records.
        classes: names of classes by task, where they are known.
        pictures: by task, the dataset's own way to draw it.
        maps: computes the maps that a task's decision is made from, anew; see `probabilities`.
    """

    photo: Photo
    name: str
    values: Mapping[str, NDArray[Any]]
    tasks: Sequence[Task]
    classes: Mapping[str, Sequence[str]]
    pictures: Mapping[str, Draw]
    maps: Callable[[str], NDArray[np.float32]]

    def __repr__(self) -> str:
        height, width = self.image.shape[:2]
        return f"<Result of {self.name}, {width}x{height}: {', '.join(self.values)}>"

    def __getitem__(self, task: str) -> NDArray[Any]:
        self._task(task)
        return self.values[task]

    def __iter__(self) -> Any:
        return iter(self.values)

    def __contains__(self, task: str) -> bool:
        return task in self.values

    @property
    def image(self) -> NDArray[np.uint8]:
        """The image ``(H, W, 3)`` uint8 RGB."""
        return self.photo.pixels

    @property
    def source(self) -> str:
        """Where the image came from; empty for one in memory."""
        return self.photo.source

    def probabilities(self, task: str) -> NDArray[np.float32]:
        """Return what a task is decided from, float32 ``(n, H, W)``: probabilities of all classes, of one mark.

        It is not kept, and costs another pass of the network.
        """
        self._task(task)
        return self.maps(task)

    def picture(self, task: str) -> Picture:
        """Return a task's prediction in colours, ``(H, W, 3)`` uint8 RGB."""
        return self._draw(task)(torch.from_numpy(self.values[task]))

    def legend(self, task: str) -> Legend:
        """Return what the colours of a task's picture mean; of classes, those that it shows, the largest first."""
        return self._legend(self._task(task), self.values[task])

    def sheet(self) -> Picture:
        """Return the photograph and every task with its legend on one sheet, ``(H, W, 3)`` uint8 RGB."""
        return self._sheet([self._tile(task, self.values[task.name]) for task in self.tasks])

    def show(self) -> None:
        """Open the sheet in the system's viewer of pictures."""
        Image.fromarray(self.sheet()).show(self.name)

    def save(self, folder: str | Path, what: Iterable[str] = KINDS) -> list[Path]:
        """Write ``raw/TASK/NAME.png|.npy``, ``pictures/TASK/NAME.png`` and ``sheets/NAME.jpg``, each in one step.

        Args:
            folder: for all images.
            what: of ``raw``, ``picture`` and ``sheet``.

        Returns:
            The files.
        """
        folder, kinds = Path(folder).expanduser(), (what,) if isinstance(what, str) else tuple(what)
        if unknown := [kind for kind in kinds if kind not in KINDS]:
            raise SourceError(f"Expected save to be some of {', '.join(KINDS)}, got {unknown[0]}.")
        written, tiles = [], []
        for task in self.tasks:
            values = self.values[task.name]  # once, and no other task's at the same time
            if "raw" in kinds:
                save_prediction(folder / "raw", task.name, self.name, torch.from_numpy(values))
                written.append(prediction_path(folder / "raw", task.name, self.name))
            picture = None
            if "picture" in kinds:
                written.append(folder / "pictures" / task.name / f"{self.name}.png")
                picture = self._draw(task.name)(torch.from_numpy(values))
                save_picture(written[-1], picture)
            if "sheet" in kinds:
                tiles.append(self._tile(task, values, picture))
            del values, picture
        if "sheet" in kinds:
            written.append(folder / "sheets" / f"{self.name}.jpg")
            save_picture(written[-1], self._sheet(tiles), (cv2.IMWRITE_JPEG_QUALITY, SHEET_QUALITY))
        return written

    @property
    def _step(self) -> int:
        """A sheet shows every so many pixels of a large image."""
        return max(1, self.image.shape[1] // (2 * WIDTH))

    def _tile(self, task: Task, values: NDArray[Any], picture: Picture | None = None) -> Tile:
        """Return a task's place on a sheet, its picture drawn anew unless it is there and small."""
        if picture is None or self._step > 1:
            thinned = np.ascontiguousarray(values[..., :: self._step, :: self._step])
            picture = self._draw(task.name)(torch.from_numpy(thinned))
        return Tile(task.title, picture, self._legend(task, values))

    def _sheet(self, tiles: Sequence[Tile]) -> Picture:
        return sheet([Tile(self.name or "Image", self.image[:: self._step, :: self._step]), *tiles])

    def _legend(self, task: Task, values: NDArray[Any]) -> Legend:
        legend = _whole_legend(task, tuple(self.classes.get(task.name, ())), self._draw(task.name))
        if task.dtype != "uint8" or legend.bar:
            return legend
        counts = cv2.calcHist([values], [0], None, [256], (0, 256)).ravel()[: len(legend.entries)]
        return Legend(tuple(legend.entries[c] for c in counts.argsort(kind="stable")[::-1] if counts[c]))

    def _draw(self, task: str) -> Draw:
        return self.pictures.get(task, self._task(task).picture)

    def _task(self, name: str) -> Task:
        for task in self.tasks:
            if task.name == name:
                return task
        raise KeyError(f"Expected a task among {', '.join(self.values)}, got {name}.")


@lru_cache(maxsize=64)  # of a task it is the same for all images
def _whole_legend(task: Task, classes: tuple[str, ...], draw: Draw) -> Legend:
    return task.legend(classes, draw)
