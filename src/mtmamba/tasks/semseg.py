"""Semantic segmentation: a class for every pixel."""

from mtmamba import metrics
from mtmamba.losses import cross_entropy
from mtmamba.tasks.decisions import class_counts, class_probabilities, likeliest_class, majority_class
from mtmamba.tasks.files import ClassFile
from mtmamba.tasks.legends import class_legend
from mtmamba.tasks.pictures import class_colours
from mtmamba.tasks.record import Protocol, Task

TASK = Task(
    name="semseg",
    title="Semantic segmentation",
    loss=cross_entropy,
    activate=class_probabilities,
    decide=likeliest_class,
    metric=lambda n: metrics.MeanIoU(n),
    headline="mIoU",
    units={"mIoU": "%"},
    protocol=Protocol("pooled-miou", 1, "counts over the whole set, a class absent from both sides counts 0"),
    file=ClassFile(),
    picture=class_colours,
    legend=class_legend,
    dtype="uint8",
    statistics=class_counts,
    constant=majority_class,
    guides_crop=True,
)
