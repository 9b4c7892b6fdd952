"""Stochastic depth, whose draws are PyTorch's or a function of each image."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mtmamba.kernels.norm import scale_samples


class DropPath(nn.Module):
    """Stochastic depth: in training, drop a residual branch for a whole sample with probability ``rate``.

    Args:
        rate: probability of dropping, in [0, 1).
        tasks: None for maps ``(B, ...)``; T for maps ``(T, B, ...)``, whose tasks draw independently.

    The draws are PyTorch's unless `seed_drop_path` has made them for the batch at hand.
    """

    def __init__(self, rate: float = 0.0, tasks: int | None = None) -> None:
        super().__init__()
        self.rate = rate
        self.tasks = tasks
        self.seeded: Tensor | None = None

    def factor(self, x: Tensor) -> Tensor | None:
        """Return what to multiply each sample of ``x`` by, ``(B,)`` or ``(T, B)``; None where nothing is dropped.

        Dropped samples have 0, and the others more than 1, so that the mean is kept.
        """
        if not self.training:
            return None
        if self.seeded is not None:  # asked before the rate, which a compiler would compile each block for
            return self.seeded
        if self.rate == 0:
            return None
        return _keep(torch.rand(x.shape[: 1 if self.tasks is None else 2], device=x.device), self.rate)

    def forward(self, x: Tensor) -> Tensor:
        """Zero dropped samples and scale up the others."""
        return scale_samples(x, self.factor(x))


def _keep(draws: Tensor, rate: Tensor | float) -> Tensor:
    """Return 0 for draws, uniform in [0, 1), below the rate, and 1 / (1 - rate) for the others."""
    return (draws >= rate) / (1 - rate)


def seed_drop_path(model: nn.Module, keys: Sequence[int], device: torch.device) -> None:
    """Give every `DropPath` of a model its factors for the next batch, sample b's depending on ``keys[b]`` alone.

    So a sample is treated alike wherever in a batch, and on whichever device, it is seen. The factors stay until the
    next call (recomputation during the backward pass needs them).
    """
    drops = [m for m in model.modules() if isinstance(m, DropPath) and m.rate > 0]
    slots = [m.tasks or 1 for m in drops]
    rates = torch.tensor([m.rate for m in drops]).repeat_interleave(torch.tensor(slots, dtype=torch.int64))
    draws = [torch.rand(sum(slots), generator=torch.Generator().manual_seed(key)) for key in keys]
    factors = _keep(torch.stack(draws, dim=1), rates[:, None]).to(device, non_blocking=True)  # behind what is queued
    for drop, rows in zip(drops, factors.split(slots), strict=True):
        drop.seeded = rows[0] if drop.tasks is None else rows
