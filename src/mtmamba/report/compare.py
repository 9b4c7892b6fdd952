"""Our scores beside the paper's, wherever both mean the same."""

import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

from mtmamba.config.compose import load_config, plain
from mtmamba.config.decisive import decisive
from mtmamba.data.datasets import get_dataset
from mtmamba.metrics.boundary import protocol
from mtmamba.paper import (
    METRICS,
    TABLES,
    TASKS,
    PublishedTable,
    Row,
    network_of,
)
from mtmamba.report.gain import LOWER, Gain, gain_over, own_base, paper_base
from mtmamba.report.groups import Group, Summary, as_text, differences
from mtmamba.stats.tables import floored, network_stats, our_figures
from mtmamba.tasks import get_task

Derived = Mapping[str, Sequence[str]]
"""The tasks whose labels are not the published ones, by dataset."""


class Figure(NamedTuple):
    """One number of a line: ours, the paper's, or both.

    Attributes:
        ours: over the seeds; None where there is none that means the same.
        paper: as printed; None where the paper prints none.
        digits: after the point.
        lower: whether less is better; None where ours and the paper's are no better or worse than one another.
        truncated: cut off after the digits instead of rounded, as the paper does with what it derives.
    """

    ours: Summary | None
    paper: str | None
    digits: int = 2
    lower: bool | None = None
    truncated: bool = False

    @property
    def difference(self) -> float | None:
        """Ours less the paper's, where there are both and they compare."""
        if self.ours is None or self.paper is None or self.lower is None:
            return None
        return (truncate(self.ours.mean, self.digits) if self.truncated else self.ours.mean) - float(self.paper)


@dataclass(frozen=True, eq=False)
class Line:
    """A line of a table: a row of the paper's, and what we have of it in one manner of training.

    Attributes:
        row: the paper's.
        members: our runs of the row's networks; none, some or all.
        departures: settings that are not those of our configuration of the paper's experiment.
        figures: by task, then ``delta_m`` (percent), ``parameters`` (10^6) and ``flops`` (10^9).
        notes: what a reader must know to read the numbers.
    """

    row: Row
    members: Sequence[Group]
    departures: str
    figures: Mapping[str, Figure]
    notes: Sequence[str]


def truncate(value: float, digits: int) -> float:
    """Cut a number off after some digits, as the paper does with Delta_m.

    >>> truncate(-1.879, 2), truncate(100 * 0.0184, 2)
    (-1.87, 1.84)
    """
    return math.trunc(round(value * 10**digits, 6)) / 10**digits


@cache
def reference(overrides: str, *, trained: bool) -> Mapping[str, Any]:
    """Return the decisive settings of a network in our configuration of the paper's experiment."""
    cfg = load_config(["experiment=nyud_mtmamba", *overrides.split()])
    found = decisive(plain(cfg), trained=trained)
    return found | {"split": "val", "images": get_dataset(cfg.choices.data).counts["val"]}


def compare(groups: Sequence[Group], derived: Derived) -> tuple[dict[str, list[Line]], dict[Group, str]]:
    """Lay the groups beside the paper's rows.

    Args:
        groups: of finished runs.
        derived: by dataset, the tasks whose labels are not the published ones.

    Returns:
        By table's number its lines, with the rows that we have no run of; the groups of no row, with the reason.
    """
    others = {group: reason for group in groups if (reason := _why_not_in_the_paper(group))}
    lines = {
        table.number: [line for row in table.rows for line in _lines(table, row, groups, others, derived)]
        for table in TABLES
    }
    return lines, others


def _why_not_in_the_paper(group: Group) -> str | None:
    networks = {network_of(overrides) for table in TABLES for row in table.rows for overrides in row.networks}
    if group.network not in networks:
        return "no such row in the paper"
    if any(key.startswith("tta.") for key in group.settings):
        return "scored with test-time augmentation, the paper without"
    split, images = group.settings["split"], group.settings["images"]
    expected = get_dataset(group.network.data).counts["val"]
    if (split, images) != ("val", expected):
        return f"scored on {images} images of {split}, the paper on {expected} of val"
    return None


def _lines(
    table: PublishedTable, row: Row, groups: Sequence[Group], others: Container[Group], derived: Derived
) -> list[Line]:
    """Return a line for each manner of training of the row's networks; one without runs where there is none."""
    manners: dict[str, list[Group]] = {}
    for overrides in row.networks:
        for group in groups:
            if group not in others and group.network == network_of(overrides):
                manners.setdefault(_departures(group, overrides), []).append(group)
    return [
        _line(table, row, manner, members, groups, derived.get(table.data, ()))
        for manner, members in sorted(manners.items(), key=lambda item: len(item[0])) or [("", [])]
    ]


