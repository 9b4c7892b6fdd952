"""Finished runs below folders: their scores, the settings that decided them, and why other folders are left out."""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from mtmamba.config.decisive import decisive, flat
from mtmamba.paper import DEFAULTS, Network
from mtmamba.plain_yaml import plain_yaml
from mtmamba.report.curves import read_curves
from mtmamba.report.request import ReportError, find_roots
from mtmamba.rules import is_number
from mtmamba.runs.names import SCORES, SETTINGS
from mtmamba.runs.record import Scores
from mtmamba.tasks import all_tasks

GROUPS = tuple(DEFAULTS)
"""The choices that say which network a run trained, and on what."""

REQUIRED = {
    "choices": dict, "tasks": dict, "seed": int, "step": int, "split": str, "images": int, "parameters": int,
    "run": str, "checkpoint": str,
}  # fmt: skip
"""What a report needs of ``metrics.json``."""

ONE_VIEW = {"flip": False, "scales": [1.0]}
"""An evaluation without test-time augmentation."""

MAX_BYTES, MAX_NUMBER = 64 * 2**20, 10**15
"""A record or configuration that is longer, and a number in it that is larger, is not a run's."""
BELONGINGS = {"wandb", "checkpoints", "pictures"}
"""Folders inside a run's, where nobody else's run is."""


class LeftOut(NamedTuple):
    """A folder that no table counts."""

    folder: Path
    reason: str


@dataclass(frozen=True, eq=False)
class Run:
    """A finished training run, or the evaluation of a checkpoint.

    Attributes:
        folder: where it lies.
        record: its ``metrics.json``.
        settings: those that decide its scores, by dotted key.
        scores: by task and metric.
        is_evaluation: it scored a checkpoint that another folder holds; what trained that is not known here.
        evaluations: folders whose scores were added to this run's own.
    """

    folder: Path
    record: Mapping[str, Any]
    settings: Mapping[str, Any]
    scores: Scores
    is_evaluation: bool
    evaluations: Sequence[Path] = ()

    @property
    def network(self) -> Network:
        """Which network it trained, the tasks in the canonical order."""
        chosen = {group: self.record["choices"][group] for group in GROUPS}
        return Network(**chosen, tasks=tuple(task for task in all_tasks() if task in self.scores))

    @property
    def checkpoint(self) -> Path:
        """The scored checkpoint: beside the record where a run was moved, else where the record says."""
        recorded = Path(self.record["checkpoint"])
        return (recorded if self.is_evaluation else self.folder / recorded.parent.name / recorded.name).resolve()

    def boundaries(self, task: str) -> tuple[str, Any]:
        """By which protocol a task's odsF was measured, and on how many images; None where that is not recorded."""
        found: Any = self.record
        for key in ("protocols", task, "boundaries"):
            found = found.get(key) if isinstance(found, Mapping) else None
        if not isinstance(found, Mapping):
            return "an unknown protocol", None
        images = found.get("images")
        return str(found.get("name")), images if isinstance(images, int) else None

    def protocol(self, task: str) -> str:
        """Return how a task was scored, in the record's words."""
        return str(self.record["tasks"].get(task, {}).get("protocol", "not recorded"))


def find_runs(patterns: Sequence[str]) -> tuple[list[Run], list[LeftOut]]:
    """Read every run below folders, sweeps' included.

    Args:
        patterns: folders or globs of folders.

    Returns:
        The finished runs, in the order of their folders; the folders that hold none, with the reason.

    Raises:
        ReportError: a pattern matches no folder, or there is no run's folder below any.
    """
    found = []
    for pattern in patterns:
        found += [folder for root in find_roots(pattern) for folder in _run_folders(root)]
    folders = list({folder.resolve(): folder for folder in found}.values())
    if not folders:
        raise ReportError(
            f"Expected a run's folder, with its config.yaml, below {', '.join(patterns)}, got none: train a model "
            "first, or correct `runs`."
        )
    runs, left_out = [], []
    for folder in folders:
        try:
            runs.append(read_run(folder))
        except BrokenRunError as error:
            left_out.append(LeftOut(folder, str(error)))
    return runs, left_out


