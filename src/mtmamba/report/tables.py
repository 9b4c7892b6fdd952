"""The report's tables as text cells, whatever they are written as."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from mtmamba.paper import METRICS, TABLES, Row, network_of
from mtmamba.report.compare import Figure, Line, truncate
from mtmamba.report.groups import Group, Summary
from mtmamba.report.runs import LeftOut
from mtmamba.tasks import all_tasks

NOTHING = "-"
MINUS = "−"


class Column(NamedTuple):
    """A column: its heading, the heading that it shares with its neighbours, and whether it holds numbers."""

    name: str
    group: str = ""
    numbers: bool = True


class Cell(NamedTuple):
    """A cell's text, and for a difference whether ours is ``better`` or ``worse``."""

    text: str
    tone: str = ""


@dataclass(frozen=True)
class TextTable:
    """A table: its title, columns, rows of as many cells, notes below, and whether a run of ours is in it."""

    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    notes: Sequence[str] = ()
    has_runs: bool = True


def paper_table(number: str, lines: Sequence[Line]) -> TextTable:
    """Return a table of the paper with our values, the paper's, and what lies between."""
    (published,) = (table for table in TABLES if table.number == number)
    shown = [name for name in lines[0].figures if any(_is_filled(line.figures[name]) for line in lines)]
    sources = {name: _sources(name, [line.figures[name] for line in lines]) for name in shown}
    columns = [*_words("Method"), Column("n")]
    columns += [Column(source, _heading(name)) for name in shown for source in sources[name]]
    elsewhere = any(line.row.encoder for line in lines)
    columns += _words("the paper's encoder") if elsewhere else []
    notes = list(dict.fromkeys(note for line in lines for note in line.notes))
    rows = []
    for line in lines:
        marks = ", ".join(str(notes.index(note) + 1) for note in line.notes)
        row = _cells(f"{line.row.name} [{marks}]" if marks else line.row.name, _counts(line.members))
        for name in shown:
            row += _figure_cells(line.figures[name])[: len(sources[name])]
        rows.append(row + _cells(_encoder(line.row)) if elsewhere else row)
    numbered = [f"[{i}] {note}." for i, note in enumerate(notes, 1)]
    title = f"Table {number.split(',')[0]}: {published.title}"
    return TextTable(title, columns, rows, numbered, any(line.members for line in lines))


def other_runs(others: Mapping[Group, str]) -> TextTable:
    """Return the scores of runs that belong to no row of the paper."""
    headlines = [
        (task, metric)
        for task, record in all_tasks().items()
        for metric in dict.fromkeys((METRICS.get(task, record.headline), record.headline))
        if any(group.summary(task, metric) for group in others)
    ]
    columns = [*_words("Configuration"), Column("n"), Column("images")]
    columns += [Column(f"{metric} {all_tasks()[task].arrow(metric)}", task) for task, metric in headlines]
    columns += _words("Differs in", "Why not above")
    rows = []
    for group, reason in others.items():
        found = [(metric, group.summary(task, metric)) for task, metric in headlines]
        scores = [
            _summary(summary, _digits(metric))
            + (f" (n = {summary.n})" if summary and summary.n < len(group.runs) else "")
            for metric, summary in found
        ]
        counts = (str(len(group.runs)), str(group.settings["images"]))
        rows.append(_cells(group.name, *counts, *scores, group.differs_in or NOTHING, reason))
    return TextTable("Other runs", columns, rows)


def all_metrics(groups: Iterable[Group]) -> TextTable:
    """Return every metric of every configuration, under its own name and protocol."""
    columns = [*_words("Configuration", "Task", "Metric"), Column("Value"), Column("n"), *_words("Protocol")]
    rows = []
    for group in groups:
        for task, metric in group.metrics():
            summary = group.summary(task, metric)
            value = f"{_summary(summary, 4)} {all_tasks()[task].all_units.get(metric, '')}".strip()
            count = str(summary.n) if summary else NOTHING
            name = f"{metric} {all_tasks()[task].arrow(metric)}"
            rows.append(_cells(group.name, task, name, value, count, group.runs[0].protocol(task)))
    return TextTable("All metrics", columns, rows)


