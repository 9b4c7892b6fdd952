"""Triton kernels behind `mtmamba.scan.dt_proj`: a low-rank product, and both gradients from one read of a map.

The product is written by programs that have some rows each. For the gradients, a program walks over some rows of one
task and direction, a tile at a time, and keeps the sums for its channels of the weight's gradient in registers, in
float32; the programs' sums are added in a fixed order, without atomics. Wide maps are shared out by channels, too: what
these contribute to a row's gradient is left to be summed.
"""
# mypy: allow-untyped-defs, disable-error-code="assignment"

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from mtmamba.kernels.sums_triton import sum_parts


class Launch(NamedTuple):
    """How rows and channels are shared out. Powers of two but for ``chunks``, ``stages`` and ``programs``."""

    rows: int
    """Rows of a tile."""
    chunk: int
    """Channels of one matrix product."""
    chunks: int
    """Chunks of a program, at most."""
    warps: int
    stages: int
    """Tiles of which one is worked on while the others are on their way."""
    programs: int
    """Programs at most, of all tasks, directions and parts of the channels together."""


DEFAULT = Launch(rows=32, chunk=128, chunks=3, warps=4, stages=3, programs=264)


@triton.jit
def _widen(
    low_ptr,
    weight_ptr,
    pixels_ptr,
    dt_ptr,
    ranks_ptr,
    directions,
    images,
    length,
    steps,
    e,
    low_stride,
    pixels_stride,
    R: tl.constexpr,
    RANKS: tl.constexpr,
    ROWS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Some rows of the ranks of each image's steps, and of ``ranks weightᵀ``; RANKS is R up to a power of two."""
    pair, rows = tl.program_id(1), images * steps
    task, direction = pair // directions, pair % directions
    rank = tl.arange(0, RANKS)[None, :]
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]).to(tl.int64)
    live = (row < rows) & (rank < R)
    pixel = tl.load(pixels_ptr + direction * pixels_stride + row % steps, mask=row < rows, other=0)
    place = (task * images + row // steps) * length + tl.maximum(pixel, 0)
    low = tl.load(low_ptr + place * low_stride + direction * R + rank, mask=live, other=0.0)
    tl.store(ranks_ptr + (pair.to(tl.int64) * rows + row) * R + rank, low, mask=live)
    weight_ptr += pair.to(tl.int64) * e * R
    dt_ptr += pair.to(tl.int64) * rows * e
    for first in range(0, e, CHUNK):
        channel = first + tl.arange(0, CHUNK)
        held = (channel < e)[:, None] & (rank < R)
        weight = tl.load(weight_ptr + channel[:, None] * R + rank, mask=held, other=0.0)
        dt = tl.dot(low, tl.trans(weight), input_precision="ieee")
        inside = (row < rows) & (channel < e)[None, :]
        tl.store(dt_ptr + row * e + channel[None, :], dt.to(dt_ptr.dtype.element_ty), mask=inside)


@triton.jit
def gradients_kernel(
    dt_ptr,
    weight_ptr,
    ranks_ptr,
    dranks_ptr,
    partial_ptr,
    rows,
    e,
    R: tl.constexpr,
    RANKS: tl.constexpr,
    ROWS: tl.constexpr,
    CHUNK: tl.constexpr,
    CHUNKS: tl.constexpr,
    STAGES: tl.constexpr,
):
    """This part's share of ``dt weight``, and this program's of ``dtᵀ ranks``; RANKS is R up to a power of two."""
    part, pair = tl.program_id(0), tl.program_id(2)
    rank = tl.arange(0, RANKS)[None, :]
    dt_ptr += pair.to(tl.int64) * rows * e
    weight_ptr += pair.to(tl.int64) * e * R
    ranks_ptr += pair.to(tl.int64) * rows * R
    dranks_ptr += (part * tl.num_programs(2) + pair).to(tl.int64) * rows * R
    partial_ptr += (tl.program_id(1) * tl.num_programs(2) + pair).to(tl.int64) * e * R
    weights = ()
    sums = ()
    for i in tl.static_range(CHUNKS):
        channel = (part * CHUNKS + i) * CHUNK + tl.arange(0, CHUNK)
        held = (channel < e)[:, None] & (rank < R)
        weights += (tl.load(weight_ptr + channel[:, None] * R + rank, mask=held, other=0.0),)
        sums += (tl.zeros([CHUNK, RANKS], tl.float32),)
    program, programs = tl.program_id(1), tl.num_programs(1)
    for i in tl.range(0, tl.cdiv(tl.cdiv(rows, ROWS) - program, programs), num_stages=STAGES):
        row = ((program + i * programs) * ROWS + tl.arange(0, ROWS)[:, None]).to(tl.int64)
        live = (row < rows) & (rank < R)
        ranks = tl.load(ranks_ptr + row * R + rank, mask=live, other=0.0)
        dranks = tl.zeros([ROWS, RANKS], tl.float32)
        added = ()
        for j in tl.static_range(CHUNKS):
            channel = (part * CHUNKS + j) * CHUNK + tl.arange(0, CHUNK)
            inside = (row < rows) & (channel < e)[None, :]
            dt = tl.load(dt_ptr + row * e + channel[None, :], mask=inside, other=0.0)
            dranks = tl.dot(dt, weights[j], dranks, input_precision="ieee")
            added += (tl.dot(tl.trans(dt), ranks, sums[j], input_precision="ieee"),)
        sums = added
        tl.store(dranks_ptr + row * R + rank, dranks.to(dranks_ptr.dtype.element_ty), mask=live)
    for i in tl.static_range(CHUNKS):
        channel = (part * CHUNKS + i) * CHUNK + tl.arange(0, CHUNK)
        held = (channel < e)[:, None] & (rank < R)
        tl.store(partial_ptr + channel[:, None] * R + rank, sums[i], mask=held)


def widen(
    low: Tensor, weight: Tensor, pixels: Tensor, rows: int | None = None, chunk: int = 128
) -> tuple[Tensor, Tensor]:
    """Return time steps and ranks as `mtmamba.scan.dt_proj.widen` does; a program has so many rows."""
    (tasks, images, length, _), (directions, steps) = low.shape, pixels.shape
    e, r = weight.shape[2:]
    stride = low.stride(2)
    assert low.stride(3) == pixels.stride(1) == 1
    assert low.stride(1) == length * stride or images == 1
    assert low.stride(0) == images * length * stride or tasks == 1
    rows = rows or (64 if _power(r) == 16 else 128)
    dt, ranks = (low.new_empty(tasks, directions, images, steps, columns) for columns in (e, r))
    grid = triton.cdiv(images * steps, rows), tasks * directions
    sizes = directions, images, length, steps, e, stride, pixels.stride(0)
    with torch.cuda.device_of(low):
        _widen[grid](low, weight, pixels, dt, ranks, *sizes, R=r, RANKS=_power(r), ROWS=rows, CHUNK=chunk)
    return dt, ranks


def _power(r: int) -> int:
    """Round up to what a matrix product takes."""
    return max(16, triton.next_power_of_2(r))


def gradients(dt: Tensor, weight: Tensor, ranks: Tensor, dweight: Tensor, launch: Launch = DEFAULT) -> Tensor:
    """Return ``dt weight`` in parts and add ``dtᵀ ranks`` as `mtmamba.scan.dt_proj.widen_backward` does."""
    tasks, directions, images, steps, e = dt.shape
    r, pairs, rows = weight.shape[-1], tasks * directions, images * steps
    chunks = min(launch.chunks, triton.cdiv(e, launch.chunk))
    parts = triton.cdiv(e, chunks * launch.chunk)
    programs = max(1, min(triton.cdiv(rows, launch.rows), launch.programs // (parts * pairs)))
    partial = torch.empty(programs, *weight.shape, dtype=torch.float32, device=dt.device)
    dranks = ranks.new_empty(parts, *ranks.shape)
    tile = r, _power(r), launch.rows, launch.chunk, chunks, launch.stages
    with torch.cuda.device_of(dt):
        tensors = dt, weight, ranks, dranks, partial
        gradients_kernel[parts, programs, pairs](*tensors, rows, e, *tile, num_warps=launch.warps)
    sum_parts(partial, to=dweight)
    return dranks
