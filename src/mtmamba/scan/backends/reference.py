"""The selective scan as it is written: one step of the recurrence at a time, differentiated by plain autograd."""

import torch
from torch import Tensor
from torch.nn import functional as F

from mtmamba.scan.registry import Backend, register


def scan_reference(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor) -> Tensor:
    """Scan step by step in the inputs' own precision, for tests: slow, and its graph keeps every state.

    Shape: as in :func:`mtmamba.scan.selective_scan`, whose ``reference`` backend this is.

    Source: Lin et al., MTMamba, ECCV 2024, section 3.1, equations (3) to (5); Gu and Dao, Mamba, 2023, algorithm 2.
    """
    delta = F.softplus(delta + delta_bias[:, None])
    channels_per_group = u.shape[1] // B.shape[1]
    h = torch.zeros_like(A).expand(u.shape[0], -1, -1)  # (b, g*d, n)
    outputs = []
    for t in range(u.shape[2]):
        B_t = B[..., t].repeat_interleave(channels_per_group, dim=1)  # (b, g*d, n)
        C_t = C[..., t].repeat_interleave(channels_per_group, dim=1)
        delta_t = delta[:, :, t, None]  # (b, g*d, 1)
        h = torch.exp(delta_t * A) * h + delta_t * B_t * u[:, :, t, None]
        outputs.append((C_t * h).sum(-1))
    return torch.stack(outputs, dim=-1) + D[:, None] * u


register(Backend("reference", 4, scan_reference))
