"""Triton kernels behind `mtmamba.kernels.blend`: two layer norms and the gate that weighs them, for all tasks at once.

A program walks over pixels and takes all tasks of one, so that the shared features are read once and their gradient is
summed over the tasks in a fixed order; its sums for the parameters stay in registers, as in `norm_triton`.
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

FORWARD = Launch(elements=1024, per_thread=32, programs=1056)
BACKWARD = Launch(elements=512, per_thread=4, programs=2112)


@triton.jit
def _load(ptr, at, live):
    return tl.load(ptr + at, mask=live, other=0.0).to(tl.float32)


@triton.jit
def _forward(
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
        row = T * pixels + pixel
        mean, rstd, shared = normalise(_load(features_ptr, row.to(tl.int64) * C + channel, live), channel, C)
        tl.store(statistics_ptr + row, mean, mask=inside)
        tl.store(statistics_ptr + (T + 1) * pixels + row, rstd, mask=inside)
        shared = shared * weight + bias
        for t in tl.static_range(T):
            row = t * pixels + pixel
            at = row.to(tl.int64) * C + channel
            mean, rstd, own = normalise(_load(features_ptr, at, live), channel, C)
            tl.store(statistics_ptr + row, mean, mask=inside)
            tl.store(statistics_ptr + (T + 1) * pixels + row, rstd, mask=inside)
            parameters = t * C + channel
            own = own * _load(own_weight_ptr, parameters, channel < C) + _load(own_bias_ptr, parameters, channel < C)
            opening = tl.sigmoid(_load(gate_ptr, row.to(tl.int64) * gate_stride + channel, live))
            mixed = own + opening * (shared - own)
            if scale_ptr is not None:
                mixed *= _load(scale_ptr, t * batch + pixel // (pixels // batch), inside)
            tl.store(mixed_ptr + at, mixed.to(mixed_ptr.dtype.element_ty), mask=live)
        first += tl.num_programs(0) * ROWS


@triton.jit
def _backward(
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
    """Gradients of features and gates, and this program's sums for those of all weights, then of all biases."""
    channel = tl.arange(0, BLOCK)[None, :]
    weight, bias = _load(shared_weight_ptr, channel, channel < C), _load(shared_bias_ptr, channel, channel < C)
    zeros = tl.zeros((ROWS, BLOCK), tl.float32)
    sums = ()
    for _ in tl.static_range(2 * T + 2):
        sums += (zeros,)
    first = tl.program_id(0) * ROWS
    while first < pixels:
        pixel = first + tl.arange(0, ROWS)[:, None]
        inside = pixel < pixels
        live = inside & (channel < C)
        rstds = statistics_ptr + (T + 1) * pixels
        shared_row = T * pixels + pixel
        shared_at = shared_row.to(tl.int64) * C + channel
        shared_rstd = _load(rstds, shared_row, inside)
        shared = (_load(features_ptr, shared_at, live) - _load(statistics_ptr, shared_row, inside)) * shared_rstd
        d_shared = zeros
        updated = ()
        for t in tl.static_range(T):
            row = t * pixels + pixel
            at = row.to(tl.int64) * C + channel
            own_rstd = _load(rstds, row, inside)
            own = (_load(features_ptr, at, live) - _load(statistics_ptr, row, inside)) * own_rstd
            parameters = t * C + channel
            own_weight = _load(own_weight_ptr, parameters, channel < C)
            own_bias = _load(own_bias_ptr, parameters, channel < C)
            opening = tl.sigmoid(_load(gate_ptr, row.to(tl.int64) * gate_stride + channel, live))
            d_mixed = _load(d_mixed_ptr, at, live)
            if scale_ptr is not None:
                d_mixed *= _load(scale_ptr, t * batch + pixel // (pixels // batch), inside)
            d_opening = d_mixed * (shared * weight + bias - own * own_weight - own_bias)
            d_gate = d_opening * opening * (1 - opening)
            tl.store(d_gate_ptr + at, d_gate.to(d_gate_ptr.dtype.element_ty), mask=live)
            d_shared += d_mixed * opening
            d_own = d_mixed * (1 - opening)
            updated += (sums[2 * t] + d_own * own, sums[2 * t + 1] + d_own)
            d_own = normalised_gradient(d_own * own_weight, own, own_rstd, C)
            tl.store(d_features_ptr + at, d_own.to(d_features_ptr.dtype.element_ty), mask=live)
        updated += (sums[2 * T] + d_shared * shared, sums[2 * T + 1] + d_shared)
        sums = updated
        d_shared = normalised_gradient(d_shared * weight, shared, shared_rstd, C)
        tl.store(d_features_ptr + shared_at, d_shared.to(d_features_ptr.dtype.element_ty), mask=live)
        first += tl.num_programs(0) * ROWS
    partial = partial_ptr + tl.program_id(0) * (2 * T + 2) * C + channel
    for k in tl.static_range(2 * T + 2):
        place = k % 2 * (T + 1) + k // 2
        tl.store(partial + place * C, tl.sum(sums[k], 0, keep_dims=True), mask=channel < C)


def _launch(kernel: Any, launch: Launch, programs: int, features: Tensor, gate: Tensor, *others: Tensor | None) -> None:
    """Run a kernel over all pixels; the gates are rows, ``others`` the arguments after these maps."""
    tasks, channels = len(features) - 1, features.shape[-1]
    tile = launch.tile(channels)
    sizes = len(gate) // tasks, features.shape[1], gate.stride(0), tasks, channels, *tile
    with torch.cuda.device_of(features):
        kernel[programs,](features, gate, *others, *sizes, num_warps=launch.warps(*tile))


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
    programs = launch.programs_for(pixels, channels)
    _launch(_forward, launch, programs, features, as_rows(gate), *parameters, scale, mixed, statistics)
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
    channels = features.shape[-1]
    d_features, d_gate = torch.empty_like(features), gate.new_empty(gate.shape)
    programs = launch.programs_for(statistics.shape[-1], channels)
    partial = features.new_empty(programs, 2, len(features), channels, dtype=torch.float32)
    tensors = *parameters, scale, d_mixed, statistics, d_features, d_gate, partial
    _launch(_backward, launch, programs, features, as_rows(gate), *tensors)
    return d_features, d_gate, partial.sum(0)
