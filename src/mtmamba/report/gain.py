"""Delta_m of our runs: over our own single-task runs where all are there, else over the paper's."""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from mtmamba.metrics import delta_m
from mtmamba.paper import DEFAULTS, METRICS, SINGLE_TASK, TASKS
from mtmamba.report.groups import Group, Summary, summarise
from mtmamba.tasks import all_tasks

LOWER = frozenset(task for task, metric in METRICS.items() if metric in all_tasks()[task].lower_is_better)


class Base(NamedTuple):
    """Single-task scores by task, and whose they are."""

    scores: Mapping[str, float]
    name: str
    ours: bool


class Gain(NamedTuple):
    """Delta_m in percent, over which base, and the tasks that it averages."""

    summary: Summary
    base: Base
    tasks: Sequence[str]


def own_base(data: str, singles: Mapping[str, Group]) -> Base | None:
    """Return our single-task runs' scores; None unless there is a run of each of the dataset's tasks.

    Args:
        data: the dataset.
        singles: single-task runs, by task.
    """
    if not all(task in singles for task in TASKS[data]):
        return None
    found = {task: singles[task].summary(task, METRICS[task]) for task in TASKS[data]}
    counts = ", ".join(str(len(singles[task].runs)) for task in TASKS[data])
    scores = {task: summary.mean for task, summary in found.items() if summary is not None}
    return Base(scores, f"our single-task runs (n = {counts})", True)


def paper_base(data: str, encoder: str) -> Base | None:
    """Return the paper's single-task scores; None for a dataset or an encoder of which it gives none."""
    if (data, encoder) != (DEFAULTS["data"], DEFAULTS["encoder"]):
        return None
    printed = " / ".join(SINGLE_TASK.scores.values())
    return Base({k: float(v) for k, v in SINGLE_TASK.scores.items()}, f"the paper's single-task row ({printed})", False)


def gain_over(base: Base, members: Collection[Group], tasks: Sequence[str]) -> Gain | None:
    """Return Delta_m over the tasks that both sides have a score of; None where there is no such task.

    Args:
        base: single-task scores.
        members: one group of multi-task runs, or the groups of single-task runs that make a row together.
        tasks: to average, where both sides have them.
    """
    values = {
        task: summary
        for group in members
        for task in tasks
        if task in base.scores and (summary := group.summary(task, METRICS[task])) is not None
    }
    if not values:
        return None
    shared = [task for task in tasks if task in values]
    over = {task: base.scores[task] for task in shared}
    if len(members) > 1:
        mean = delta_m({task: values[task].mean for task in shared}, over, LOWER)
        return Gain(Summary(mean, None, min(summary.n for summary in values.values())), base, shared)
    (group,) = members
    scored = [{task: run.scores.get(task, {}).get(METRICS[task]) for task in shared} for run in group.runs]
    whole = [{k: v for k, v in scores.items() if v is not None} for scores in scored if None not in scores.values()]
    return Gain(summarise([delta_m(scores, over, LOWER) for scores in whole]), base, shared) if whole else None