class BrokenRunError(ValueError):
    """A folder that holds no finished run; the message says what is missing."""


def read_run(folder: Path) -> Run:
    """Read a run's record and configuration.

    Raises:
        BrokenRunError: it is unfinished, or a file is damaged.
    """
    if not (folder / SCORES).is_file():
        raise BrokenRunError(_unfinished(folder))
    if not (folder / SETTINGS).is_file():
        raise BrokenRunError("no config.yaml")
    record = _parsed(folder / SCORES, json.loads)
    config = _parsed(folder / SETTINGS, plain_yaml)
    _require_complete(record, config)
    checkpoint, recorded = Path(record["checkpoint"]), Path(record["run"])
    is_evaluation = checkpoint.resolve().parent.parent != recorded.resolve()
    settings = decisive(config, trained=not is_evaluation) | {key: record[key] for key in ("split", "images")}
    views = record.get("tta", ONE_VIEW)
    if views != ONE_VIEW and isinstance(views, Mapping):
        settings |= {f"tta.{key}": value for key, value in views.items()}
    scores = {
        task: {name: float(x) for name, x in values.items() if is_number(x)} for task, values in record["tasks"].items()
    }
    return Run(folder, record, settings, scores, is_evaluation)


def _parsed(path: Path, parse: Callable[[str], Any]) -> Any:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise BrokenRunError(f"{path.name} holds {path.stat().st_size} bytes, more than {MAX_BYTES}")
        return parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, YAMLError, OmegaConfBaseException) as error:
        if isinstance(error, BrokenRunError):
            raise
        raise BrokenRunError(f"{path.name} cannot be read: {' '.join(str(error).split())}") from error


def _run_folders(root: Path) -> Iterator[Path]:
    for path, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in BELONGINGS and not name.startswith("."))
        if {SETTINGS, SCORES} & set(files):
            yield Path(path)


def _unfinished(folder: Path) -> str:
    if (folder / "benchmark.json").is_file():
        return "a benchmark, not a model"
    if (folder / "nonfinite_batch.json").is_file():
        return "stopped by a loss that was not finite: nonfinite_batch.json names the images"
    steps = [step for points in read_curves(folder).values() for step, _ in points]
    logged = f"the last logged step is {max(steps)}" if steps else "nothing was logged"
    return f"unfinished: no metrics.json; {logged}"


def _require_complete(record: Any, config: Any) -> None:
    if not isinstance(record, dict):
        raise BrokenRunError("metrics.json is no mapping")
    if "predictions" in record:
        raise BrokenRunError("scores of prediction files, not of a model that is known here")
    missing = [key for key, kind in REQUIRED.items() if not isinstance(record.get(key), kind)]
    if "choices" not in missing:
        missing += [f"choices.{group}" for group in GROUPS if not isinstance(record["choices"].get(group), str)]
    if missing:
        raise BrokenRunError(f"metrics.json lacks {', '.join(missing)}")
    if not all(isinstance(values, dict) for values in record["tasks"].values()):
        raise BrokenRunError("metrics.json holds tasks without scores")
    protocols = record.get("protocols", {})
    if not isinstance(protocols, dict) or not all(isinstance(values, dict) for values in protocols.values()):
        raise BrokenRunError("metrics.json holds protocols that are no mappings")
    for name, value in flat(record):
        if isinstance(value, str) and "\0" in value:
            raise BrokenRunError(f"metrics.json holds a NUL character in {name}")
        if isinstance(value, int | float) and abs(value) > MAX_NUMBER:
            raise BrokenRunError(f"metrics.json holds a number beyond {MAX_NUMBER:.0e} as {name}")
    if unknown := [task for task in record["tasks"] if task not in all_tasks()]:
        raise BrokenRunError(f"metrics.json holds unknown tasks, {', '.join(unknown)}: extensions=[FILE.py] adds yours")
    if not isinstance(config, dict):
        raise BrokenRunError("config.yaml is no mapping")
