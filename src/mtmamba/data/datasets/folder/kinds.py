"""What files of one's own may hold, by the kind of the task: the options in dataset.yaml, and how they are read."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mtmamba.data.readers import MAX_DEPTH, fail, read_stored
from mtmamba.rules import NOT_NEGATIVE, POSITIVE, Rule, is_number, is_whole, whole
from mtmamba.tasks import Task
from mtmamba.tasks.files import ArrayFile, ClassFile, MetresFile, NormalsFile, PredictionFile, ProbabilityFile
from mtmamba.types import IGNORE

Options = Mapping[str, Any]
Read = Callable[[Path], NDArray[Any]]

SUFFIXES = (".png", ".tif", ".tiff", ".npy")
"""Suffixes of targets' files: no format that loses values."""

_FILE_VALUES = 2**16
_UNIT = 0.1
"""How far from 1 a normal's length may be; more than half of an image's that are farther are no normals."""
_AXES = ("x", "y", "z")


class Kind(NamedTuple):
    """A kind of targets.

    Attributes:
        options: what dataset.yaml may say beside ``file``.
        reader: options and the task → what reads a file as `DatasetRecord.readers` do, but for the path.
    """

    options: Mapping[str, Rule]
    reader: Callable[[Options, Task], Read]


def kind_of(task: Task) -> Kind | None:
    """Return the kind of a task by the format of its predictions; None for a format of one's own."""
    return next((_KINDS[base] for base in type(task.file).__mro__ if base in _KINDS), None)


def class_count(options: Options) -> int:
    """Return the number of classes that ``classes`` lists or states."""
    classes = options["classes"]
    return classes if isinstance(classes, int) else len(classes)


def colour(value: Any) -> list[int] | None:
    """Return the red, green and blue of ``[r, g, b]`` or ``"#rrggbb"``; None where it is neither.

    >>> colour("#ff8000"), colour([1, 2]), colour([1, 2, 3])
    ([255, 128, 0], None, [1, 2, 3])
    """
    if isinstance(value, str) and len(value) == 7 and value.startswith("#"):
        try:
            return list(bytes.fromhex(value[1:]))
        except ValueError:
            return None
    right = isinstance(value, list) and len(value) == 3 and all(is_whole(x) and 0 <= x <= 255 for x in value)
    return value if right else None


def _fail(path: Path, expected: str, got: str) -> None:
    fail(path, expected, f"{got} (see the options of this task in dataset.yaml)")


def _read(path: Path, kinds: str, tail: tuple[int, ...] = ()) -> NDArray[Any]:
    """Return what a file holds, checked: its types by numpy's letters, and its axes after ``(h, w)``."""
    values = read_stored(path)
    values = values.astype(np.uint8) if values.dtype == bool else values
    if values.dtype.kind not in kinds or values.ndim != 2 + len(tail) or values.shape[2:] != tail:
        _fail(path, f"numbers (h, w{''.join(f', {n}' for n in tail)})", f"{values.dtype} {values.shape}")
    return values


def _read_whole(path: Path) -> NDArray[np.uint16]:
    values = _read(path, "ui")
    if not 0 <= values.min() <= values.max() < _FILE_VALUES:
        _fail(path, f"whole numbers 0..{_FILE_VALUES - 1}", f"{values.min()}..{values.max()}")
    return values.astype(np.uint16)


def _classes(options: Options, task: Task) -> Read:
    count, offset = class_count(options), options.get("offset", 0)
    table = np.full(_FILE_VALUES, -1, np.int16)  # value in the file → class
    table[offset : offset + count] = np.arange(count)
    table[options.get("ignore", [IGNORE])] = IGNORE

    def read(path: Path) -> NDArray[np.uint8]:
        values = _read_whole(path)
        target = table[values]
        if (wrong := values[target < 0]).size:
            _fail(path, f"classes {offset}..{offset + count - 1} or those to ignore", str(wrong[0]))
        return target.astype(np.uint8)

    return read


def _numbers(options: Options, task: Task) -> Read:
    """Real numbers times ``scale``; 255 where the file's value is in ``invalid``."""
    tail = (task.channels,) if task.channels else ()

    def read(path: Path) -> NDArray[np.float32]:
        values = _read(path, "uif", tail)
        invalid = np.isin(values, [float(x) for x in options.get("invalid", [])])
        if "nan" in options.get("invalid", []):
            invalid |= np.isnan(values)
        target = values.astype(np.float32) * np.float32(options.get("scale", 1))
        if not np.isfinite(target[~invalid]).all():
            _fail(path, "finite numbers", "NaN or infinity")
        target[invalid.any(2) if tail else invalid] = IGNORE
        return target

    return read


