"""The Triton kernel behind the forward pass of `mtmamba.kernels.window_attention.window_attention`.

A program owns a tile of a window's tokens in one head, and slides over a group of windows: what depends on positions
alone stays in registers, which is the position biases and the shift's mask, since a group's windows are all cut alike.
Tokens are found where they lie in the map; those of the border are one row, ``padding``, which takes the map's place
in their addresses. A tile's scores with all keys are held at once, in pieces.
"""
# mypy: allow-untyped-defs, disable-error-code="assignment"

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from mtmamba.kernels.dispatch import triton_products
from mtmamba.kernels.triton_cache import settle_cache

settle_cache()


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
    """About how many programs share the work; each holds a group of windows."""


FORWARD = Plan(tile=64, piece=128, warps=4, stages=2, programs=264)
FORWARD_32 = Plan(tile=64, piece=64, warps=4, stages=2, programs=1056)
"""The plan on float32 maps."""

LOG2E = tl.constexpr(1.4426950408889634)
RUN_TIME = ("batch", "share", "height", "width", "rows", "columns", "heads")
"""Sizes whose values do not matter to the compiler: one compilation serves all."""


class Geometry(NamedTuple):
    """Sizes of one call."""

    batch: int
    height: int
    width: int
    heads: int
    head_dim: int
    side: int
    shift: int

    @classmethod
    def of(cls, qkv: Tensor, table: Tensor, window: int, shift: int) -> "Geometry":
        """Read the sizes from a call's arguments."""
        batch, height, width, channels = qkv.shape
        heads = table.shape[1]
        return cls(batch, height, width, heads, channels // (3 * heads), window, shift)

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
        """Windows of the whole batch."""
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

    def constants(self, plan: Plan, dtype: torch.dtype) -> dict[str, int | str]:
        """Return what a kernel is compiled for, with maps of a dtype."""
        tokens = self.side**2
        piece = self.cut(tokens, plan.piece)
        pieces = triton.cdiv(tokens, piece)
        return {
            "D": self.head_dim,
            "SIDE": self.side,
            "SHIFT": self.shift,
            "TILE": self.cut(tokens, plan.tile),
            "PIECE": piece,
            "LAST": self.cut(tokens - (pieces - 1) * piece, piece),
            "PIECES": pieces,
            "STAGES": plan.stages,
            "PRECISION": triton_products(dtype),
        }

    def launch(self, kernel: Any, plan: Plan, *tensors: Tensor) -> None:
        """Run a kernel over all windows."""
        grid = self.tiles(plan), self.heads, self.groups(plan)
        padded = self.down * self.side, self.across * self.side
        sizes = self.batch, self.share(plan), self.height, self.width, *padded, self.heads
        with torch.cuda.device_of(tensors[0]):
            kernel[grid](*tensors, *sizes, **self.constants(plan, tensors[0].dtype), num_warps=plan.warps)


@triton.jit
def find_group(batch, share, rows, columns, SIDE: tl.constexpr, SHIFT: tl.constexpr):
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
def find_window(number, bottom, right, down, across, rows, columns, SIDE: tl.constexpr):
    """A window's image, its number among all windows, and its first row and column in the shifted map."""
    image = number // (down * across)
    top = tl.where(bottom, rows - SIDE, number % (down * across) // across * SIDE)
    left = tl.where(right, columns - SIDE, number % across * SIDE)
    window = (image * (rows // SIDE) + top // SIDE) * (columns // SIDE) + left // SIDE
    return image.to(tl.int64), window, top, left


@triton.jit
def locate(token, top, left, height, width, rows, columns, SIDE: tl.constexpr, SHIFT: tl.constexpr):
    """Tokens' pixels in the unpadded map, and whether they lie in it."""
    y, x = top + token // SIDE + SHIFT, left + token % SIDE + SHIFT
    y, x = tl.where(y >= rows, y - rows, y), tl.where(x >= columns, x - columns, x)
    return y * width + x, (token < SIDE * SIDE) & (y < height) & (x < width)


@triton.jit
def read_part(maps, padding, pixel, inside, part: tl.constexpr, head, heads, D: tl.constexpr):
    """Queries (part 0), keys (1) or values (2) of the tokens."""
    row = tl.where(inside, maps + pixel * (3 * heads * D), padding)
    return tl.load(row[:, None] + (part * heads * D + head * D + tl.arange(0, D))[None, :])


@triton.jit
def position_bias(table, query, key, bottom, right, head, heads, SIDE: tl.constexpr, SHIFT: tl.constexpr):
    """What position adds to scores, to base 2; -inf for keys that are none."""
    y, x, other_y, other_x = query // SIDE, query % SIDE, key // SIDE, key % SIDE
    at = table + ((y - other_y + SIDE - 1) * (2 * SIDE - 1) + x - other_x + SIDE - 1) * heads + head
    bias = tl.load(at, mask=(query < SIDE * SIDE) & (key < SIDE * SIDE), other=0.0).to(tl.float32)
    if SHIFT:  # of two tokens one was brought here from the other side
        apart = bottom & ((y >= SIDE - SHIFT) != (other_y >= SIDE - SHIFT))
        apart |= right & ((x >= SIDE - SHIFT) != (other_x >= SIDE - SHIFT))
        bias = tl.where(apart, bias - 100, bias)
    return tl.where(key < SIDE * SIDE, bias * LOG2E, float("-inf"))


@triton.jit
def pair_scores(a, b, bias, D: tl.constexpr, PRECISION: tl.constexpr):
    """Scores to base 2 of tokens ``a`` with tokens ``b``."""
    return tl.dot(a, tl.trans(b), input_precision=PRECISION) * (LOG2E / D**0.5) + bias


@triton.jit(do_not_specialize=RUN_TIME)
def forward_kernel(
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
    """Outputs, and the logarithms to base 2 of the sums of the scores' exponentials."""
    N: tl.constexpr = SIDE * SIDE
    head = tl.program_id(1)
    bottom, right, down, across, first, last = find_group(batch, share, rows, columns, SIDE, SHIFT)
    query = tl.program_id(0) * TILE + tl.arange(0, TILE)
    biases = ()
    for i in tl.static_range(PIECES):
        key = i * PIECE + tl.arange(0, PIECE if i < PIECES - 1 else LAST)
        biases += (position_bias(table_ptr, query[:, None], key[None, :], bottom, right, head, heads, SIDE, SHIFT),)
    for number in tl.range(first, last, num_stages=STAGES):
        image, window, top, left = find_window(number, bottom, right, down, across, rows, columns, SIDE)
        maps = qkv_ptr + image * height * width * (3 * heads * D)
        pixel, inside = locate(query, top, left, height, width, rows, columns, SIDE, SHIFT)
        q = read_part(maps, padding_ptr, pixel, inside, 0, head, heads, D)
        highest = tl.full([TILE], float("-inf"), tl.float32)
        scores = ()
        values = ()
        for i in tl.static_range(PIECES):
            key = i * PIECE + tl.arange(0, PIECE if i < PIECES - 1 else LAST)
            at, exists = locate(key, top, left, height, width, rows, columns, SIDE, SHIFT)
            k = read_part(maps, padding_ptr, at, exists, 1, head, heads, D)
            values += (read_part(maps, padding_ptr, at, exists, 2, head, heads, D),)
            scores += (pair_scores(q, k, biases[i], D, PRECISION),)
            highest = tl.maximum(highest, tl.max(scores[i], 1))
        total = tl.zeros([TILE], tl.float32)
        out = tl.zeros([TILE, D], tl.float32)
        for i in tl.static_range(PIECES):
            p = tl.exp2(scores[i] - highest[:, None])
            total += tl.sum(p, 1)
            out = tl.dot(p.to(q.dtype), values[i], out, input_precision=PRECISION)
        out /= total[:, None]
        place = (image * height * width + pixel) * (heads * D) + head * D
        here = out_ptr + place[:, None] + tl.arange(0, D)[None, :]
        tl.store(here, out.to(out_ptr.dtype.element_ty), mask=inside[:, None])
        lse = lse_ptr + (window * heads + head) * N
        tl.store(lse + query, highest + tl.log2(total), mask=query < N)


def forward(
    qkv: Tensor, padding: Tensor, table: Tensor, window: int, shift: int, plan: Plan | None = None
) -> tuple[Tensor, Tensor]:
    """Return the output ``(B, H, W, C)`` and ``lse`` ``(windows, heads, window²)``; all tensors contiguous."""
    sizes = Geometry.of(qkv, table, window, shift)
    out = qkv.new_empty(*qkv.shape[:3], qkv.shape[3] // 3)
    lse = qkv.new_empty(sizes.windows, sizes.heads, window**2, dtype=torch.float32)
    plan = plan or (FORWARD_32 if qkv.dtype == torch.float32 else FORWARD)
    sizes.launch(forward_kernel, plan, qkv, padding, table, out, lse)
    return out, lse
