"""A trained model at work on images of any kind, from Python."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from mtmamba.data.datasets import open_dataset
from mtmamba.files import WEB
from mtmamba.inference.images import Photo, pixel_count, read_photo
from mtmamba.inference.network import Network
from mtmamba.inference.plans import Plan, Size, check_size, plan
from mtmamba.inference.result import Result
from mtmamba.inference.sources import Item, SourceError, find_images, is_video
from mtmamba.inference.video import frames
from mtmamba.memory import give_back_memory
from mtmamba.models.multitask import MultiTaskModel
from mtmamba.restore import load_model
from mtmamba.rules import is_whole
from mtmamba.tasks import select_tasks
from mtmamba.workers import usable_cores

DEFAULT_MODEL = "nyud_lite"
"""Our released model."""
PIXELS_AHEAD = 64_000_000
"""How many pixels of images are decoded ahead, or wait to be written, at most; a larger image waits until it is alone.
A batch holds a quarter of it."""

PIXELS_AT_ONCE = {"cpu": 2**16}
"""After how many pixels a batch is full, by device, where that is sooner. Of `nyud_lite` on a CPU one of 448x576 takes
1.9 s alone, 2.9 s where four go at once: maps beyond 32 MB glibc takes from the system anew each time."""

GIVEN_BACK_EVERY = 8
"""After how many images freed memory is given back, on a CPU: a tenth of a second, and as much to take it anew."""


@dataclass(frozen=True)
class Failure:
    """An image that could not be predicted.

    Attributes:
        item: the image.
        reason: a sentence.
    """

    item: Item
    reason: str


class Predictor:
    """Predict images of any size. Calls from several threads wait for each other; nothing else is shared.

    Args:
        model: from `mtmamba.load_model` or `mtmamba.build_model`, in evaluation.
        device: ``auto`` (a GPU where there is one), ``cpu``, ``cuda:0``.
        precision: ``auto`` (``bf16`` on GPUs that have it, else ``32``), ``bf16``, ``32``.
        tasks: those to predict; all of the model's by default.
        size: at what size larger images are predicted: ``auto`` (as many pixels as in training), ``native`` (their
            own, in tiles where they are large), ``max:N`` (a longer side of N at most), or height and width. Results
            have each image's own size in any case. Depth takes the camera for one with the field of view of the
            training images.
        flip: average with the mirror image.

    Raises:
        SourceError: a setting is not what it should be.
    """

    def __init__(
        self,
        model: MultiTaskModel,
        *,
        device: str = "auto",
        precision: str = "auto",
        tasks: Sequence[str] | None = None,
        size: Size = "auto",
        flip: bool = False,
    ) -> None:
        if model.description is None:
            raise SourceError("Expected a network of mtmamba.load_model or mtmamba.build_model, got one built by hand.")
        values = model.description["values"]
        if tasks is not None and not (set(tasks) <= set(values["tasks"]) and tasks):
            known = ", ".join(values["tasks"])
            raise SourceError(f"Expected tasks among {known}, the model's, got {list(tasks)}: choose of those.")
        check_size(size)
        self.tasks = select_tasks(values["tasks"] if tasks is None else tasks)
        self.size, self.trained_size = size, tuple(values["data"]["crop_size"])
        self.resizes = bool(values["data"].get("resize", False))
        try:
            dataset = open_dataset(values["data"]["dataset"], values["data"].get("description"))
        except ValueError:  # one of somebody's own: its classes have numbers
            dataset = None
        if dataset:
            self.tasks = [dataset.adapt(task) for task in self.tasks]
        self.classes = dataset.classes if dataset else {}
        self.pictures = dataset.pictures if dataset else {}
        self.network = Network(model, self.tasks, device, precision, flip=flip)

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path = DEFAULT_MODEL,
        *,
        extensions: Sequence[str | Path] = (),
        config_dir: str | Path | None = None,
        **settings: Any,
    ) -> "Predictor":
        """Load a model and make it ready.

        Args:
            source: a run's folder, a checkpoint, a folder of `save_pretrained`, the name of a released model, or
                ``hf://owner/name[@revision]``.
            extensions: Python files of yours that the model needs.
            config_dir: a folder of YAML of yours that it was built from.
            settings: of `Predictor`.

        Raises:
            FileNotFoundError, CheckpointError: there is no such model, or it is damaged.
        """
        return cls(load_model(source, extensions=extensions, config_dir=config_dir), **settings)

    def __call__(self, source: Any, *, batch_size: int = 8, stream: bool = False) -> Any:
        """Predict one image, or many.

        Args:
            source: one image: a path, an address, a PIL image, a uint8 array ``(H, W, 3)`` RGB, a tensor
                ``(3, H, W)``; or many: a folder, a pattern, a list of images, a video, a camera's number, a stream.
            batch_size: images at once, at most: see `PIXELS_AT_ONCE`.
            stream: give results out one by one as they are ready; those of videos, cameras and streams always are.

        Returns:
            An iterator of `Result` where they are given out one by one; else a `Result`, or of many a list.

        Raises:
            SourceError: an image is not what it should be.
        """
        if not is_whole(batch_size) or batch_size < 1:
            raise SourceError(f"Expected batch_size to be a whole number of at least 1, got {batch_size!r}.")
        path = isinstance(source, str | Path)
        if path and is_video(str(source)):
            return self._video(str(source), batch_size)
        if path and not str(source).startswith(WEB) and not Path(source).expanduser().is_file():
            many = self._checked(self.files(find_images(source), batch_size))
        elif (
            not path
            and isinstance(source, Iterable)
            and not isinstance(source, np.ndarray | torch.Tensor | Image.Image)
        ):
            many = self._list(source, batch_size)
        else:
            name = find_images(source)[0].name if path else "image"
            many = self.photos([(name, read_photo(source))])
            return many if stream else next(many)
        return many if stream else list(many)

    def files(self, items: Iterable[Item], batch_size: int = 8) -> Iterator[Result | Failure]:
        """Predict image files in order, those that cannot be read as `Failure`; decoding goes on ahead.

        Memory is bounded, however many they are: see `PIXELS_AHEAD`.
        """
        yield from self._batched(_decoded_ahead(items, batch_size), batch_size)

    def photos(self, photos: Iterable[tuple[str, Photo]], batch_size: int = 8) -> Iterator[Result]:
        """Predict named images in memory, in order."""
        yield from self._checked(self._batched(((Item(p.source, name), p) for name, p in photos), batch_size))

    def _list(self, source: Iterable[Any], batch_size: int) -> Iterator[Result]:
        """Predict paths under their own names, or images in memory, which may come without an end."""
        given = iter(source)
        head = list(islice(given, 1))
        if all(isinstance(one, str | Path) for one in head):
            head += given
            if all(isinstance(one, str | Path) for one in head):
                return self._checked(self.files(find_images(head), batch_size))
        photos = ((f"image_{i}", read_photo(one)) for i, one in enumerate(chain(head, given)))
        return self.photos(photos, batch_size)

    def _video(self, source: str, batch_size: int) -> Iterator[Result]:
        yield from self.photos(((f"{i:06d}", photo) for i, photo in enumerate(frames(source))), batch_size)

    @staticmethod
    def _checked(found: Iterable[Result | Failure]) -> Iterator[Result]:
        for one in found:
            if isinstance(one, Failure):
                raise SourceError(one.reason)
            yield one

    def _batched(
        self, photos: Iterable[tuple[Item, Photo | SourceError]], batch_size: int
    ) -> Iterator[Result | Failure]:
        """Predict runs of images that go to the network on one grid together; the order stays."""
        full = min(PIXELS_AHEAD // 4, PIXELS_AT_ONCE.get(self.network.device.type, PIXELS_AHEAD))
        waiting: list[tuple[Item, Photo, Plan]] = []
        for number, (item, photo) in enumerate(photos):
            if number % GIVEN_BACK_EVERY == 0 and self.network.device.type == "cpu":
                give_back_memory()
            if isinstance(photo, SourceError):
                yield from self._predicted(waiting)
                waiting = []
                yield Failure(item, str(photo))
                continue
            one = plan(photo.pixels.shape[:2], self.size, self.trained_size, self.resizes)
            if waiting and (waiting[0][2].grid != one.grid or one.tiled or waiting[0][2].tiled):
                yield from self._predicted(waiting)
                waiting = []
            waiting.append((item, photo, one))
            pixels = sum(max(p.pixels[..., 0].size, one.grid[0] * one.grid[1]) for _, p, _ in waiting)
            if len(waiting) == batch_size or pixels > full:
                yield from self._predicted(waiting)
                waiting = []
        yield from self._predicted(waiting)

    def _predicted(self, batch: Sequence[tuple[Item, Photo, Plan]]) -> Iterator[Result]:
        if not batch:
            return
        found = self.network.predict([photo.pixels for _, photo, _ in batch], [p for _, _, p in batch])
        for (item, photo, one), values in zip(batch, found, strict=True):
            photo = Photo(photo.pixels, (*photo.done, *one.done), photo.source or item.source)
            maps = partial(self.network.maps_of, photo.pixels, one)
            yield Result(photo, item.name, values, self.tasks, self.classes, self.pictures, maps)


def _decoded_ahead(items: Iterable[Item], batch_size: int) -> Iterator[tuple[Item, Photo | SourceError]]:
    """Decode files in threads, two batches ahead, but no more than `PIXELS_AHEAD` at once."""
    threads = min(usable_cores(), 16)
    waiting: deque[tuple[Item, Future[Photo | SourceError], int]] = deque()
    held = 0
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                pixels = pixel_count(Path(item.source).expanduser())
                while waiting and (held + pixels > PIXELS_AHEAD or len(waiting) >= 2 * batch_size + threads):
                    done, future, cost = waiting.popleft()
                    held -= cost
                    yield done, future.result()
                waiting.append((item, pool.submit(_read, item), pixels))
                held += pixels
            while waiting:
                done, future, _ = waiting.popleft()
                yield done, future.result()
        finally:
            for _, future, _ in waiting:
                future.cancel()


def _read(item: Item) -> Photo | SourceError:
    try:
        return read_photo(item.source)
    except SourceError as error:
        return error
