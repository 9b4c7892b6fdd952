"""What a dataset is to the rest of the program: one record, registered by name."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from mtmamba.data.layouts import DatasetError, Layout
from mtmamba.files import LONGEST, what_is

if TYPE_CHECKING:
    from torch import Tensor

    from mtmamba.metrics.boundary import BoundaryProtocol
    from mtmamba.tasks import Task

SPLITS = ("train", "val")
ELSEWHERE = "To start without a download, use data=synthetic."


@dataclass(frozen=True)
class Source:
    """A dataset's files on this machine.

    Attributes:
        root: its folder.
        layout: where files lie there.
        cache_dir: where results too slow to compute each time are kept; outside the dataset.
        invalid: ``ignored``, or ``as_released``: pixels without truth hold what the dataset's release trains on.
    """

    root: Path
    layout: Layout
    cache_dir: Path
    invalid: str = "ignored"

    def path(self, task: str, name: str) -> Path:
        """Return the file of an image's target."""
        return self.layout.path(self.root, task, name)


Reader = Callable[[Source, str, str, tuple[int, int]], NDArray[Any]]
"""``(source, task, id, image size) -> target (h, w)`` or ``(h, w, channels)``, 255 where there is no truth."""


def from_file(read: Callable[[Path], NDArray[Any]]) -> Reader:
    """Return a reader of targets that are one file each."""
    return lambda source, task, name, _: read(source.path(task, name))


@dataclass(frozen=True, eq=False)
class DatasetRecord:
    """Every fact about one dataset; all but name, layout and readers may be left out.

    Attributes:
        name: in configs, of its file under ``configs/data`` where it has one.
        layout: where its files lie.
        readers: by task.
        title: name for people.
        aliases: other names that configs and checkpoints may use.
        classes: names of the classes by task, in the order of their numbers in memory.
        counts: published number of images by split.
        protocol: of the boundary benchmark, or its name (`mtmamba.metrics.boundary.protocol`).
        boundary_labels: ``(source, id) -> labels``, the benchmark's truth; see ``boundary_truth``.
        scenes: the kind of synthetic scenes that can be generated in this layout.
        variable: the environment variable that configs read the folder from.
        remedy: where to get the dataset, in a sentence.
        mirrors: addresses of its archive, tried in turn.
        convert: ``(source, folder) -> `` whether the source, a file or a folder, is another that this dataset can be
            made from; then it is written into the empty folder.
        recognise: looks at folders for another archive that is taken for this one → what it is, and where.
        remarks: by task, ``(source, id, target) -> `` what is odd about a target, or None.
        find_ids: ``(root, split) -> ids``, where the layout names no lists.
        pictures: by task, what draws a map in this dataset's own colours in place of `Task.picture`.
        adapt: changes a task's record to what it means here: its metric, protocol, units.
    """

    name: str
    layout: Layout
    readers: Mapping[str, Reader]
    title: str = ""
    aliases: tuple[str, ...] = ()
    classes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    protocol: BoundaryProtocol | str | None = None
    boundary_labels: Callable[[Source, str], NDArray[Any]] | None = None
    scenes: Literal["nyud", "pascal", "cityscapes"] | None = None
    variable: str | None = None
    remedy: str = ELSEWHERE
    mirrors: tuple[str, ...] = ()
    convert: Callable[[Path, Path], bool] = lambda source, folder: False
    recognise: Callable[[Sequence[Path]], str | None] = lambda folders: None
    remarks: Mapping[str, Callable[[Source, str, NDArray[Any]], str | None]] = field(default_factory=dict)
    find_ids: Callable[[Path, str], list[str]] | None = None
    pictures: Mapping[str, Callable[[Tensor], NDArray[np.uint8]]] = field(default_factory=dict)
    adapt: Callable[[Task], Task] = lambda task: task

    def __post_init__(self) -> None:
        if not self.title:
            object.__setattr__(self, "title", self.name)

    def check_tasks(self, tasks: Sequence[str]) -> None:
        """Raise ValueError unless these are distinct tasks of this dataset, at least one."""
        known = list(self.readers)
        if not tasks or not set(tasks) <= set(known) or len(set(tasks)) != len(tasks):
            raise ValueError(
                f"Expected distinct tasks out of {known} for {self.title}, got {list(tasks)}: "
                f"set tasks=[{','.join(known)}] or some of them."
            )

    def read_ids(self, root: Path, split: str) -> list[str]:
        """Return a split's ids in the order of its list.

        Raises:
            DatasetError: there is no such split; its list is missing, empty, repeats an id or holds something that is
                no id.
        """
        if split not in SPLITS:
            raise DatasetError(
                f"Expected a split among {', '.join(SPLITS)} of {self.title}, got {split}: choose one of those; no "
                "test labels are public."
            )
        if self.find_ids is not None:
            return self.find_ids(root, split)
        return read_list(self.layout.list_path(root, split), self.remedy, lambda x: is_id(x) and len(x.split()) == 1)


