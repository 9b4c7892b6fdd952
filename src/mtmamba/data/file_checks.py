"""Whether a dataset's files are all there, and of one size by their headers."""

import itertools
import os
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from mtmamba.data.layouts import Alternatives, find_file
from mtmamba.data.readers import PNG
from mtmamba.files import what_is
from mtmamba.tasks.files import npy_header

FORMATS = {".npy": "NPY", ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".tif": "TIFF", ".tiff": "TIFF"}
FORMATS |= {".bmp": "BMP", ".webp": "WEBP"}
"""Formats of files whose headers say what size they have, by suffix."""
IMAGES = ("PNG", "JPEG", "MPO")
"""What images may be, whatever their suffix; MPO is the JPEG of some cameras."""
MAX_PIXELS = 178_956_970
"""Pixels of an image at most, Pillow's own limit: a small file can claim more than memory holds."""
_PNG_HEADER = struct.Struct(">16xII")
_THREADS = 16  # headers are many small reads, which a network's file system answers slowly, one by one


def find_missing(root: Path, ids: dict[str, list[str]], needed: dict[Alternatives, list[str]]) -> Iterator[str]:
    """Yield a line for every kind of file that no id has, and every file that an id lacks; folders are listed once."""
    listed = cache(lambda folder: set(os.listdir(folder)) if folder.is_dir() else set())
    pairs = [(split, name) for split, names in ids.items() for name in names]
    for patterns, tasks in needed.items():
        candidates = [[pattern.format(id=name) for pattern in patterns] for _, name in pairs]
        found = [any(path.name in listed(path.parent) for path in map(root.joinpath, paths)) for paths in candidates]
        if not any(found):
            names = " or ".join(patterns).replace("{id}", "ID")
            yield f"{names}: none of {len(pairs)} files (for {', '.join(tasks)})"
            continue
        for (split, _), paths, exists in zip(pairs, candidates, found, strict=True):
            if not exists:
                yield f"{' or '.join(paths)}: missing ({split}, for {', '.join(tasks)})"


def compare_sizes(
    root: Path, ids: dict[str, list[str]], needed: list[Alternatives]
) -> tuple[set[tuple[int, int]], list[str]]:
    """Return the images' sizes, 0 where not in `FORMATS`, and a line for every bad header or size that differs."""

    def check(name: str) -> tuple[tuple[int, int], list[str]]:
        found: list[str] = []
        sizes, image = {}, find_file(root, needed[0], name)
        for path in (find_file(root, patterns, name) for patterns in needed):
            if not os.path.lexists(path):
                continue  # a label that may be missing
            if not path.is_file():
                found.append(f"{path.relative_to(root)}: expected a file, got {what_is(path)}")
            elif path.suffix.lower() in FORMATS:
                try:
                    sizes[path] = _read_shape(path, path == image)
                except (OSError, ValueError, KeyError, Image.DecompressionBombError) as error:
                    found.append(f"{path.relative_to(root)}: expected a readable file, got {error}")
        if image not in sizes:
            return (0, 0), found
        size = sizes[image][0], sizes[image][1]
        wrong = [(path.relative_to(root), shape) for path, shape in sizes.items() if shape[:2] != size]
        return size, [*found, *(f"{path}: expected the image's size {size}, got {shape}" for path, shape in wrong)]

    with ThreadPoolExecutor(_THREADS) as pool:
        sizes, lines = zip(*(pair for names in ids.values() for pair in pool.map(check, names)), strict=True)
    return set(sizes), list(itertools.chain(*lines))


def _read_shape(path: Path, is_image: bool) -> tuple[int, ...]:
    """Return height and width from a file's header, of an ``.npy`` the whole shape.

    Raises:
        OSError, ValueError, KeyError, DecompressionBombError: it is none of its suffix's format, which of PNG and JPEG
            only a target must be, or of too many pixels.
    """
    suffix = path.suffix.lower()
    if suffix == ".npy":
        return npy_header(path)[1]
    with path.open("rb") as file:
        start = file.read(_PNG_HEADER.size)
        if len(start) == _PNG_HEADER.size and start.startswith(PNG):
            kind, (width, height) = "PNG", _PNG_HEADER.unpack(start)
        else:
            try:
                with Image.open(file) as image:
                    kind, width, height = str(image.format), image.width, image.height
            except UnidentifiedImageError:
                raise ValueError("no image") from None
    expected = IMAGES if is_image else (FORMATS[suffix],)
    if kind not in expected:
        raise ValueError(f"{kind} and not {' or '.join(expected)}: convert it, or give it the name of what it is")
    if width * height > MAX_PIXELS:
        raise ValueError(f"{height} x {width} pixels, more than {MAX_PIXELS}")
    return height, width
