"""A first dataset.yaml, by looking at a folder: which files lie there, and what they seem to hold."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import permutations, product
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mtmamba.data.datasets.folder.checks import IMAGE_SUFFIXES
from mtmamba.data.datasets.folder.ids import files_below
from mtmamba.data.datasets.folder.kinds import SUFFIXES
from mtmamba.data.datasets.record import SPLITS
from mtmamba.data.geometry import normals_from_depth
from mtmamba.data.layouts import DESCRIPTION, DatasetError
from mtmamba.data.readers import read_rgb, read_stored
from mtmamba.files import write_text
from mtmamba.tasks import all_tasks
from mtmamba.tasks.pictures import depth_range
from mtmamba.types import IGNORE

SAMPLES = 8
"""Files of a kind that are looked at; of classes, all."""
_SIDE = 32
_IMAGE_WORDS = ("image", "img", "photo", "rgb", "color", "colour", "jpeg")
_TASK_WORDS = {
    "human_parts": ("part",),
    "sal": ("sal", "mask"),
    "edge": ("edge", "bound", "contour"),
    "semseg": ("seg", "label", "class", "semantic", "annot"),
}


class _Group(NamedTuple):
    """Files of one kind: a pattern with ``{id}``, and the file of each id."""

    pattern: str
    files: Mapping[str, Path]

    def samples(self, ids: Sequence[str]) -> list[str]:
        known = [name for name in ids if name in self.files]
        return [known[i] for i in np.unique(np.linspace(0, len(known) - 1, SAMPLES).astype(int))]


def draft(root: Path) -> str:
    """Return the text of a dataset.yaml for a folder; what is a guess is marked as one.

    Raises:
        DatasetError: there are no images, or no file beside them that could be a label of theirs.
    """
    groups = _groups(root)
    images = _images(groups)
    if images is None:
        raise DatasetError(
            f"Expected images ({', '.join(IMAGE_SUFFIXES)}) in a folder below {root}, got none: correct data.root."
        )
    ids = sorted(images.files)
    size = np.max([read_rgb(path).shape[:2] for path in images.files.values()], axis=0)
    found = _tasks([group for group in groups if group is not images], ids)
    if not found:
        raise DatasetError(
            f"Expected labels ({', '.join(SUFFIXES)}) named like the images {images.pattern} of {root}, got none: "
            "name each after its image, in a folder for each task."
        )
    lines = [f"  {task}: {{{entry}}}{f'  # {guess}' if guess else ''}" for task, (entry, guess) in found.items()]
    crop = ", ".join(str(-(-int(side) // _SIDE) * _SIDE) for side in size)
    return "\n".join(
        [
            "# Written by looking at the files: read each line once. docs/data.md explains the keys.",
            f"name: {root.resolve().name or 'mine'}",
            f"images: {images.pattern}",
            f"splits: {_splits(root, ids)}",
            "tasks:",
            *lines,
            f"crop_size: [{crop}]",
            "",
        ]
    )


def _groups(root: Path) -> list[_Group]:
    """Return the folder's files by top folder and ending, named by what follows the folder and precedes the ending."""
    kinds: dict[tuple[str, str], dict[str, Path]] = defaultdict(dict)
    for path in sorted(files_below(root)):
        where = path.relative_to(root)
        if len(where.parts) > 1 and where.suffix.lower() in {*IMAGE_SUFFIXES, *SUFFIXES}:
            top = where.parts[0]
            kinds[top, where.suffix][PurePosixPath(*where.parts[1:]).with_suffix("").as_posix()] = path
    groups = []
    for (top, suffix), files in kinds.items():
        tail = _common_tail(list(files))
        groups.append(_Group(f"{top}/{{id}}{tail}{suffix}", {name.removesuffix(tail): p for name, p in files.items()}))
    return groups


def _common_tail(names: Sequence[str]) -> str:
    """Return what all names end in from a ``_`` or ``-`` on, where letters are in it.

    >>> _common_tail(["a/0001_rgb", "b/0021_rgb"]), _common_tail(["01_1", "02_1"])
    ('_rgb', '')
    """
    first = names[0]
    length = next((i for i in range(len(first)) if len({name[-1 - i :] for name in names}) > 1), len(first))
    found = re.search("[_-].*[a-zA-Z].*", first[len(first) - length :]) if len(names) > 1 else None
    return found[0] if found else ""


def _images(groups: Iterable[_Group]) -> _Group | None:
    """Return the group that is most like photographs: by its name, then JPEG before PNG, then by number."""
    photographs = [
        group
        for group in groups
        if group.pattern.lower().endswith(IMAGE_SUFFIXES) and _is_coloured(next(iter(group.files.values())))
    ]
    return max(
        photographs,
        key=lambda group: (_named(group, _IMAGE_WORDS), not group.pattern.endswith(".png"), len(group.files)),
        default=None,
    )


def _is_coloured(path: Path) -> bool:
    if path.suffix.lower() != ".png":
        return True
    values = read_stored(path)
    return values.ndim == 3 and values.shape[2] in (3, 4) and values.dtype == np.uint8


def _named(group: _Group, words: Iterable[str]) -> bool:
    return any(word in group.pattern.lower() for word in words)