def _metres(options: Options, task: Task) -> Read:
    read_numbers, farthest = _numbers({"invalid": [0], **options}, task), options.get("max", MAX_DEPTH)

    def read(path: Path) -> NDArray[np.float32]:
        depth = read_numbers(path)
        valid = depth[depth != IGNORE]
        if valid.size and not 0 <= valid.min() <= valid.max() <= farthest:
            _fail(path, f"depths within 0..{farthest:g} metres by scale and max", f"{valid.min():g}..{valid.max():g}")
        return depth

    return read


def _normals(options: Options, task: Task) -> Read:
    axes = options.get("axes", _AXES)
    order = [_AXES.index(axis[-1]) for axis in axes]
    signs = np.array([-1 if axis.startswith("-") else 1 for axis in axes], np.float32)

    def read(path: Path) -> NDArray[np.float32]:
        values = _read(path, "uf", (3,))
        vectors = values.astype(np.float32)
        if values.dtype.kind == "u":
            vectors = vectors * np.float32(2 / np.iinfo(values.dtype).max) - 1
        length = np.sqrt(np.einsum("hwc,hwc->hw", vectors, vectors))
        none = ~(length >= 0.01)  # eight bits hold zero as 127 or 128; NaN is none, too
        if (odd := np.abs(length[~none] - 1) > _UNIT).mean() > 0.5 if not none.all() else False:
            _fail(path, "unit vectors", f"{odd.mean():.0%} of another length")
        normals = vectors[..., order] * (signs / np.maximum(length, 0.01)[..., None])
        normals[none] = IGNORE
        return normals

    return read


def _marks(options: Options, task: Task) -> Read:
    threshold = options.get("threshold", 127)

    def read(path: Path) -> NDArray[np.uint8]:
        values = _read_whole(path)
        target = (values > threshold).astype(np.uint8)
        ignored = np.isin(values, options.get("ignore", []))
        if values.max() == 1 and threshold >= 1:
            _fail(path, f"marks above the threshold {threshold}", "0 and 1, which need threshold: 0")
        target[ignored] = IGNORE
        return target

    return read


def _is_classes(value: Any) -> bool:
    if is_whole(value):
        return 1 < value < IGNORE
    names = isinstance(value, list) and all(isinstance(name, str) and name.strip() for name in value)
    return names and 1 < len(value) < IGNORE and len(set(value)) == len(value)


def _is_axes(value: Any) -> bool:
    right = isinstance(value, list) and all(isinstance(axis, str) for axis in value)
    return right and sorted(axis.removeprefix("-") for axis in value) == [*_AXES]


def _is_range(value: Any) -> bool:
    right = isinstance(value, list) and len(value) == 2 and all(map(is_number, value))
    return right and 0.001 <= value[0] <= value[1] / 2 <= 500


def _all(holds: Callable[[Any], bool], value: Any) -> bool:
    return isinstance(value, list) and all(map(holds, value))


_VALUES = Rule(
    "a list of whole numbers from 0 to 65535",
    partial(_all, lambda x: is_whole(x) and 0 <= x < _FILE_VALUES),
    "[255]",
)
_NUMBERS = Rule("a list of numbers, or nan", partial(_all, lambda x: x == "nan" or is_number(x)), "[0]")
_SCALE = POSITIVE._replace(example="0.001")
_KINDS: Mapping[type[PredictionFile], Kind] = {
    ClassFile: Kind(
        {
            "classes": Rule("2 to 254 different names in text, or how many there are", _is_classes, "[wall, floor]"),
            "ignore": _VALUES,
            "offset": whole(0, 1),
            "palette": Rule(
                'a colour for each class, [r, g, b] or "#rrggbb"',
                partial(_all, lambda x: colour(x) is not None),
                '["#804080", [244, 35, 232]]',
            ),
        },
        _classes,
    ),
    MetresFile: Kind(
        {
            "scale": _SCALE,
            "invalid": _NUMBERS,
            "max": Rule(f"metres above 0 and below {IGNORE}", lambda x: is_number(x) and 0 < x < IGNORE, "80.0"),
            "shown": Rule(
                "two depths from 0.001 to 1000 metres, the second twice the first or more", _is_range, "[0.5, 10]"
            ),
        },
        _metres,
    ),
    NormalsFile: Kind(
        {"axes": Rule("x, y and z in some order, each with or without a minus", _is_axes, "[x, -y, z]")},
        _normals,
    ),
    ProbabilityFile: Kind(
        {"threshold": NOT_NEGATIVE._replace(example="127"), "ignore": _VALUES},
        _marks,
    ),
    ArrayFile: Kind({"scale": _SCALE, "invalid": _NUMBERS}, _numbers),
}
