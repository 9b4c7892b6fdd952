"""Evaluations of checkpoints, joined to the runs that trained them, so that no model counts twice."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from mtmamba.report.runs import Run


def join_evaluations(runs: Iterable[Run]) -> list[Run]:
    """Add the scores of evaluations, such as odsF, to the runs whose checkpoints they scored on the same images.

    A run's own scores stay. An evaluation without its training run, or of other images, or with test-time augmentation
    stays a run of its own.
    """
    runs = sorted(runs, key=lambda run: run.is_evaluation)
    models: list[Run] = []
    for run in runs:
        found = next((i for i, model in enumerate(models) if run.is_evaluation and _scores_the_same(run, model)), None)
        if found is None:
            models.append(run)
        else:
            models[found] = _joined(models[found], run)
    return models


def _scores_the_same(run: Run, model: Run) -> bool:
    sums = [other.record.get("checkpoint_sha256") for other in (run, model)]
    same = sums[0] == sums[1] if all(sums) else run.checkpoint == model.checkpoint
    return same and all(
        run.settings.get(key) == model.settings.get(key) for key in ("split", "images", "tta.flip", "tta.scales")
    )


def _joined(model: Run, evaluation: Run) -> Run:
    """Return a run with the metrics that an evaluation adds, described in the evaluation's words."""
    scores = {task: {**evaluation.scores.get(task, {}), **values} for task, values in model.scores.items()}
    added = [task for task, values in scores.items() if len(values) > len(model.scores[task])]
    record: dict[str, Any] = {**model.record}
    for key in ("tasks", "protocols"):
        theirs = evaluation.record.get(key, {})
        record[key] = {**record.get(key, {}), **{task: theirs[task] for task in added if task in theirs}}
    return replace(model, record=record, scores=scores, evaluations=(*model.evaluations, evaluation.folder))
