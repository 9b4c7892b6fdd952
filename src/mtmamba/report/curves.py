"""What runs logged, as line charts in SVG that need nothing else: their colours come from the page's CSS."""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup, escape

WIDTH, HEIGHT = 360, 210
LEFT, RIGHT, TOP, BOTTOM = 50, 12, 10, 26
COLOURS = 8
"""How many the CSS knows; more lines begin again."""
MAX_POINTS = 400
"""Of one line; of more, evenly spaced ones are drawn."""

Points = Sequence[tuple[int, float]]


class Series(NamedTuple):
    """A line of a chart: its name, ``(step, value)`` points, the number of its colour, whether it is thin and pale."""

    name: str
    points: Points
    colour: int = 0
    pale: bool = False


def read_curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Read what a run logged: ``(optimiser step, value)`` by name; empty where there is no readable ``metrics.csv``."""
    curves: dict[str, list[tuple[int, float]]] = {}
    try:
        with (folder / "metrics.csv").open(newline="") as file:
            for row in csv.DictReader(file):
                for name, text in row.items():
                    if name != "step" and text:
                        curves.setdefault(name, []).append((int(row["step"]), float(text)))
    except (OSError, ValueError, KeyError, TypeError, csv.Error):
        return {}
    return curves


def line_chart(title: str, series: Sequence[Series]) -> Markup:
    """Draw lines over optimiser steps. Values that are not finite interrupt a line.

    Args:
        title: for those who cannot see it.
        series: the lines; at least one finite value among them.

    Raises:
        ValueError: there is no finite value.
    """
    points = [(step, value) for line in series for step, value in line.points if math.isfinite(value)]
    if not points:
        raise ValueError(f"Expected a finite value to draw, got none for {title}: leave this chart out.")
    steps, values = zip(*points, strict=True)
    x0, x1 = 0, max(1, *steps)
    up = ticks(min(values), max(values), 4)
    y0, y1 = up[0], up[-1]

    def place(step: float, value: float) -> tuple[float, float]:
        x = LEFT + (step - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT)
        return x, HEIGHT - BOTTOM - (value - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img"><title>{escape(title)}</title>']
    for value in up:
        _, y = place(0, value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{_label(value)}</text>')
    for step in (tick for tick in ticks(x0, x1, 4) if tick <= x1):
        x, _ = place(step, y0)
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - 8}" text-anchor="middle">{_label(step)}</text>')
    for line in series:
        parts.append(f'<g class="line c{line.colour % COLOURS}{" pale" if line.pale else ""}">')
        parts.append(f"<title>{escape(_last(line))}</title>")
        parts += [_path([place(*point) for point in piece]) for piece in _pieces(_thinned(line.points))]
        parts.append("</g>")
    return Markup("".join([*parts, "</svg>"]))


def ticks(low: float, high: float, count: int) -> list[float]:
    """Return about ``count`` round numbers, 1, 2 or 5 times a power of ten apart, that cover a range.

    >>> ticks(0.13, 0.9, 4)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    span = (high - low) or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / count))
    step = next(multiple * power for multiple in (1, 2, 5, 10) if multiple * power * count >= span * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, max(last, first + 1) + 1)]


def charts(runs: Mapping[str, Mapping[str, Points]], tasks: Mapping[str, str]) -> list[tuple[str, Markup]]:
    """Draw losses (training's pale) and validation scores, a line for each run.

    Args:
        runs: by their names, what `read_curves` found.
        tasks: each task's headline metric.

    Returns:
        Captions and charts, without those of which nothing was logged.
    """
    wanted = {"loss": ["train/loss", "val/loss"]}
    wanted |= {f"{task} loss": [f"train/{task}/loss", f"val/{task}/loss"] for task in tasks}
    wanted |= {f"{task} {metric}": [f"val/{task}/{metric}"] for task, metric in tasks.items() if metric != "loss"}
    wanted |= {"Δm, %": ["val/delta_m"]}
    found = []
    for caption, names in wanted.items():
        series = [
            Series(f"{run}, {name}", curves[name], colour, name.startswith("train/"))
            for name in names
            for colour, (run, curves) in enumerate(runs.items())
            if any(math.isfinite(value) for _, value in curves.get(name, ()))
        ]
        if series:
            found.append((caption, line_chart(caption, series)))
    return found


def _thinned(points: Points) -> Points:
    stride = -(-len(points) // MAX_POINTS)
    kept = points[::stride] if stride else points
    return kept if not points or kept[-1] == points[-1] else [*kept, points[-1]]


def _pieces(points: Points) -> list[list[tuple[int, float]]]:
    """Cut a line where a value is not finite."""
    pieces: list[list[tuple[int, float]]] = [[]]
    for step, value in points:
        if math.isfinite(value):
            pieces[-1].append((step, value))
        elif pieces[-1]:
            pieces.append([])
    return [piece for piece in pieces if piece]


def _path(points: Sequence[tuple[float, float]]) -> str:
    if len(points) == 1:
        (x, y) = points[0]
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>'
    return '<polyline points="' + " ".join(f"{x:.1f},{y:.1f}" for x, y in points) + '"/>'


def _last(line: Series) -> str:
    step, value = line.points[-1]
    return f"{line.name}: {value:.4g} at step {step}"


def _label(value: float) -> str:
    return f"{value / 1000:g}k" if abs(value) >= 10_000 else f"{value:g}"
