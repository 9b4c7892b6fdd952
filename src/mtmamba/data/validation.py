"""Checking a dataset's folder before anything is computed, so that what is wrong with it is named at once."""

import itertools
import logging
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from mtmamba.data.datasets import SPLITS, DatasetRecord, all_datasets, get_dataset
from mtmamba.data.dense import DenseDataset
from mtmamba.data.layouts import Alternatives, DatasetError, find_file
from mtmamba.data.readers import PNG
from mtmamba.files import what_is
from mtmamba.tasks.files import npy_header

_log = logging.getLogger(__name__)

MAX_LINES = 10
"""How many problems a report lists; the rest are counted."""
SAMPLES = 8
"""How many images of a split, evenly spaced, are decoded."""
FORMATS = {".npy": "NPY", ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".tif": "TIFF", ".tiff": "TIFF"}
FORMATS |= {".bmp": "BMP", ".webp": "WEBP"}
"""Of files whose headers say what size they have, by suffix."""
IMAGES = ("PNG", "JPEG", "MPO")
"""What images may be, whatever their suffix; MPO is the JPEG of some cameras."""
MAX_PIXELS = 178_956_970
"""Of a file, Pillow's own limit: a small one can claim more than memory holds."""
_PNG_HEADER = struct.Struct(">16xII")
_THREADS = 16  # headers are many small reads, which a network's file system answers slowly, one by one


@dataclass
class Report:
    """What a check found: how many images each split has, what must be mended and what is only worth knowing."""

    dataset: DatasetRecord
    root: Path
    counts: dict[str, int] = field(default_factory=dict)
    sizes: set[tuple[int, int]] = field(
        default_factory=set
    )  # of the images, height and width; 0 where not in `FORMATS`
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def largest(self) -> tuple[int, int]:
        """The greatest height and the greatest width of the images."""
        heights, widths = zip(*self.sizes, strict=True)
        return max(heights), max(widths)

    def summary(self) -> str:
        """Return one line: the dataset, its splits' sizes and where it lies."""
        counts = ", ".join(f"{count} {split}" for split, count in self.counts.items())
        return f"{self.dataset.title}: {counts} images in {self.root}"

    def error(self) -> DatasetError:
        """Return the exception that lists the problems, at most ten, and the remedy."""
        return listed_problems(self.dataset, self.root, self.problems)


def listed_problems(record: DatasetRecord, root: Path, problems: Sequence[str]) -> DatasetError:
    """Return the exception that lists a dataset's problems, at most ten, and the remedy."""
    listed, more = problems[:MAX_LINES], len(problems) - MAX_LINES
    lines = [f"  - {problem}" for problem in listed] + ([f"  … and {more} more"] if more > 0 else [])
    head = f"Expected a complete {record.title} in {root}, got {len(problems)} problem(s):"
    return DatasetError("\n".join([head, *lines, record.remedy]))


def validate(
    root: str | Path,
    dataset: str | DatasetRecord,
    tasks: Sequence[str],
    *,
    cache_dir: str | Path,
    counts: Mapping[str, int] | None = None,
    partial: bool | str = False,
) -> Report:
    """Check a dataset's folder for what the tasks need: layout, lists, files, sizes, counts, and a sample's content.

    Every listed id must have every file that a selected task needs, and the image files among them one size. Of each
    split, eight images are decoded with their targets. Another number of images than ``counts`` is a warning.

    Args:
        root: the folder.
        dataset: a record, or the name of a registered one.
        tasks: the selected tasks; the others' files are not looked at.
        cache_dir: see ``DenseDataset``.
        counts: images expected in each split; the published dataset's when None.
        partial: see ``DenseDataset``. With ``true`` an image may lack targets, but no task's may all be missing in
            training; how many there are is a warning.

    Raises:
        DatasetError: something is missing or wrong; the message lists it, at most ten lines, and says what to do.
        ValueError: a dataset or a task that there is not.
    """
    record, root = get_dataset(dataset) if isinstance(dataset, str) else dataset, Path(root).expanduser()
    record.check_tasks(tasks)
    needed = record.layout.files(tasks)
    _require_layout(root, record)
    report = Report(record, root)
    ids = {split: record.read_ids(root, split) for split in SPLITS}
    if both := sorted(set(ids["train"]) & set(ids["val"])):
        raise DatasetError(
            f"Expected no id in both training and validation of {record.title} in {root}, got {len(both)} such as "
            f"{both[0]}: take them out of one of the two lists."
        )
    report.counts = {split: len(names) for split, names in ids.items()}
    report.problems += _find_missing(root, ids, record.layout.files([]) if partial is True else needed)
    if not report.problems:
        report.sizes, found = _compare_sizes(root, ids, list(needed))
        report.problems += found
    if not report.problems:
        for split in SPLITS:
            images = DenseDataset(record, root, split, tasks, _keep, cache_dir=cache_dir, partial=partial)
            _count_labels(images, report)
            _check_samples(images, report)
    if report.problems:
        raise report.error()
    report.warnings += _compare_counts(report.counts, counts or record.counts)
    for warning in report.warnings:
        _log.warning("%s: %s", record.title, warning)
    return report


