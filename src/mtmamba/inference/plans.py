"""How an image of any size is brought to the network: resized, padded to a grid, or cut into tiles; and normalised."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtmamba.inference.sources import SourceError
from mtmamba.padding import resize_image
from mtmamba.rules import INPUT_SIZE
from mtmamba.types import IMAGENET_MEAN, IMAGENET_STD

STRIDE = 32
TILE, OVERLAP = 1024, 256
"""Side and overlap, in pixels, of the tiles that a larger image is cut into at ``native`` size."""

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

    def scaled(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return RGB ``(h, w, 3)`` resized to ``size``."""
        if image.shape[:2] == self.size:
            return image
        if self.as_trained:
            return resize_image(image, self.size)
        method = cv2.INTER_AREA if self.size[0] < image.shape[0] else cv2.INTER_LINEAR
        return np.asarray(cv2.resize(image, self.size[::-1], interpolation=method), np.uint8)


def check_size(size: Size) -> None:
    """Raise SourceError unless this is a way to choose the size that images are predicted at."""
    if not INPUT_SIZE.holds(list(size) if isinstance(size, Sequence) and not isinstance(size, str) else size):
        raise SourceError(f"Expected size to be {INPUT_SIZE.words}, got {size}: write size={INPUT_SIZE.example}.")


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
        rows, columns = (len(tiles(side)) for side in target)
        return Plan(target, target, True, (*done, f"predicted in {columns}x{rows} tiles"))
    if target[0] <= trained[0] and target[1] <= trained[1]:
        return Plan(target, (trained[0], trained[1]), False, done)
    return Plan(target, whole_strides(target), False, done)


def whole_strides(size: tuple[int, int]) -> tuple[int, int]:
    """Return the least height and width of whole strides that a size fits into."""
    return size[0] + -size[0] % STRIDE, size[1] + -size[1] % STRIDE


def tiles(side: int) -> list[slice]:
    """Return where tiles lie along a side: evenly, with at least `OVERLAP` pixels in common."""
    if side <= TILE:
        return [slice(0, side)]
    count = -(-(side - OVERLAP) // (TILE - OVERLAP))
    starts = (round(i * (side - TILE) / (count - 1)) for i in range(count))
    return [slice(start, start + TILE) for start in starts]


def tile_weights(size: Sequence[int]) -> Tensor:
    """Return weights that fall linearly towards a tile's borders, over the overlap, and never reach 0: ``(h, w)``."""
    distances = (torch.arange(1, side + 1).minimum(torch.arange(side, 0, -1)).float() for side in size)
    rows, columns = ((distance / OVERLAP).clamp(max=1) for distance in distances)
    return rows[:, None] * columns


def normalised(image: NDArray[np.uint8], device: torch.device | str = "cpu") -> Tensor:
    """Return RGB ``(h, w, 3)`` uint8 as a network takes it: ``(3, h, w)`` float32, as evaluation normalises."""
    mean, factor = _statistics(torch.device(device))
    return ((torch.from_numpy(np.array(image)).to(device).float() - mean) * factor).movedim(-1, 0)


@cache
def _statistics(device: torch.device) -> tuple[Tensor, Tensor]:
    """Return what pixels are diminished and then multiplied by."""
    return torch.tensor(IMAGENET_MEAN, device=device) * 255, 1 / (torch.tensor(IMAGENET_STD, device=device) * 255)
