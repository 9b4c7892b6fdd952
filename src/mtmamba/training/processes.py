"""What all processes of a training have to know before one of them may raise an error."""

from typing import TypeVar

import torch
from lightning.pytorch import Trainer

Found = TypeVar("Found")


def found_by_any(trainer: Trainer, found: list[Found]) -> list[Found]:
    """Return what the processes have found, those of lower rank first; every process must call.

    One that raised an error alone would leave the others waiting for its gradients.
    """
    if not trainer.strategy.reduce_boolean_decision(bool(found), all=False):
        return []
    if trainer.world_size == 1:
        return found
    every: list[list[Found]] = [[]] * trainer.world_size
    torch.distributed.all_gather_object(every, found)
    return [x for own in every for x in own]
