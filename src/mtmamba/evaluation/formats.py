"""Predictions as files, one per image and task, in the formats that this literature exchanges.

``FOLDER/TASK/ID.png`` (or ``.npy``), each on its image's own grid ``(h, w)``:

* ``semseg``, ``human_parts``: PNG of one 8-bit channel, classes from 0;
* ``depth``: ``.npy`` float32, metres;
* ``normals``: PNG of RGB, x y z as ``(n + 1) / 2 * 255``, rounded;
* ``sal``, ``edge``: PNG of one 8-bit channel, 255 times the probability, truncated.
"""

import io
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from mtmamba.files import replacing

MAX_LINES = 10
"""How many files of each kind a report lists; the rest are counted."""

_CLASSES, _PROBABILITIES = ("semseg", "human_parts"), ("sal", "edge")
_ZERO_LENGTH = 0.01  # eight bits cannot hold a vector of length 0: it is stored as 127 or 128, 0.007 long
_NPY_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


class PredictionsError(ValueError):
    """A folder of predictions is not what it should be; the message lists what is wrong, and the remedy."""


def prediction_path(folder: Path, task: str, image: str) -> Path:
    """Return where an image's prediction lies."""
    return folder / task / f"{image}{'.npy' if task == 'depth' else '.png'}"


def save_prediction(folder: Path, task: str, image: str, prediction: Tensor) -> None:
    """Write one image's prediction, in one step.

    Args:
        folder: of all tasks.
        task: its name.
        image: the id.
        prediction: as the task's metric takes it, without a batch axis or padding: ``(h, w)``, normals ``(3, h, w)``.
    """
    array = prediction.numpy(force=True)
    buffer = io.BytesIO()
    if task == "depth":
        np.save(buffer, array.astype(np.float32), allow_pickle=False)
    else:
        if task in _PROBABILITIES:
            array = (255 * array).astype(np.uint8)
        elif task == "normals":
            rgb = np.rint((array + 1) / 2 * 255).astype(np.uint8)
            array = np.ascontiguousarray(rgb[::-1].transpose(1, 2, 0))  # OpenCV's order is blue, green, red
        buffer.write(cv2.imencode(".png", array)[1].tobytes())
    with replacing(prediction_path(folder, task, image)) as partial:
        partial.write_bytes(buffer.getvalue())


def read_prediction(folder: Path, task: str, image: str, num_outputs: int) -> Tensor:
    """Read one image's prediction as the task's metric takes it, without a batch axis.

    Shape: ``(h, w)`` uint8 classes, float32 metres (what is negative becomes 0) or probabilities; normals
    ``(3, h, w)`` float32 of length 1, or 0 where nothing was predicted.

    Raises:
        PredictionsError: the file does not decode, or holds values that the task does not have.
    """
    path = prediction_path(folder, task, image)
    try:
        array: NDArray = np.load(path, allow_pickle=False) if task == "depth" else np.asarray(Image.open(path))
    except (OSError, ValueError, EOFError, SyntaxError) as error:
        raise PredictionsError(f"Expected a complete file {path}, got {error}: write it again.") from error
    if task in _CLASSES:
        if array.max() >= num_outputs:
            raise PredictionsError(
                f"Expected classes 0..{num_outputs - 1} in {path}, got {array.max()}: classes count from 0, and "
                "every pixel needs one."
            )
        return torch.from_numpy(array.copy())
    if task == "depth":
        if not np.isfinite(array).all():
            raise PredictionsError(f"Expected finite metres in {path}, got NaN or infinity: write it again.")
        return torch.from_numpy(array.astype(np.float32)).clamp(min=0)
    values = torch.from_numpy(array.astype(np.float32)) / 255
    if task in _PROBABILITIES:
        return values
    vectors = 2 * values.movedim(-1, 0) - 1
    return F.normalize(vectors, dim=0) * (vectors.norm(dim=0) >= _ZERO_LENGTH)


def check_predictions(
    folder: Path, num_outputs: Mapping[str, int], sizes: Mapping[str, tuple[int, int]], known: Sequence[str]
) -> None:
    """Look at every file's name and header, and read it, before anything is computed.

    Args:
        folder: with a folder for each task.
        num_outputs: of the tasks to look at.
        sizes: height and width of each image that must be there, by id.
        known: ids that may be there.

    Raises:
        PredictionsError: files are missing, of no known image, of another size or type, damaged, or hold values that
            the task does not have. All are counted, and ten of each kind listed.
    """
    kinds = ("missing", "extra", "of a wrong type", "of a wrong size", "of wrong content")
    problems: dict[str, list[str]] = {kind: [] for kind in kinds}
    sound = []
    for task in num_outputs:
        present = {path.name for path in (folder / task).iterdir()} if (folder / task).is_dir() else set()
        allowed = {prediction_path(folder, task, image).name for image in known}
        problems["extra"] += [f"{task}/{name}: no such image in this split" for name in sorted(present - allowed)]
        for image, size in sizes.items():
            path = prediction_path(folder, task, image)
            line = f"{task}/{path.name}"
            if path.name not in present:
                problems["missing"].append(line)
                continue
            kind, found = _header(path)
            if kind not in _expected(task):
                problems["of a wrong type"].append(f"{line}: expected {' or '.join(_expected(task))}, got {kind}")
            elif found != size:
                problems["of a wrong size"].append(f"{line}: expected the image's {size}, got {found}")
            else:
                sound.append((folder, task, image, num_outputs[task]))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        problems["of wrong content"] = [line for line in pool.map(_content, *zip(*sound, strict=True)) if line]
    if any(problems.values()):
        lines = [f"Expected a prediction of every image in {folder}, got files that are missing or wrong:"]
        for kind, found_lines in problems.items():
            if found_lines:
                lines.append(f"  {len(found_lines)} {kind}:")
                lines += [f"    - {line}" for line in found_lines[:MAX_LINES]]
                if len(found_lines) > MAX_LINES:
                    lines.append(f"    … and {len(found_lines) - MAX_LINES} more")
        lines.append(
            "Write or remove these files, name the tasks that you have (tasks=[...]), or the images (ids=FILE)."
        )
        raise PredictionsError("\n".join(lines))


def _content(folder: Path, task: str, image: str, num_outputs: int) -> str | None:
    """Return what `read_prediction` finds wrong with a file."""
    try:
        read_prediction(folder, task, image, num_outputs)
    except PredictionsError as error:
        return str(error)
    return None


def _expected(task: str) -> tuple[str, ...]:
    """Return the kinds of file that a task may have, as `_header` names them."""
    if task == "depth":
        return ("float32 array", "float64 array")
    if task == "normals":
        return ("8-bit RGB PNG",)
    return ("8-bit PNG of one channel", *(("PNG with a palette",) if task in _CLASSES else ()))


def _header(path: Path) -> tuple[str, tuple[int, ...]]:
    """Return what a file's header says it is, and its shape."""
    try:
        if path.suffix == ".npy":
            with path.open("rb") as file:
                shape, _, dtype = _NPY_HEADERS[np.lib.format.read_magic(file)](file)
            return f"{dtype} array", shape
        with Image.open(path) as image:
            names = {"L": "8-bit PNG of one channel", "RGB": "8-bit RGB PNG", "P": "PNG with a palette"}
            kind = names.get(image.mode, f"{image.format} of mode {image.mode}") if image.format == "PNG" else None
            return kind or str(image.format), (image.height, image.width)
    except (OSError, ValueError, KeyError, SyntaxError) as error:
        return f"no readable file ({error})", ()
