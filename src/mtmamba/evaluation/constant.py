"""The best constant prediction, which every model should beat."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mtmamba.tasks import Task, constant_prediction

log = logging.getLogger(__name__)


@torch.no_grad()
def constant_scores(
    tasks: Sequence[Task],
    num_outputs: Mapping[str, int],
    train: Iterable[Mapping[str, Any]],
    val: Iterable[Mapping[str, Any]],
    device: torch.device,
) -> dict[str, dict[str, float]]:
    """Score the best constant prediction: fitted to the training targets, measured on the validation set.

    One process sees all images here, so nothing waits for the others. Left out are tasks that have no constant
    prediction and those without any valid training label; the log names these.

    Args:
        tasks: whose targets to look at.
        num_outputs: by task.
        train: batches without augmentation.
        val: batches.
        device: where to count and score.
    """
    sums: dict[str, Tensor] = {}
    counted = [(task, task.statistics) for task in tasks if task.statistics is not None]
    for batch in train:
        for task, statistics in counted:
            found = statistics(batch[task.name].to(device))
            sums[task.name] = sums[task.name] + found if task.name in sums else found
    known = [task for task, _ in counted if sums[task.name].any()]
    if unknown := [task.name for task, _ in counted if task not in known]:
        log.warning("No valid training label for %s: no constant prediction of them.", ", ".join(unknown))
    metrics = {task.name: task.metric(num_outputs[task.name]).to(device) for task in known}
    for batch in val:
        for task in known:
            target = batch[task.name].to(device)
            metrics[task.name].update(constant_prediction(task, sums[task.name], target), target)
    return {
        task: {name: float(value) for name, value in metric.score(metric.sums()).items()}
        for task, metric in metrics.items()
    }
