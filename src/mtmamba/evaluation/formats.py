"""A folder of predictions, ``FOLDER/TASK/ID.png`` or ``.npy``: written, read, and checked before anything is computed.

Each task's record holds the format of its files (`mtmamba.tasks.files`).
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from torch import Tensor

from mtmamba.files import replacing
from mtmamba.tasks import get_task
from mtmamba.tasks.files import PredictionsError, header
from mtmamba.workers import usable_cores

MAX_LINES = 10
"""How many files of each kind a report lists; the rest are counted."""


def prediction_path(folder: Path, task: str, image: str) -> Path:
    """Return where an image's prediction lies."""
    return folder / task / f"{image}{get_task(task).file.suffix}"


def save_prediction(folder: Path, task: str, image: str, prediction: Tensor) -> None:
    """Write one image's prediction, in one step.

    Args:
        folder: of all tasks.
        task: its name.
        image: the id.
        prediction: as the task's metric takes it, without a batch axis or padding: ``(h, w)`` or ``(c, h, w)``.
    """
    with replacing(prediction_path(folder, task, image)) as partial:
        partial.write_bytes(get_task(task).file.encode(prediction.numpy(force=True)))


def read_prediction(folder: Path, task: str, image: str, num_outputs: int) -> Tensor:
    """Read one image's prediction as the task's metric takes it, without a batch axis.

    Raises:
        PredictionsError: the file does not decode, or holds values that the task does not have.
    """
    return get_task(task).file.decode(prediction_path(folder, task, image), num_outputs)


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
        expected = get_task(task).file.kinds
        files = (path for path in (folder / task).rglob("*") if not path.is_dir())
        present = {path.relative_to(folder / task).as_posix() for path in files}
        allowed = {prediction_path(folder, task, image).relative_to(folder / task).as_posix() for image in known}
        problems["extra"] += [f"{task}/{name}: no such image in this split" for name in sorted(present - allowed)]
        for image, size in sizes.items():
            path = prediction_path(folder, task, image)
            line = path.relative_to(folder).as_posix()
            if line.removeprefix(f"{task}/") not in present:
                problems["missing"].append(line)
                continue
            kind, found = header(path)
            if kind not in expected:
                problems["of a wrong type"].append(f"{line}: expected {' or '.join(expected)}, got {kind}")
            elif found != size:
                problems["of a wrong size"].append(f"{line}: expected the image's {size}, got {found}")
            else:
                sound.append((folder, task, image, num_outputs[task]))
    with ThreadPoolExecutor(usable_cores()) as pool:
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
