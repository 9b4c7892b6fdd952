"""Speed and memory of a model's forward pass on a device."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate
from statistics import median
from typing import NamedTuple

import torch
from torch import nn
from torch.autograd.profiler import profile


class Speed(NamedTuple):
    """What one forward pass of a batch takes."""

    latency: float
    """Seconds, the median of some runs."""
    throughput: float
    """Images per second."""
    peak_memory: int
    """Bytes that tensors take at most, weights included."""


def measure_speed(model: nn.Module, image_size: Sequence[int], batch_size: int = 1, repeats: int = 5) -> Speed:
    """Measure inference where the model's weights are.

    Args:
        model: put in evaluation mode.
        image_size: height and width, pixels.
        batch_size: random images a pass.
        repeats: passes to time, after one that warms up.
    """
    weights = list(model.parameters())
    device = weights[0].device
    images = torch.randn(batch_size, 3, *image_size, device=device)
    forward = partial(model.eval(), images)
    with torch.inference_mode():
        held = images.nbytes + sum(x.nbytes for x in (*weights, *model.buffers()))
        peak = held + peak_bytes(forward, device)  # which also warms up
        latency = median(_seconds(forward, device) for _ in range(repeats))
    return Speed(latency, batch_size / latency, peak)


def _seconds(function: Callable[[], object], device: torch.device) -> float:
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    function()
    wait()
    return time.perf_counter() - start


def peak_bytes(function: Callable[[], object], device: torch.device) -> int:
    """Most bytes that a call holds at once beyond what was held before."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        function()
        return torch.cuda.max_memory_allocated() - before
    with profile(profile_memory=True) as profiler:
        function()
    events = [event for event in profiler.kineto_results.events() if event.name() == "[memory]"]
    return max(accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())), default=0)
