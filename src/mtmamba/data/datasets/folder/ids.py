"""Which images are in a split of a folder: by its lists, or by a hash of the id."""

import os
import re
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

from mtmamba.data.datasets.record import is_id, read_list
from mtmamba.data.layouts import Alternatives, DatasetError

REMEDY = "Correct the files, or dataset.yaml in data.root; docs/data.md explains its keys."
_DEEPEST = 32
"""How deep folders within folders are read: a link to a folder above itself has no end."""


def patterns_of(value: str | list[str]) -> Alternatives:
    """Return the alternatives that dataset.yaml names, one or a list."""
    return (value,) if isinstance(value, str) else tuple(value)


def find_ids(description: Mapping[str, Any], root: Path, split: str) -> list[str]:
    """Return a split's ids: those of its list, or its share of the images by a hash of the id.

    Raises:
        DatasetError: a list is missing or wrong; no image falls to the split.
    """
    splits = description["splits"]
    if isinstance(splits["train"], str):
        return read_list(root / splits[split], REMEDY, is_id)
    images = find_images(root, patterns_of(description["images"]))
    low = 0.0 if split == "train" else splits["train"]
    ids = [name for name in images if low <= _place(name, splits.get("seed", 0)) < low + splits[split]]
    if not ids:
        raise DatasetError(
            f"Expected some of the images {' or '.join(patterns_of(description['images']))} of {root} in {split}, got "
            f"none of {len(images)}: correct images, raise splits.{split}, or choose another splits.seed."
        )
    return ids


def find_images(root: Path, patterns: Alternatives) -> list[str]:
    """Return the ids of all files that one of the patterns matches, sorted; what begins with a dot is left out."""
    found = set()
    for pattern in patterns:
        before, *middle, after = pattern.split("{id}")
        same = "".join(re.escape(part) + "(?P=id)" for part in middle)
        matcher = re.compile(f"{re.escape(before)}(?P<id>.+){same}{re.escape(after)}")
        for path in files_below(root / before.rpartition("/")[0]):
            if match := matcher.fullmatch(path.relative_to(root).as_posix()):
                found.add(match["id"])
    return sorted(found)


def files_below(folder: Path, depth: int = 0) -> Iterator[Path]:
    """Yield the files of a folder and of those within it; what begins with a dot is left out."""
    if not folder.is_dir() or depth > _DEEPEST:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from files_below(folder / entry.name, depth + 1)
            else:
                yield folder / entry.name


def _place(name: str, seed: int) -> float:
    """Return where an id falls in [0, 1): a hash, so that other images move none."""
    return int.from_bytes(blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()) / 2**64
