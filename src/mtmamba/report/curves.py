"""What runs logged, as line charts in SVG that need nothing else."""

import csv
import io
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
from markupsafe import Markup, escape
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mtmamba.runs.names import CURVES

COLOURS = ("#3d8fd1", "#e0662f", "#3a9b4f", "#b65fc9", "#d28b00", "#1593a5", "#d4497a", "#7d68d8")
"""The lines' colours, run by run; they read on a light page and on a dark one. More lines begin again."""
GREY = "#808890"
SIZE, UNITS = (4, 2.4), 72
"""A chart's size in inches, and how many units an inch of SVG has."""
MAX_POINTS = 400
"""Points of a line at most; where it has more, evenly spaced ones are drawn."""

MAX_STEP, MAX_VALUE = 10**12, 1e30
"""What is beyond these was not logged by a run, or is as good as infinite: it cannot be drawn."""

Points = Sequence[tuple[int, float]]


class Series(NamedTuple):
    """A line of a chart: ``(step, value)`` points, the number of its colour, whether it is thin and pale."""

    points: Points
    colour: int = 0
    pale: bool = False


def read_curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Read what a run logged: ``(optimiser step, value)`` by name; empty where there is no readable ``metrics.csv``."""
    curves: dict[str, list[tuple[int, float]]] = {}
    try:
        if not (folder / CURVES).is_file():
            return {}
        with (folder / CURVES).open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                step = int(row["step"])
                if not 0 <= step < MAX_STEP:
                    return {}
                for name, text in row.items():
                    if name != "step" and text:
                        curves.setdefault(name, []).append((step, float(text)))
    except (OSError, ValueError, KeyError, TypeError, csv.Error):
        return {}
    return curves


def svg(draw: Callable[[Figure], None], size: tuple[float, float]) -> str:
    """Return the SVG file of what is drawn into a figure of so many inches: the same text for the same picture."""
    settings: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "mtmamba", "font.size": 9, "text.color": GREY}
    settings |= {f"{key}.color": GREY for key in ("xtick", "ytick")}
    settings |= {"axes.edgecolor": GREY, "axes.labelcolor": GREY}
    with mpl.rc_context(settings):
        figure = Figure(figsize=size, dpi=UNITS, layout="constrained")
        draw(figure)
        text = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(text, format="svg", transparent=True, metadata=nothing)
    return text.getvalue()


def line_chart(series: Sequence[Series]) -> Markup:
    """Draw lines over optimiser steps, as an ``svg`` element. Values that cannot be drawn interrupt a line.

    Its ``data-points`` holds of each line the colour and the points: where they lie in the picture, step and value.
    """
    placed: list[Any] = []

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for points, colour, pale in series:
            steps, values = zip(*thinned(points), strict=True)
            drawn = [value if is_drawn(value) else math.nan for value in values]
            style: dict[str, Any] = {"alpha": 0.45, "linewidth": 0.8} if pale else {"linewidth": 1.6}
            dot = 5 if len(points) == 1 else 2  # one has no line to be seen by
            style["markersize"] = dot if len(points) < 50 else 0
            axes.plot(steps, drawn, color=COLOURS[colour % len(COLOURS)], marker="o", clip_on=False, **style)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.grid(axis="y", alpha=0.25, clip_on=False)
        axes.spines[["top", "right"]].set_visible(False)
        figure.draw_without_rendering()  # which lays it out
        placed.extend(_placed(line, axes.transData.transform) for line in series)

    _, head, body = svg(draw, SIZE).partition("<svg")
    data = f' data-points="{escape(json.dumps(placed, separators=(",", ":")))}"'
    return Markup(re.sub(r' id="[a-z0-9_.]+_\d+"', "", head + data + body))  # numbered ids repeat in every chart


def _placed(line: Series, transform: Callable[[Any], Any]) -> tuple[str, list[tuple[float, float, int, str]]]:
    """Return a line's colour and its points: x and y in the picture's units, step and value."""
    drawn = [(step, value) for step, value in thinned(line.points) if is_drawn(value)]
    places = ((round(float(x), 1), round(SIZE[1] * UNITS - float(y), 1)) for x, y in transform(drawn))
    points = [(*place, step, f"{value:.5g}") for place, (step, value) in zip(places, drawn, strict=True)]
    return COLOURS[line.colour % len(COLOURS)], points


def charts(runs: Sequence[Mapping[str, Points]], tasks: Mapping[str, str]) -> list[tuple[str, Markup]]:
    """Draw losses (training's pale) and validation scores, a line for each run.

    Args:
        runs: of each, what `read_curves` found.
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
            Series(curves[name], colour, name.startswith("train/"))
            for name in names
            for colour, curves in enumerate(runs)
            if any(is_drawn(value) for _, value in curves.get(name, ()))
        ]
        if series:
            found.append((caption, line_chart(series)))
    return found


def is_drawn(value: float) -> bool:
    """Return whether a value is finite and of a size that a chart can show."""
    return abs(value) <= MAX_VALUE


def thinned(points: Points) -> Points:
    """Return evenly spaced points, `MAX_POINTS` at most and the last one.

    >>> thinned([(step, 0.0) for step in range(1001)])[-3:]
    [(996, 0.0), (999, 0.0), (1000, 0.0)]
    """
    kept = points[:: -(-len(points) // MAX_POINTS)]
    return kept if kept[-1] == points[-1] else [*kept, points[-1]]
