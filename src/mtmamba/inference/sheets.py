"""Sheets for people: the photograph and every task beside it, each picture with a title and what its colours mean."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from PIL import Image, ImageDraw

from mtmamba.tasks.legends import NO_LEGEND, Legend, font
from mtmamba.tasks.pictures import BACKGROUND, INK, Picture

WIDTH = 480
"""Width of a picture on a sheet, in pixels."""
COLUMNS = 3
TALLEST = 3
"""How many times higher than wide a picture's place may be."""
GAP, TITLE = 12, 26


@dataclass(frozen=True)
class Tile:
    """A picture on a sheet.

    Attributes:
        title: above it.
        picture: ``(h, w, 3)`` RGB.
        legend: below it.
    """

    title: str
    picture: Picture
    legend: Legend = NO_LEGEND


def sheet(tiles: Sequence[Tile], width: int = WIDTH) -> Picture:
    """Return a sheet of pictures of one image, at most three in a row, each scaled to one width.

    Args:
        tiles: pictures of equal proportions.
        width: of each picture.

    Shape: ``(H, W, 3)`` uint8 RGB.
    """
    columns = min(COLUMNS if len(tiles) != 4 else 2, len(tiles))
    drawn = [_drawn(tile, width) for tile in tiles]
    rows = [drawn[i : i + columns] for i in range(0, len(drawn), columns)]
    heights = [max(len(picture) for picture in row) for row in rows]
    full = _paper(sum(heights) + GAP * (len(rows) + 1), columns * (width + GAP) + GAP)
    top = GAP
    for row, height in zip(rows, heights, strict=True):
        for column, picture in enumerate(row):
            left = GAP + column * (width + GAP)
            full[top : top + len(picture), left : left + width] = picture
        top += height + GAP
    return full


def _drawn(tile: Tile, width: int) -> Picture:
    scale = min(width / tile.picture.shape[1], TALLEST * width / tile.picture.shape[0])
    height, own = (max(1, round(side * scale)) for side in tile.picture.shape[:2])
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    middle = _paper(height, width)
    left = (width - own) // 2
    middle[:, left : left + own] = cv2.resize(tile.picture, (own, height), interpolation=method)
    return np.concatenate((_titled(tile.title, width), middle, tile.legend.drawn(width)))


@lru_cache(maxsize=64)  # the tasks' are the same on every sheet
def _titled(title: str, width: int) -> Picture:
    image = Image.new("RGB", (width, TITLE), (BACKGROUND,) * 3)
    ImageDraw.Draw(image).text((2, 4), title, INK, font(15))
    return np.asarray(image, np.uint8)


def _paper(height: int, width: int) -> Picture:
    return np.full((height, width, 3), BACKGROUND, np.uint8)
