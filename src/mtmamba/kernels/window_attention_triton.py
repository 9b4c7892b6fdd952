"""Triton kernels behind `mtmamba.kernels.window_attention.window_attention`.

A program owns a tile of a window's tokens in one head, and slides over a group of windows: what depends on positions
alone stays in registers, the position biases and the sum of their gradients. Tokens are found where they lie in the
map; those of the border are one row, ``padding``, which takes the map's place in their addresses.

The forward pass and the first backward kernel tile the queries, and hold a tile's scores with all keys in pieces; the
second backward kernel tiles the keys. Both recompute the probabilities from the logarithm of their sums. Sums over
windows are added in a fixed order, without atomics.
"""
# mypy: allow-untyped-defs, disable-error-code="assignment"

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor


class Plan(NamedTuple):
    """How the work is cut. Powers of two: ``tile``, ``piece`` and ``warps``."""

    tile: int
    """A program's own tokens, at most: of 64 rows each, four warps' products take Hopper's instructions."""
    piece: int
    """The other tokens that it meets at a time, at most."""
    warps: int
    stages: int
    """Windows whose loads are in flight together."""
    programs: int
    """About how many share the work; each holds a group of windows."""


FORWARD = Plan(tile=64, piece=128, warps=4, stages=2, programs=1056)
QUERY_GRADIENTS = Plan(tile=64, piece=32, warps=4, stages=2, programs=1056)
KEY_GRADIENTS = Plan(tile=64, piece=64, warps=4, stages=2, programs=1056)
EXACT = Plan(tile=32, piece=32, warps=8, stages=1, programs=1056)
"""Of all kernels on float32 maps, whose products take no tensor cores and many registers."""

LOG2E = tl.constexpr(1.4426950408889634)
RUN_TIME = ("batch", "share", "height", "width", "rows", "columns")
"""Sizes whose values do not matter to the compiler: one compilation serves all."""


@triton.jit
def _group(batch, share, rows, columns, SIDE: tl.constexpr, SHIFT: tl.constexpr):
    """This program's windows, all of one kind: at the shifted map's bottom or not, at its right or not.

    Returns the kind's place (``bottom`` and ``right``), how many of its windows lie below and beside one another in an
    image, and the numbers of the first window and of the one after the last.
    """
    group = tl.program_id(2)
    down, across = rows // SIDE, columns // SIDE
    bottom, right = group < 0, group < 0
    if SHIFT:
        whole_down, whole_across = down - 1, across - 1
        inner = tl.cdiv(batch * whole_down * whole_across, share)
        at_right = inner + tl.cdiv(batch * whole_down, share)
        at_bottom = at_right + tl.cdiv(batch * whole_across, share)
        bottom = group >= at_right
        right = (group >= inner) & ((group < at_right) | (group >= at_bottom))
        start = tl.where(group >= at_bottom, at_bottom, tl.where(bottom, at_right, tl.where(right, inner, 0)))
        group -= start
        down, across = tl.where(bottom, 1, whole_down), tl.where(right, 1, whole_across)
    first = group * share
    return bottom, right, down, across, first, min(first + share, batch * down * across)


