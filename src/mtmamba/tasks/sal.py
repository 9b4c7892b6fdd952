"""Saliency: the probability that a pixel belongs to what stands out."""

from mtmamba import metrics
from mtmamba.losses import balanced_cross_entropy
from mtmamba.tasks.decisions import all_foreground, class_counts, saliency_probability
from mtmamba.tasks.files import ProbabilityFile
from mtmamba.tasks.legends import share_legend
from mtmamba.tasks.pictures import greys
from mtmamba.tasks.record import Protocol, Task

TASK = Task(
    name="sal",
    title="Saliency",
    loss=balanced_cross_entropy,
    loss_weight=5.0,
    activate=saliency_probability,
    metric=lambda _: metrics.SaliencyFMeasure(),
    headline="maxF",
    units={"maxF": "%", "maxF_published": "%"},
    protocol=Protocol(
        "pooled-maxf",
        1,
        "maxF: counts pooled, thresholds 0.05..0.95; maxF_published: a second sigmoid before the thresholds",
    ),
    file=ProbabilityFile(),
    picture=greys,
    legend=share_legend,
    dtype="uint8",
    outputs=2,
    statistics=class_counts,
    constant=all_foreground,
)
