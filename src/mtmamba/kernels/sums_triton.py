"""Triton kernel that adds the programs' shares of the parameters' gradients, few numbers of many programs."""
# mypy: allow-untyped-defs

import torch
import triton
import triton.language as tl
from torch import Tensor

from mtmamba.kernels.triton_cache import settle_cache

settle_cache()

ELEMENTS = 2048
"""Elements of a tile, which a program asks for all at once."""
PARTS, COLUMNS = 256, 256
"""A tile's sides at most."""


@triton.jit
def sum_parts_kernel(parts_ptr, out_ptr, parts, columns, ADD: tl.constexpr, PARTS: tl.constexpr, COLUMNS: tl.constexpr):
    """Sum some columns over all parts, PARTS at a time, or ADD the sums to what there is."""
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    outer = tl.program_id(1).to(tl.int64)
    parts_ptr += outer * parts * columns
    sums = tl.zeros((PARTS, COLUMNS), tl.float32)
    part = tl.arange(0, PARTS)[:, None]
    first = 0
    while first < parts:
        live = (first + part < parts) & (column < columns)
        sums += tl.load(parts_ptr + (first + part).to(tl.int64) * columns + column, mask=live, other=0.0)
        first += PARTS
    out_ptr += outer * columns + column
    total = tl.sum(sums, 0, keep_dims=True)
    if ADD:
        total += tl.load(out_ptr, mask=column < columns)
    tl.store(out_ptr, total, mask=column < columns)


def sum_parts(parts: Tensor, axis: int = 0, to: Tensor | None = None) -> Tensor:
    """Return the sums over an axis of a contiguous float32 tensor, added in a fixed order, or add them to a tensor."""
    shape = parts.shape[:axis] + parts.shape[axis + 1 :]
    count, columns = parts.shape[axis], parts.shape[axis + 1 :].numel()
    out = parts.new_empty(shape) if to is None else to
    tile = tile_for(count)
    grid = triton.cdiv(columns, tile[1]), parts.shape[:axis].numel()
    with torch.cuda.device_of(parts):
        sum_parts_kernel[grid](parts, out, count, columns, ADD=to is not None, PARTS=tile[0], COLUMNS=tile[1])
    return out


def tile_for(count: int) -> tuple[int, int]:
    """Return how many parts and columns are read at once."""
    parts = min(PARTS, triton.next_power_of_2(count))
    return parts, min(COLUMNS, ELEMENTS // parts)
