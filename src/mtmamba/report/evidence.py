"""Tables of committed results, ``results/PROTOCOL/seedN/ROW``, written into the page that quotes them.

A row's folder holds ``metrics.json`` and ``resamples.csv`` of ``eval.py`` on the last weights, and ``training.csv``,
the ``metrics.csv`` of its training. A row without the first two has been trained and not evaluated.
"""

import csv
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median, stdev
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from mtmamba.evaluation.statistics import interval
from mtmamba.files import write_text
from mtmamba.markdown import table_lines
from mtmamba.metrics import delta_m
from mtmamba.paper import METRICS
from mtmamba.report.gain import LOWER
from mtmamba.runs.names import RESAMPLES, SCORES, TRAINING

SINGLE = "single_"
"""Rows of single-task networks begin with this and end with the task."""


class EvidenceError(ValueError):
    """Results that are not what they should be; the message names the file."""


@dataclass(frozen=True)
class Result:
    """One evaluated run.

    Attributes:
        seed: of its training.
        scores: the headline metric of each task.
        resamples: the same for each bootstrap sample of the images, ``(R,)``.
        record: ``metrics.json``.
        images_per_second: in training, the median of what was logged.
        memory: GiB, the peak in training.
    """

    seed: int
    scores: Mapping[str, float]
    resamples: Mapping[str, NDArray[np.float64]]
    record: Mapping[str, object]
    images_per_second: float
    memory: float


class Estimate(NamedTuple):
    """Delta_m in percent, the mean over seeds, and its 95 % bootstrap interval over the images that all rows share."""

    value: float
    low: float
    high: float


def read_results(folder: Path) -> dict[str, list[Result]]:
    """Read a protocol's evaluated rows: ``{row: results by seed}``.

    Raises:
        EvidenceError: there is none, or a file does not hold what it should.
    """
    found: dict[str, list[Result]] = {}
    for path in sorted(folder.glob(f"seed*/*/{SCORES}")):
        try:
            found.setdefault(path.parent.name, []).append(_read(path.parent))
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise EvidenceError(
                f"Expected an evaluation's results in {path.parent}, got {error!r}: copy it again."
            ) from error
    if not found:
        raise EvidenceError(f"Expected results in {folder}/seedN/ROW/metrics.json, got none: check the path.")
    return found


def write_page(page: Path, results: Path) -> None:
    """Put each protocol's tables between its marks in a page, ``<!-- PROTOCOL -->`` and ``<!-- /PROTOCOL -->``.

    Raises:
        EvidenceError: the page has no such marks, or the results cannot be read.
    """
    text = page.read_text(encoding="utf-8")
    for folder in sorted(path for path in results.iterdir() if path.is_dir()):
        name = re.escape(folder.name)
        block = f"<!-- {folder.name} -->\n\n{tables(read_results(folder))}\n\n<!-- /{folder.name} -->"
        parts = re.split(rf"<!-- {name} -->.*?<!-- /{name} -->", text, flags=re.DOTALL)
        text = block.join(parts)
        if len(parts) == 1:
            raise EvidenceError(f"Expected <!-- {folder.name} --> and <!-- /{folder.name} --> in {page}, got neither.")
    write_text(page, text)


def tables(rows: Mapping[str, Sequence[Result]], reference: str = "mtmamba") -> str:
    """Return Markdown: the rows' scores and costs, and their paired differences to one of them.

    Args:
        rows: from `read_results`.
        reference: the row that the others are compared with, where it is there.
    """
    tasks = _tasks(rows)
    names = [f"{task} {METRICS[task]} {'↓' if task in LOWER else '↑'}" for task in tasks]
    found = gains(rows)
    head = ["row", "seeds", *names, "Delta_m", "parameters", "images/s", "GiB"]
    lines = []
    for row, results in rows.items():
        cells = [_score(results, task) for task in tasks]
        first = results[0]
        gain = f"{found[row].value:+.2f}" if row in found else ""
        cost = [f"{first.record['parameters']:,}", f"{first.images_per_second:.0f}", f"{first.memory:.1f}"]
        lines.append([row, ", ".join(str(r.seed) for r in results), *cells, gain, *cost])
    text = "\n".join(table_lines(head, lines))
    if reference in rows:
        head = [f"row less {reference}", *names]
        lines = [
            [row, *(_difference(results, rows[reference], task) for task in tasks)]
            for row, results in rows.items()
            if row != reference
        ]
        text += "\n\n" + "\n".join(table_lines(head, lines))
    return text


