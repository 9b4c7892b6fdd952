"""Surface normals: the unit vector that a surface faces along, x to the right."""

from mtmamba import metrics
from mtmamba.losses import normals_l1
from mtmamba.tasks.decisions import mean_normal, normal_sums, unit_normals
from mtmamba.tasks.files import NormalsFile
from mtmamba.tasks.legends import normal_legend
from mtmamba.tasks.pictures import normal_colours
from mtmamba.tasks.record import Protocol, Task

TASK = Task(
    name="normals",
    title="Surface normals",
    loss=normals_l1,
    loss_weight=10.0,
    activate=unit_normals,
    decide=unit_normals,
    metric=lambda _: metrics.NormalsError(),
    headline="mErr",
    units={"mErr": "°", "median": "°", "within_11.25": "%", "within_22.5": "%", "within_30": "%"},
    lower_is_better=frozenset({"mErr", "median"}),
    protocol=Protocol("pooled-angles"),
    file=NormalsFile(),
    picture=normal_colours,
    legend=normal_legend,
    channels=3,
    statistics=normal_sums,
    constant=mean_normal,
    mirrored=(0,),
)
