"""What ``metrics.json`` says of a run that scored something."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from torch import nn

from mtmamba.files import sha256, write_json
from mtmamba.runs.environment import git_revision, hardware
from mtmamba.tasks import Task, relative_gain

Scores = Mapping[str, Mapping[str, float]]


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
    protocols = {task.name: task.protocol for task in tasks if task.name in scores}
    return {
        "run": str(run_dir),
        "choices": dict(cfg.choices),
        "git": git_revision(),
        "dataset": cfg.choices.data,
        "tasks": {task: {**values, "protocol": protocols[task].description} for task, values in scores.items()},
        "protocols": {task: {"name": p.name, "version": p.version} for task, p in protocols.items()},
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


@contextmanager
def written(record: Mapping[str, Any], path: Path) -> Iterator[None]:
    """Write a record when the block ends, whatever ends it: an extra that fails takes no scores with it."""
    try:
        yield
    finally:
        write_json(path, record)
