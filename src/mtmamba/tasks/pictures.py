"""Maps as colours for people to look at.

A picture is an RGB array ``(H, W, 3)`` of uint8. Pixels without truth are dark grey in every kind of picture.
"""

from collections.abc import Callable, Sequence
from functools import cache, wraps
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mtmamba.files import replacing
from mtmamba.padding import centre
from mtmamba.types import IGNORE, IMAGENET_MEAN, IMAGENET_STD

Picture = NDArray[np.uint8]
Draw = Callable[[Tensor], Picture]
"""One image's prediction or target ``(H, W)`` or ``(c, H, W)`` → RGB."""

IGNORED_COLOUR = (80, 80, 80)
SHOWN_DEPTH = (0.5, 10.0)
"""Metres at the ends of the colour map, where a dataset names no others: up to the reach of NYUv2's sensor."""

VOC_CLASSES = 21
PIXELS_AT_ONCE = 2**22
BACKGROUND, INK = 245, (40, 40, 40)


def by_rows(draw: Callable[..., Picture]) -> Callable[..., Picture]:
    """Draw large maps a band of rows at a time, where every pixel's colour is its own: temporaries stay small."""

    @wraps(draw)
    def drawn(values: Tensor, *args: Any, **kwargs: Any) -> Picture:
        height, width = values.shape[-2:]
        rows = max(1, PIXELS_AT_ONCE // max(1, width))
        if rows >= height:
            return draw(values, *args, **kwargs)
        bands = (draw(values[..., top : top + rows, :], *args, **kwargs) for top in range(0, height, rows))
        picture = np.empty((height, width, 3), np.uint8)
        for top, band in zip(range(0, height, rows), bands, strict=True):
            picture[top : top + rows] = band
        return picture

    return drawn


def photograph(image: Tensor) -> Picture:
    """Undo the ImageNet normalisation: ``(3, H, W)`` float."""
    array = image.float().movedim(0, -1).numpy(force=True)
    return _bytes(array * np.array(IMAGENET_STD) + np.array(IMAGENET_MEAN))


@by_rows
def class_colours(classes: Tensor, colours: Sequence[Sequence[int]] = ()) -> Picture:
    """Each class in its colour, else in that of the `palette`: ``(H, W)`` classes, 255 for ignored."""
    table = palette().copy()
    table[: len(colours)] = np.reshape(colours, (-1, 3))
    return np.take(table, classes.numpy(force=True), axis=0)  # as table[classes], without Python's lock


@by_rows
def depth_colours(depth: Tensor, shown: Sequence[float] = SHOWN_DEPTH) -> Picture:
    """Depth between two distances, from violet to yellow, logarithmically, in viridis: ``(H, W)`` metres, 255 ignored.

    The two belong to the dataset, not to the picture: all depth pictures of a dataset compare.
    """
    array = depth.numpy(force=True)
    nearest, farthest = shown
    mapped = cv2.applyColorMap(
        _bytes(np.log(np.maximum(array, nearest) / nearest) / np.log(farthest / nearest)), cv2.COLORMAP_VIRIDIS
    )
    return _without_ignored(mapped[..., ::-1], array == IGNORE)  # OpenCV's order is blue, green, red


def depth_range(metres: NDArray[Any]) -> tuple[float, float] | None:
    """Powers of two around all depths above 0, but for the nearest and farthest fiftieth; None where there are none."""
    metres = metres[np.isfinite(metres) & (metres > 0)]
    if not metres.size:
        return None
    near, far = np.log2(np.percentile(metres, (2, 98)))
    return float(2 ** np.floor(near)), float(2 ** max(np.ceil(far), np.floor(near) + 1))


@by_rows
def normal_colours(normals: Tensor) -> Picture:
    """Components -1..1 as red, green and blue: ``(3, H, W)`` unit vectors, 255 in all components for ignored."""
    array = normals.movedim(0, -1).numpy(force=True)
    return _without_ignored(_bytes((array + 1) / 2), array[..., 0] == IGNORE)


@by_rows
def greys(values: Tensor) -> Picture:
    """Saliency or boundaries from 0 (black) to 1 (white): ``(H, W)``, 255 for ignored."""
    array = values.numpy(force=True).astype(np.float32)
    return _without_ignored(cv2.cvtColor(_bytes(array), cv2.COLOR_GRAY2RGB), array == IGNORE)


def stretched(values: Tensor) -> Picture:
    """Any real numbers, from their least (black) to their greatest (white): ``(H, W)`` or ``(3, H, W)``, 255 ignored.

    Other numbers of channels are shown by their mean.
    """
    array = values.float().numpy(force=True)
    array = array[None] if array.ndim == 2 else array  # (c, H, W)
    ignored = (array == IGNORE).all(0)
    shown = array[:, ~ignored]
    low, high = (float(shown.min()), float(shown.max())) if shown.size else (0.0, 1.0)
    array = (array if len(array) == 3 else array.mean(0, keepdims=True).repeat(3, 0)) - low
    return _without_ignored(_bytes(np.moveaxis(array / max(high - low, 1e-12), 0, -1)), ignored)


@cache
def palette() -> Picture:
    """Colours of the classes 0..254 and, at 255, of ignored pixels: ``(256, 3)``.

    The first 21 are PASCAL VOC's, each bit triple of the class number being one bit of red, green and blue from the
    highest down. Every further colour is, on a grid, the one that looks least like all before it (distance in CIELAB).
    """
    steps = np.linspace(0, 255, 8).astype(np.uint8)
    grid = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(-1, 3)  # (512, 3)
    colours = np.array([IGNORED_COLOUR, *(_voc_colour(index) for index in range(VOC_CLASSES))], np.uint8)
    candidates = _lab(grid)
    distances = np.linalg.norm(candidates[:, None] - _lab(colours), axis=-1).min(1)  # (512,), to the nearest so far
    while len(colours) <= IGNORE:
        chosen = distances.argmax()
        colours = np.vstack((colours, grid[chosen]))
        distances = np.minimum(distances, np.linalg.norm(candidates - candidates[chosen], axis=-1))
    table = np.roll(colours, -1, axis=0)
    table.setflags(write=False)
    return table


def without_padding(picture: Picture, size: tuple[int, int]) -> Picture:
    """The centre of the given height and width (the odd pixel of padding lies below and to the right)."""
    return picture[centre(picture.shape[:2], size)]


def save_picture(path: Path, picture: Picture, parameters: Sequence[int] = ()) -> None:
    """Write a file of its suffix's format, making its folder; a reader sees the old file or the whole new one.

    Args:
        path: ``.png`` or ``.jpg``.
        picture: ``(H, W, 3)`` uint8 RGB.
        parameters: of `cv2.imencode`.
    """
    _, encoded = cv2.imencode(path.suffix, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), parameters)
    with replacing(path) as partial:
        partial.write_bytes(encoded.data)


def _bytes(values: NDArray[np.floating]) -> Picture:
    """0..1 as 0..255, rounded; values beyond are clipped."""
    return np.rint(values * 255).clip(0, 255).astype(np.uint8)


def _without_ignored(picture: NDArray[Any], ignored: NDArray[np.bool_]) -> Picture:
    if not ignored.any():  # predictions have none
        return np.ascontiguousarray(picture)
    return np.where(ignored[..., None], np.array(IGNORED_COLOUR, np.uint8), picture)


def _voc_colour(index: int) -> tuple[int, int, int]:
    red, green, blue = (
        sum((index >> (3 * bit + channel) & 1) << (7 - bit) for bit in range(3)) for channel in range(3)
    )
    return red, green, blue


def _lab(colours: Picture) -> NDArray[np.float32]:
    """CIELAB of ``(N, 3)`` colours."""
    return cv2.cvtColor(colours[None].astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[0]
