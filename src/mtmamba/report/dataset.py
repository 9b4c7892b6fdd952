"""What a check of every file has found, as a table and as a page."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from rich.table import Table

from mtmamba.data.datasets import DatasetRecord
from mtmamba.data.dense import DenseDataset
from mtmamba.data.layouts import DatasetError
from mtmamba.data.preparation.inspection import IMAGE, Found
from mtmamba.files import write_text
from mtmamba.report.page import embedded, rendered
from mtmamba.report.tables import Cell, Column, TextTable
from mtmamba.runs.table import show
from mtmamba.tasks import get_task, select_tasks
from mtmamba.tasks.panels import panel
from mtmamba.tasks.pictures import Picture, save_picture
from mtmamba.types import IGNORE

Inspection = Mapping[str, Mapping[str, Found]]

MAX_LINES = 50
"""How many problems the page lists; the rest are counted."""
SAMPLES = 6
_WIDTH = 1400
_HEADINGS = ("Split", "What", "Sound", "Missing", "Broken", "Values", "With truth", "Classes")


def show_inspection(record: DatasetRecord, found: Inspection) -> None:
    """Print the table."""
    table = Table(*_HEADINGS, title=record.title)
    for row in _rows(found):
        table.add_row(*row)
    show(table)


def write_page(
    path: Path,
    record: DatasetRecord,
    root: Path,
    found: Inspection,
    tasks: Sequence[str],
    cache_dir: Path,
    changed: Sequence[str],
) -> None:
    """Write the page, and the picture in it beside it.

    Args:
        path: of the page.
        record: of the dataset.
        root: its folder.
        found: by `mtmamba.data.preparation.inspection.inspect`.
        tasks: whose targets were read.
        cache_dir: where results too slow to compute each time are kept.
        changed: files that differ from the manifest.
    """
    lines = [*_problems(found), *(f"{name} has changed since the manifest was written" for name in changed)]
    more = [f"… and {len(lines) - MAX_LINES} more"] if len(lines) > MAX_LINES else []
    columns = [Column(name, numbers=name in ("Sound", "Missing", "Broken", "With truth")) for name in _HEADINGS]
    rows = [
        [Cell(text or "-", "worse" if i in (3, 4) and text != "0" else "") for i, text in enumerate(row)]
        for row in _rows(found)
    ]
    picture = path.parent / "pictures/samples.png"
    samples = list(_samples(record, root, tasks, cache_dir))
    if samples:
        save_picture(picture, panel(samples))
    page = rendered(
        "dataset.html.jinja",
        title=record.title,
        root=str(root),
        counts=", ".join(f"{len(_all(parts[IMAGE]))} {split}" for split, parts in found.items()),
        verdict=f"{len(lines)} problems" if lines else "Nothing is missing or broken.",
        problems=[*lines[:MAX_LINES], *more],
        files=TextTable("Files", columns, rows),
        picture=embedded(picture, _WIDTH) if samples else None,
        histograms=[
            (get_task(task).title, _histogram(record, found, task))
            for task in tasks
            if _counts(found, task) is not None
        ],
    )
    write_text(path, page)


def _all(part: Found) -> range:
    return range(part.sound + len(part.missing) + len(part.broken))


def _rows(found: Inspection) -> Iterator[list[str]]:
    for split, parts in found.items():
        for key, part in parts.items():
            classes = "" if part.counts is None else str(np.count_nonzero(part.counts[:IGNORE]))
            values = f"{part.low:.4g} … {part.high:.4g}" if part.low <= part.high else ""
            share = f"{part.valid / part.pixels:.1%}" if part.pixels and key != IMAGE else ""
            title = "Images" if key == IMAGE else get_task(key).title
            yield [split, title, str(part.sound), str(len(part.missing)), str(len(part.broken)), values, share, classes]


def _problems(found: Inspection) -> Iterator[str]:
    for split, parts in found.items():
        for key, part in parts.items():
            yield from part.broken
            yield from (f"{name}: no file for {key} ({split})" for name in part.missing)


def _counts(found: Inspection, task: str) -> np.ndarray | None:
    known = [counts for parts in found.values() if (counts := parts[task].counts) is not None]
    return np.sum(known, axis=0)[:IGNORE] if known else None


def _histogram(record: DatasetRecord, found: Inspection, task: str) -> list[tuple[str, str, float]]:
    """Return each class's name, share of the pixels as text, and length of its bar in percent."""
    counts = _counts(found, task)
    assert counts is not None
    names = list(record.classes.get(task, ())) or [str(i) for i in range(int(counts.nonzero()[0].max(initial=0)) + 1)]
    shares = counts[: len(names)] / max(counts.sum(), 1)
    return [(n, f"{s:.2%}", round(100 * s / max(shares.max(), 1e-12), 2)) for n, s in zip(names, shares, strict=True)]


def _samples(record: DatasetRecord, root: Path, tasks: Sequence[str], cache_dir: Path) -> Iterator[dict[str, Picture]]:
    """Yield evenly spaced training images that can be read, each with its targets."""
    dataset = DenseDataset(record, root, "train", tasks, lambda sample, _: sample, cache_dir=cache_dir)
    for index in np.unique(np.linspace(0, len(dataset) - 1, SAMPLES).astype(int)):
        try:
            sample = dataset.read(index)
        except DatasetError:
            continue  # listed among the problems
        row: dict[str, Picture] = {"Image": sample["image"]}
        for task in select_tasks(tasks):
            target = torch.from_numpy(sample[task.name])
            draw = record.pictures.get(task.name, task.picture)
            row[task.title] = draw(target.movedim(-1, 0) if target.ndim == 3 else target)
        yield row
