"""Triton kernels behind `mtmamba.kernels.blend`: two layer norms and the gate that weighs them, for all tasks at once.

Forwards a program takes all tasks of a pixel, whose shared features are read once, and asks for all maps together.
Backwards the sums for all tasks' parameters would not fit into a warp's registers. So there is a kernel for the own
features and the gates, whose programs take one task each as in `norm_triton`, and one for the shared features, which
reads gates and gradients again and adds the tasks up in a fixed order: a third more bytes than once, and no barriers.
"""
# mypy: allow-untyped-defs, disable-error-code="assignment"

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from mtmamba.kernels.dispatch import as_rows
from mtmamba.kernels.norm_triton import Launch, normalise, normalised_gradient
from mtmamba.kernels.sums_triton import sum_parts

FORWARD = Launch(elements=512, per_thread=32, programs=4224, rows=1)
BACKWARD = Launch(elements=512, per_thread=16, programs=2112)


@triton.jit
def _load(ptr, at, live):
    return tl.load(ptr + at, mask=live, other=0.0).to(tl.float32)


@triton.jit
def forward_kernel(
    features_ptr,
    gate_ptr,
    own_weight_ptr,
    own_bias_ptr,
    shared_weight_ptr,
    shared_bias_ptr,
    scale_ptr,
    mixed_ptr,
    statistics_ptr,
    pixels,
    batch,
    gate_stride,
    T: tl.constexpr,
    C: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Blend normalised features; a pixel's statistics are those of each task's own features, then of the shared."""
    channel = tl.arange(0, BLOCK)[None, :]
    weight, bias = _load(shared_weight_ptr, channel, channel < C), _load(shared_bias_ptr, channel, channel < C)
    first = tl.program_id(0) * ROWS
    while first < pixels:
        pixel = first + tl.arange(0, ROWS)[:, None]
        inside = pixel < pixels
        live = inside & (channel < C)
        maps = ()
        for t in tl.static_range(T + 1):
            row = (t * pixels + pixel).to(tl.int64)
            maps += (tl.load(features_ptr + row * C + channel, mask=live, other=0.0),)
            if t < T:
                maps += (tl.load(gate_ptr + row * gate_stride + channel, mask=live, other=0.0),)
        mean, rstd, shared = normalise(maps[2 * T].to(tl.float32), channel, C)
        tl.store(statistics_ptr + T * pixels + pixel, mean, mask=inside)
        tl.store(statistics_ptr + (2 * T + 1) * pixels + pixel, rstd, mask=inside)
        shared = shared * weight + bias
        for t in tl.static_range(T):
            row = t * pixels + pixel
            mean, rstd, own = normalise(maps[2 * t].to(tl.float32), channel, C)
            tl.store(statistics_ptr + row, mean, mask=inside)
            tl.store(statistics_ptr + (T + 1) * pixels + row, rstd, mask=inside)
            parameters = t * C + channel
            own = own * _load(own_weight_ptr, parameters, channel < C) + _load(own_bias_ptr, parameters, channel < C)
            mixed = own + tl.sigmoid(maps[2 * t + 1].to(tl.float32)) * (shared - own)
            if scale_ptr is not None:
                mixed *= _load(scale_ptr, t * batch + pixel // (pixels // batch), inside)
            at = row.to(tl.int64) * C + channel
            tl.store(mixed_ptr + at, mixed.to(mixed_ptr.dtype.element_ty), mask=live)
        first += tl.num_programs(0) * ROWS


@triton.jit
def own_backward_kernel(
    features_ptr,
    gate_ptr,
    own_weight_ptr,
    own_bias_ptr,
    shared_weight_ptr,
    shared_bias_ptr,
    scale_ptr,
    d_mixed_ptr,
    statistics_ptr,
    d_features_ptr,
    d_gate_ptr,
    partial_ptr,
    pixels,
    batch,
    gate_stride,
    T: tl.constexpr,
    C: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Gradients of one task's own features and gates, and this program's sums for those of its weight and bias.

    The tasks come first in the grid: those that read the same shared features run at the same time.
    """
    task = tl.program_id(0)
    channel = tl.arange(0, BLOCK)[None, :]
    parameters = task * C + channel
    weight, bias = _load(own_weight_ptr, parameters, channel < C), _load(own_bias_ptr, parameters, channel < C)
    shared_weight = _load(shared_weight_ptr, channel, channel < C)
    bias = _load(shared_bias_ptr, channel, channel < C) - bias
    rstds_ptr = statistics_ptr + (T + 1) * pixels
    d_weight = tl.zeros((ROWS, BLOCK), tl.float32)
    d_bias = tl.zeros((ROWS, BLOCK), tl.float32)
    first = tl.program_id(1) * ROWS
    while first < pixels:
        pixel = first + tl.arange(0, ROWS)[:, None]
        inside = pixel < pixels
        live = inside & (channel < C)
        row, shared_row = task * pixels + pixel, T * pixels + pixel
        at = row.to(tl.int64) * C + channel
        own, shared = _load(features_ptr, at, live), _load(features_ptr, shared_row.to(tl.int64) * C + channel, live)
        gate = _load(gate_ptr, row.to(tl.int64) * gate_stride + channel, live)
        d_mixed = _load(d_mixed_ptr, at, live)
        rstd = _load(rstds_ptr, row, inside)
        own = (own - _load(statistics_ptr, row, inside)) * rstd
        shared = (shared - _load(statistics_ptr, shared_row, inside)) * _load(rstds_ptr, shared_row, inside)
        if scale_ptr is not None:
            d_mixed *= _load(scale_ptr, task * batch + pixel // (pixels // batch), inside)
        opening = tl.sigmoid(gate)
        d_own = d_mixed * (1 - opening)
        d_gate = d_own * opening * (shared * shared_weight - own * weight + bias)
        tl.store(d_gate_ptr + at, d_gate.to(d_gate_ptr.dtype.element_ty), mask=live)
        d_weight += d_own * own
        d_bias += d_own
        d_own = normalised_gradient(d_own * weight, own, rstd, C)
        tl.store(d_features_ptr + at, d_own.to(d_features_ptr.dtype.element_ty), mask=live)
        first += tl.num_programs(1) * ROWS
    partial = partial_ptr + 2 * tl.program_id(1) * T * C + parameters
    tl.store(partial, tl.sum(d_weight, 0, keep_dims=True), mask=channel < C)
    tl.store(partial + T * C, tl.sum(d_bias, 0, keep_dims=True), mask=channel < C)


@triton.jit
def shared_backward_kernel(
    features_ptr,
    gate_ptr,
    weight_ptr,
    scale_ptr,
    d_mixed_ptr,
    statistics_ptr,
    d_features_ptr,
    partial_ptr,
    pixels,
    batch,
    gate_stride,
    T: tl.constexpr,
    C: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Gradient of the shared features, and this program's sums for those of their weight and bias."""
    channel = tl.arange(0, BLOCK)[None, :]
    weight = _load(weight_ptr, channel, channel < C)
    d_weight = tl.zeros((ROWS, BLOCK), tl.float32)
    d_bias = tl.zeros((ROWS, BLOCK), tl.float32)
    first = tl.program_id(0) * ROWS
    while first < pixels:
        pixel = first + tl.arange(0, ROWS)[:, None]
        inside = pixel < pixels
        live = inside & (channel < C)
        d_shared = tl.zeros((ROWS, BLOCK), tl.float32)
        for t in tl.static_range(T):
            row = (t * pixels + pixel).to(tl.int64)
            opening = tl.sigmoid(_load(gate_ptr, row * gate_stride + channel, live))
            d_mixed = _load(d_mixed_ptr, row * C + channel, live)
            if scale_ptr is not None:
                d_mixed *= _load(scale_ptr, t * batch + pixel // (pixels // batch), inside)
            d_shared += d_mixed * opening
        row = T * pixels + pixel
        at = row.to(tl.int64) * C + channel
        rstd = _load(statistics_ptr + (T + 1) * pixels, row, inside)
        shared = (_load(features_ptr, at, live) - _load(statistics_ptr, row, inside)) * rstd
        d_weight += d_shared * shared
        d_bias += d_shared
        d_shared = normalised_gradient(d_shared * weight, shared, rstd, C)
        tl.store(d_features_ptr + at, d_shared.to(d_features_ptr.dtype.element_ty), mask=live)
        first += tl.num_programs(0) * ROWS
    partial = partial_ptr + 2 * tl.program_id(0) * C + channel
    tl.store(partial, tl.sum(d_weight, 0, keep_dims=True), mask=channel < C)
    tl.store(partial + C, tl.sum(d_bias, 0, keep_dims=True), mask=channel < C)


def _launch(
    kernel: Any, launch: Launch, grid: tuple[int, ...], features: Tensor, gate: Tensor, *others: Tensor | None
) -> None:
    """Run a kernel over all pixels; the gates are rows, ``others`` the arguments after these maps."""
    tasks, channels = len(features) - 1, features.shape[-1]
    tile = launch.tile(channels)
    sizes = len(gate) // tasks, features.shape[1], gate.stride(0), tasks, channels, *tile
    with torch.cuda.device_of(features):
        kernel[grid](features, gate, *others, *sizes, num_warps=launch.warps(*tile))


def forward(
    features: Tensor,
    gate: Tensor,
    parameters: Sequence[Tensor],
    scale: Tensor | None = None,
    launch: Launch = FORWARD,
) -> tuple[Tensor, Tensor]:
    """Return the mixed maps, and mean and 1 / standard deviation of every pixel, ``(2, T + 1, pixels)``.

    Args:
        features: own and then shared ones, ``(T + 1, B, ..., C)``, contiguous.
        gate: ``(T, B, ..., C)``, its rows at any one distance.
        parameters: weight and bias of the own features' norm ``(T, C)``, and of the shared ones' ``(1, C)``.
        scale: ``(T, B)`` float32, contiguous.
        launch: how the pixels are shared out, whose tiles have all tasks.
    """
    pixels, channels = features[0].numel() // features.shape[-1], features.shape[-1]
    mixed = features.new_empty(gate.shape)
    statistics = features.new_empty(2, len(features), pixels, dtype=torch.float32)
    grid = (launch.programs_for(pixels, channels),)
    _launch(forward_kernel, launch, grid, features, as_rows(gate), *parameters, scale, mixed, statistics)
    return mixed, statistics


def backward(
    d_mixed: Tensor,
    features: Tensor,
    gate: Tensor,
    parameters: Sequence[Tensor],
    statistics: Tensor,
    scale: Tensor | None = None,
    launch: Launch = BACKWARD,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of features and gates, and those of all norms' weights and biases ``(2, T + 1, C)``.

    The latter are in float32; ``d_mixed`` is contiguous.
    """
    tasks, channels, pixels = len(gate), features.shape[-1], statistics.shape[-1]
    d_features, d_gate = torch.empty_like(features), gate.new_empty(gate.shape)
    gate = as_rows(gate)

    programs = launch.programs_for(pixels, channels, tasks)
    d_own = features.new_empty(programs, 2, tasks, channels, dtype=torch.float32)
    tensors = *parameters, scale, d_mixed, statistics, d_features, d_gate, d_own
    _launch(own_backward_kernel, launch, (tasks, programs), features, gate, *tensors)

    programs = launch.programs_for(pixels, channels)
    d_shared = features.new_empty(programs, 2, 1, channels, dtype=torch.float32)
    tensors = parameters[2], scale, d_mixed, statistics, d_features, d_shared
    _launch(shared_backward_kernel, launch, (programs,), features, gate, *tensors)
    return d_features, d_gate, torch.cat([sum_parts(d_own), sum_parts(d_shared)], dim=1)
