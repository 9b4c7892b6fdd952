"""A network on images of any size: fitted or cut into tiles, batched, and brought back to each image's own grid."""

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from mtmamba.evaluation.views import Views
from mtmamba.inference.images import SourceError
from mtmamba.models.multitask import MultiTaskModel
from mtmamba.padding import crop, pad, resize_image, resized
from mtmamba.tasks import Task
from mtmamba.types import IMAGENET_MEAN, IMAGENET_STD

STRIDE = 32
TILE, OVERLAP = 1024, 256
"""Side and overlap, in pixels, of the tiles that a larger image is cut into at ``native`` size."""
VALUES_AT_ONCE = 2**24
"""How many values of maps are held at an image's own size at once; beyond, the image is finished in bands of rows."""
TOGETHER = {"cuda": 2**27}
"""How many values of images of one size are finished together, by device; elsewhere image by image."""
LARGE = 2**24
"""Pixels beyond which an image's predictions are held for one task at a time."""

Size = str | Sequence[int]


@dataclass(frozen=True)
class Plan:
    """How an image is brought to the network.

    Attributes:
        size: height and width it is resized to; its own where it is not.
        grid: height and width of what the network is given, the image in its centre.
        tiled: whether it is cut into tiles instead.
        done: the same in words, for people; empty where the image is as it was.
        as_trained: whether it is resized as in training with ``data.resize``.
    """

    size: tuple[int, int]
    grid: tuple[int, int]
    tiled: bool = False
    done: tuple[str, ...] = ()
    as_trained: bool = False


def check_size(size: Size) -> None:
    """Raise SourceError unless this is a way to choose the size that images are predicted at."""
    if isinstance(size, str):
        number = size.removeprefix("max:")
        right = size in ("auto", "native") or (size.startswith("max:") and number.isdigit() and int(number) >= STRIDE)
    else:
        right = (
            isinstance(size, Sequence) and len(size) == 2 and all(isinstance(side, int) and side >= 1 for side in size)
        )
    if not right:
        raise SourceError(
            f"Expected size to be auto, native, max:PIXELS (at least {STRIDE}) or [HEIGHT,WIDTH], got {size}."
        )


def plan(image: Sequence[int], size: Size, trained: Sequence[int], resize: bool = False) -> Plan:
    """Decide how an image is brought to the network.

    A network of resized images (``data.resize``) is given such. With others, an image that fits into the grid that
    the network was trained and evaluated on lies in its centre, as there. A larger one is scaled down to as many
    pixels (``auto``), or predicted as it is (``native``), if need be in tiles.

    Args:
        image: its height and width.
        size: ``auto``, ``native``, ``max:N`` for a longer side of at most N, or height and width.
        trained: height and width of the grid.
        resize: whether images were resized to it in training.
    """
    height, width = image
    if resize and size == "auto":
        grid = (trained[0], trained[1])
        return Plan(grid, grid, False, (f"scaled to {grid[1]}x{grid[0]}",) if grid != (height, width) else (), True)
    if isinstance(size, str) and height <= trained[0] and width <= trained[1]:
        return Plan((height, width), (trained[0], trained[1]))
    if not isinstance(size, str):
        target = (size[0], size[1])
    elif size == "native":
        target = (height, width)
    else:
        limit = int(size[4:]) / max(image) if size != "auto" else (trained[0] * trained[1] / (height * width)) ** 0.5
        scale = min(1.0, limit)
        target = (max(1, round(height * scale)), max(1, round(width * scale)))
    done = () if target == (height, width) else (f"scaled to {target[1]}x{target[0]}",)
    if max(target) > TILE + OVERLAP and target[0] * target[1] > TILE**2:
        rows, columns = (len(_starts(side)) for side in target)
        return Plan(target, target, True, (*done, f"predicted in {columns}x{rows} tiles"))
    if target[0] <= trained[0] and target[1] <= trained[1]:
        return Plan(target, (trained[0], trained[1]), False, done)
    return Plan(target, (target[0] + -target[0] % STRIDE, target[1] + -target[1] % STRIDE), False, done)