def gains(rows: Mapping[str, Sequence[Result]]) -> dict[str, Estimate]:
    """Return Delta_m of the multi-task rows over the single-task ones; of none unless each task has such a row.

    Args:
        rows: from `read_results`.
    """
    tasks = _tasks(rows)
    if any(SINGLE + task not in rows for task in tasks):
        return {}
    singles = {task: rows[SINGLE + task] for task in tasks}
    base = {task: mean(r.scores[task] for r in results) for task, results in singles.items()}
    bases = {task: np.mean([r.resamples[task] for r in results], axis=0) for task, results in singles.items()}
    found = {}
    for row, results in rows.items():
        whole = [r for r in results if r.scores.keys() == base.keys()]
        if whole and not row.startswith(SINGLE):
            value = mean(delta_m(r.scores, base, LOWER) for r in whole)
            samples = [
                mean(
                    delta_m({task: r.resamples[task][i] for task in tasks}, {t: bases[t][i] for t in tasks}, LOWER)
                    for r in whole
                )
                for i in range(len(bases[tasks[0]]))
            ]
            found[row] = Estimate(value, *interval(torch.tensor(samples)))
    return found


def _read(folder: Path) -> Result:
    record = json.loads((folder / SCORES).read_text(encoding="utf-8"))
    scores = {task: found[METRICS[task]] for task, found in record["tasks"].items() if METRICS.get(task) in found}
    with (folder / RESAMPLES).open(newline="") as file:
        samples = list(csv.DictReader(file))
    if not samples:
        raise ValueError("resamples.csv without a row")
    resamples = {task: np.array([float(row[f"{task}/{METRICS[task]}"]) for row in samples]) for task in scores}
    with (folder / TRAINING).open(newline="") as file:
        logged = list(csv.DictReader(file))
    speed, memory = (
        [float(row[f"perf/{key}"]) for row in logged if row.get(f"perf/{key}")]
        for key in ("images_per_second", "gpu_memory_gib")
    )
    return Result(record["seed"], scores, resamples, record, median(speed), max(memory))


def _tasks(rows: Mapping[str, Sequence[Result]]) -> list[str]:
    return [task for task in METRICS if any(task in r.scores for results in rows.values() for r in results)]


def _score(results: Sequence[Result], task: str) -> str:
    """Mean over seeds, with the spread of several seeds or else the interval over images."""
    values = [r.scores[task] for r in results if task in r.scores]
    if not values:
        return ""
    if len(values) > 1:
        return f"{mean(values):.4g} ± {stdev(values):.2g}"
    low, high = interval(torch.from_numpy(results[0].resamples[task]))
    return f"{values[0]:.4g} ({low:.4g} … {high:.4g})"


def _difference(results: Sequence[Result], reference: Sequence[Result], task: str) -> str:
    """The paired bootstrap of the difference, over the seeds that both have: bold where 0 lies outside its interval."""
    pairs = [(r, q) for r in results for q in reference if r.seed == q.seed and task in r.scores and task in q.scores]
    if not pairs:
        return ""
    differences = np.mean([r.resamples[task] - q.resamples[task] for r, q in pairs], axis=0)
    low, high = interval(torch.from_numpy(differences))
    value = mean(r.scores[task] - q.scores[task] for r, q in pairs)
    mark = "**" if low > 0 or high < 0 else ""
    return f"{mark}{value:+.3g}{mark} ({low:+.3g} … {high:+.3g})"