def _keep(sample: dict[str, Any], _: np.random.Generator) -> dict[str, Any]:
    return sample


def _require_layout(root: Path, record: DatasetRecord) -> None:
    """Raise the DatasetError that says what a folder of another layout seems to be."""

    def holds(folder: Path, other: DatasetRecord) -> bool:
        return other.layout.lists is not None and (folder / other.layout.lists).is_dir()

    layout = record.layout
    lists = "" if layout.lists is None else f"{layout.lists}/train.txt and "
    expected = f"Expected {record.title} in {root}, with {lists}{' or '.join(layout.images)}, got "
    if not root.is_dir():
        raise DatasetError(
            f"{expected}no such folder: set data.root=FOLDER"
            f"{f' or the environment variable {record.variable}' if record.variable else ''}. {record.remedy}"
        )
    below = sorted(folder for folder in root.iterdir() if folder.is_dir())
    if found := record.recognise([root, *below]):
        raise DatasetError(f"{expected}{found}. {record.remedy}")
    if layout.lists is None or holds(root, record):
        return
    nested = next((folder for folder in below if holds(folder, record)), None)
    if nested:
        raise DatasetError(f"{expected}it one level deeper: set data.root={nested}")
    if above := next((folder for folder in root.parents[:2] if holds(folder, record)), None):
        raise DatasetError(f"{expected}a folder inside it: set data.root={above}")
    other = next((other for other in all_datasets().values() if holds(root, other)), None)
    if other:
        raise DatasetError(f"{expected}{other.title}: choose data={other.name}, or set data.root to {record.title}.")
    names = ", ".join(folder.name for folder in below[:MAX_LINES]) or "nothing"
    raise DatasetError(f"{expected}a folder that holds {names}. {record.remedy}")


def _find_missing(root: Path, ids: dict[str, list[str]], needed: dict[Alternatives, list[str]]) -> Iterator[str]:
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


def _compare_sizes(
    root: Path, ids: dict[str, list[str]], needed: list[Alternatives]
) -> tuple[set[tuple[int, int]], list[str]]:
    """Return the images' sizes, and a line for every unreadable header or size that differs."""

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


def _count_labels(dataset: DenseDataset, report: Report) -> None:
    """Note how many labels of each task a split has, where they are partial."""
    for task in dataset.tasks if dataset.labelled is not None else ():
        found = len(dataset.ids_with(task))
        if found < len(dataset):
            report.warnings.append(f"{found} of {len(dataset)} {dataset.split} images have a label of {task}")
        if not found and dataset.split == "train":
            report.problems.append(f"{task}: expected a label of some training image, got none: leave it out of tasks")


def _check_samples(dataset: DenseDataset, report: Report) -> None:
    """Decode evenly spaced images with their targets; note what fails, and what the dataset remarks on."""
    for index in np.unique(np.linspace(0, len(dataset) - 1, SAMPLES).astype(int)):
        try:
            sample = dataset.read(index)
        except DatasetError as error:
            report.problems.append(str(error))
            continue
        for task, remark in dataset.record.remarks.items():
            if task in dataset.tasks_of(index) and (odd := remark(dataset.source, sample["id"], sample[task])):
                report.warnings.append(odd)


def _compare_counts(counts: Mapping[str, int], expected: Mapping[str, int]) -> list[str]:
    """Return a line for every split of another size than the published one."""
    return [
        f"expected {expected[split]} {split} images, got {count}: "
        + (
            "a subset; scores are not comparable with published ones"
            if count < expected[split]
            else "more than published"
        )
        for split, count in counts.items()
        if count != expected.get(split, count)
    ]
