"""What ``metrics.json`` says of a run that scored something."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig
from torch import nn

from mtmamba.files import sha256, write_json
from mtmamba.runs.environment import git_revision, hardware
from mtmamba.tasks import Task, relative_gain

Scores = Mapping[str, Mapping[str, float]]


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


@contextmanager
def written(record: Mapping[str, Any], path: Path) -> Iterator[None]:
    """Write a record when the block ends, whatever ends it: an extra that fails takes no scores with it."""
    try:
        yield
    finally:
        write_json(path, record)
