"""The table that ends a run."""

import math
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from mtmamba.runs.record import Scores
from mtmamba.tasks import Task


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
            unit = task.unit(name)
            low, high = (intervals or {}).get(task.name, {}).get(name, (math.nan, math.nan))
            shown = [f"{low:.4g} … {high:.4g}"] if intervals else []
            others = [_cell(other.get(task.name, {}).get(name), unit) for other in columns.values()]
            table.add_row("" if i else task.title, f"{name} {task.arrow(name)}", _cell(value, unit), *shown, *others)
    if gain is not None:
        table.add_row("Delta_m", "↑", f"{gain:+.2f} %")
    return table


def show(table: Table) -> None:
    """Print a table to the terminal, whole even where the output is no terminal."""
    console = Console()
    Console(width=None if console.is_terminal else 100).print(table)


def _cell(value: float | None, unit: str) -> str:
    return "" if value is None else f"{value:.4g} {unit}".strip()
