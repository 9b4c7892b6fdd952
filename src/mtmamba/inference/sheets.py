"""Sheets for people: the photograph and every task beside it, each picture with a title and what its colours mean."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mtmamba.tasks.pictures import BACKGROUND, INK, NO_LEGEND, Legend, Picture

WIDTH = 480
"""Of a picture on a sheet, in pixels."""
COLUMNS = 3
TALLEST = 3
"""How many times higher than wide a picture's place may be."""
GAP, TITLE, LINE, SWATCH, BAR = 12, 26, 18, 12, 14


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
    heights = [max(image.height for image in row) for row in rows]
    full = Image.new("RGB", (columns * (width + GAP) + GAP, sum(heights) + GAP * (len(rows) + 1)), (BACKGROUND,) * 3)
    top = GAP
    for row, height in zip(rows, heights, strict=True):
        for column, image in enumerate(row):
            full.paste(image, (GAP + column * (width + GAP), top))
        top += height + GAP
    return np.asarray(full, np.uint8)


def _drawn(tile: Tile, width: int) -> Image.Image:
    scale = min(width / tile.picture.shape[1], TALLEST * width / tile.picture.shape[0])
    height, own = (max(1, round(side * scale)) for side in tile.picture.shape[:2])
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    picture = Image.fromarray(np.asarray(cv2.resize(tile.picture, (own, height), interpolation=method), np.uint8))
    legend = _bar(tile.legend, width) if tile.legend.bar else _swatches(tile.legend, width)
    image = Image.new("RGB", (width, TITLE + height + (legend.height if legend else 0)), (BACKGROUND,) * 3)
    ImageDraw.Draw(image).text((2, 4), tile.title, INK, _font(15))
    image.paste(picture, ((width - own) // 2, TITLE))
    if legend:
        image.paste(legend, (0, TITLE + height))
    return image


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _swatches(legend: Legend, width: int) -> Image.Image | None:
    """A small square of each colour with its word, in as many lines as they take."""
    if not legend.entries:
        return None
    font = _font(12)
    places, left, line = [], 0, 0
    for word, colour in legend.entries:
        length = SWATCH + 5 + math.ceil(font.getlength(word)) + 12
        if left and left + length > width:
            left, line = 0, line + 1
        places.append((left, line * LINE + 6, word, colour))
        left += length
    image = Image.new("RGB", (width, (line + 1) * LINE + 8), (BACKGROUND,) * 3)
    draw = ImageDraw.Draw(image)
    for left, top, word, colour in places:
        draw.rectangle((left, top + 1, left + SWATCH, top + 1 + SWATCH), colour, INK)
        draw.text((left + SWATCH + 5, top), word, INK, font)
    return image


@lru_cache(maxsize=16)  # the same on every sheet
def _bar(legend: Legend, width: int) -> Image.Image:
    """A bar along which the colours change, with the words below."""
    colours = np.array([colour for _, colour in legend.entries], np.float64)
    places = np.linspace(0, len(colours) - 1, width)
    strip = np.stack([np.interp(places, np.arange(len(colours)), colours[:, i]) for i in range(3)], axis=-1)
    image = Image.new("RGB", (width, BAR + LINE + 12), (BACKGROUND,) * 3)
    image.paste(Image.fromarray(np.rint(np.tile(strip[None], (BAR, 1, 1))).astype(np.uint8)), (0, 6))
    draw, font = ImageDraw.Draw(image), _font(12)
    for index, (word, _) in enumerate(legend.entries):
        length = font.getlength(word)
        middle = (width - 1) * index / (len(legend.entries) - 1)
        draw.text((min(max(middle - length / 2, 0), width - length), BAR + 8), word, INK, font)
    return image
