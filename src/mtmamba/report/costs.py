"""Quality beside cost: Delta_m of committed results over time and parameters."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure

from mtmamba.files import write_text
from mtmamba.report.curves import COLOURS, GREY, svg
from mtmamba.report.evidence import SINGLE, Result, gains, read_results

COSTS = {
    "milliseconds an image in training": lambda run: 1000 / run.images_per_second,
    "parameters, millions": lambda run: run.record["parameters"] / 10**6,
}
"""What a run cost, by the words under an axis."""
MARKERS = "osD^v"
"""The rows' markers: the next one whenever the colours begin again."""


def draw_costs(rows: Mapping[str, Sequence[Result]], figure: Figure) -> None:
    """Draw each multi-task row's Delta_m, with its interval, over what it costs: two axes side by side.

    The single-task networks together are a grey mark at Delta_m = 0, at the sum of their costs.

    Args:
        rows: from `mtmamba.report.evidence.read_results`, with a single-task row for each task.
        figure: an empty one.
    """
    singles = [results[0] for row, results in rows.items() if row.startswith(SINGLE)]
    all_axes = figure.subplots(1, len(COSTS), sharey=True)
    for axes, (label, cost) in zip(all_axes, COSTS.items(), strict=True):
        marks = [(f"{row} {gain.value:+.1f}", cost(rows[row][0]), gain) for row, gain in gains(rows).items()]
        for i, (words, x, gain) in enumerate(marks):
            colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i // len(COLOURS) % len(MARKERS)]
            interval = [[gain.value - gain.low], [gain.high - gain.value]]
            axes.errorbar(x, gain.value, interval, fmt=marker, color=colour, capsize=3, label=words)
        axes.plot(sum(map(cost, singles)), 0, "x", color=GREY, label=f"{len(singles)} single-task networks")
        axes.axhline(0, color=GREY, linewidth=0.8, linestyle=":")
        axes.set_xlabel(label)
        axes.set_xlim(left=0)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    all_axes[0].set_ylabel("Delta_m, %")
    figure.legend(*all_axes[0].get_legend_handles_labels(), loc="outside right upper", frameon=False)


def write_charts(pictures: Path, results: Path) -> None:
    """Write ``PROTOCOL_costs.svg`` for each protocol whose results let Delta_m be computed.

    Raises:
        EvidenceError: the results cannot be read.
    """
    for folder in sorted(path for path in results.iterdir() if path.is_dir()):
        rows = read_results(folder)
        if gains(rows):
            write_text(pictures / f"{folder.name}_costs.svg", svg(partial(draw_costs, rows), (9, 3.2)))
