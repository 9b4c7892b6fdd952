"""What a run leaves behind: its environment, its scores as JSON, and the table at the end."""

import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from mtmamba.files import replacing
from mtmamba.lit_module import compute_scores
from mtmamba.tasks import Task, constant_prediction
from mtmamba.types import Batch

Scores = Mapping[str, Mapping[str, float]]

PACKAGES = """mtmamba torch torchvision lightning hydra-core omegaconf timm torchmetrics wandb albumentations
    opencv-python-headless numpy mamba-ssm triton""".split()  # noqa: SIM905 - a line each would hide the rest
PROTOCOLS = {
    "semseg": "counts over the whole set, a class absent from both sides counts 0",
    "human_parts": "counts over the whole set; images without a part ignored",
    "depth": "over all valid pixels of the set, prediction clamped at 0",
    "normals": "over all valid pixels of the set",
    "sal": "maxF: counts pooled, thresholds 0.05..0.95; maxF_published: a second sigmoid before the thresholds",
    "edge": "the training loss's weighting, over all valid pixels of the set; not odsF",
}


def write_text(path: Path, text: str) -> None:
    """Write a file in one step, making its folder."""
    with replacing(path) as partial:
        partial.write_text(text)


def write_json(path: Path, value: Any) -> None:
    """Write JSON in one step; NaN and infinity become null."""
    write_text(path, json.dumps(_finite(value), indent=2) + "\n")


def environment() -> dict[str, Any]:
    """Describe what the program runs on: versions, hardware, revision and command."""
    return {
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "hardware": hardware(),
        "git": git_revision(),
    }


def hardware() -> str:
    """Name the accelerators, or the CPU and its cores."""
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    return f"{os.cpu_count()} CPU cores ({platform.machine()})"


def git_revision() -> str | None:
    """Return the checkout's revision, with ``-dirty`` where files differ from it; None outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40", "--match="]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


@torch.no_grad()
def constant_scores(
    tasks: Sequence[Task], num_outputs: Mapping[str, int], train: Iterable[Batch], val: Iterable[Batch]
) -> dict[str, dict[str, float]]:
    """Score the best constant prediction: fitted to the training targets, measured on the validation set.

    Args:
        tasks: whose targets to look at.
        num_outputs: by task.
        train: batches without augmentation.
        val: batches.
    """
    sums: dict[str, Tensor] = {}
    for batch in train:
        for task in tasks:
            found = task.statistics(batch[task.name])  # type: ignore[literal-required]
            sums[task.name] = sums[task.name] + found if task.name in sums else found
    metrics = {task.name: task.metric(num_outputs[task.name]) for task in tasks}
    for batch in val:
        for task in tasks:
            target = batch[task.name]  # type: ignore[literal-required]
            metrics[task.name].update(constant_prediction(task, sums[task.name], target), target)
    return compute_scores(metrics)


def score_table(tasks: Sequence[Task], scores: Scores, columns: Mapping[str, Scores], gain: float | None) -> Table:
    """Return the table that ends a run.

    Args:
        tasks: the rows' tasks, in order.
        scores: this model's.
        columns: other scores to stand beside them, by title.
        gain: Delta_m, where there is a base.
    """
    table = Table("Task", "Metric", "This model", *columns)
    for column in table.columns[2:]:
        column.justify = "right"
    for task in tasks:
        for i, (name, value) in enumerate(scores[task.name].items()):
            arrow = "↓" if name in task.lower_is_better else "↑"
            others = (other.get(task.name, {}).get(name) for other in columns.values())
            cells = [_cell(x, task.units.get(name, "")) for x in (value, *others)]
            table.add_row("" if i else task.title, f"{name} {arrow}", *cells)
    if gain is not None:
        table.add_row("Delta_m", "↑", f"{gain:+.2f} %")
    return table


def show(table: Table) -> None:
    """Print a table to the terminal, whole even where the output is no terminal."""
    console = Console()
    Console(width=None if console.is_terminal else 100).print(table)


def _cell(value: float | None, unit: str) -> str:
    return "" if value is None else f"{value:.4g} {unit}".strip()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
