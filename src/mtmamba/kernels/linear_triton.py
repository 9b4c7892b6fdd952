"""Triton kernels behind `mtmamba.kernels.linear`: sums over the rows of a matrix, without atomics."""
# mypy: allow-untyped-defs

import torch
import triton
import triton.language as tl
from torch import Tensor

from mtmamba.kernels.sums_triton import sum_parts

ROWS, COLUMNS = 32, 128
"""A tile's sides."""
PROGRAMS = 1056
"""About how many programs share the matrix: 8 for each multiprocessor of an H100 or H200."""
GELU_ROWS, GELU_PROGRAMS = 8, 2112
"""Rows and programs of the kernel with GELU, whose tiles have as many columns."""


@triton.jit
def column_sums_kernel(x_ptr, partial_ptr, rows, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Sum every so many rows of some columns."""
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    sums = tl.zeros((ROWS, COLUMNS), tl.float32)
    first = tl.program_id(1) * ROWS
    while first < rows:
        row = first + tl.arange(0, ROWS)[:, None]
        at = row.to(tl.int64) * columns + column
        sums += tl.load(x_ptr + at, mask=(row < rows) & (column < columns), other=0.0).to(tl.float32)
        first += tl.num_programs(1) * ROWS
    tl.store(partial_ptr + tl.program_id(1) * columns + column, tl.sum(sums, 0, keep_dims=True), mask=column < columns)


@triton.jit
def gelu_gradient_kernel(dy_ptr, h_ptr, dh_ptr, partial_ptr, rows, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Gradient of GELU's argument in every so many rows of some columns, and its sums over these rows."""
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    sums = tl.zeros((ROWS, COLUMNS), tl.float32)
    first = tl.program_id(1) * ROWS
    while first < rows:
        row = first + tl.arange(0, ROWS)[:, None]
        at, live = row.to(tl.int64) * columns + column, (row < rows) & (column < columns)
        dy = tl.load(dy_ptr + at, mask=live, other=0.0).to(tl.float32)
        h = tl.load(h_ptr + at, mask=live, other=0.0).to(tl.float32)
        below = 0.5 + 0.5 * tl.erf(h * 0.7071067811865476)  # 1 / √2
        density = 0.3989422804014327 * tl.exp(-0.5 * h * h)  # 1 / √2π
        dh = dy * (below + h * density)
        tl.store(dh_ptr + at, dh.to(dh_ptr.dtype.element_ty), mask=live)
        sums += dh
        first += tl.num_programs(1) * ROWS
    tl.store(partial_ptr + tl.program_id(1) * columns + column, tl.sum(sums, 0, keep_dims=True), mask=column < columns)


def column_sums(x: Tensor) -> Tensor:
    """Return the sums over the rows of a contiguous matrix, in float32."""
    rows, columns = x.shape
    grid = _grid(rows, columns, ROWS, PROGRAMS)
    partial = x.new_empty(grid[1], columns, dtype=torch.float32)
    with torch.cuda.device_of(x):
        column_sums_kernel[grid](x, partial, rows, columns, ROWS=ROWS, COLUMNS=COLUMNS)
    return sum_parts(partial)


def gelu_gradient(dy: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradient of GELU's argument ``h`` for that of its result, and its sums over all rows, in float32.

    Both are ``(..., n)`` and contiguous.
    """
    columns = h.shape[-1]
    rows = h.numel() // columns
    grid = _grid(rows, columns, GELU_ROWS, GELU_PROGRAMS)
    dh, partial = torch.empty_like(h), h.new_empty(grid[1], columns, dtype=torch.float32)
    with torch.cuda.device_of(h):
        gelu_gradient_kernel[grid](dy, h, dh, partial, rows, columns, ROWS=GELU_ROWS, COLUMNS=COLUMNS)
    return dh, sum_parts(partial)


def _grid(rows: int, columns: int, tile: int, programs: int) -> tuple[int, int]:
    """Return how many programs share the columns and the rows, ``tile`` of them at a time."""
    across = triton.cdiv(columns, COLUMNS)
    return across, max(1, min(triton.cdiv(rows, 2 * tile), triton.cdiv(programs, across)))