def _tasks(groups: Sequence[_Group], ids: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Return ``{task: (what its line says, what of it is a guess)}`` in the order of tasks."""
    found: dict[str, tuple[str, str]] = {}
    arrays: dict[str, list[NDArray[Any]]] = {}
    of_images = [g for g in groups if g.pattern.lower().endswith(SUFFIXES) and 2 * len({*ids} & {*g.files}) >= len(ids)]
    for group in of_images:
        values = [read_stored(group.files[name]) for name in group.samples(ids)]
        task, entry, guess = _task(group, values)
        if task and task not in found:
            found[task], arrays[task] = (f"file: {group.pattern}{entry}", guess), values
    if {"depth", "normals"} <= arrays.keys():
        axes = guess_axes(arrays["depth"], arrays["normals"])
        found["normals"] = (f"{found['normals'][0]}, axes: [{', '.join(axes)}]", "axes that agree best with the depth")
    if "edge" not in found and "semseg" in found:
        found["edge"] = ("from: semseg", "borders between classes")
    return {task: found[task] for task in all_tasks() if task in found}


def _task(group: _Group, values: Sequence[NDArray[Any]]) -> tuple[str | None, str, str]:
    """Return the task that files seem to be of, its options, and what of these is a guess."""
    first = values[0]
    named = next((task for task, words in _TASK_WORDS.items() if _named(group, words)), None)
    if first.ndim == 3:
        vectors = _vectors(first) if first.shape[2] == 3 else np.zeros((1, 3))
        unit = np.abs(np.linalg.norm(vectors, axis=-1) - 1) < 0.1
        return ("normals", "", "x right, y down, z forward?") if unit.mean() > 0.5 else (None, "", "")
    if first.dtype.kind == "f" or (first.dtype == np.uint16 and named is None):
        high = max(float(np.nan_to_num(x, nan=0, posinf=0).max()) for x in values)
        scale, unit_name = (1, "metres") if high < 300 else (0.001, "millimetres")
        nan = ", invalid: [0, nan]" if any(not np.isfinite(x).all() for x in values) else ""
        there = depth_range(np.concatenate([x.ravel() for x in values]) * scale)
        shown = f", shown: [{there[0]:g}, {there[1]:g}]" if there else ""
        return "depth", f", scale: {scale:g}{nan}{shown}", f"{unit_name}: the largest value is {high:g}"
    if first.dtype.kind not in "ub":
        return None, "", ""
    seen = np.unique(np.concatenate([np.unique(x) for x in values])).astype(int)
    if len(seen) <= 2 and seen[0] == 0 and named not in ("semseg", "human_parts"):
        threshold = ", threshold: 0" if seen[-1] == 1 else ""
        return named or "edge", threshold, "" if named else "marks of boundaries?"
    if named == "sal":
        return "sal", "", ""
    whole = np.unique(np.concatenate([np.unique(read_stored(path)) for path in group.files.values()]))
    classes = int(whole[whole != IGNORE].max(initial=0)) + 1
    task = named if named in ("semseg", "human_parts") else "semseg"
    return task, f", classes: {classes}", "a list of names reads better; offset: 1, ignore: [0] where 0 is no class"


def _vectors(values: NDArray[Any]) -> NDArray[np.float64]:
    return values * (2 / np.iinfo(values.dtype).max) - 1 if values.dtype.kind == "u" else values.astype(float)


def guess_axes(depths: Sequence[NDArray[Any]], normals: Sequence[NDArray[Any]]) -> tuple[str, ...]:
    """Return which axes of these normals are ours, by the normals of the depth maps in any unit.

    The camera is taken to be one whose focal length is its image's width; only directions matter here.
    """
    agreement = np.zeros((3, 3))  # ours by theirs
    for depth, theirs in zip(depths, normals, strict=True):
        height, width = depth.shape
        known = np.where(np.isfinite(depth), depth, 0).astype(np.float32)
        ours = normals_from_depth(known / max(float(known.max()), 1e-6) * 5, (width, width), (width / 2, height / 2))
        agreement += np.einsum("hwi,hwj->ij", ours, np.nan_to_num(_vectors(theirs)))
    choices = product(permutations(range(3)), product((1, -1), repeat=3))
    order, signs = max(choices, key=lambda c: sum(s * agreement[i, j] for i, (j, s) in enumerate(zip(*c, strict=True))))
    return tuple(f"{'-' if sign < 0 else ''}{'xyz'[axis]}" for axis, sign in zip(order, signs, strict=True))


def _splits(root: Path, ids: Sequence[str]) -> str:
    """Return lists that hold the images' ids, else shares."""
    lists = {}
    for split in SPLITS:
        for path in sorted(root.rglob(f"{split}.txt")):
            named = [line.strip() for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
            if {*named} - {""} and {*named} - {""} <= {*ids}:
                lists[split] = path.relative_to(root).as_posix()
    if lists.keys() == {*SPLITS}:
        return "{" + ", ".join(f"{split}: {path}" for split, path in lists.items()) + "}"
    return "{train: 0.9, val: 0.1, seed: 0}"


def write_draft(root: Path) -> Path:
    """Write the dataset.yaml of a folder that has none, and return where it is."""
    path = root / DESCRIPTION
    write_text(path, draft(root))
    return path