@triton.jit
def _window(number, bottom, right, down, across, rows, columns, SIDE: tl.constexpr):
    """A window's image, its number among all windows, and its first row and column in the shifted map."""
    image = number // (down * across)
    top = tl.where(bottom, rows - SIDE, number % (down * across) // across * SIDE)
    left = tl.where(right, columns - SIDE, number % across * SIDE)
    window = (image * (rows // SIDE) + top // SIDE) * (columns // SIDE) + left // SIDE
    return image.to(tl.int64), window, top, left


@triton.jit
def _locate(token, top, left, height, width, rows, columns, SIDE: tl.constexpr, SHIFT: tl.constexpr):
    """Tokens' pixels in the unpadded map, and whether they lie in it."""
    y, x = top + token // SIDE + SHIFT, left + token % SIDE + SHIFT
    y, x = tl.where(y >= rows, y - rows, y), tl.where(x >= columns, x - columns, x)
    return y * width + x, (token < SIDE * SIDE) & (y < height) & (x < width)


@triton.jit
def _read(maps, padding, pixel, inside, part: tl.constexpr, head, HEADS: tl.constexpr, D: tl.constexpr):
    """Queries (part 0), keys (1) or values (2) of the tokens."""
    row = tl.where(inside, maps + pixel * (3 * HEADS * D), padding)
    return tl.load(row[:, None] + (part * HEADS * D + head * D + tl.arange(0, D))[None, :])


@triton.jit
def _bias(table, query, key, bottom, right, head, HEADS: tl.constexpr, SIDE: tl.constexpr, SHIFT: tl.constexpr):
    """What position adds to scores, to base 2; -inf for keys that are none."""
    y, x, other_y, other_x = query // SIDE, query % SIDE, key // SIDE, key % SIDE
    at = table + ((y - other_y + SIDE - 1) * (2 * SIDE - 1) + x - other_x + SIDE - 1) * HEADS + head
    bias = tl.load(at, mask=(query < SIDE * SIDE) & (key < SIDE * SIDE), other=0.0).to(tl.float32)
    if SHIFT:  # of two tokens one was brought here from the other side
        apart = bottom & ((y >= SIDE - SHIFT) != (other_y >= SIDE - SHIFT))
        apart |= right & ((x >= SIDE - SHIFT) != (other_x >= SIDE - SHIFT))
        bias = tl.where(apart, bias - 100, bias)
    return tl.where(key < SIDE * SIDE, bias * LOG2E, float("-inf"))


@triton.jit
def _scores(a, b, bias, D: tl.constexpr):
    """Scores to base 2 of tokens ``a`` with tokens ``b``."""
    return tl.dot(a, tl.trans(b), input_precision="ieee") * (LOG2E / D**0.5) + bias


@triton.jit(do_not_specialize=RUN_TIME)
def _forward(
    qkv_ptr,
    padding_ptr,
    table_ptr,
    out_ptr,
    lse_ptr,
    batch,
    share,
    height,
    width,
    rows,
    columns,
    HEADS: tl.constexpr,
    D: tl.constexpr,
    SIDE: tl.constexpr,
    SHIFT: tl.constexpr,
    TILE: tl.constexpr,
    PIECE: tl.constexpr,
    LAST: tl.constexpr,
    PIECES: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Outputs, and the logarithms to base 2 of the sums of the scores' exponentials."""
    N: tl.constexpr = SIDE * SIDE
    head = tl.program_id(1)
    bottom, right, down, across, first, last = _group(batch, share, rows, columns, SIDE, SHIFT)
    query = tl.program_id(0) * TILE + tl.arange(0, TILE)
    biases = ()
    for i in tl.static_range(PIECES):
        key = i * PIECE + tl.arange(0, PIECE if i < PIECES - 1 else LAST)
        biases += (_bias(table_ptr, query[:, None], key[None, :], bottom, right, head, HEADS, SIDE, SHIFT),)
    for number in tl.range(first, last, num_stages=STAGES):
        image, window, top, left = _window(number, bottom, right, down, across, rows, columns, SIDE)
        maps = qkv_ptr + image * height * width * (3 * HEADS * D)
        pixel, inside = _locate(query, top, left, height, width, rows, columns, SIDE, SHIFT)
        q = _read(maps, padding_ptr, pixel, inside, 0, head, HEADS, D)
        highest = tl.full([TILE], float("-inf"), tl.float32)
        scores = ()
        values = ()
        for i in tl.static_range(PIECES):
            key = i * PIECE + tl.arange(0, PIECE if i < PIECES - 1 else LAST)
            at, exists = _locate(key, top, left, height, width, rows, columns, SIDE, SHIFT)
            k = _read(maps, padding_ptr, at, exists, 1, head, HEADS, D)
            values += (_read(maps, padding_ptr, at, exists, 2, head, HEADS, D),)
            scores += (_scores(q, k, biases[i], D),)
            highest = tl.maximum(highest, tl.max(scores[i], 1))
        total = tl.zeros([TILE], tl.float32)
        out = tl.zeros([TILE, D], tl.float32)
        for i in tl.static_range(PIECES):
            p = tl.exp2(scores[i] - highest[:, None])
            total += tl.sum(p, 1)
            out = tl.dot(p.to(q.dtype), values[i], out, input_precision="ieee")
        out /= total[:, None]
        place = (image * height * width + pixel) * (HEADS * D) + head * D
        here = out_ptr + place[:, None] + tl.arange(0, D)[None, :]
        tl.store(here, out.to(out_ptr.dtype.element_ty), mask=inside[:, None])
        lse = lse_ptr + (window * HEADS + head) * N
        tl.store(lse + query, highest + tl.log2(total), mask=query < N)


@triton.jit(do_not_specialize=RUN_TIME)
def _query_gradients(
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
    HEADS: tl.constexpr,
    D: tl.constexpr,
    SIDE: tl.constexpr,
    SHIFT: tl.constexpr,
    TILE: tl.constexpr,
    PIECE: tl.constexpr,
    LAST: tl.constexpr,
    PIECES: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Gradients of queries, the group's sums of the scores' gradients, and ``delta``, the products of dout and out."""
    N: tl.constexpr = SIDE * SIDE
    head = tl.program_id(1)
    bottom, right, down, across, first, last = _group(batch, share, rows, columns, SIDE, SHIFT)
    query = tl.program_id(0) * TILE + tl.arange(0, TILE)
    biases = ()
    sums = ()
    for i in tl.static_range(PIECES):
        key = i * PIECE + tl.arange(0, PIECE if i < PIECES - 1 else LAST)
        biases += (_bias(table_ptr, query[:, None], key[None, :], bottom, right, head, HEADS, SIDE, SHIFT),)
        sums += (tl.zeros([TILE, PIECE if i < PIECES - 1 else LAST], tl.float32),)
    for number in tl.range(first, last, num_stages=STAGES):
        image, window, top, left = _window(number, bottom, right, down, across, rows, columns, SIDE)
        maps = image * height * width * (3 * HEADS * D)
        pixel, inside = _locate(query, top, left, height, width, rows, columns, SIDE, SHIFT)
        q = _read(qkv_ptr + maps, padding_ptr, pixel, inside, 0, head, HEADS, D)
        place = ((image * height * width + pixel) * (HEADS * D) + head * D)[:, None] + tl.arange(0, D)[None, :]
        out = tl.load(out_ptr + place, mask=inside[:, None], other=0.0)
        dout = tl.load(dout_ptr + place, mask=inside[:, None], other=0.0)
        row = (window * HEADS + head) * N + query
        lse = tl.load(lse_ptr + row, mask=query < N, other=float("inf"))
        delta = tl.sum(out.to(tl.float32) * dout.to(tl.float32), 1)
        tl.store(delta_ptr + row, delta, mask=query < N)
        dq = tl.zeros([TILE, D], tl.float32)
        added = ()
        for i in tl.static_range(PIECES):
            key = i * PIECE + tl.arange(0, PIECE if i < PIECES - 1 else LAST)
            at, exists = _locate(key, top, left, height, width, rows, columns, SIDE, SHIFT)
            k = _read(qkv_ptr + maps, padding_ptr, at, exists, 1, head, HEADS, D)
            v = _read(qkv_ptr + maps, padding_ptr, at, exists, 2, head, HEADS, D)
            p = tl.exp2(_scores(q, k, biases[i], D) - lse[:, None])
            ds = p * (tl.dot(dout, tl.trans(v), input_precision="ieee") - delta[:, None])
            dq = tl.dot(ds.to(k.dtype), k, dq, input_precision="ieee")
            added += (sums[i] + ds,)
        sums = added
        here = dqkv_ptr + maps + (pixel * (3 * HEADS * D) + head * D)[:, None] + tl.arange(0, D)[None, :]
        tl.store(here, (dq / D**0.5).to(dqkv_ptr.dtype.element_ty), mask=inside[:, None])
    partial = partial_ptr + (tl.program_id(2).to(tl.int64) * HEADS + head) * N * N
    for i in tl.static_range(PIECES):
        key = i * PIECE + tl.arange(0, PIECE if i < PIECES - 1 else LAST)
        live = (query < N)[:, None] & (key < N)[None, :]
        tl.store(partial + query[:, None] * N + key[None, :], sums[i], mask=live)


@triton.jit(do_not_specialize=RUN_TIME)
def _key_gradients(
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
    HEADS: tl.constexpr,
    D: tl.constexpr,
    SIDE: tl.constexpr,
    SHIFT: tl.constexpr,
    TILE: tl.constexpr,
    PIECE: tl.constexpr,
    LAST: tl.constexpr,
    PIECES: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Gradients of keys and values, and the group's sums of those that fall on the padding."""
    N: tl.constexpr = SIDE * SIDE
    head = tl.program_id(1)
    bottom, right, down, across, first, last = _group(batch, share, rows, columns, SIDE, SHIFT)
    key = tl.program_id(0) * TILE + tl.arange(0, TILE)
    channel = tl.arange(0, D)[None, :]
    biases = ()
    for i in tl.static_range(PIECES):
        query = i * PIECE + tl.arange(0, PIECE if i < PIECES - 1 else LAST)
        biases += (_bias(table_ptr, query[None, :], key[:, None], bottom, right, head, HEADS, SIDE, SHIFT),)
    dk_padding = tl.zeros([TILE, D], tl.float32)
    dv_padding = tl.zeros([TILE, D], tl.float32)
    for number in tl.range(first, last, num_stages=STAGES):
        image, window, top, left = _window(number, bottom, right, down, across, rows, columns, SIDE)
        maps = image * height * width * (3 * HEADS * D)
        pixel, inside = _locate(key, top, left, height, width, rows, columns, SIDE, SHIFT)
        k = _read(qkv_ptr + maps, padding_ptr, pixel, inside, 1, head, HEADS, D)
        v = _read(qkv_ptr + maps, padding_ptr, pixel, inside, 2, head, HEADS, D)
        dk = tl.zeros([TILE, D], tl.float32)
        dv = tl.zeros([TILE, D], tl.float32)
        for i in tl.static_range(PIECES):
            query = i * PIECE + tl.arange(0, PIECE if i < PIECES - 1 else LAST)
            at, exists = _locate(query, top, left, height, width, rows, columns, SIDE, SHIFT)
            q = _read(qkv_ptr + maps, padding_ptr, at, exists, 0, head, HEADS, D)
            place = ((image * height * width + at) * (HEADS * D) + head * D)[:, None] + channel
            dout = tl.load(dout_ptr + place, mask=exists[:, None], other=0.0)
            row = (window * HEADS + head) * N + query
            lse = tl.load(lse_ptr + row, mask=query < N, other=float("inf"))
            delta = tl.load(delta_ptr + row, mask=query < N, other=0.0)
            p = tl.exp2(_scores(k, q, biases[i], D) - lse[None, :])
            dv = tl.dot(p.to(k.dtype), dout, dv, input_precision="ieee")
            ds = p * (tl.dot(v, tl.trans(dout), input_precision="ieee") - delta[None, :])
            dk = tl.dot(ds.to(k.dtype), q, dk, input_precision="ieee")
        dk /= D**0.5
        here = dqkv_ptr + maps + (pixel * (3 * HEADS * D) + head * D)[:, None] + channel
        tl.store(here + HEADS * D, dk.to(dqkv_ptr.dtype.element_ty), mask=inside[:, None])
        tl.store(here + 2 * HEADS * D, dv.to(dqkv_ptr.dtype.element_ty), mask=inside[:, None])
        outside = (key < N) & ~inside
        dk_padding += tl.where(outside[:, None], dk, 0.0)
        dv_padding += tl.where(outside[:, None], dv, 0.0)
    part = tl.program_id(2).to(tl.int64) * tl.num_programs(0) + tl.program_id(0)
    partial = partial_ptr + part * (2 * HEADS * D) + head * D + channel
    tl.store(partial, tl.sum(dk_padding, 0, keep_dims=True))
    tl.store(partial + HEADS * D, tl.sum(dv_padding, 0, keep_dims=True))


@triton.jit
def _table_gradient(scores_ptr, table_ptr, HEADS: tl.constexpr, SIDE: tl.constexpr, WIDTH: tl.constexpr):
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
    at = table_ptr + (offset * (2 * SIDE - 1) + column) * HEADS + head
    tl.store(at, tl.sum(sums, 0, keep_dims=True), mask=column < 2 * SIDE - 1)


class Geometry(NamedTuple):
    """Sizes of one call."""

    batch: int
    height: int
    width: int
    heads: int
    head_dim: int
    side: int
    shift: int

    @property
    def down(self) -> int:
        """Windows below one another in the padded map."""
        return triton.cdiv(self.height, self.side)

    @property
    def across(self) -> int:
        """Windows beside one another in the padded map."""
        return triton.cdiv(self.width, self.side)

    @property
    def windows(self) -> int:
        """Of the whole batch."""
        return self.batch * self.down * self.across

    def cut(self, tokens: int, limit: int) -> int:
        """Return the smallest tile that holds the tokens, or the largest allowed."""
        return min(limit, max(16, triton.next_power_of_2(tokens)))

    def tiles(self, plan: Plan) -> int:
        """Return how many tiles hold a window's tokens."""
        return triton.cdiv(self.side**2, self.cut(self.side**2, plan.tile))

    def share(self, plan: Plan) -> int:
        """Return the windows of a group."""
        return triton.cdiv(self.windows * self.tiles(plan) * self.heads, plan.programs)

    def groups(self, plan: Plan) -> int:
        """Return how many groups of windows there are; those that a shift cuts alike are grouped together."""
        down, across = (self.down - 1, 1), (self.across - 1, 1)
        kinds = [(i, j) for i in down for j in across] if self.shift else [(self.down, self.across)]
        return sum(triton.cdiv(self.batch * i * j, self.share(plan)) for i, j in kinds)

    def constants(self, plan: Plan) -> dict[str, int]:
        """Return what a kernel is compiled for."""
        tokens = self.side**2
        piece = self.cut(tokens, plan.piece)
        pieces = triton.cdiv(tokens, piece)
        return {
            "HEADS": self.heads,
            "D": self.head_dim,
            "SIDE": self.side,
            "SHIFT": self.shift,
            "TILE": self.cut(tokens, plan.tile),
            "PIECE": piece,
            "LAST": self.cut(tokens - (pieces - 1) * piece, piece),
            "PIECES": pieces,
            "STAGES": plan.stages,
        }

    def launch(self, kernel: Any, plan: Plan, *tensors: Tensor) -> None:
        """Run a kernel over all windows."""
        grid = self.tiles(plan), self.heads, self.groups(plan)
        sizes = self.batch, self.share(plan), self.height, self.width, self.down * self.side, self.across * self.side
        with torch.cuda.device_of(tensors[0]):
            kernel[grid](*tensors, *sizes, **self.constants(plan), num_warps=plan.warps)


def _geometry(qkv: Tensor, table: Tensor, window: int, shift: int) -> Geometry:
    batch, height, width, channels = qkv.shape
    heads = table.shape[1]
    return Geometry(batch, height, width, heads, channels // (3 * heads), window, shift)


def _default(plan: Plan, qkv: Tensor) -> Plan:
    return EXACT if qkv.dtype == torch.float32 else plan


def forward(
    qkv: Tensor, padding: Tensor, table: Tensor, window: int, shift: int, plan: Plan | None = None
) -> tuple[Tensor, Tensor]:
    """Return the output ``(B, H, W, C)`` and ``lse`` ``(windows, heads, window²)``; all tensors contiguous."""
    sizes = _geometry(qkv, table, window, shift)
    out = qkv.new_empty(*qkv.shape[:3], qkv.shape[3] // 3)
    lse = qkv.new_empty(sizes.windows, sizes.heads, window**2, dtype=torch.float32)
    sizes.launch(_forward, plan or _default(FORWARD, qkv), qkv, padding, table, out, lse)
    return out, lse


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
    sizes = _geometry(qkv, table, window, shift)
    query_plan, key_plan = query_plan or _default(QUERY_GRADIENTS, qkv), key_plan or _default(KEY_GRADIENTS, qkv)
    dqkv, delta = torch.empty_like(qkv), torch.empty_like(lse)
    dscores = lse.new_empty(sizes.groups(query_plan), sizes.heads, window**2, window**2)
    sizes.launch(_query_gradients, query_plan, qkv, padding, table, out, lse, dout, dqkv, delta, dscores)
    dpadding = lse.new_empty(sizes.groups(key_plan) * sizes.tiles(key_plan), 2, qkv.shape[3] // 3)
    sizes.launch(_key_gradients, key_plan, qkv, padding, table, lse, dout, delta, dqkv, dpadding)
    dtable = torch.empty_like(table, dtype=torch.float32)
    with torch.cuda.device_of(qkv):
        _table_gradient[(2 * window - 1, sizes.heads)](
            dscores.sum(0), dtable, HEADS=sizes.heads, SIDE=window, WIDTH=triton.next_power_of_2(window)
        )
    dkv = dpadding.sum(0).flatten()
    return dqkv, torch.cat([dkv.new_zeros(qkv.shape[3] // 3), dkv]), dtable
