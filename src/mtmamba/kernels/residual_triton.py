"""Triton kernels behind `mtmamba.kernels.residual`: rows and parameters' sums are shared out as in `norm_triton`."""
# mypy: allow-untyped-defs

import torch
import triton
import triton.language as tl
from torch import Tensor

from mtmamba.kernels.norm_triton import BACKWARD, FORWARD, Launch, normalise, normalised_gradient
from mtmamba.kernels.sums_triton import sum_parts


@triton.jit
def forward_kernel(
    x_ptr,
    added_ptr,
    weight_ptr,
    bias_ptr,
    scale_ptr,
    total_ptr,
    y_ptr,
    statistics_ptr,
    tasks,
    rows,
    batch,
    C: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Sum, rounded to what is stored, and its layer norm."""
    task = tl.program_id(1)
    channel = tl.arange(0, BLOCK)[None, :]
    weight = tl.load(weight_ptr + task * C + channel, mask=channel < C, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + task * C + channel, mask=channel < C, other=0.0).to(tl.float32)
    first = tl.program_id(0) * ROWS
    while first < rows:
        place = first + tl.arange(0, ROWS)[:, None]
        row = task * rows + place
        live = (place < rows) & (channel < C)
        at = row.to(tl.int64) * C + channel
        total = tl.load(added_ptr + at, mask=live, other=0.0).to(tl.float32)
        if scale_ptr is not None:
            total *= tl.load(scale_ptr + task * batch + place // (rows // batch), mask=place < rows, other=0.0)
        total += tl.load(x_ptr + at, mask=live, other=0.0).to(tl.float32)
        stored = total.to(total_ptr.dtype.element_ty)
        tl.store(total_ptr + at, stored, mask=live)
        mean, rstd, normal = normalise(stored.to(tl.float32), channel, C)
        tl.store(y_ptr + at, (normal * weight + bias).to(y_ptr.dtype.element_ty), mask=live)
        tl.store(statistics_ptr + row, mean, mask=place < rows)
        tl.store(statistics_ptr + tasks * rows + row, rstd, mask=place < rows)
        first += tl.num_programs(0) * ROWS


@triton.jit
def backward_kernel(
    dy_ptr,
    dtotal_ptr,
    total_ptr,
    weight_ptr,
    scale_ptr,
    statistics_ptr,
    dx_ptr,
    dadded_ptr,
    partial_ptr,
    tasks,
    rows,
    batch,
    C: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Gradients of the sum and of what was scaled, and this program's sums for those of weight and bias."""
    task = tl.program_id(1)
    channel = tl.arange(0, BLOCK)[None, :]
    weight = tl.load(weight_ptr + task * C + channel, mask=channel < C, other=0.0).to(tl.float32)
    dweight = tl.zeros((ROWS, BLOCK), tl.float32)
    dbias = tl.zeros((ROWS, BLOCK), tl.float32)
    first = tl.program_id(0) * ROWS
    while first < rows:
        place = first + tl.arange(0, ROWS)[:, None]
        row = task * rows + place
        live = (place < rows) & (channel < C)
        at = row.to(tl.int64) * C + channel
        dy = tl.load(dy_ptr + at, mask=live, other=0.0).to(tl.float32)
        mean = tl.load(statistics_ptr + row, mask=place < rows, other=0.0)
        rstd = tl.load(statistics_ptr + tasks * rows + row, mask=place < rows, other=0.0)
        normal = (tl.load(total_ptr + at, mask=live, other=0.0).to(tl.float32) - mean) * rstd
        dweight += dy * normal
        dbias += dy
        dx = normalised_gradient(dy * weight, normal, rstd, C)
        if dtotal_ptr is not None:
            dx += tl.load(dtotal_ptr + at, mask=live, other=0.0).to(tl.float32)
        tl.store(dx_ptr + at, dx.to(dx_ptr.dtype.element_ty), mask=live)
        if scale_ptr is not None:
            dx *= tl.load(scale_ptr + task * batch + place // (rows // batch), mask=place < rows, other=0.0)
            tl.store(dadded_ptr + at, dx.to(dadded_ptr.dtype.element_ty), mask=live)
        first += tl.num_programs(0) * ROWS
    partial = partial_ptr + (task * tl.num_programs(0) + tl.program_id(0)) * C + channel
    tl.store(partial, tl.sum(dweight, 0, keep_dims=True), mask=channel < C)
    tl.store(partial + tasks * tl.num_programs(0) * C, tl.sum(dbias, 0, keep_dims=True), mask=channel < C)


def forward(
    x: Tensor, added: Tensor, weight: Tensor, bias: Tensor, scale: Tensor | None, launch: Launch = FORWARD
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the sum, its norm, and each row's mean and 1 / standard deviation ``(2, T, rows)``, in float32.

    All tensors are contiguous; maps ``(T, B, ..., C)``, parameters ``(T, C)``, ``scale`` ``(T, B)`` float32.
    """
    (tasks, channels), rows = weight.shape, x.numel() // weight.numel()
    tile, programs = launch.tile(channels), launch.programs_for(rows, channels, tasks)
    total, y = torch.empty_like(x), torch.empty_like(x)
    statistics = x.new_empty(2, tasks, rows, dtype=torch.float32)
    tensors = x, added, weight, bias, scale, total, y, statistics
    sizes = tasks, rows, x.shape[1], channels, *tile
    with torch.cuda.device_of(x):
        forward_kernel[programs, tasks](*tensors, *sizes, num_warps=launch.warps(*tile))
    return total, y, statistics


def backward(
    dy: Tensor,
    dtotal: Tensor | None,
    total: Tensor,
    weight: Tensor,
    scale: Tensor | None,
    statistics: Tensor,
    launch: Launch = BACKWARD,
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Return the gradients of the sum, of what was scaled if it was, and of weight and bias in one, in float32."""
    (tasks, channels), rows = weight.shape, total.numel() // weight.numel()
    tile, programs = launch.tile(channels), launch.programs_for(rows, channels, tasks)
    dx, dadded = torch.empty_like(total), None if scale is None else torch.empty_like(total)
    partial = total.new_empty(2, tasks, programs, channels, dtype=torch.float32)
    tensors = dy, dtotal, total, weight, scale, statistics, dx, dadded, partial
    with torch.cuda.device_of(total):
        backward_kernel[programs, tasks](
            *tensors, tasks, rows, total.shape[1], channels, *tile, num_warps=launch.warps(*tile)
        )
    return dx, dadded, sum_parts(partial, 2)
