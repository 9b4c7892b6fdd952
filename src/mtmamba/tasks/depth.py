"""Depth: the distance of a pixel from the camera's plane, in metres."""

from mtmamba import metrics
from mtmamba.losses import depth_l1
from mtmamba.tasks.decisions import depth_metres, depth_sums, mean_depth
from mtmamba.tasks.files import MetresFile
from mtmamba.tasks.legends import depth_legend
from mtmamba.tasks.pictures import depth_colours
from mtmamba.tasks.record import Protocol, Task

TASK = Task(
    name="depth",
    title="Depth",
    loss=depth_l1,
    activate=depth_metres,
    metric=lambda _: metrics.DepthError(),
    headline="RMSE",
    units={"RMSE": "m"},
    lower_is_better=frozenset({"RMSE"}),
    protocol=Protocol("pooled-rmse", 1, "over all valid pixels of the set, prediction clamped at 0"),
    file=MetresFile(),
    picture=depth_colours,
    legend=depth_legend,
    statistics=depth_sums,
    constant=mean_depth,
    nearer=True,
)
