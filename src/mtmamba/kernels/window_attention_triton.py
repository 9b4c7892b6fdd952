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
    """A program's own tokens, at most."""
    piece: int
    """The other tokens that it meets at a time, at most."""
    warps: int
    stages: int
    """Windows whose loads are in flight together."""
    programs: int
    """About how many share the work; each holds a group of windows."""


FORWARD = Plan(tile=64, piece=64, warps=4, stages=2, programs=1056)
QUERY_GRADIENTS = Plan(tile=64, piece=64, warps=4, stages=2, programs=1056)
KEY_GRADIENTS = Plan(tile=64, piece=64, warps=4, stages=2, programs=1056)

LOG2E = tl.constexpr(1.4426950408889634)
APART = tl.constexpr(100 * 1.4426950408889634)
"""What scores of tokens lose that the shift brought together, to base 2."""
RUN_TIME = ("windows", "share", "height", "width", "rows", "columns")
"""Sizes whose values do not matter to the compiler: one compilation serves all."""


@triton.jit
def _window(window, rows, columns, SIDE: tl.constexpr):
    """The image of a window, and the window's first row and column in the shifted map."""
    across = columns // SIDE
    each = rows // SIDE * across
    return (window // each).to(tl.int64), window % each // across * SIDE, window % across * SIDE


@triton.jit
def _locate(token, top, left, height, width, rows, columns, SIDE: tl.constexpr, SHIFT: tl.constexpr):
    """Tokens' pixels in the unpadded map, whether they lie in it, and the region that each is from."""
    y, x = top + token // SIDE + SHIFT, left + token % SIDE + SHIFT
    below, beyond = y >= rows, x >= columns  # brought here from the other side
    y, x = tl.where(below, y - rows, y), tl.where(beyond, x - columns, x)
    inside = (token < SIDE * SIDE) & (y < height) & (x < width)
    return y * width + x, inside, below.to(tl.int32) * 2 + beyond.to(tl.int32)


@triton.jit
def _read(maps, padding, pixel, inside, part: tl.constexpr, head, HEADS: tl.constexpr, D: tl.constexpr):
    """Queries (part 0), keys (1) or values (2) of the tokens."""
    row = tl.where(inside, maps + pixel * (3 * HEADS * D), padding)
    return tl.load(row[:, None] + (part * HEADS * D + head * D + tl.arange(0, D))[None, :])


@triton.jit
def _bias(table, query, key, head, HEADS: tl.constexpr, SIDE: tl.constexpr):
    """Position biases to base 2; -inf for keys that are none."""
    row = query // SIDE - key // SIDE + SIDE - 1
    column = query % SIDE - key % SIDE + SIDE - 1
    N: tl.constexpr = SIDE * SIDE
    live = (query < N) & (key < N)
    bias = tl.load(table + (row * (2 * SIDE - 1) + column) * HEADS + head, mask=live, other=0.0).to(tl.float32)
    return tl.where(key < N, bias * LOG2E, float("-inf"))


@triton.jit
def _scores(a, b, bias, region_a, region_b, D: tl.constexpr, SHIFT: tl.constexpr):
    """Scores to base 2 of tokens ``a`` with tokens ``b``."""
    scores = tl.dot(a, tl.trans(b), input_precision="ieee") * (LOG2E / D**0.5) + bias
    if SHIFT:
        scores = tl.where(region_a[:, None] == region_b[None, :], scores, scores - APART)
    return scores


@triton.jit(do_not_specialize=RUN_TIME)
def _forward(
    qkv_ptr,
    padding_ptr,
    table_ptr,
    out_ptr,
    lse_ptr,
    windows,
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
    query = tl.program_id(0) * TILE + tl.arange(0, TILE)
    biases = ()
    for i in tl.static_range(PIECES):
        key = i * PIECE + tl.arange(0, PIECE if i < PIECES - 1 else LAST)
        biases += (_bias(table_ptr, query[:, None], key[None, :], head, HEADS, SIDE),)
    first = tl.program_id(2) * share
    for window in tl.range(first, min(first + share, windows), num_stages=STAGES):
        image, top, left = _window(window, rows, columns, SIDE)
        maps = qkv_ptr + image * height * width * (3 * HEADS * D)
        pixel, inside, region = _locate(query, top, left, height, width, rows, columns, SIDE, SHIFT)
        q = _read(maps, padding_ptr, pixel, inside, 0, head, HEADS, D)
        highest = tl.full([TILE], float("-inf"), tl.float32)
        scores = ()
        values = ()
        for i in tl.static_range(PIECES):
            key = i * PIECE + tl.arange(0, PIECE if i < PIECES - 1 else LAST)
            at, exists, origin = _locate(key, top, left, height, width, rows, columns, SIDE, SHIFT)
            k = _read(maps, padding_ptr, at, exists, 1, head, HEADS, D)
            values += (_read(maps, padding_ptr, at, exists, 2, head, HEADS, D),)
            scores += (_scores(q, k, biases[i], region, origin, D, SHIFT),)
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
    windows,
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
    query = tl.program_id(0) * TILE + tl.arange(0, TILE)
    biases = ()
    sums = ()
    for i in tl.static_range(PIECES):
        key = i * PIECE + tl.arange(0, PIECE if i < PIECES - 1 else LAST)
        biases += (_bias(table_ptr, query[:, None], key[None, :], head, HEADS, SIDE),)
        sums += (tl.zeros([TILE, PIECE if i < PIECES - 1 else LAST], tl.float32),)
    first = tl.program_id(2) * share
    for window in tl.range(first, min(first + share, windows), num_stages=STAGES):
        image, top, left = _window(window, rows, columns, SIDE)
        maps = image * height * width * (3 * HEADS * D)
        pixel, inside, region = _locate(query, top, left, height, width, rows, columns, SIDE, SHIFT)
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
            at, exists, origin = _locate(key, top, left, height, width, rows, columns, SIDE, SHIFT)
            k = _read(qkv_ptr + maps, padding_ptr, at, exists, 1, head, HEADS, D)
            v = _read(qkv_ptr + maps, padding_ptr, at, exists, 2, head, HEADS, D)
            p = tl.exp2(_scores(q, k, biases[i], region, origin, D, SHIFT) - lse[:, None])
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
    windows,
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
    key = tl.program_id(0) * TILE + tl.arange(0, TILE)
    channel = tl.arange(0, D)[None, :]
    biases = ()
    for i in tl.static_range(PIECES):
        query = i * PIECE + tl.arange(0, PIECE if i < PIECES - 1 else LAST)
        biases += (_bias(table_ptr, query[None, :], key[:, None], head, HEADS, SIDE),)
    dk_padding = tl.zeros([TILE, D], tl.float32)
    dv_padding = tl.zeros([TILE, D], tl.float32)
    first = tl.program_id(2) * share
    for window in tl.range(first, min(first + share, windows), num_stages=STAGES):
        image, top, left = _window(window, rows, columns, SIDE)
        maps = image * height * width * (3 * HEADS * D)
        pixel, inside, region = _locate(key, top, left, height, width, rows, columns, SIDE, SHIFT)
        k = _read(qkv_ptr + maps, padding_ptr, pixel, inside, 1, head, HEADS, D)
        v = _read(qkv_ptr + maps, padding_ptr, pixel, inside, 2, head, HEADS, D)
        dk = tl.zeros([TILE, D], tl.float32)
        dv = tl.zeros([TILE, D], tl.float32)
        for i in tl.static_range(PIECES):
            query = i * PIECE + tl.arange(0, PIECE if i < PIECES - 1 else LAST)
            at, exists, origin = _locate(query, top, left, height, width, rows, columns, SIDE, SHIFT)
            q = _read(qkv_ptr + maps, padding_ptr, at, exists, 0, head, HEADS, D)
            place = ((image * height * width + at) * (HEADS * D) + head * D)[:, None] + channel
            dout = tl.load(dout_ptr + place, mask=exists[:, None], other=0.0)
            row = (window * HEADS + head) * N + query
            lse = tl.load(lse_ptr + row, mask=query < N, other=float("inf"))
            delta = tl.load(delta_ptr + row, mask=query < N, other=0.0)
            p = tl.exp2(_scores(k, q, biases[i], region, origin, D, SHIFT) - lse[None, :])
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
    def padded(self) -> tuple[int, int]:
        """Rows and columns, multiples of the window's side."""
        return triton.cdiv(self.height, self.side) * self.side, triton.cdiv(self.width, self.side) * self.side

    @property
    def windows(self) -> int:
        """Of the whole batch."""
        rows, columns = self.padded
        return self.batch * (rows // self.side) * (columns // self.side)

    def grid(self, plan: Plan) -> tuple[int, int, int]:
        """Return the numbers of tiles, heads and groups of windows."""
        tiles = triton.cdiv(self.side**2, self._size(plan.tile, self.side**2))
        share = triton.cdiv(self.windows * tiles * self.heads, plan.programs)
        return tiles, self.heads, triton.cdiv(self.windows, share)

    @staticmethod
    def _size(limit: int, tokens: int) -> int:
        """Return the smallest tile that holds the tokens, or the largest allowed."""
        return min(limit, max(16, triton.next_power_of_2(tokens)))

    def launch(self, kernel: Any, plan: Plan, *tensors: Tensor) -> None:
        """Run a kernel over all windows."""
        tokens, grid = self.side**2, self.grid(plan)
        piece = self._size(plan.piece, tokens)
        pieces = triton.cdiv(tokens, piece)
        constants = {
            "HEADS": self.heads,
            "D": self.head_dim,
            "SIDE": self.side,
            "SHIFT": self.shift,
            "TILE": self._size(plan.tile, tokens),
            "PIECE": piece,
            "LAST": self._size(piece, tokens - (pieces - 1) * piece),
            "PIECES": pieces,
            "STAGES": plan.stages,
        }
        share = triton.cdiv(self.windows, grid[2])
        sizes = self.windows, share, self.height, self.width, *self.padded
        with torch.cuda.device_of(tensors[0]):
            kernel[grid](*tensors, *sizes, **constants, num_warps=plan.warps)


def _geometry(qkv: Tensor, table: Tensor, window: int, shift: int) -> Geometry:
    batch, height, width, channels = qkv.shape
    heads = table.shape[1]
    return Geometry(batch, height, width, heads, channels // (3 * heads), window, shift)


def forward(
    qkv: Tensor, padding: Tensor, table: Tensor, window: int, shift: int, plan: Plan = FORWARD
) -> tuple[Tensor, Tensor]:
    """Return the output ``(B, H, W, C)`` and ``lse`` ``(windows, heads, window²)``; all tensors contiguous."""
    sizes = _geometry(qkv, table, window, shift)
    out = qkv.new_empty(*qkv.shape[:3], qkv.shape[3] // 3)
    lse = qkv.new_empty(sizes.windows, sizes.heads, window**2, dtype=torch.float32)
    sizes.launch(_forward, plan, qkv, padding, table, out, lse)
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
    query_plan: Plan = QUERY_GRADIENTS,
    key_plan: Plan = KEY_GRADIENTS,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of ``qkv``, ``padding`` and ``table``, the latter two in float32."""
    sizes = _geometry(qkv, table, window, shift)
    dqkv, delta = torch.empty_like(qkv), torch.empty_like(lse)
    _, heads, groups = sizes.grid(query_plan)
    dscores = lse.new_empty(groups, heads, window**2, window**2)
    sizes.launch(_query_gradients, query_plan, qkv, padding, table, out, lse, dout, dqkv, delta, dscores)
    tiles, _, groups = sizes.grid(key_plan)
    dpadding = lse.new_empty(groups * tiles, 2, qkv.shape[3] // 3)
    sizes.launch(_key_gradients, key_plan, qkv, padding, table, lse, dout, delta, dqkv, dpadding)
    dtable = torch.empty_like(table, dtype=torch.float32)
    with torch.cuda.device_of(qkv):
        _table_gradient[(2 * window - 1, heads)](
            dscores.sum(0), dtable, HEADS=heads, SIDE=window, WIDTH=triton.next_power_of_2(window)
        )
    dkv = dpadding.sum(0).flatten()
    return dqkv, torch.cat([dkv.new_zeros(qkv.shape[3] // 3), dkv]), dtable
