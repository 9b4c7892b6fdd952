"""What the colours of pictures mean: names or numbers, and how they are drawn."""

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import from_numpy

from mtmamba.tasks.pictures import BACKGROUND, INK, Draw, Picture

LINE, SWATCH, BAR = 18, 12, 14
MOST_WORDS = 6
"""Words below a bar, at most."""
_PLACES = np.array([1 << 16, 1 << 8, 1])
"""What red, green and blue are multiplied by to be one whole number."""


class Legend(NamedTuple):
    """What the colours of a kind of picture mean.

    Attributes:
        entries: words and their colours; of a bar, evenly spaced along it.
        bar: whether colours change steadily from entry to entry.
    """

    entries: tuple[tuple[str, tuple[int, int, int]], ...]
    bar: bool = False

    def drawn(self, width: int) -> Picture:
        """Return it as a picture ``(h, width, 3)``, of no height where there are no entries."""
        if not self.entries:
            return np.empty((0, width, 3), np.uint8)
        return (_bar if self.bar else _swatches)(self, width)

    def of_shown(self, pictures: Iterable[Picture]) -> "Legend":
        """Return the entries whose colours some of these pictures have."""
        shown: set[int] = set()
        for picture in pictures:
            shown.update(np.unique(picture.astype(np.int32) @ _PLACES).tolist())
        return self._replace(entries=tuple(entry for entry in self.entries if int(entry[1] @ _PLACES) in shown))


NO_LEGEND = Legend(())


def class_legend(names: Sequence[str], draw: Draw) -> Legend:
    """Names of the classes and their colours."""
    colours = draw(from_numpy(np.arange(len(names), dtype=np.uint8)[None]))[0]
    return Legend(tuple((name.replace("_", " "), _rgb(colour)) for name, colour in zip(names, colours, strict=True)))


def depth_legend(_: Sequence[str], draw: Draw, unit: str = "m") -> Legend:
    """Distances where colours change, from 2^-10 to 2^10, at powers of two: at all, or where they are many at some."""
    exponents = np.arange(-30, 31)
    values = 2 ** (exponents / 3)
    colours = draw(from_numpy(values.astype(np.float32)[None]))[0]
    changes = np.flatnonzero((colours[1:] != colours[:-1]).any(-1))
    if not changes.size:
        return NO_LEGEND
    shown = range(changes[0], changes[-1] + 2)
    every = 3 * math.ceil(len(shown) / 3 / MOST_WORDS)
    words = [f"{x:.4g} {unit}" if exponent % every == 0 else "" for x, exponent in zip(values, exponents, strict=True)]
    return Legend(tuple((words[i], _rgb(colours[i])) for i in shown), True)


def normal_legend(_: Sequence[str], draw: Draw) -> Legend:
    """Where a surface faces: x right, y down, z away from the viewer."""
    faces = {"right": (1, 0, 0), "left": (-1, 0, 0), "up": (0, -1, 0), "down": (0, 1, 0), "to the viewer": (0, 0, -1)}
    vectors = from_numpy(np.array(list(faces.values()), np.float32).T[:, None])  # (3, 1, 5)
    return Legend(tuple((name, _rgb(colour)) for name, colour in zip(faces, draw(vectors)[0], strict=True)))


def share_legend(_: Sequence[str], draw: Draw) -> Legend:
    """Probabilities from 0 to 1."""
    shares = np.linspace(0, 1, 5, dtype=np.float32)
    return Legend(
        tuple((f"{x:g}", _rgb(c)) for x, c in zip(shares, draw(from_numpy(shares[None]))[0], strict=True)), True
    )


def no_legend(_: Sequence[str], __: Draw) -> Legend:
    """Colours that mean nothing in particular."""
    return NO_LEGEND


def _rgb(colour: NDArray[np.uint8]) -> tuple[int, int, int]:
    red, green, blue = (int(x) for x in colour)
    return red, green, blue


@lru_cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return the font of a size in pixels."""
    return ImageFont.load_default(size)


def _swatches(legend: Legend, width: int) -> Picture:
    """A small square of each colour with its word, in as many lines as they take."""
    places, left, line = [], 0, 0
    for swatch in map(_swatch, legend.entries):
        if left and left + swatch.shape[1] > width:
            left, line = 0, line + 1
        places.append((swatch, line * LINE + 6, left))
        left += swatch.shape[1]
    picture = np.full(((line + 1) * LINE + 8, width, 3), BACKGROUND, np.uint8)
    for swatch, top, left in places:
        picture[top : top + LINE, left : left + swatch.shape[1]] = swatch[:, : width - left]
    return picture


@lru_cache(maxsize=1024)  # the same on many sheets
def _swatch(entry: tuple[str, tuple[int, int, int]]) -> Picture:
    """A small square of a colour with its word."""
    (word, colour), small = entry, font(12)
    image = Image.new("RGB", (SWATCH + 5 + math.ceil(small.getlength(word)) + 12, LINE), (BACKGROUND,) * 3)
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 1, SWATCH, 1 + SWATCH), colour, INK)
    draw.text((SWATCH + 5, 0), word, INK, small)
    return np.asarray(image, np.uint8)


@lru_cache(maxsize=16)  # the same on every sheet
def _bar(legend: Legend, width: int) -> Picture:
    """A bar along which the colours change, with the words below."""
    colours = np.array([colour for _, colour in legend.entries], np.float64)
    places = np.linspace(0, len(colours) - 1, width)
    strip = np.stack([np.interp(places, np.arange(len(colours)), colours[:, i]) for i in range(3)], axis=-1)
    image = Image.new("RGB", (width, BAR + LINE + 12), (BACKGROUND,) * 3)
    image.paste(Image.fromarray(np.rint(np.tile(strip[None], (BAR, 1, 1))).astype(np.uint8)), (0, 6))
    draw, small = ImageDraw.Draw(image), font(12)
    for index, (word, _) in enumerate(legend.entries):
        length = small.getlength(word)
        middle = (width - 1) * index / (len(legend.entries) - 1)
        draw.text((min(max(middle - length / 2, 0), width - length), BAR + 8), word, INK, small)
    return np.asarray(image, np.uint8)