def run_list(groups: Iterable[Group]) -> TextTable:
    """Return the runs that count, with what is known of each."""
    columns = [*_words("Run", "Configuration"), Column("seed"), Column("step"), *_words("Revision"), Column("hours")]
    columns += _words("Hardware", "Scores added by")
    rows = []
    for group in groups:
        for run in group.runs:
            seconds, revision, hardware = (run.record.get(key) for key in ("seconds", "git", "hardware"))
            rows.append(
                _cells(
                    str(run.folder),
                    group.name,
                    str(run.record["seed"]),
                    str(run.record["step"]),
                    _short(revision) if isinstance(revision, str) else NOTHING,
                    f"{seconds / 3600:.2f}" if isinstance(seconds, int | float) else NOTHING,
                    str(hardware or NOTHING),
                    ", ".join(map(str, run.evaluations)) or NOTHING,
                )
            )
    return TextTable("Runs", columns, rows)


def left_out_list(left_out: Iterable[LeftOut]) -> TextTable:
    """Return the folders that no table counts, with the reasons."""
    return TextTable("Left out", _words("Folder", "Why"), [_cells(str(folder), reason) for folder, reason in left_out])


def _words(*names: str) -> list[Column]:
    return [Column(name, numbers=False) for name in names]


def _cells(*texts: str) -> list[Cell]:
    return [Cell(text) for text in texts]


def _figure_cells(figure: Figure) -> list[Cell]:
    difference, digits = figure.difference, figure.digits
    if difference is None:
        between = Cell(NOTHING)
    else:
        tone = "" if round(difference, digits) == 0 else "worse" if (difference > 0) == figure.lower else "better"
        between = Cell(_signed(difference, digits), tone)
    ours = _summary(figure.ours, digits, truncated=figure.truncated)
    return [Cell(ours), Cell(_minus(figure.paper or NOTHING)), between]


def _summary(summary: Summary | None, digits: int, *, truncated: bool = False) -> str:
    if summary is None:
        return NOTHING
    mean = _signed(truncate(summary.mean, digits), digits) if truncated else f"{summary.mean:.{digits}f}"
    return _minus(mean if summary.deviation is None else f"{mean} ± {summary.deviation:.{digits}f}")


def _signed(value: float, digits: int) -> str:
    rounded = round(value, digits) + 0.0  # no negative zero
    return _minus(f"{rounded:{'+' if rounded else ''}.{digits}f}")


def _minus(text: str) -> str:
    return f"{MINUS}{text[1:]}" if text.startswith("-") and text != NOTHING else text


def _counts(members: Sequence[Group]) -> str:
    counts = [str(len(group.runs)) for group in members]
    return NOTHING if not counts else counts[0] if len(set(counts)) == 1 else "/".join(counts)


def _heading(name: str) -> str:
    titles = {"delta_m": "Δm, % ↑", "parameters": "parameters, 10⁶", "flops": "FLOPs, 10⁹"}
    if name in titles:
        return titles[name]
    return f"{name} {METRICS[name].removesuffix('_published')} {all_tasks()[name].arrow(METRICS[name])}"


def _sources(name: str, figures: Iterable[Figure]) -> Sequence[str]:
    """Return the columns that a figure needs: sizes and costs are the paper's or they are not, without a difference."""
    if all(figure.paper is None for figure in figures):
        return ("ours",)
    return ("ours", "paper") if name in ("parameters", "flops") else ("ours", "paper", "diff.")


def _encoder(row: Row) -> str:
    """Name the encoder of a row's printed scores."""
    return row.encoder or (network_of(row.networks[0]).encoder if row.scores else NOTHING)


def _digits(metric: str) -> int:
    return 4 if metric in ("RMSE", "loss") else 2


def _is_filled(figure: Figure) -> bool:
    return figure.ours is not None or figure.paper is not None


def _short(revision: str) -> str:
    return revision[:10] + ("-dirty" if revision.endswith("-dirty") else "")
