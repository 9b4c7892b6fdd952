"""Panels: pictures of several images and tasks side by side, under titles."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from mtmamba.tasks.pictures import BACKGROUND, INK, Picture

IMAGE, PREDICTION, TRUTH = "Image", "\nprediction", "\ntruth"
"""The title of the photograph, and the second lines of a task's titles."""
TITLE_HEIGHT, GAP = 44, 4
_TEXT: dict[str, Any] = {"fontFace": cv2.FONT_HERSHEY_SIMPLEX, "fontScale": 0.45, "thickness": 1}


def panel(
    rows: Sequence[Mapping[str, Picture]],
    tile_width: int = 208,
    keys: Mapping[str, Callable[[int], Picture]] | None = None,
) -> Picture:
    """A grid with one row per image and one titled column per kind of picture.

    Args:
        rows: pictures by title, the same titles in each row. A title has one or two lines.
        tile_width: width in pixels to which each picture is scaled, keeping its proportions.
        keys: by the first line of titles, what draws in a given width the key to their colours, below the columns.

    Raises:
        ValueError: there is no row, or the rows' titles differ.
    """
    if not rows or any(list(row) != list(rows[0]) for row in rows):
        titles = [list(row) for row in rows]
        raise ValueError(f"Expected rows of the same titled pictures, got {titles}: show the same tasks in each row.")
    bands = [np.hstack([_title(title, tile_width) for title in rows[0]])]
    bands += [_band([_scaled(picture, tile_width) for picture in row.values()]) for row in rows]
    if keys:
        spans = Counter(title.partition("\n")[0] for title in rows[0])
        widths = {title: count * (tile_width + GAP) - GAP for title, count in spans.items()}
        empty = {title: np.full((1, width, 3), BACKGROUND, np.uint8) for title, width in widths.items()}
        bands.append(_band([keys[title](width) if title in keys else empty[title] for title, width in widths.items()]))
    return np.vstack(bands)


def before_and_after(
    before: Sequence[Mapping[str, Picture]],
    after: Sequence[Mapping[str, Picture]],
    tile_width: int = 256,
    keys: Mapping[str, Callable[[int], Picture]] | None = None,
) -> Picture:
    """A panel of each image's predictions before and after training and of the truth, one above the other.

    Args:
        before: rows of `panel` that hold the photograph, and each task's prediction and truth.
        after: the same images' later.
        tile_width: as in `panel`.
        keys: as in `panel`.
    """
    rows = []
    for old, new in zip(before, after, strict=True):
        tasks = [title.removesuffix(TRUTH) for title in new if title.endswith(TRUTH)]
        for caption, row, kind in (("before", old, PREDICTION), ("after", new, PREDICTION), ("truth", new, TRUTH)):
            photograph = _captioned(_scaled(new[IMAGE], tile_width), caption)
            rows.append({IMAGE: photograph} | {task: row[task + kind] for task in tasks})
    return panel(rows, tile_width, keys)


def _scaled(picture: Picture, width: int) -> Picture:
    height = max(1, round(picture.shape[0] * width / picture.shape[1]))
    method = cv2.INTER_AREA if width < picture.shape[1] else cv2.INTER_NEAREST
    return np.asarray(cv2.resize(picture, (width, height), interpolation=method), np.uint8)


def _band(pictures: Sequence[Picture]) -> Picture:
    """Pictures of one width side by side, each with the gap to its right and below."""
    height = max(len(picture) for picture in pictures)
    padded = [
        cv2.copyMakeBorder(
            picture, 0, height - len(picture) + GAP, 0, GAP, cv2.BORDER_CONSTANT, value=(BACKGROUND,) * 3
        )
        for picture in pictures
    ]
    return np.hstack(padded)


def _title(text: str, width: int) -> Picture:
    tile = np.full((TITLE_HEIGHT, width + GAP, 3), BACKGROUND, np.uint8)
    for index, line in enumerate(text.split("\n")):
        _write(tile, line, 17 + 18 * index)
    return tile


def _captioned(picture: Picture, word: str) -> Picture:
    """A picture with a word in its upper left corner."""
    (width, _), _ = cv2.getTextSize(word, **_TEXT)
    captioned = picture.copy()
    captioned[:22, : width + 8] = BACKGROUND
    _write(captioned, word, 15)
    return captioned


def _write(picture: Picture, text: str, bottom: int) -> None:
    cv2.putText(picture, text, (4, bottom), color=INK, lineType=cv2.LINE_AA, **_TEXT)
