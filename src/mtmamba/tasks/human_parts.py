"""Human parts: the part of a person that a pixel shows, 0 for none."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtmamba import metrics
from mtmamba.losses import cross_entropy
from mtmamba.tasks.decisions import class_counts, class_probabilities, likeliest_class, majority_class
from mtmamba.tasks.files import ClassFile
from mtmamba.tasks.legends import class_legend
from mtmamba.tasks.pictures import class_colours
from mtmamba.tasks.record import Protocol, Task
from mtmamba.types import IGNORE


def ignore_without_parts(target: NDArray[Any]) -> NDArray[Any]:
    """Ignore the whole of a target ``(h, w)`` that shows no part."""
    shows_none = ((target == 0) | (target == IGNORE)).all()
    return np.full_like(target, IGNORE) if shows_none else target


TASK = Task(
    name="human_parts",
    title="Human parts",
    loss=cross_entropy,
    loss_weight=2.0,
    activate=class_probabilities,
    decide=likeliest_class,
    metric=lambda n: metrics.PartsMeanIoU(n),
    headline="mIoU",
    units={"mIoU": "%"},
    protocol=Protocol("pooled-miou-parts", 1, "counts over the whole set; images without a part ignored"),
    file=ClassFile(),
    picture=class_colours,
    legend=class_legend,
    dtype="uint8",
    statistics=class_counts,
    constant=majority_class,
    finish_target=ignore_without_parts,
)