def is_id(name: str) -> bool:
    """Return whether a line of a list can be an id: a path below the folder, without an ending."""
    path = PurePosixPath(name)
    sound = name.isprintable() and not path.is_absolute() and ".." not in path.parts and path.as_posix() == name
    return sound and all(len(os.fsencode(part)) <= LONGEST for part in path.parts)


def read_list(path: Path, remedy: str, is_id: Callable[[str], bool]) -> list[str]:
    """Return the ids of a list, one per line.

    Args:
        path: of the list.
        remedy: a sentence for errors.
        is_id: whether a line is an id.

    Raises:
        DatasetError: it is missing, empty, no UTF-8, repeats an id or holds something that is none.
    """
    ids = read_lines(path, remedy)
    malformed = [name for name in ids if not is_id(name)]
    repeated = [name for name, times in Counter(ids).items() if times > 1]
    if not ids:
        raise DatasetError(f"Expected {path.stem} ids in {path}, one per line, got an empty file. {remedy}")
    if malformed:
        raise DatasetError(
            f"Expected an id such as 0001 or attic/0001 a line in {path}, got {malformed[0][:40]!r}"
            f"{' and more' if len(malformed[0]) > 40 else ''}. {remedy}"
        )
    if repeated:
        raise DatasetError(f"Expected each id once in {path}, got {repeated[0]!r} twice. {remedy}")
    return ids


def read_lines(path: Path, remedy: str) -> list[str]:
    """Return a text's lines, with or without a byte-order mark and CRLF, but for empty ones.

    Args:
        path: of the text.
        remedy: a sentence for errors.

    Raises:
        DatasetError: there is none, or it is no UTF-8.
    """
    if not path.is_file():
        raise DatasetError(f"Expected a list of ids in {path}, got {what_is(path)}. {remedy}")
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise DatasetError(f"Expected ids in UTF-8 in {path}, got {error}: save the list as UTF-8.") from error


def archive_remedy(archive: str) -> str:
    """Say where the prepared archives of the multi-task literature come from."""
    return (
        f"Extract {archive}.tar.gz and set data.root=/path/to/{archive}. Its copies are linked from the "
        "READMEs of prismformore/Multi-Task-Transformer, EnVision-Research/MTMamba and innovator-zero/MTDP_Lib. "
        f"{ELSEWHERE}"
    )


def odd_normals(read_rgb: Callable[[Path], NDArray[np.uint8]]) -> Callable[[Source, str, NDArray[Any]], str | None]:
    """Return the remark on 8-bit normals of which a tenth or more is not of unit length."""

    def remark(source: Source, name: str, target: NDArray[Any]) -> str | None:
        path = source.path("normals", name)
        vectors = read_rgb(path)[target[..., 0] <= 1] * (2 / 255) - 1
        share = np.mean(np.abs(np.linalg.norm(vectors, axis=-1) - 1) < 0.1) if vectors.size else 1.0
        return f"{path}: {1 - share:.0%} of the valid normals are not of unit length" if share < 0.9 else None

    return remark


_registered: dict[str, DatasetRecord] = {}


def register(record: DatasetRecord) -> None:
    """Make a dataset known by its name and aliases.

    Raises:
        ValueError: a task has a reader and no files, or files and no reader; or another dataset has one of the names.
    """
    if record.readers.keys() != record.layout.tasks.keys():
        raise ValueError(
            f"Expected a reader for each of the tasks {list(record.layout.tasks)} of dataset {record.name}, got "
            f"readers for {list(record.readers)}: complete the record."
        )
    for other in _registered.values():
        clash = {record.name, *record.aliases} & {other.name, *other.aliases}
        if clash and other.name != record.name:
            raise ValueError(
                f"Expected a name and aliases of dataset {record.name} that no other has, got {', '.join(clash)} of "
                f"{other.title}: rename it."
            )
    _registered[record.name] = record


def all_datasets() -> dict[str, DatasetRecord]:
    """Return every registered dataset by name."""
    return dict(_registered)


def get_dataset(name: str) -> DatasetRecord:
    """Return a dataset's record by its name, or by one of its older names.

    Raises:
        ValueError: there is none of this name; the message lists those there are.
    """
    for record in _registered.values():
        if name in (record.name, *record.aliases):
            return record
    raise ValueError(
        f"Expected a dataset out of {list(_registered)}, got {name!r}: set data.dataset to one of them, or name the "
        "file that registers yours in extensions=[FILE.py]."
    )
