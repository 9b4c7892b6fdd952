"""Speed and memory of a model's forward pass on a device."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import nn

from mtmamba.benchmarks.timing import measure


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
        repeats: passes to time, after those that warm up.
    """
    weights = list(model.parameters())
    device = weights[0].device
    images = torch.randn(batch_size, 3, *image_size, device=device)
    forward = partial(model.eval(), images)
    with torch.inference_mode():
        held = images.nbytes + sum(x.nbytes for x in (*weights, *model.buffers()))
        timing = measure(forward, device, seconds=0, min_repeats=repeats)
    latency = 1e-3 * timing.median_ms
    return Speed(latency, batch_size / latency, held + timing.extra_bytes)
