"""A picture of precision against recall."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mtmamba.files import replacing
from mtmamba.metrics.boundary.scores import BoundaryScores

ISO_F = tuple(k / 10 for k in range(1, 10))
"""Where the lines of equal F lie."""


def plot_curve(scores: BoundaryScores | Mapping[str, BoundaryScores], path: Path, *, title: str = "") -> None:
    """Draw precision over recall with lines of equal F, and a dot at the best F.

    Args:
        scores: of one model, or of several by name.
        path: a file whose ending says the format: png, svg or pdf.
        title: above the picture, such as the protocol.

    Raises:
        ValueError: an unknown format.
    """
    from matplotlib.figure import Figure  # slow to import, and prediction knows the datasets' boundaries, too

    named = {"": scores} if isinstance(scores, BoundaryScores) else scores
    figure = Figure(figsize=(6, 6), layout="constrained")
    axes = figure.add_subplot(xlim=(0, 1), ylim=(0, 1), xlabel="Recall", ylabel="Precision", aspect="equal")
    axes.set_title(title, fontsize=9, wrap=True)
    for f in ISO_F:
        end = f / (2 - f)  # precision at recall 1, and recall at precision 1
        recall = np.geomspace(end, 1, 200)
        axes.plot(recall, f * recall / (2 * recall - f), color="0.85", linewidth=0.8, zorder=1)
        axes.annotate(f"{f:g}", (1, end), (3, 0), textcoords="offset points", va="center", fontsize=7, color="0.5")
    for name, score in named.items():
        precision, recall = score.curve()
        drawn = score.counts[..., 3].sum(0) > 0  # no precision without a prediction
        label = f"{name} odsF {100 * score.ods:.2f}, AP {100 * score.ap:.2f}".strip()
        (line,) = axes.plot(recall[drawn], precision[drawn], label=label, zorder=2)
        axes.plot(score.recall, score.precision, "o", color=line.get_color(), zorder=3)
    axes.legend(loc="lower left")
    with replacing(path) as partial:
        figure.savefig(partial, dpi=150, format=path.suffix.removeprefix("."))