class Network:
    """A model ready to predict, on one device in one precision; calls from several threads wait for each other.

    Args:
        model: from `mtmamba.load_model`.
        tasks: to predict.
        device: where; ``auto`` is a GPU where there is one.
        precision: ``auto`` is ``bf16`` on GPUs that have it, else ``32``.
        flip: average with the mirror image.

    Raises:
        SourceError: there is no such device, or no such precision.
    """

    def __init__(
        self, model: MultiTaskModel, tasks: Sequence[Task], device: str = "auto", precision: str = "auto", *, flip: bool
    ) -> None:
        self.device = _device(device)
        if precision not in ("auto", "bf16", "32"):
            raise SourceError(f"Expected precision to be auto, bf16 or 32, got {precision}.")
        bf16 = self.device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        self.bf16 = precision == "bf16" or (precision == "auto" and bf16)
        model = model.to(self.device).eval().requires_grad_(False)
        if self.bf16:
            model.weights_to_bfloat16()
        self.tasks = tuple(tasks)
        self.views = Views(model, tasks, flip=flip, cuda_graph=self.device.type == "cuda")
        self._lock = threading.Lock()

    def predict(
        self, images: Sequence[NDArray[np.uint8]], plans: Sequence[Plan]
    ) -> Iterator[Mapping[str, NDArray[Any]]]:
        """Yield each image's predictions on its own grid, ``(h, w)`` or ``(c, h, w)``, as the tasks' metrics take them.

        Args:
            images: ``(h, w, 3)`` uint8 RGB.
            plans: from `plan`, all of one grid, or one that is tiled.
        """
        if plans[0].tiled:
            yield self._in_tiles(_resized(images[0], plans[0]), images[0].shape[:2])
            return
        inputs = (normalised(_resized(x, p), self.device) for x, p in zip(images, plans, strict=True))
        batch = torch.stack([pad(x, p.grid) for x, p in zip(inputs, plans, strict=True)])
        maps = self._maps(batch)
        sizes = [(one.size, image.shape[:2]) for image, one in zip(images, plans, strict=True)]
        for start, stop in runs_of_one_size(sizes, TOGETHER.get(self.device.type, 0) // _channels(maps)):
            own, full = sizes[start]
            yield from self._finished({name: crop(x[start:stop], own) for name, x in maps.items()}, full)

    def maps_of(self, image: NDArray[np.uint8], one: Plan, task: str) -> NDArray[np.float32]:
        """Return the maps that a task's decision is made from, at the image's own size: ``(m, h, w)`` float32."""
        if one.tiled:
            raise SourceError("Expected an image that is predicted at once, got one in tiles: use a smaller size.")
        scaled = _resized(image, one)
        maps = self._maps(pad(normalised(scaled, self.device), one.grid)[None])[task][0]
        size = image.shape[:2]
        with torch.inference_mode():
            return _band(crop(maps, one.size), size, 0, size[0]).numpy(force=True)

    def _maps(self, batch: Tensor) -> dict[str, Tensor]:
        """Return the activated maps of normalised images ``(B, 3, H, W)`` on the network's device."""
        autocast = torch.autocast(self.device.type, torch.bfloat16) if self.bf16 else contextlib.nullcontext()
        with self._lock, torch.inference_mode(), autocast:
            return self.views.maps(batch)

    def _in_tiles(self, image: NDArray[np.uint8], full: Sequence[int]) -> Mapping[str, NDArray[Any]]:
        """Predict a large image by overlapping tiles, whose weights fall towards their borders.

        One row of tiles is held at a time; rows that no later tile touches are finished at once.
        """
        height, width = image.shape[:2]
        rows = _starts(height)
        native = (height, width) == tuple(full)
        bands: dict[str, list[Tensor]] = {task.name: [] for task in self.tasks}
        left_over: dict[str, Tensor] = {}
        for top, following in zip(rows, [*rows[1:], height], strict=True):
            sums = self._row_of_tiles(image[top : top + TILE])
            done = following - top
            for task in self.tasks:
                x = sums[task.name]
                if (above := left_over.get(task.name)) is not None:
                    x[:, : above.shape[1]] += above
                left_over[task.name] = x[:, done:].clone()
                band = x[:-1, :done] / x[-1:, :done]
                bands[task.name].append(torch.from_numpy(_array(task.decide(band[None])[0])) if native else band)
        maps = {name: torch.cat(parts, dim=-2) for name, parts in bands.items()}
        if native:
            return {task.name: _array(maps[task.name]) for task in self.tasks}
        return next(self._finished({name: x[None] for name, x in maps.items()}, full))

    def _row_of_tiles(self, band: NDArray[np.uint8]) -> dict[str, Tensor]:
        """Return the weighted sums of a row of tiles, and as a last channel those of the weights: ``(m + 1, h, w)``."""
        height, width = band.shape[:2]
        sums: dict[str, Tensor] = {}
        for left in _starts(width):
            tile = normalised(band[:, left : left + TILE], self.device)
            size = (height, tile.shape[-1])
            weights = _ramp(height)[:, None] * _ramp(size[1])
            grid = [side + -side % STRIDE for side in size]
            for name, maps in self._maps(pad(tile, grid)[None]).items():
                own = crop(maps[0].float().cpu(), size)
                total = sums.setdefault(name, torch.zeros(len(own) + 1, height, width))
                total[:-1, :, left : left + size[1]] += own * weights
                total[-1, :, left : left + size[1]] += weights
        return sums

    def _finished(self, maps: Mapping[str, Tensor], size: Sequence[int]) -> Iterator[Mapping[str, NDArray[Any]]]:
        """Bring maps ``(B, m, h, w)`` to the images' own size and decide; yield each image's predictions."""
        height, width = size
        if height * width > min(LARGE, VALUES_AT_ONCE // _channels(maps)):
            for index in range(len(next(iter(maps.values())))):
                large = Large(self.tasks, {name: x[index] for name, x in maps.items()}, (height, width))
                yield large if height * width > LARGE else dict(large)
            return
        with torch.inference_mode():
            decided = {task.name: task.decide(resized(maps[task.name].float(), size)) for task in self.tasks}
        for index in range(len(next(iter(decided.values())))):
            yield {name: _array(x[index].cpu()) for name, x in decided.items()}


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
            return _array(task.decide(resized(x[None].float(), size))[0].cpu())
        for top in range(0, size[0], rows):
            bottom = min(top + rows, size[0])
            part = _array(task.decide(_band(x, size, top, bottom)[None])[0].cpu())
            if top == 0:
                whole = np.empty((*part.shape[:-2], *size), part.dtype)
            whole[..., top:bottom, :] = part
        return whole


def _channels(maps: Mapping[str, Tensor]) -> int:
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


def _array(prediction: Tensor) -> NDArray[Any]:
    """Return a prediction as an array: classes as uint8, everything else as float32."""
    return prediction.to(torch.float32 if prediction.is_floating_point() else torch.uint8).numpy()


def normalised(image: NDArray[np.uint8], device: torch.device | str = "cpu") -> Tensor:
    """Return RGB ``(h, w, 3)`` uint8 as a network takes it: ``(3, h, w)`` float32, as evaluation normalises."""
    mean, scale = (torch.tensor(x, device=device) * 255 for x in (IMAGENET_MEAN, IMAGENET_STD))
    return ((torch.from_numpy(np.array(image)).to(device).float() - mean) * (1 / scale)).movedim(-1, 0)


def _resized(image: NDArray[np.uint8], one: Plan) -> NDArray[np.uint8]:
    size = one.size
    if image.shape[:2] == size:
        return image
    if one.as_trained:
        return resize_image(image, size)
    method = cv2.INTER_AREA if size[0] < image.shape[0] else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, size[::-1], interpolation=method), np.uint8)


def _band(maps: Tensor, size: Sequence[int], top: int, bottom: int) -> Tensor:
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


def _starts(side: int) -> list[int]:
    """Return where tiles begin along a side: evenly, with at least `OVERLAP` pixels in common."""
    if side <= TILE:
        return [0]
    count = -(-(side - OVERLAP) // (TILE - OVERLAP))
    return [round(i * (side - TILE) / (count - 1)) for i in range(count)]


def _ramp(length: int) -> Tensor:
    """Return weights that fall linearly towards both ends, over the overlap, and never reach 0: ``(length,)``."""
    distance = torch.arange(1, length + 1).minimum(torch.arange(length, 0, -1)).float()
    return (distance / OVERLAP).clamp(max=1)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise SourceError(f"Expected device to be auto, cpu or a GPU such as cuda:0, got {name} ({reason}).") from error
    return device
