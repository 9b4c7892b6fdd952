"""Which validations a run has behind it, and which of them was best: kept in its checkpoints."""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

from mtmamba.config.checks import ConfigError
from mtmamba.tasks import Task

log = logging.getLogger(__name__)


class Validations:
    """The monitored score of every validation, and the best one.

    Args:
        monitor: the score's name.
        mode: whether its ``min`` or ``max`` is best.
    """

    def __init__(self, monitor: str, mode: str) -> None:
        self.monitor, self.mode = monitor, mode
        self.scores: dict[int, float] = {}
        self.best: tuple[int, float] | None = None

    def add(self, step: int, score: float) -> bool:
        """Record the validation after an optimiser step; return whether it is the best so far.

        A score that is NaN says nothing: it is never better than a number, and never kept when anything else comes.
        """
        self.scores[step] = score
        if math.isnan(score):
            log.warning("%s cannot be computed after step %d: look at the validation labels.", self.monitor, step)
        known = self.best is not None and not math.isnan(self.best[1])
        if self.best is not None and known and not self._is_better(score, self.best[1]):
            return False
        self.best = (step, score)
        return True

    def state_dict(self) -> dict[str, Any]:
        """Return plain values."""
        best = None if self.best is None else list(self.best)
        return {"monitor": self.monitor, "mode": self.mode, "scores": dict(self.scores), "best": best}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with another process's record.

        Raises:
            ConfigError: it went by another score.
        """
        self.require(state["monitor"])
        self.scores = {int(step): float(score) for step, score in state["scores"].items()}
        self.best = None if state["best"] is None else (int(state["best"][0]), float(state["best"][1]))

    def require(self, monitor: str) -> None:
        """Refuse a run whose best went by another score."""
        if monitor != self.monitor:
            raise ConfigError(
                f"Expected monitor={monitor} of the run to resume, got {self.monitor}: its best weights by another "
                "score are gone; leave monitor as it was, or begin a new run without resume."
            )

    def _is_better(self, score: float, best: float) -> bool:
        return score < best if self.mode == "min" else score > best


def directions(tasks: Sequence[Task]) -> dict[str, str]:
    """Return every score of a validation, with whether its ``min`` or ``max`` is best."""
    known = {"val/loss": "min", "val/delta_m": "max"}
    for task in tasks:
        known |= {f"val/{task.name}/loss": "min"}
        for metric in task.units:
            known[f"val/{task.name}/{metric}"] = "min" if metric in task.lower_is_better else "max"
    return known


def choose_monitor(name: str, tasks: Sequence[Task], base: Mapping[str, Mapping[str, float]]) -> tuple[str, str]:
    """Return the score that "best" goes by, and whether its ``min`` or ``max`` is best.

    Args:
        name: ``auto`` (Delta_m where a task has a base, else the loss), or a score's name.
        tasks: the trained tasks.
        base: single-task scores for Delta_m.

    Raises:
        ConfigError: there is no such score.
    """
    if name == "auto":
        graded = any(base.get(task.name, {}).keys() & task.units.keys() for task in tasks)
        name = "val/delta_m" if graded else "val/loss"
    known = directions(tasks)
    if name not in known:
        raise ConfigError(f"Expected monitor to be auto or one of {', '.join(known)}, got {name}: choose one of those.")
    return name, known[name]
