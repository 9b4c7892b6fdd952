"""The order in which each direction visits the pixels of a map."""

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F


def pixels_in_order(height: int, width: int) -> Tensor:
    """Return the pixels in the order of each of the four directions, ``(4, H W)``."""
    rows = torch.arange(height * width)
    columns = rows.view(height, width).mT.flatten()
    return torch.stack([rows, columns, rows.flip(0), columns.flip(0)])


@cache
def padded_order(height: int, width: int, directions: int, multiple: int, device: torch.device) -> Tensor:
    """Return the same for the first directions, filled up with -1 to a multiple of so many steps, int32.

    A reversed direction begins with what is filled up, so that it and the other meet at the middle of their steps.
    """
    forwards = pixels_in_order(height, width)[: min(directions, 2)].to(torch.int32)
    forwards = F.pad(forwards, (0, -height * width % multiple), value=-1)
    return torch.cat([forwards, forwards.flip(1)])[:directions].to(device)
