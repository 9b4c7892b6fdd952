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

FORWARD = Launch(elements=1024, per_thread=8, programs=2112)
BACKWARD = Launch(elements=512, per_thread=4, programs=2112)


@triton.jit
def _load(ptr, at, live):
    return tl.load(ptr + at, mask=live, other=0.0).to(tl.float32)


@triton.jit
def _forward(
    own_ptr,
    shared_ptr,
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
        mean, rstd, shared = normalise(_load(shared_ptr, pixel.to(tl.int64) * C + channel, live), channel, C)
        tl.store(statistics_ptr + T * pixels + pixel, mean, mask=inside)
        tl.store(statistics_ptr + (2 * T + 1) * pixels + pixel, rstd, mask=inside)
        shared = shared * weight + bias
        for t in tl.static_range(T):
            row = t * pixels + pixel
            at = row.to(tl.int64) * C + channel
            mean, rstd, own = normalise(_load(own_ptr, at, live), channel, C)
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
    d_mixed_ptr,
    own_ptr,
    shared_ptr,
    gate_ptr,
    own_weight_ptr,
    own_bias_ptr,
    shared_weight_ptr,
    shared_bias_ptr,
    scale_ptr,
    statistics_ptr,
    d_own_ptr,
    d_shared_ptr,
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
    """Gradients of the three maps, and this program's sums for those of the parameters, the shared ones' last."""
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
        shared_at = pixel.to(tl.int64) * C + channel
        shared_rstd = _load(rstds, T * pixels + pixel, inside)
        shared = _load(shared_ptr, shared_at, live)
        shared = (shared - _load(statistics_ptr, T * pixels + pixel, inside)) * shared_rstd
        d_shared = zeros
        updated = ()
        for t in tl.static_range(T):
            row = t * pixels + pixel
            at = row.to(tl.int64) * C + channel
            own_rstd = _load(rstds, row, inside)
            own = (_load(own_ptr, at, live) - _load(statistics_ptr, row, inside)) * own_rstd
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
            tl.store(d_own_ptr + at, d_own.to(d_own_ptr.dtype.element_ty), mask=live)
        updated += (sums[2 * T] + d_shared * shared, sums[2 * T + 1] + d_shared)
        sums = updated
        d_shared = normalised_gradient(d_shared * weight, shared, shared_rstd, C)
        tl.store(d_shared_ptr + shared_at, d_shared.to(d_shared_ptr.dtype.element_ty), mask=live)
        first += tl.num_programs(0) * ROWS
    partial = partial_ptr + tl.program_id(0) * (2 * T + 2) * C + channel
    for k in tl.static_range(2 * T + 2):
        tl.store(partial + k * C, tl.sum(sums[k], 0, keep_dims=True), mask=channel < C)


def _launch(kernel: Any, maps: Sequence[Tensor], launch: Launch, programs: int, *tensors: Tensor | None) -> None:
    """Run a kernel over all pixels."""
    own, shared, gate = maps
    tasks, batch, channels = own.shape[0], own.shape[1], own.shape[-1]
    tile = launch.tile(channels)
    sizes = shared.numel() // channels, batch, as_rows(gate).stride(0), tasks, channels, *tile
    with torch.cuda.device_of(own):
        kernel[programs,](*tensors, *sizes, num_warps=launch.warps(*tile))


def forward(
    maps: Sequence[Tensor], parameters: Sequence[Tensor], scale: Tensor | None = None, launch: Launch = FORWARD
) -> tuple[Tensor, Tensor]:
    """Return the mixed maps, and mean and 1 / standard deviation of every pixel, ``(2, T + 1, pixels)``.

    Args:
        maps: own ``(T, B, ..., C)`` and shared features ``(1, B, ..., C)``, contiguous, and gates like the own, whose
            rows may lie at any one distance.
        parameters: weight and bias of the own features' norm ``(T, C)``, and of the shared ones' ``(1, C)``.
        scale: ``(T, B)`` float32, contiguous.
        launch: how the pixels are shared out, whose tiles have all tasks.
    """
    own, shared, gate = maps
    maps = own, shared, as_rows(gate)
    pixels = shared.numel() // shared.shape[-1]
    mixed = torch.empty_like(own)
    statistics = own.new_empty(2, len(own) + 1, pixels, dtype=torch.float32)
    programs = launch.programs_for(pixels, own.shape[-1])
    _launch(_forward, maps, launch, programs, *maps, *parameters, scale, mixed, statistics)
    return mixed, statistics


def backward(
    d_mixed: Tensor,
    maps: Sequence[Tensor],
    parameters: Sequence[Tensor],
    statistics: Tensor,
    scale: Tensor | None = None,
    launch: Launch = BACKWARD,
) -> tuple[Tensor, ...]:
    """Return the gradients of maps and parameters, the latter in float32; ``d_mixed`` contiguous."""
    own, shared, gate = maps
    maps = own, shared, as_rows(gate)
    gradients = torch.empty_like(own), torch.empty_like(shared), gate.new_empty(gate.shape)
    tasks, channels = own.shape[0], own.shape[-1]
    programs = launch.programs_for(shared.numel() // channels, channels)
    partial = own.new_empty(programs, tasks + 1, 2, channels, dtype=torch.float32)
    _launch(_backward, maps, launch, programs, d_mixed, *maps, *parameters, scale, statistics, *gradients, partial)
    own_sums, shared_sums = partial.split((tasks, 1), dim=1)
    return *gradients, *(sums[:, :, i].sum(0) for sums in (own_sums, shared_sums) for i in range(2))
