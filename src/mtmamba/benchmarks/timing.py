"""Time and memory of a call on a CPU or a GPU: the one clock of benchmarks and statistics."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import accumulate
from statistics import quantiles
from typing import NamedTuple

import torch
from torch.autograd.profiler import profile

from mtmamba.models.cuda_graphs import side_stream

WARM_UP = 3
"""Calls on a GPU before anything is timed: kernels are compiled, memory is pooled, optimiser states are made."""
MOST_REPEATS = 500
"""Calls that are timed at most."""
COLD_BYTES = 2**28
"""Bytes written between calls to clear a GPU's caches: several times what they hold."""


class Timing(NamedTuple):
    """What one call takes."""

    best_ms: float
    """The fastest call."""
    median_ms: float
    low_ms: float
    """First quartile."""
    high_ms: float
    """Third quartile."""
    repeats: int
    extra_bytes: int
    """Most bytes held during a call beyond those held before it: activations, gradients, workspaces."""
    peak_bytes: int | None
    """Most bytes held during a call, weights and all; None on a CPU, where PyTorch does not count them."""


def measure(
    function: Callable[[], object],
    device: torch.device,
    seconds: float = 1.0,
    min_repeats: int = 5,
    cuda_graph: bool = False,
    cold: bool = False,
) -> Timing:
    """Warm up, then call for about so many seconds and take quartiles.

    On a GPU, CUDA events around each call take the time, and calls are queued one behind another: what the processor
    prepares in time costs nothing, as in a real loop. On a CPU it is the wall clock, and memory is the profiler's.

    Args:
        function: what to call; on a GPU it waits for the device only where a real loop would.
        device: where it works.
        seconds: how long to measure, the warm-up apart.
        min_repeats: timed calls at least, however long they take; 1 or more.
        cuda_graph: capture the call once and time replays; a GPU's only.
        cold: clear a GPU's caches before each call, for kernels that would find in them what the last call left.

    Raises:
        ValueError: no repeats.
        torch.OutOfMemoryError: the GPU's memory does not suffice.
    """
    if min_repeats < 1:
        raise ValueError(f"Expected repeats of at least 1, got {min_repeats}: raise them.")
    times: Callable[[Callable[[], object], int], list[float]]
    if device.type != "cuda":
        function()
        extra, peak, times = peak_bytes(function, device), None, _cpu_times
    else:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        for _ in range(WARM_UP):
            function()
        torch.cuda.synchronize()
        held = torch.cuda.memory_allocated()
        function = graphed(function) if cuda_graph else function
        times = partial(_gpu_times, cold=cold)
    first = times(function, 1)[0]
    repeats = min(max(min_repeats, math.ceil(seconds / first)), MOST_REPEATS)
    taken = times(function, repeats)
    low, median, high = quantiles(taken if repeats > 1 else 2 * taken, n=4, method="inclusive")
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated()
        extra = peak - held
    return Timing(1e3 * min(taken), 1e3 * median, 1e3 * low, 1e3 * high, repeats, extra, peak)


def kernel_ms(function: Callable[[], object]) -> float:
    """Return the median milliseconds of many calls on a GPU, each with cold caches."""
    return measure(function, torch.device("cuda"), seconds=0.2, cold=True).median_ms


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


def _gpu_times(function: Callable[[], object], repeats: int, cold: bool) -> list[float]:
    """Seconds of each call on the current stream."""
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(repeats)]
    swept = torch.empty(COLD_BYTES if cold else 0, dtype=torch.uint8, device="cuda")
    torch.cuda.synchronize()
    for start, end in events:
        if cold:
            swept.zero_()
        start.record()
        function()
        end.record()
    torch.cuda.synchronize()
    return [1e-3 * start.elapsed_time(end) for start, end in events]


def _cpu_times(function: Callable[[], object], repeats: int) -> list[float]:
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return seconds


def graphed(function: Callable[[], object]) -> Callable[[], object]:
    """Capture a call in a CUDA graph, after warming up on a side stream; the result replays it on the same tensors."""
    with side_stream():
        for _ in range(WARM_UP):
            function()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    return graph.replay


PRECISIONS = ("float32", "tf32", "bf16")
"""Exact float32; float32 with products rounded to TF32 on the way in; autocast to bfloat16, the rest exact."""


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Allow or forbid TF32 in products and convolutions of float32 tensors on a GPU, for a while."""
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32
    products.allow_tf32 = convolutions.allow_tf32 = allowed
    try:
        yield
    finally:
        products.allow_tf32, convolutions.allow_tf32 = before


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the autocast context of a precision: on for ``bf16`` alone."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
