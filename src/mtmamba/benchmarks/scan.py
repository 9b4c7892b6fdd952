"""How fast the selective scan's backends are, and how much memory they take."""

import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from mtmamba.scan import selective_scan
from mtmamba.stats.speed import peak_bytes

DIRECTIONS = 4


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
        forward = partial(selective_scan, *inputs, backend=backend)
        forward_backward = partial(_forward_backward, inputs, dy, backend)
        result: dict[str, str | int | float] = {
            "backend": backend,
            "device": device,
            "length": length,
            "channels": channels,
            "d_state": d_state,
            "forward_s": _best_seconds(forward, repeats, device),
            "forward_backward_s": _best_seconds(forward_backward, repeats, device),
            "peak_extra_mib": (peak_bytes(forward_backward, torch.device(device)) - returned_bytes) / 2**20,
        }
        results.append(result)
    return results


def _forward_backward(inputs: list[Tensor], dy: Tensor, backend: str) -> None:
    torch.autograd.grad(selective_scan(*inputs, backend=backend), inputs, dy)


def _best_seconds(function: Callable[[], object], repeats: int, device: str) -> float:
    """Shortest of ``repeats`` runs, after one that warms up."""
    wait = torch.cuda.synchronize if torch.device(device).type == "cuda" else lambda: None
    seconds = []
    for _ in range(repeats + 1):
        wait()
        start = time.perf_counter()
        function()
        wait()
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])
