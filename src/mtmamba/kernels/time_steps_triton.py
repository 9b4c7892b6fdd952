"""Triton kernels behind `mtmamba.kernels.time_steps`: a low-rank product, and both gradients from one read of a map.

The product is written by programs that have some rows each. For the gradients, a program walks over some rows of one
task and direction, a tile at a time, and keeps the sums for its channels of the weight's gradient in registers, in
float32; the programs' sums are added in a fixed order, without atomics. Wide maps are shared out by channels, too: what
these contribute to a row's gradient is summed afterwards, in the map's precision as it was stored.
"""
# mypy: allow-untyped-defs, disable-error-code="assignment"

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from mtmamba.kernels.sums_triton import sum_parts

BLOCK = 1024
"""Elements of a program that sums parts."""


class Launch(NamedTuple):
    """How rows and channels are shared out. Powers of two but for ``chunks``, ``stages`` and ``programs``."""

    rows: int
    """Of a tile."""
    chunk: int
    """Channels of one matrix product."""
    chunks: int
    """Of a program, at most."""
    warps: int
    stages: int
    """Tiles of which one is worked on while the others are on their way."""
    programs: int
    """At most, of all tasks, directions and parts of the channels together."""


DEFAULT = Launch(rows=32, chunk=128, chunks=3, warps=4, stages=3, programs=264)


