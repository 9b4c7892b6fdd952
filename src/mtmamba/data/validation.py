"""Checking a dataset's folder before anything is computed, so that what is wrong with it is named at once."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mtmamba.data.datasets import SPLITS, DatasetRecord, get_dataset
from mtmamba.data.dense import DenseDataset
from mtmamba.data.file_checks import compare_sizes, find_missing
from mtmamba.data.layouts import DatasetError
from mtmamba.data.roots import require_layout

_log = logging.getLogger(__name__)

MAX_LINES = 10
"""How many problems a report lists; the rest are counted."""
SAMPLES = 8
"""How many images of a split, evenly spaced, are decoded."""


@dataclass
class Report:
    """What a check found: how many images each split has, what must be mended, what is odd, what was asked for."""

    dataset: DatasetRecord
    root: Path
    counts: dict[str, int] = field(default_factory=dict)
    sizes: set[tuple[int, int]] = field(default_factory=set)  # of the images: `compare_sizes`
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # how many labels there are, where they are partial

    @property
    def largest(self) -> tuple[int, int]:
        """The greatest height and the greatest width of the images."""
        heights, widths = zip(*self.sizes, strict=True)
        return max(heights), max(widths)

    def summary(self) -> str:
        """Return one line: the dataset, its splits' sizes and where it lies."""
        counts = ", ".join(f"{count} {split}" for split, count in self.counts.items())
        return f"{self.dataset.title}: {counts} images in {self.root}"


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
            training; how many there are is information.

    Raises:
        DatasetError: something is missing or wrong; the message lists it, at most ten lines, and says what to do.
        ValueError: a dataset or a task that there is not.
    """
    record, root = get_dataset(dataset) if isinstance(dataset, str) else dataset, Path(root).expanduser()
    record.check_tasks(tasks)
    needed = record.layout.files(tasks)
    require_layout(root, record)
    report = Report(record, root)
    ids = {split: record.read_ids(root, split) for split in SPLITS}
    if both := sorted(set(ids["train"]) & set(ids["val"])):
        raise DatasetError(
            f"Expected no id in both training and validation of {record.title} in {root}, got {len(both)} such as "
            f"{both[0]}: take them out of one of the two lists."
        )
    report.counts = {split: len(names) for split, names in ids.items()}
    report.problems += find_missing(root, ids, record.layout.files([]) if partial is True else needed)
    if not report.problems:
        report.sizes, found = compare_sizes(root, ids, list(needed))
        report.problems += found
    if not report.problems:
        for split in SPLITS:
            images = DenseDataset(record, root, split, tasks, _keep, cache_dir=cache_dir, partial=partial)
            _count_labels(images, report)
            _check_samples(images, report)
    if report.problems:
        raise listed_problems(record, root, report.problems)
    report.warnings += _compare_counts(report.counts, counts or record.counts)
    for level, lines in ((logging.INFO, report.notes), (logging.WARNING, report.warnings)):
        for line in lines:
            _log.log(level, "%s: %s", record.title, line)
    return report


def _keep(sample: dict[str, Any], _: np.random.Generator) -> dict[str, Any]:
    return sample


def _count_labels(dataset: DenseDataset, report: Report) -> None:
    """Note how many labels of each task a split has, where they are partial."""
    for task in dataset.tasks if dataset.labelled is not None else ():
        found = len(dataset.ids_with(task))
        if found < len(dataset):
            report.notes.append(f"{found} of {len(dataset)} {dataset.split} images have a label of {task}")
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
