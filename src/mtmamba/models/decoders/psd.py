"""PSD-style decoder, a reconstruction: local structures are compared between tasks and diffused jointly."""

from collections.abc import Mapping, Sequence
from itertools import product

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtmamba.models.decoders.conv import conv
from mtmamba.models.decoders.fused import FusedDecoder, MixCoarsely


class StructureDiffusion(nn.Module):
    """What diffusion along local structures, mixed among tasks where they match, changes of each task's map.

    A task's structure at a position is a softmax over its window of the likeness of embedded features. Task t's mixture
    of all tasks' structures has weights that are a softmax over s of ``gamma_ts cos(structure_t, structure_s)``. Each
    step of diffusion replaces a position by its window's mean under that mixture.

    Args:
        tasks: T.
        dim: channels of a task's map, a multiple of 4.
        window: side of the window, odd.
        iterations: steps of diffusion; they reach ``iterations (window - 1) / 2`` positions far.

    Shape: ``(B, T, dim, h, w) → (B, T, dim, h, w)``.
    """

    def __init__(self, tasks: int, dim: int, window: int, iterations: int) -> None:
        super().__init__()
        self.tasks, self.window, self.iterations = tasks, window, iterations
        self.embed = conv(tasks, dim, dim // 4)
        self.gamma = nn.Parameter(torch.ones(tasks, tasks))  # target, source
        self.out, self.norm = conv(tasks, dim, dim), nn.BatchNorm2d(tasks * dim)

    def forward(self, x: Tensor) -> Tensor:
        """Return what is to be added to the maps."""
        mixed = self.mixed(self.structures(x))
        for _ in range(self.iterations):
            near = zip(mixed.unbind(2), self.neighbours(x), strict=True)
            x = sum((weight[:, :, None] * y for weight, y in near), start=torch.zeros_like(x))
        return self.norm(self.out(x.flatten(1, 2))).unflatten(1, (self.tasks, -1))

    def structures(self, x: Tensor) -> Tensor:
        """Return each task's weights of the window around every position: ``(B, T, window², h, w)``."""
        q = self.embed(x.flatten(1, 2)).unflatten(1, (self.tasks, -1))
        likeness = torch.stack([(q * y).sum(2) for y in self.neighbours(q)], 2) / q.shape[2] ** 0.5
        inside = torch.stack(self.neighbours(torch.ones_like(q[:1, :1, 0], dtype=torch.bool)), 2)
        return likeness.masked_fill(~inside, -torch.inf).softmax(2)

    def mixed(self, structures: Tensor) -> Tensor:
        """Return each task's mixture of the tasks' structures at the same position, in their shape."""
        unit = F.normalize(structures, dim=2)
        matching = self.gamma[..., None, None] * torch.einsum("btkhw,bskhw->btshw", unit, unit)
        return torch.einsum("btshw,bskhw->btkhw", matching.softmax(2), structures)

    def neighbours(self, x: Tensor) -> list[Tensor]:
        """Return a map of each neighbour in the window, row by row, 0 outside the map: ``(..., h, w)`` each."""
        height, width = x.shape[-2:]
        padded = F.pad(x, [self.window // 2] * 4)
        return [padded[..., i : i + height, j : j + width] for i, j in product(range(self.window), repeat=2)]


class PSD(FusedDecoder):
    """PSD-style: a `FusedDecoder` whose tasks are mixed by diffusion along matching local structures, at stride 8.

    **A reconstruction** from the paper's abstract, not its method. Label results "PSD-style (reconstruction)".

    Args:
        channels: of the encoder's maps at strides 4, 8, 16, 32.
        num_outputs: logits per task, in the tasks' order.
        dim: width d of every task's branch, half of it after mixing; a multiple of 8.
        window: side of the window of a structure, odd.
        iterations: steps of diffusion.

    Shape: four maps ``(B, h, w, c)``, h and w even → ``{task: (B, n, 4h, 4w)}`` of the first map's h, w.
    Source: after Zhou et al., Pattern-structure diffusion, CVPR 2020. Parameters: those of `PAP`, and
    ``T (5e²/4 + 2e)``, ``e = d/2``.

    Raises:
        ValueError: there is no task, ``dim`` is no multiple of 8, ``window`` is even or ``iterations`` below 1.
    """

    multiple = 8

    def __init__(
        self,
        channels: Sequence[int],
        num_outputs: Mapping[str, int],
        *,
        dim: int = 256,
        window: int = 3,
        iterations: int = 3,
    ) -> None:
        super().__init__(channels, num_outputs, dim)
        if window < 1 or window % 2 == 0 or iterations < 1:
            raise ValueError(
                f"Expected decoder.window as an odd number and decoder.iterations of at least 1, got {window} and "
                f"{iterations}: choose 3 and 3."
            )
        tasks = len(num_outputs)
        self.mix = MixCoarsely(tasks, dim, StructureDiffusion(tasks, dim // 2, window, iterations))
        self.add_refinement(dim // 2)
