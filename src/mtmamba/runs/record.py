"""What a run leaves behind: its environment, its scores as JSON, and the table at the end."""

import hashlib
import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from mtmamba.files import replacing
from mtmamba.tasks import Task, constant_prediction, relative_gain
from mtmamba.training.lit_module import compute_scores

Scores = Mapping[str, Mapping[str, float]]

PACKAGES = """mtmamba torch torchvision lightning hydra-core omegaconf timm torchmetrics wandb albumentations
    opencv-python-headless numpy mamba-ssm triton""".split()  # noqa: SIM905 - a line each would hide the rest


class Protocol(NamedTuple):
    """How a task is scored: the version rises whenever the same predictions get other scores."""

    name: str
    version: int
    description: str


PROTOCOLS = {
    "semseg": Protocol("pooled-miou", 1, "counts over the whole set, a class absent from both sides counts 0"),
    "human_parts": Protocol("pooled-miou-parts", 1, "counts over the whole set; images without a part ignored"),
    "depth": Protocol("pooled-rmse", 1, "over all valid pixels of the set, prediction clamped at 0"),
    "normals": Protocol("pooled-angles", 1, "over all valid pixels of the set"),
    "sal": Protocol(
        "pooled-maxf",
        1,
        "maxF: counts pooled, thresholds 0.05..0.95; maxF_published: a second sigmoid before the thresholds",
    ),
    "edge": Protocol("pooled-loss", 1, "loss: weighted as in training, over all valid pixels of the set; not odsF"),
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


def sha256(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
    tasks: Sequence[Task],
    num_outputs: Mapping[str, int],
    train: Iterable[Mapping[str, Any]],
    val: Iterable[Mapping[str, Any]],
    device: torch.device,
) -> dict[str, dict[str, float]]:
    """Score the best constant prediction: fitted to the training targets, measured on the validation set.

    Args:
        tasks: whose targets to look at.
        num_outputs: by task.
        train: batches without augmentation.
        val: batches.
        device: where to count and score.
    """
    sums: dict[str, Tensor] = {}
    for batch in train:
        for task in tasks:
            found = task.statistics(batch[task.name].to(device))
            sums[task.name] = sums[task.name] + found if task.name in sums else found
    metrics = {task.name: task.metric(num_outputs[task.name]).to(device) for task in tasks}
    for batch in val:
        for task in tasks:
            target = batch[task.name].to(device)
            metrics[task.name].update(constant_prediction(task, sums[task.name], target), target)
    return compute_scores(metrics)


def score_record(
    cfg: DictConfig, run_dir: Path, tasks: Sequence[Task], scores: Scores, base: Mapping[str, Mapping[str, float]]
) -> dict[str, Any]:
    """Return what ``metrics.json`` says of every run that scored something.

    Args:
        cfg: the run's configuration, with choices.
        run_dir: its folder.
        tasks: the scored tasks.
        scores: by task and metric.
        base: single-task scores for Delta_m.
    """
    return {
        "run": str(run_dir),
        "choices": dict(cfg.choices),
        "git": git_revision(),
        "dataset": cfg.choices.data,
        "tasks": {task: {**values, "protocol": PROTOCOLS[task].description} for task, values in scores.items()},
        "protocols": {task: {"name": PROTOCOLS[task].name, "version": PROTOCOLS[task].version} for task in scores},
        "delta_m": relative_gain(tasks, scores, base),
        "delta_m_base": base,
        "hardware": hardware(),
    }


def model_record(cfg: DictConfig, model: nn.Module, checkpoint: Path, step: int) -> dict[str, Any]:
    """Return what ``metrics.json`` says of the scored checkpoint."""
    return {
        "experiment": cfg.choices.get("experiment"),
        "label": cfg.label,
        "seed": cfg.seed,
        "checkpoint": str(checkpoint),
        "checkpoint_sha256": sha256(checkpoint),
        "step": step,
        "parameters": sum(p.numel() for p in model.parameters()),
    }


def score_table(
    tasks: Sequence[Task],
    scores: Scores,
    columns: Mapping[str, Scores],
    gain: float | None,
    intervals: Mapping[str, Mapping[str, tuple[float, float]]] | None = None,
) -> Table:
    """Return the table that ends a run.

    Args:
        tasks: the rows' tasks, in order.
        scores: this model's.
        columns: other scores to stand beside them, by title.
        gain: Delta_m, where there is a base.
        intervals: of 95 %, by task and metric.
    """
    table = Table("Task", "Metric", "This model", *(["95 %"] if intervals else []), *columns)
    for column in table.columns[2:]:
        column.justify = "right"
    for task in tasks:
        for i, (name, value) in enumerate(scores[task.name].items()):
            arrow = "↓" if name in task.lower_is_better else "↑"
            low, high = (intervals or {}).get(task.name, {}).get(name, (math.nan, math.nan))
            shown = [f"{low:.4g} … {high:.4g}"] if intervals else []
            others = [_cell(other.get(task.name, {}).get(name), task.unit(name)) for other in columns.values()]
            table.add_row("" if i else task.title, f"{name} {arrow}", _cell(value, task.unit(name)), *shown, *others)
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
