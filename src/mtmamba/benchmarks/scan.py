"""How fast the selective scan's backends are, and how much memory they take."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from mtmamba.benchmarks.timing import measure
from mtmamba.scan import DIRECTIONS, selective_scan


def scan_inputs(batch: int, groups: int, channels: int, length: int, d_state: int, device: str) -> list[Tensor]:
    """Random inputs of a scan, in its order of arguments, with decays and time steps like those of a fresh model.

    ``channels`` is the number per group; all tensors are float32 leaves that require a gradient.
    """
    generator = torch.Generator().manual_seed(0)
    signal, delta = torch.randn(2, batch, groups * channels, length, generator=generator)
    B, C = torch.randn(2, batch, groups, d_state, length, generator=generator)
    A = -torch.arange(1.0, d_state + 1).expand(groups * channels, d_state)
    D, delta_bias = torch.ones(groups * channels), torch.full((groups * channels,), -4.6)  # softplus(-4.6) = 0.01
    return [x.to(device).clone().requires_grad_() for x in (signal, delta, A, B, C, D, delta_bias)]


def benchmark_scan(
    length: int = 1024,
    channels: int = 768,
    d_state: int = 16,
    backends: Sequence[str] = ("torch",),
    device: str = "cpu",
    repeats: int = 5,
) -> list[dict[str, str | int | float]]:
    """Scan one image in four directions of ``channels`` channels with each backend.

    Returns:
        One record per backend: ``forward_s`` and ``forward_backward_s``, the best of ``repeats`` runs in seconds, and
        ``peak_extra_mib``, what forward and backward hold at most beyond inputs, output and gradients, in MiB.

    Raises:
        RuntimeError: a backend cannot run on ``device``.
    """
    inputs = scan_inputs(1, DIRECTIONS, channels, length, d_state, device)
    dy = torch.randn_like(inputs[0])
    returned_bytes = dy.nbytes + sum(x.nbytes for x in inputs)
    results = []
    for backend in backends:
        calls = partial(selective_scan, *inputs, backend=backend), partial(_forward_backward, inputs, dy, backend)
        forward, both = (measure(call, torch.device(device), seconds=0, min_repeats=repeats) for call in calls)
        result: dict[str, str | int | float] = {
            "backend": backend,
            "device": device,
            "length": length,
            "channels": channels,
            "d_state": d_state,
            "forward_s": 1e-3 * forward.best_ms,
            "forward_backward_s": 1e-3 * both.best_ms,
            "peak_extra_mib": (both.extra_bytes - returned_bytes) / 2**20,
        }
        results.append(result)
    return results


def _forward_backward(inputs: list[Tensor], dy: Tensor, backend: str) -> None:
    torch.autograd.grad(selective_scan(*inputs, backend=backend), inputs, dy)
