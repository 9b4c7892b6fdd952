"""Triton kernels behind the backward pass of `mtmamba.kernels.window_attention.window_attention`.

Both recompute the probabilities from the logarithms of their sums. The first tiles the queries, as the forward pass
does, and sums the scores' gradients over its group of windows in registers; the second tiles the keys. Sums of groups
are added in a fixed order, without atomics.
"""
# mypy: allow-untyped-defs, disable-error-code="assignment"

import torch
import triton
import triton.language as tl
from torch import Tensor

from mtmamba.kernels.window_attention_triton import (
    RUN_TIME,
    Geometry,
    Plan,
    find_group,
    find_window,
    locate,
    pair_scores,
    position_bias,
    read_part,
)

QUERY_GRADIENTS = Plan(tile=64, piece=32, warps=4, stages=2, programs=1056)
KEY_GRADIENTS = Plan(tile=64, piece=64, warps=4, stages=2, programs=1056)
GRADIENTS_32 = Plan(tile=64, piece=32, warps=4, stages=1, programs=1056)
"""The plan of either kernel on float32 maps."""


@triton.jit(do_not_specialize=RUN_TIME)
def query_gradients_kernel(
    qkv_ptr,
    padding_ptr,
    table_ptr,
    out_ptr,
    lse_ptr,
    dout_ptr,
    dqkv_ptr,
    delta_ptr,
    partial_ptr,
    batch,
    share,
    height,
    width,
    rows,
    columns,
    heads,
    D: tl.constexpr,
    SIDE: tl.constexpr,
    SHIFT: tl.constexpr,
    TILE: tl.constexpr,
    PIECE: tl.constexpr,
    LAST: tl.constexpr,
    PIECES: tl.constexpr,
    STAGES: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Gradients of queries, the group's sums of the scores' gradients, and ``delta``, the products of dout and out."""
    N: tl.constexpr = SIDE * SIDE
    head = tl.program_id(1)
    bottom, right, down, across, first, last = find_group(batch, share, rows, columns, SIDE, SHIFT)
    query = tl.program_id(0) * TILE + tl.arange(0, TILE)
    biases = ()
    sums = ()
    for i in tl.static_range(PIECES):
        key = i * PIECE + tl.arange(0, PIECE if i < PIECES - 1 else LAST)
        biases += (position_bias(table_ptr, query[:, None], key[None, :], bottom, right, head, heads, SIDE, SHIFT),)
        sums += (tl.zeros([TILE, PIECE if i < PIECES - 1 else LAST], tl.float32),)
    for number in tl.range(first, last, num_stages=STAGES):
        image, window, top, left = find_window(number, bottom, right, down, across, rows, columns, SIDE)
        maps = image * height * width * (3 * heads * D)
        pixel, inside = locate(query, top, left, height, width, rows, columns, SIDE, SHIFT)
        q = read_part(qkv_ptr + maps, padding_ptr, pixel, inside, 0, head, heads, D)
        place = ((image * height * width + pixel) * (heads * D) + head * D)[:, None] + tl.arange(0, D)[None, :]
        out = tl.load(out_ptr + place, mask=inside[:, None], other=0.0)
        dout = tl.load(dout_ptr + place, mask=inside[:, None], other=0.0)
        row = (window * heads + head) * N + query
        lse = tl.load(lse_ptr + row, mask=query < N, other=float("inf"))
        delta = tl.sum(out.to(tl.float32) * dout.to(tl.float32), 1)
        tl.store(delta_ptr + row, delta, mask=query < N)
        dq = tl.zeros([TILE, D], tl.float32)
        added = ()
        for i in tl.static_range(PIECES):
            key = i * PIECE + tl.arange(0, PIECE if i < PIECES - 1 else LAST)
            at, exists = locate(key, top, left, height, width, rows, columns, SIDE, SHIFT)
            k = read_part(qkv_ptr + maps, padding_ptr, at, exists, 1, head, heads, D)
            v = read_part(qkv_ptr + maps, padding_ptr, at, exists, 2, head, heads, D)
            p = tl.exp2(pair_scores(q, k, biases[i], D, PRECISION) - lse[:, None])
            ds = p * (tl.dot(dout, tl.trans(v), input_precision=PRECISION) - delta[:, None])
            dq = tl.dot(ds.to(k.dtype), k, dq, input_precision=PRECISION)
            added += (sums[i] + ds,)
        sums = added
        here = dqkv_ptr + maps + (pixel * (3 * heads * D) + head * D)[:, None] + tl.arange(0, D)[None, :]
        tl.store(here, (dq / D**0.5).to(dqkv_ptr.dtype.element_ty), mask=inside[:, None])
    partial = partial_ptr + (tl.program_id(2).to(tl.int64) * heads + head) * N * N
    for i in tl.static_range(PIECES):
        key = i * PIECE + tl.arange(0, PIECE if i < PIECES - 1 else LAST)
        live = (query < N)[:, None] & (key < N)[None, :]
        tl.store(partial + query[:, None] * N + key[None, :], sums[i], mask=live)


@triton.jit(do_not_specialize=RUN_TIME)
def key_gradients_kernel(
    qkv_ptr,
    padding_ptr,
    table_ptr,
    lse_ptr,
    dout_ptr,
    delta_ptr,
    dqkv_ptr,
    partial_ptr,
    batch,
    share,
    height,
    width,
    rows,
    columns,
    heads,
    D: tl.constexpr,
    SIDE: tl.constexpr,
    SHIFT: tl.constexpr,
    TILE: tl.constexpr,
    PIECE: tl.constexpr,
    LAST: tl.constexpr,
    PIECES: tl.constexpr,
    STAGES: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Gradients of keys and values, and the group's sums of those that fall on the padding."""
    N: tl.constexpr = SIDE * SIDE
    head = tl.program_id(1)
    bottom, right, down, across, first, last = find_group(batch, share, rows, columns, SIDE, SHIFT)
    key = tl.program_id(0) * TILE + tl.arange(0, TILE)
    channel = tl.arange(0, D)[None, :]
    biases = ()
    for i in tl.static_range(PIECES):
        query = i * PIECE + tl.arange(0, PIECE if i < PIECES - 1 else LAST)
        biases += (position_bias(table_ptr, query[None, :], key[:, None], bottom, right, head, heads, SIDE, SHIFT),)
    dk_padding = tl.zeros([TILE, D], tl.float32)
    dv_padding = tl.zeros([TILE, D], tl.float32)
    for number in tl.range(first, last, num_stages=STAGES):
        image, window, top, left = find_window(number, bottom, right, down, across, rows, columns, SIDE)
        maps = image * height * width * (3 * heads * D)
        pixel, inside = locate(key, top, left, height, width, rows, columns, SIDE, SHIFT)
        k = read_part(qkv_ptr + maps, padding_ptr, pixel, inside, 1, head, heads, D)
        v = read_part(qkv_ptr + maps, padding_ptr, pixel, inside, 2, head, heads, D)
        dk = tl.zeros([TILE, D], tl.float32)
        dv = tl.zeros([TILE, D], tl.float32)
        for i in tl.static_range(PIECES):
            query = i * PIECE + tl.arange(0, PIECE if i < PIECES - 1 else LAST)
            at, exists = locate(query, top, left, height, width, rows, columns, SIDE, SHIFT)
            q = read_part(qkv_ptr + maps, padding_ptr, at, exists, 0, head, heads, D)
            place = ((image * height * width + at) * (heads * D) + head * D)[:, None] + channel
            dout = tl.load(dout_ptr + place, mask=exists[:, None], other=0.0)
            row = (window * heads + head) * N + query
            lse = tl.load(lse_ptr + row, mask=query < N, other=float("inf"))
            delta = tl.load(delta_ptr + row, mask=query < N, other=0.0)
            p = tl.exp2(pair_scores(k, q, biases[i], D, PRECISION) - lse[None, :])
            dv = tl.dot(p.to(k.dtype), dout, dv, input_precision=PRECISION)
            ds = p * (tl.dot(v, tl.trans(dout), input_precision=PRECISION) - delta[None, :])
            dk = tl.dot(ds.to(k.dtype), q, dk, input_precision=PRECISION)
        dk /= D**0.5
        here = dqkv_ptr + maps + (pixel * (3 * heads * D) + head * D)[:, None] + channel
        tl.store(here + heads * D, dk.to(dqkv_ptr.dtype.element_ty), mask=inside[:, None])
        tl.store(here + 2 * heads * D, dv.to(dqkv_ptr.dtype.element_ty), mask=inside[:, None])
        outside = (key < N) & ~inside
        dk_padding += tl.where(outside[:, None], dk, 0.0)
        dv_padding += tl.where(outside[:, None], dv, 0.0)
    part = tl.program_id(2).to(tl.int64) * tl.num_programs(0) + tl.program_id(0)
    partial = partial_ptr + part * (2 * heads * D) + head * D + channel
    tl.store(partial, tl.sum(dk_padding, 0, keep_dims=True))
    tl.store(partial + heads * D, tl.sum(dv_padding, 0, keep_dims=True))


@triton.jit(do_not_specialize=("heads",))
def table_gradient_kernel(scores_ptr, table_ptr, heads, SIDE: tl.constexpr, WIDTH: tl.constexpr):
    """Sums of the scores' gradients, ``(heads, n, n)``, over the pairs of tokens so many rows and columns apart."""
    offset, head = tl.program_id(0), tl.program_id(1)
    x, column = tl.arange(0, WIDTH)[:, None], tl.arange(0, 2 * WIDTH)[None, :]
    other = x - column + SIDE - 1
    live = (x < SIDE) & (other >= 0) & (other < SIDE)
    sums = tl.zeros([WIDTH, 2 * WIDTH], tl.float32)
    for y in range(max(0, offset - SIDE + 1), min(SIDE, offset + 1)):
        query, key = y * SIDE + x, (y - offset + SIDE - 1) * SIDE + other
        at = scores_ptr + (head * SIDE * SIDE + query) * SIDE * SIDE + key
        sums += tl.load(at, mask=live, other=0.0)
    at = table_ptr + (offset * (2 * SIDE - 1) + column) * heads + head
    tl.store(at, tl.sum(sums, 0, keep_dims=True), mask=column < 2 * SIDE - 1)


def backward(
    dout: Tensor,
    qkv: Tensor,
    padding: Tensor,
    table: Tensor,
    out: Tensor,
    lse: Tensor,
    window: int,
    shift: int,
    query_plan: Plan | None = None,
    key_plan: Plan | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of ``qkv``, ``padding`` and ``table``, the latter two in float32."""
    sizes = Geometry.of(qkv, table, window, shift)
    single = GRADIENTS_32 if qkv.dtype == torch.float32 else None
    query_plan, key_plan = query_plan or single or QUERY_GRADIENTS, key_plan or single or KEY_GRADIENTS
    dqkv, delta = torch.empty_like(qkv), torch.empty_like(lse)
    dscores = lse.new_empty(sizes.groups(query_plan), sizes.heads, window**2, window**2)
    sizes.launch(query_gradients_kernel, query_plan, qkv, padding, table, out, lse, dout, dqkv, delta, dscores)
    dpadding = lse.new_empty(sizes.groups(key_plan) * sizes.tiles(key_plan), 2, qkv.shape[3] // 3)
    sizes.launch(key_gradients_kernel, key_plan, qkv, padding, table, lse, dout, delta, dqkv, dpadding)
    dtable = torch.empty_like(table, dtype=torch.float32)
    with torch.cuda.device_of(qkv):
        table_gradient_kernel[(2 * window - 1, sizes.heads)](
            dscores.sum(0), dtable, heads=sizes.heads, SIDE=window, WIDTH=triton.next_power_of_2(window)
        )
    total = lse.new_zeros(3, qkv.shape[3] // 3)  # queries of padding are nobody's
    torch.sum(dpadding, 0, out=total[1:])
    return dqkv, total.flatten(), dtable
