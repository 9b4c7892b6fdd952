"""Triton kernels behind `mtmamba.kernels.norm`: a layer norm for each task, its gate, and where its result goes.

A few programs for each multiprocessor walk over the rows of one task, a tile of whole rows at a time, the parameters in
registers. Backwards they also keep the sums for the parameters' gradients there, in float32; the programs' sums are
added in a fixed order, without atomics.
"""
# mypy: allow-untyped-defs

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from mtmamba.kernels.dispatch import as_rows
from mtmamba.kernels.sums_triton import sum_parts

EPS = tl.constexpr(1e-5)


class Launch(NamedTuple):
    """How the rows are shared out. Powers of two but for ``programs`` and ``rows``."""

    elements: int
    """Elements of a tile; a longer row is a tile by itself."""
    per_thread: int
    """Elements of the tile in one thread."""
    programs: int
    """Programs of all tasks together, at most: 2112 are 16 for each multiprocessor of an H100 or H200."""
    rows: int = 32
    """Rows of a program, at least, in a backward pass: fewer would be outweighed by its sums in memory traffic."""

    def tile(self, channels: int) -> tuple[int, int]:
        """Return the rows of a tile and their length, up to a power of two."""
        block = triton.next_power_of_2(channels)
        return max(1, self.elements // block), block

    def warps(self, rows: int, block: int) -> int:
        """Return how many warps share a tile."""
        return min(max(1, rows * block // (32 * self.per_thread)), 16)

    def programs_for(self, rows: int, channels: int, tasks: int = 1) -> int:
        """Return the programs of a task."""
        return min(triton.cdiv(rows, max(self.rows, self.tile(channels)[0])), triton.cdiv(self.programs, tasks))


FORWARD = Launch(elements=1024, per_thread=32, programs=2112, rows=1)
BACKWARD = Launch(elements=1024, per_thread=16, programs=1056)
GATED_BACKWARD = Launch(elements=1024, per_thread=32, programs=1056)


@triton.jit
def normalise(x, channel, C: tl.constexpr):
    """Mean, 1 / standard deviation and normalised values of rows of C channels."""
    mean = tl.sum(x, 1, keep_dims=True) / C
    centred = tl.where(channel < C, x - mean, 0.0)
    rstd = tl.rsqrt(tl.sum(centred * centred, 1, keep_dims=True) / C + EPS)
    return mean, rstd, centred * rstd


@triton.jit
def normalised_gradient(dy, normal, rstd, C: tl.constexpr):
    """Gradient with respect to rows whose normalised values ``normal`` have the gradient ``dy``."""
    mean = tl.sum(dy, 1, keep_dims=True) / C
    along = tl.sum(dy * normal, 1, keep_dims=True) / C
    return (dy - mean - normal * along) * rstd


@triton.jit
def _source(row, channel, rows, C: tl.constexpr, JOINED: tl.constexpr):
    """Where the norm's input lies: JOINED maps, one after another, hold the channels of a row between them."""
    D: tl.constexpr = C // JOINED
    if JOINED == 1:
        return row.to(tl.int64) * C + channel
    return (channel // D).to(tl.int64) * rows * D + channel % D + row.to(tl.int64) * D


@triton.jit
def _target(row, channel, width, C: tl.constexpr, UPSCALE: tl.constexpr):
    """Where its result lies: rows (..., width, UPSCALE, UPSCALE) go to (..., UPSCALE, width, UPSCALE)."""
    if UPSCALE > 1:
        pixel, inside = row // (UPSCALE * UPSCALE), row % (UPSCALE * UPSCALE)
        line = pixel // width * UPSCALE + inside // UPSCALE
        row = (line * width + pixel % width) * UPSCALE + inside % UPSCALE
    return row.to(tl.int64) * C + channel


@triton.jit
def forward_kernel(
    x_ptr,
    weight_ptr,
    bias_ptr,
    gate_ptr,
    scale_ptr,
    y_ptr,
    statistics_ptr,
    tasks,
    rows,
    batch,
    width,
    gate_stride,
    C: tl.constexpr,
    JOINED: tl.constexpr,
    UPSCALE: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Layer norm, times silu(gate) and times a factor for each sample where there are such."""
    task = tl.program_id(1)
    channel = tl.arange(0, BLOCK)[None, :]
    weight = tl.load(weight_ptr + task * C + channel, mask=channel < C, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + task * C + channel, mask=channel < C, other=0.0).to(tl.float32)
    first = tl.program_id(0) * ROWS
    while first < rows:
        place = first + tl.arange(0, ROWS)[:, None]
        row = task * rows + place
        live = (place < rows) & (channel < C)
        x = tl.load(x_ptr + _source(row, channel, rows, C, JOINED), mask=live, other=0.0).to(tl.float32)
        mean, rstd, normal = normalise(x, channel, C)
        y = normal * weight + bias
        if gate_ptr is not None:
            gate = tl.load(gate_ptr + row.to(tl.int64) * gate_stride + channel, mask=live, other=0.0).to(tl.float32)
            y *= gate * tl.sigmoid(gate)
        if scale_ptr is not None:
            y *= tl.load(scale_ptr + task * batch + place // (rows // batch), mask=place < rows, other=0.0)
        tl.store(y_ptr + _target(row, channel, width, C, UPSCALE), y.to(y_ptr.dtype.element_ty), mask=live)
        tl.store(statistics_ptr + row, mean, mask=place < rows)
        tl.store(statistics_ptr + tasks * rows + row, rstd, mask=place < rows)
        first += tl.num_programs(0) * ROWS


@triton.jit
def backward_kernel(
    dy_ptr,
    x_ptr,
    weight_ptr,
    bias_ptr,
    gate_ptr,
    scale_ptr,
    statistics_ptr,
    dx_ptr,
    dgate_ptr,
    partial_ptr,
    tasks,
    rows,
    batch,
    width,
    gate_stride,
    C: tl.constexpr,
    JOINED: tl.constexpr,
    UPSCALE: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Gradients of input and gate, and this program's sums for those of weight and bias."""
    task = tl.program_id(1)
    channel = tl.arange(0, BLOCK)[None, :]
    weight = tl.load(weight_ptr + task * C + channel, mask=channel < C, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + task * C + channel, mask=channel < C, other=0.0).to(tl.float32)
    dweight = tl.zeros((ROWS, BLOCK), tl.float32)
    dbias = tl.zeros((ROWS, BLOCK), tl.float32)
    first = tl.program_id(0) * ROWS
    while first < rows:
        place = first + tl.arange(0, ROWS)[:, None]
        row = task * rows + place
        live = (place < rows) & (channel < C)
        source = _source(row, channel, rows, C, JOINED)
        dy = tl.load(dy_ptr + _target(row, channel, width, C, UPSCALE), mask=live, other=0.0).to(tl.float32)
        x = tl.load(x_ptr + source, mask=live, other=0.0).to(tl.float32)
        mean = tl.load(statistics_ptr + row, mask=place < rows, other=0.0)
        rstd = tl.load(statistics_ptr + tasks * rows + row, mask=place < rows, other=0.0)
        normal = (x - mean) * rstd
        if scale_ptr is not None:
            dy *= tl.load(scale_ptr + task * batch + place // (rows // batch), mask=place < rows, other=0.0)
        if gate_ptr is not None:
            gate = tl.load(gate_ptr + row.to(tl.int64) * gate_stride + channel, mask=live, other=0.0).to(tl.float32)
            opening = tl.sigmoid(gate)
            dgate = dy * (normal * weight + bias) * opening * (1 + gate * (1 - opening))
            at = dgate_ptr + row.to(tl.int64) * C + channel
            tl.store(at, dgate.to(dgate_ptr.dtype.element_ty), mask=live)
            dy *= gate * opening
        dweight += dy * normal
        dbias += dy
        dx = normalised_gradient(dy * weight, normal, rstd, C)
        tl.store(dx_ptr + source, dx.to(dx_ptr.dtype.element_ty), mask=live)
        first += tl.num_programs(0) * ROWS
    partial = partial_ptr + (task * tl.num_programs(0) + tl.program_id(0)) * C + channel
    tl.store(partial, tl.sum(dweight, 0, keep_dims=True), mask=channel < C)
    tl.store(partial + tasks * tl.num_programs(0) * C, tl.sum(dbias, 0, keep_dims=True), mask=channel < C)


def _grid(x: Tensor, weight: Tensor, launch: Launch) -> tuple[int, int, int]:
    """Return programs for each task, tasks, and rows of each."""
    tasks, rows = weight.numel() // weight.shape[-1], x.numel() // weight.numel()
    return launch.programs_for(rows, weight.shape[-1], tasks), tasks, rows


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    gate: Tensor | None = None,
    scale: Tensor | None = None,
    *,
    upscale: int = 1,
    joined: int = 1,
    launch: Launch = FORWARD,
) -> tuple[Tensor, Tensor]:
    """Return the result's rows, and each row's mean and 1 / standard deviation ``(2, T, rows)``, in float32.

    Args:
        x: contiguous ``(T, B, ..., W, upscale² C)``, or ``joined`` maps of ``C / joined`` channels each.
        weight: contiguous ``(T, C)``; ``(C,)`` for joined maps.
        bias: like ``weight``.
        gate: like ``x``, its rows at any one distance.
        scale: contiguous ``(T, B)`` float32.
        upscale: the channels of ``x`` are those of ``upscale`` x ``upscale`` pixels.
        joined: maps whose channels are normalised together.
        launch: how the rows are shared out.
    """
    programs, tasks, rows = _grid(x, weight, launch)
    channels = weight.shape[-1]
    tile = launch.tile(channels)
    y = x.new_empty(tasks * rows, channels)
    statistics = x.new_empty(2, tasks, rows, dtype=torch.float32)
    gate = None if gate is None else as_rows(gate)
    stride = 0 if gate is None else gate.stride(0)
    sizes = tasks, rows, x.shape[1], x.shape[-2], stride, channels, joined, upscale, *tile
    with torch.cuda.device_of(x):
        tensors = x, weight, bias, gate, scale, y, statistics
        forward_kernel[programs, tasks](*tensors, *sizes, num_warps=launch.warps(*tile))
    return y, statistics


def backward(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    statistics: Tensor,
    gate: Tensor | None = None,
    scale: Tensor | None = None,
    *,
    upscale: int = 1,
    joined: int = 1,
    launch: Launch | None = None,
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Return the gradients of x, of gate, and of weight and bias in one, in float32; ``dy`` contiguous."""
    launch = launch or (BACKWARD if gate is None else GATED_BACKWARD)
    programs, tasks, rows = _grid(x, weight, launch)
    channels = weight.shape[-1]
    tile = launch.tile(channels)
    dx, dgate = torch.empty_like(x), None if gate is None else gate.new_empty(gate.shape)
    partial = x.new_empty(2, tasks, programs, channels, dtype=torch.float32)
    gate = None if gate is None else as_rows(gate)
    stride = 0 if gate is None else gate.stride(0)
    sizes = tasks, rows, x.shape[1], x.shape[-2], stride, channels, joined, upscale, *tile
    tensors = dy, x, weight, bias, gate, scale, statistics, dx, dgate, partial
    with torch.cuda.device_of(x):
        backward_kernel[programs, tasks](*tensors, *sizes, num_warps=launch.warps(*tile))
    return dx, dgate, sum_parts(partial, 2).view(2, *weight.shape)
