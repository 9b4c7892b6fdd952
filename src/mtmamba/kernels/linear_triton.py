"""Triton kernel behind `mtmamba.kernels.linear`: sums over the rows of a matrix, without atomics."""
# mypy: allow-untyped-defs

import torch
import triton
import triton.language as tl
from torch import Tensor

from mtmamba.kernels.sums_triton import sum_parts

ROWS, COLUMNS = 32, 128
"""Of a tile."""
PROGRAMS = 1056
"""About so many share the matrix: 8 for each multiprocessor of an H100 or H200."""


@triton.jit
def _column_sums(x_ptr, partial_ptr, rows, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
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


def column_sums(x: Tensor) -> Tensor:
    """Return the sums over the rows of a contiguous matrix, in float32."""
    rows, columns = x.shape
    across = triton.cdiv(columns, COLUMNS)
    parts = max(1, min(triton.cdiv(rows, 2 * ROWS), triton.cdiv(PROGRAMS, across)))
    partial = x.new_empty(parts, columns, dtype=torch.float32)
    with torch.cuda.device_of(x):
        _column_sums[across, parts](x, partial, rows, columns, ROWS=ROWS, COLUMNS=COLUMNS)
    return sum_parts(partial)
