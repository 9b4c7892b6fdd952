"""A dataset of one's own: a folder with a dataset.yaml that says where its files lie and what they hold.

``docs/data.md`` explains every key. What the file says is called its description; checkpoints hold it, so that class
names, colours and options travel with a model.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from mtmamba.cache import cached
from mtmamba.data.datasets.folder.checks import check
from mtmamba.data.datasets.folder.ids import REMEDY, find_ids, patterns_of
from mtmamba.data.datasets.folder.kinds import Read, class_count, colour, kind_of
from mtmamba.data.datasets.record import DatasetRecord, Reader, Source, from_file
from mtmamba.data.layouts import DESCRIPTION, DatasetError, Layout
from mtmamba.data.roots import find_description
from mtmamba.metrics.boundary import THRESHOLDS, BoundaryProtocol, segmentation_boundaries
from mtmamba.metrics.boundary.thinning import thin
from mtmamba.plain_yaml import plain_yaml
from mtmamba.tasks import Task, select_tasks
from mtmamba.tasks.pictures import SHOWN_DEPTH, class_colours, depth_colours, depth_range
from mtmamba.types import IGNORE

_ID = "\ue000"
"""Stands for ``{id}`` while YAML is read, which takes braces within braces for a mapping."""

MAX_DIST = 0.0075
"""Tolerance for boundaries where dataset.yaml names none: that of BSDS and PASCAL."""

REACH = 8
"""Pixels from the nearest class at which a pixel without one still is beside it."""


def read_description(root: str | Path | None) -> dict[str, Any]:
    """Return what a folder's dataset.yaml says, checked.

    Raises:
        DatasetError: there is none, or it says something that cannot be; the message names the key.
    """
    path = find_description(root)
    try:
        text = path.read_text(encoding="utf-8-sig").replace("{id}", _ID)
        found = _with_ids(plain_yaml(text))
    except (OSError, ValueError, YAMLError, OmegaConfBaseException) as error:
        raise DatasetError(f"Expected YAML in {path}, got {error}: correct the file.") from error
    check(found, path)
    return found


def _with_ids(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _with_ids(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_ids(item) for item in value]
    return value.replace(_ID, "{id}") if isinstance(value, str) else value


def settings(description: Mapping[str, Any]) -> dict[str, Any]:
    """Return what follows from a description for the configuration: tasks, outputs, sizes."""
    tasks = select_tasks(description["tasks"])
    return {
        "description": dict(description),
        "tasks": [task.name for task in tasks],
        "num_outputs": {task.name: _outputs(task, description["tasks"][task.name]) for task in tasks},
        "crop_size": description["crop_size"],
        "delta_m_base": description.get("delta_m_base", {}),
    }


def record_of(description: Mapping[str, Any]) -> DatasetRecord:
    """Return the record of a described dataset.

    Raises:
        DatasetError: the description says something that cannot be.
    """
    check(description, "data.description")
    entries = description["tasks"]
    tasks = {task.name: task for task in select_tasks(entries)}
    files = {name: patterns_of(entries[entries[name].get("from", name)]["file"]) for name in tasks}
    reads = {name: _read(task, entries[name]) for name, task in tasks.items() if "file" in entries[name]}
    readers: dict[str, Reader] = {name: from_file(read) for name, read in reads.items()}
    readers |= {name: _borders(reads[entries[name]["from"]]) for name in tasks if "from" in entries[name]}
    benchmarked = next((name for name, task in tasks.items() if task.boundaries), None)

    def boundary_labels(source: Source, name: str) -> NDArray[np.bool_]:
        assert benchmarked is not None
        return thin(readers[benchmarked](source, benchmarked, name, (0, 0)) == 1)[None]  # (annotators, h, w)

    names = {task: entry["classes"] for task, entry in entries.items() if isinstance(entry.get("classes"), list)}
    colours = {
        task: [own for value in entry["palette"] if (own := colour(value))]
        for task, entry in entries.items()
        if "palette" in entry
    }
    ranges = {
        name: _range(entries[name])
        for name, task in tasks.items()
        if task.picture is depth_colours or {"shown", "max"} & entries[name].keys()
    }
    return DatasetRecord(
        name=description["name"],
        layout=Layout(
            None, patterns_of(description["images"]), {name: (patterns,) for name, patterns in files.items()}
        ),
        readers=readers,
        classes=names,
        protocol=_protocol(description) if benchmarked else None,
        boundary_labels=boundary_labels if benchmarked else None,
        remedy=REMEDY,
        find_ids=partial(find_ids, description),
        pictures={
            **{task: partial(class_colours, colours=own) for task, own in colours.items()},
            **{task: partial(depth_colours, shown=shown) for task, shown in ranges.items()},
        },
        remarks={task: partial(_beyond, task, shown) for task, shown in ranges.items()},
    )


def _outputs(task: Task, entry: Mapping[str, Any]) -> int:
    return class_count(entry) if "classes" in entry else task.outputs or task.channels or 1


def _read(task: Task, entry: Mapping[str, Any]) -> Read:
    kind = kind_of(task)
    assert kind is not None, "checked"
    return kind.reader(entry, task)


def _range(entry: Mapping[str, Any]) -> Sequence[float]:
    """Return the depths at the ends of the colour map."""
    near, far = SHOWN_DEPTH
    farthest = entry.get("max", far)
    return entry.get("shown", (farthest * near / far, farthest))


def _beyond(task: str, shown: Sequence[float], source: Source, name: str, target: NDArray[Any]) -> str | None:
    """Remark on a depth map of which half or more would have one of the two colours at the ends."""
    metres = target[target != IGNORE]
    near, far = shown
    there = depth_range(metres)
    if there is None or np.mean((metres > near) & (metres < far)) > 0.5:
        return None
    return (
        f"{source.path(task, name)}: half of the depths or more lie beyond the {near:g}..{far:g} m of the pictures' "
        f"colours: write shown: [{there[0]:g}, {there[1]:g}] for {task} in {DESCRIPTION}"
    )


def _borders(read: Read) -> Reader:
    """Return the reader of the borders between classes, one pixel wide.

    A pixel without a class is taken for the nearest class within reach, as many datasets leave strips between regions
    unlabelled; farther from any, it is ignored.
    """

    def compute(classes: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if (classes == IGNORE).all():
            return classes
        from scipy.ndimage import distance_transform_edt  # here: nobody waits for SciPy who reads no such borders

        distance, nearest = distance_transform_edt(classes == IGNORE, return_indices=True)
        target = thin(segmentation_boundaries(classes[tuple(nearest)])).astype(np.uint8)
        target[distance > REACH] = IGNORE
        return target

    def borders(source: Source, task: str, name: str, _: tuple[int, int]) -> NDArray[np.uint8]:
        classes = read(source.path(task, name))
        kind = "b1-{}x{}".format(*classes.shape)
        return cached(source.cache_dir, kind, classes.tobytes(), lambda: compute(classes))

    return borders


def _protocol(description: Mapping[str, Any]) -> BoundaryProtocol:
    own = description.get("boundary_protocol", {})
    thresholds = own.get("thresholds", THRESHOLDS)
    if isinstance(thresholds, int):
        thresholds = [k / (thresholds + 1) for k in range(1, thresholds + 1)]
    return BoundaryProtocol(
        name=description["name"],
        max_dist=own.get("max_dist", MAX_DIST),
        thresholds=tuple(thresholds),
        suppress=own.get("suppress", True),
        thin=True,
        empty_precision=1.0,
        truth="boundaries",
    )
