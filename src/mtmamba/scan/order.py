"""The order in which each direction visits the pixels of a map."""

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

DIRECTIONS = 4
"""0 row by row, 1 column by column, 2 and 3 the same two from the end."""


def along(maps: Tensor, direction: int) -> Tensor:
    """Read maps along one direction: ``(…, H, W) → (…, H W)``.

    >>> along(torch.tensor([[0, 1], [2, 3]]), 3)
    tensor([3, 1, 2, 0])
    """
    sequence = (maps.mT if direction % 2 else maps).flatten(-2)
    return sequence.flip(-1) if direction >= 2 else sequence


def pixels_in_order(height: int, width: int) -> Tensor:
    """Return the pixels in the order of each of the four directions, ``(4, H W)``."""
    pixels = torch.arange(height * width).view(height, width)
    return torch.stack([along(pixels, direction) for direction in range(DIRECTIONS)])


@cache
def padded_order(height: int, width: int, directions: int, multiple: int, device: torch.device) -> Tensor:
    """Return the same for the first directions, filled up with -1 to a multiple of so many steps, int32.

    A reversed direction begins with what is filled up, so that it and the other meet at the middle of their steps.
    """
    forwards = pixels_in_order(height, width)[: min(directions, 2)].to(torch.int32)
    forwards = F.pad(forwards, (0, -height * width % multiple), value=-1)
    return torch.cat([forwards, forwards.flip(1)])[:directions].to(device)