def _departures(group: Group, overrides: str) -> str:
    found = as_text(differences(group.settings, reference(overrides, trained=not group.is_evaluation)))
    return ", ".join(filter(None, ("checkpoint of unknown training" if group.is_evaluation else "", found)))


def _line(
    table: PublishedTable,
    row: Row,
    departures: str,
    members: Sequence[Group],
    groups: Sequence[Group],
    derived: Sequence[str],
) -> Line:
    notes = [*row.remarks, *([f"Settings: {departures}"] if departures else [])]
    figures = {}
    for task in TASKS[table.data]:
        ours, note = _score(members, task, derived)
        notes += [note] if note else []
        lower = None if row.encoder else task in LOWER
        figures[task] = Figure(ours, row.scores.get(task), 4 if METRICS[task] == "RMSE" else 2, lower)
    comparable = [task for task, figure in figures.items() if figure.ours is not None]
    gain = _gain(table.data, departures, members, groups, comparable)
    shown = None
    if gain is not None:
        whole = len(gain.tasks) == len(comparable) == len(figures)
        shown = gain.summary if whole else None
        if whole:
            notes.append(f"Δm over {gain.base.name}")
        elif gain.base.ours:
            value = f"{truncate(gain.summary.mean, 2):+.2f} %, which does not compare"
            notes.append(f"Δm over {gain.base.name}, of {', '.join(gain.tasks)}: {value}")
    figures["delta_m"] = Figure(shown, row.delta_m, lower=False, truncated=True)
    figures["parameters"], figures["flops"] = _cost(row, members)
    return Line(row, members, departures, figures, notes)


def _score(members: Sequence[Group], task: str, derived: Sequence[str]) -> tuple[Summary | None, str | None]:
    """Return our score of a task where it compares with the paper's, and what must be said of it or of its absence."""
    for group in members:
        if task in group.network.tasks:
            if task in derived:
                return None, f"{task}: derived labels, not the published ones, so nothing to compare"
            ours = group.summary(task, METRICS[task])
            if ours is not None:
                reason = _other_boundaries(group, task) if get_task(task).boundaries else None
                part = f"{task}: of {ours.n} of {len(group.runs)} runs" if ours.n < len(group.runs) else None
                return (None, reason) if reason else (ours, part)
            scored = ", ".join(metric for other, metric in group.metrics() if other == task) or "nothing"
            return None, f"{task}: scored by {scored}, which does not compare with the paper's {METRICS[task]}"
    return None, None


def _other_boundaries(group: Group, task: str) -> str | None:
    """Return why a group's odsF does not compare with the paper's; None if it does."""
    expected = protocol(get_dataset(group.network.data).protocol or "")
    measured = [run for run in group.runs if METRICS[task] in run.scores.get(task, {})]
    for name, images in {run.boundaries(task) for run in measured}:
        if (name, images) != (expected.name, expected.images):
            number = "an unknown number of" if images is None else images
            return f"{task}: odsF by {name} on {number} images; the paper's is by {expected.name} on {expected.images}"
    return None


def _gain(
    data: str, departures: str, members: Sequence[Group], groups: Sequence[Group], comparable: Sequence[str]
) -> Gain | None:
    if not members:
        return None
    encoder = members[0].network.encoder
    singles = {}
    for task in TASKS[data]:
        overrides = f"data={data} encoder={encoder} decoder=swin2 tasks=[{task}]"
        for group in groups:
            if group.network == network_of(overrides) and _departures(group, overrides) == departures:
                singles[task] = group
    if base := own_base(data, singles):
        return gain_over(base, members, TASKS[data])
    if base := paper_base(data, encoder):
        return gain_over(base, members, comparable)
    return None


def _cost(row: Row, members: Sequence[Group]) -> tuple[Figure, Figure]:
    """Return parameters as the runs counted them, and the FLOPs of the row's networks if theirs are as many."""
    if row.parameters is None or len(members) < len(row.networks):
        return Figure(None, row.parameters), Figure(None, row.flops)
    counted = [group.runs[0].record["parameters"] for group in members]
    same = counted == [network_stats(overrides).total_parameters for overrides in row.networks]
    parameters = Summary(float(floored(counted, 10**6)), None, len(members[0].runs))
    flops = Summary(float(our_figures(row)[1]), None, len(members[0].runs)) if same else None
    return Figure(parameters, row.parameters), Figure(flops, row.flops)