@triton.jit
def _widen(
    low_ptr,
    weight_ptr,
    dt_ptr,
    tasks,
    rows,
    e,
    low_stride,
    R: tl.constexpr,
    RANKS: tl.constexpr,
    ROWS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Some rows of ``low weightᵀ``; RANKS is R up to a power of two."""
    pair = tl.program_id(1)
    directions = tl.num_programs(1) // tasks
    task, direction = pair // directions, pair % directions
    rank = tl.arange(0, RANKS)[None, :]
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]).to(tl.int64)
    low_ptr += task.to(tl.int64) * rows * low_stride + direction * R
    weight_ptr += pair.to(tl.int64) * e * R
    dt_ptr += pair.to(tl.int64) * rows * e
    low = tl.load(low_ptr + row * low_stride + rank, mask=(row < rows) & (rank < R), other=0.0)
    for first in range(0, e, CHUNK):
        channel = first + tl.arange(0, CHUNK)
        held = (channel < e)[:, None] & (rank < R)
        weight = tl.load(weight_ptr + channel[:, None] * R + rank, mask=held, other=0.0)
        dt = tl.dot(low, tl.trans(weight), input_precision="ieee")
        inside = (row < rows) & (channel < e)[None, :]
        tl.store(dt_ptr + row * e + channel[None, :], dt.to(dt_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _gradients(
    dt_ptr,
    weight_ptr,
    low_ptr,
    dlow_ptr,
    partial_ptr,
    tasks,
    rows,
    e,
    low_stride,
    dlow_stride,
    R: tl.constexpr,
    RANKS: tl.constexpr,
    ROWS: tl.constexpr,
    CHUNK: tl.constexpr,
    CHUNKS: tl.constexpr,
    STAGES: tl.constexpr,
):
    """This part's share of ``dt weight``, and this program's of ``dtᵀ low``; RANKS is R up to a power of two."""
    part, pair = tl.program_id(0), tl.program_id(2)
    directions = tl.num_programs(2) // tasks
    task, direction = pair // directions, pair % directions
    rank = tl.arange(0, RANKS)[None, :]
    dt_ptr += pair.to(tl.int64) * rows * e
    weight_ptr += pair.to(tl.int64) * e * R
    low_ptr += task.to(tl.int64) * rows * low_stride + direction * R
    dlow_ptr += (part * tasks + task).to(tl.int64) * rows * dlow_stride + direction * R
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
        low = tl.load(low_ptr + row * low_stride + rank, mask=live, other=0.0)
        dlow = tl.zeros([ROWS, RANKS], tl.float32)
        added = ()
        for j in tl.static_range(CHUNKS):
            channel = (part * CHUNKS + j) * CHUNK + tl.arange(0, CHUNK)
            inside = (row < rows) & (channel < e)[None, :]
            dt = tl.load(dt_ptr + row * e + channel[None, :], mask=inside, other=0.0)
            dlow = tl.dot(dt, weights[j], dlow, input_precision="ieee")
            added += (tl.dot(tl.trans(dt), low, sums[j], input_precision="ieee"),)
        sums = added
        tl.store(dlow_ptr + row * dlow_stride + rank, dlow.to(dlow_ptr.dtype.element_ty), mask=live)
    for i in tl.static_range(CHUNKS):
        channel = (part * CHUNKS + i) * CHUNK + tl.arange(0, CHUNK)
        held = (channel < e)[:, None] & (rank < R)
        tl.store(partial_ptr + channel[:, None] * R + rank, sums[i], mask=held)


@triton.jit
def _sum_parts(parts_ptr, out_ptr, parts, size, stride, COLUMNS: tl.constexpr, BLOCK: tl.constexpr):
    """Sum ``(parts, rows, COLUMNS)``, each of so many elements, into rows that lie ``stride`` apart."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float32)
    for _ in range(parts):
        total += tl.load(parts_ptr + at, mask=at < size, other=0.0).to(tl.float32)
        parts_ptr += size
    place = at // COLUMNS * stride + at % COLUMNS
    tl.store(out_ptr + place, total.to(out_ptr.dtype.element_ty), mask=at < size)


def widen(low: Tensor, weight: Tensor, rows: int | None = None, chunk: int = 128) -> Tensor:
    """Return ``low weightᵀ`` as `mtmamba.kernels.time_steps.widen` does; a program has so many rows."""
    tasks, directions, count, r = low.shape
    e, ranks = weight.shape[2], _ranks(r)
    _check(low)
    rows = rows or (64 if ranks == 16 else 128)
    dt = low.new_empty(tasks, directions, count, e)
    grid = triton.cdiv(count, rows), tasks * directions
    with torch.cuda.device_of(low):
        _widen[grid](low, weight, dt, tasks, count, e, low.stride(2), R=r, RANKS=ranks, ROWS=rows, CHUNK=chunk)
    return dt


def _ranks(r: int) -> int:
    """Round up to what a matrix product takes."""
    return max(16, triton.next_power_of_2(r))


def _check(ranks: Tensor) -> None:
    """Ranks ``(T, K, N, r)`` are a view of a map in which those of all directions lie side by side."""
    tasks, directions, rows, r = ranks.shape
    assert directions == 1 or ranks.stride(1) == r
    assert ranks.stride(3) == 1
    assert tasks == 1 or ranks.stride(0) == rows * ranks.stride(2)


def gradients(dt: Tensor, weight: Tensor, low: Tensor, dlow: Tensor, launch: Launch = DEFAULT) -> Tensor:
    """Write ``dt weight`` to ``dlow`` and return ``dtᵀ low``, in float32.

    ``dt`` ``(T, K, N, e)`` and ``weight`` ``(T, K, e, r)`` are contiguous; ``low`` and ``dlow`` are views
    ``(T, K, N, r)`` of maps ``(T, N, ...)`` in which the ranks of all directions lie side by side.
    """
    tasks, directions, rows, e = dt.shape
    r, pairs = weight.shape[-1], tasks * directions
    _check(low)
    _check(dlow)
    chunks = min(launch.chunks, triton.cdiv(e, launch.chunk))
    parts = triton.cdiv(e, chunks * launch.chunk)
    programs = max(1, min(triton.cdiv(rows, launch.rows), launch.programs // (parts * pairs)))
    partial = torch.empty(programs, *weight.shape, dtype=torch.float32, device=dt.device)
    out = dlow if parts == 1 else dlow.new_empty(parts, tasks, rows, directions * r)
    sizes = tasks, rows, e, low.stride(2), dlow.stride(2) if parts == 1 else directions * r
    tile = r, _ranks(r), launch.rows, launch.chunk, chunks, launch.stages
    with torch.cuda.device_of(dt):
        _gradients[parts, programs, pairs](dt, weight, low, out, partial, *sizes, *tile, num_warps=launch.warps)
        if parts > 1:
            size = out[0].numel()
            grid = (triton.cdiv(size, BLOCK),)
            _sum_parts[grid](out, dlow, parts, size, dlow.stride(2), COLUMNS=directions * r, BLOCK=BLOCK)
    return sum_parts(partial)
