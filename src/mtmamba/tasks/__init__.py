"""The tasks: a file for each, with every fact about it.

A task of yours is a `Task` that your own file gives to `register`; nothing in this package has to know of it.
"""

from mtmamba.tasks import depth, edge, human_parts, normals, sal, semseg
from mtmamba.tasks.record import (
    Protocol,
    Task,
    all_tasks,
    constant_prediction,
    get_task,
    picture_keys,
    picture_row,
    register,
    relative_gain,
    select_tasks,
    target_grid,
)

__all__ = [
    "Protocol",
    "Task",
    "all_tasks",
    "constant_prediction",
    "get_task",
    "picture_keys",
    "picture_row",
    "register",
    "relative_gain",
    "select_tasks",
    "target_grid",
]

for _module in (semseg, depth, human_parts, sal, normals, edge):  # the order of tasks everywhere
    register(_module.TASK)
