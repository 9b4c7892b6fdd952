"""PAP-style decoder, a reconstruction: every task's features diffuse along the affinities of all tasks."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtmamba.models.decoders.fused import FusedDecoder, MixCoarsely


class AffinityDiffusion(nn.Module):
    """What diffusion along a mixture of all tasks' affinities changes of each task's map.

    With E_s the positive part of task s's map, each position of unit length, ``A_s = E_s E_sᵀ`` and M_s the same with
    rows that sum to 1. Task t's mixture is ``M = sum over s of alpha_ts M_s``, the alphas a softmax over s of learned
    numbers; ``z ← beta M z + (1 - beta) h``, from ``z = h``. No matrix of position by position is ever formed.

    Args:
        tasks: T.
        iterations: steps of diffusion.
        beta: share of what has diffused, in [0, 1].

    Shape: ``(B, T, c, h, w) → (B, T, c, h, w)``.
    """

    def __init__(self, tasks: int, iterations: int, beta: float) -> None:
        super().__init__()
        self.iterations, self.beta = iterations, beta
        self.logits = nn.Parameter(torch.zeros(tasks, tasks))  # of the alphas: target, source

    def forward(self, x: Tensor) -> Tensor:
        """Return what is to be added to the maps."""
        h = x.flatten(3)  # (B, T, c, L)
        unit = F.normalize(F.relu(h), dim=2, eps=1e-6)
        rows = torch.einsum("btel,bte->btl", unit, unit.sum(3))
        scaled = unit / (rows[:, :, None] + 1e-6)
        alpha = self.logits.softmax(1)[..., None, None]
        change = torch.zeros_like(h)  # z - h itself: in half precision the difference would be mostly rounding
        for _ in range(self.iterations):
            gathered = torch.einsum("bsel,btcl->btsec", unit, h + change)
            change = self.beta * (torch.einsum("bsel,btsec->btcl", scaled, alpha * gathered) - h)
        return change.unflatten(3, x.shape[3:])


class PAP(FusedDecoder):
    """PAP-style: a `FusedDecoder` whose tasks are mixed by diffusion along affinities, at stride 8.

    **A reconstruction**, not the paper's method: only its abstract and third parties' programs could be read.
    The paper's loss on pairs of pixels is left out. Label results "PAP-style (reconstruction)".

    Args:
        channels: of the encoder's maps at strides 4, 8, 16, 32.
        num_outputs: logits per task, in the tasks' order.
        dim: width d of every task's branch, half of it after mixing; a multiple of 8.
        iterations: steps of diffusion.
        beta: share of what has diffused, in [0, 1].

    Shape: four maps ``(B, h, w, c)``, h and w even → ``{task: (B, n, 4h, 4w)}`` of the first map's h, w.
    Source: after Zhang et al., Pattern-affinitive propagation, CVPR 2019. Parameters, S the sum of the channels, N of
    the outputs: ``S² + 3S + T (5Sd/4 + 93d²/32 + 23d/2) + (3d/2 + 2) N + T²``.

    Raises:
        ValueError: there is no task, ``dim`` is no multiple of 8, or ``iterations`` or ``beta`` is out of range.
    """

    multiple = 8

    def __init__(
        self,
        channels: Sequence[int],
        num_outputs: Mapping[str, int],
        *,
        dim: int = 256,
        iterations: int = 3,
        beta: float = 0.05,
    ) -> None:
        super().__init__(channels, num_outputs, dim)
        if iterations < 1 or not 0 <= beta <= 1:
            raise ValueError(
                f"Expected decoder.iterations of at least 1 and decoder.beta from 0 to 1, got {iterations} and {beta}: "
                "choose 3 and 0.05."
            )
        tasks = len(num_outputs)
        self.mix = MixCoarsely(tasks, dim, AffinityDiffusion(tasks, iterations, beta))
        self.add_refinement(dim // 2)
