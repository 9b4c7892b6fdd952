"""Boundaries: the probability that a pixel lies on one."""

from mtmamba import metrics
from mtmamba.losses import edge_cross_entropy
from mtmamba.tasks.decisions import class_counts, edge_base_rate, edge_probability
from mtmamba.tasks.files import ProbabilityFile
from mtmamba.tasks.legends import share_legend
from mtmamba.tasks.pictures import greys
from mtmamba.tasks.record import Protocol, Task

TASK = Task(
    name="edge",
    title="Boundaries",
    loss=edge_cross_entropy,
    loss_weight=50.0,
    activate=edge_probability,
    metric=lambda _: metrics.EdgeLoss(),
    headline="loss",
    units={"loss": ""},
    lower_is_better=frozenset({"loss"}),
    protocol=Protocol("pooled-loss", 1, "loss: weighted as in training, over all valid pixels of the set; not odsF"),
    file=ProbabilityFile(),
    picture=greys,
    legend=share_legend,
    dtype="uint8",
    statistics=class_counts,
    constant=edge_base_rate,
    boundaries=True,
    benchmark_units={"odsF": "%", "oisF": "%", "AP": "%"},
)
