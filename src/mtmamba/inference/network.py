"""A network on images of any size, in batches or in tiles, on one device in one precision."""

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtmamba.evaluation.views import Views
from mtmamba.inference.own_size import TOGETHER, as_array, band_of, channels, finished, runs_of_one_size
from mtmamba.inference.plans import Plan, normalised, tile_weights, tiles, whole_strides
from mtmamba.inference.sources import SourceError
from mtmamba.models.multitask import MultiTaskModel
from mtmamba.padding import crop, pad
from mtmamba.tasks import Task


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
            yield self._in_tiles(plans[0].scaled(images[0]), images[0].shape[:2])
            return
        inputs = (normalised(p.scaled(x), self.device) for x, p in zip(images, plans, strict=True))
        batch = torch.stack([pad(x, p.grid) for x, p in zip(inputs, plans, strict=True)])
        maps = self._maps(batch)
        sizes = [(one.size, image.shape[:2]) for image, one in zip(images, plans, strict=True)]
        for start, stop in runs_of_one_size(sizes, TOGETHER.get(self.device.type, 0) // channels(maps)):
            own, full = sizes[start]
            yield from finished(self.tasks, {name: crop(x[start:stop], own) for name, x in maps.items()}, full)

    def maps_of(self, image: NDArray[np.uint8], one: Plan, task: str) -> NDArray[np.float32]:
        """Return the maps that a task's decision is made from, at the image's own size: ``(m, h, w)`` float32."""
        if one.tiled:
            raise SourceError("Expected an image that is predicted at once, got one in tiles: use a smaller size.")
        maps = self._maps(pad(normalised(one.scaled(image), self.device), one.grid)[None])[task][0]
        size = image.shape[:2]
        with torch.inference_mode():
            return band_of(crop(maps, one.size), size, 0, size[0]).numpy(force=True)

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
        rows = tiles(height)
        native = (height, width) == tuple(full)
        bands: dict[str, list[Tensor]] = {task.name: [] for task in self.tasks}
        left_over: dict[str, Tensor] = {}
        for row, following in zip(rows, [*rows[1:], slice(height, None)], strict=True):
            sums = self._row_of_tiles(image[row])
            done = following.start - row.start
            for task in self.tasks:
                x = sums[task.name]
                if (above := left_over.get(task.name)) is not None:
                    x[:, : above.shape[1]] += above
                left_over[task.name] = x[:, done:].clone()
                band = x[:-1, :done] / x[-1:, :done]
                bands[task.name].append(torch.from_numpy(as_array(task.decide(band[None])[0])) if native else band)
        maps = {name: torch.cat(parts, dim=-2) for name, parts in bands.items()}
        if native:
            return {task.name: as_array(maps[task.name]) for task in self.tasks}
        return next(finished(self.tasks, {name: x[None] for name, x in maps.items()}, full))

    def _row_of_tiles(self, band: NDArray[np.uint8]) -> dict[str, Tensor]:
        """Return the weighted sums of a row of tiles, and as a last channel those of the weights: ``(m + 1, h, w)``."""
        height, width = band.shape[:2]
        sums: dict[str, Tensor] = {}
        for columns in tiles(width):
            tile = normalised(band[:, columns], self.device)  # (3, h, w)
            size = (height, tile.shape[-1])
            weights = tile_weights(size)
            for name, maps in self._maps(pad(tile, whole_strides(size))[None]).items():
                own = crop(maps[0].float().cpu(), size)
                total = sums.setdefault(name, torch.zeros(len(own) + 1, height, width))
                total[:-1, :, columns] += own * weights
                total[-1, :, columns] += weights
        return sums


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise SourceError(f"Expected device to be auto, cpu or a GPU such as cuda:0, got {name} ({reason}).") from error
    return device
