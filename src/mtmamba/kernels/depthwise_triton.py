"""Triton kernels behind `mtmamba.kernels.depthwise.depthwise_silu`, on maps ``(T, B, H, W, C)``.

A program slides down a strip of one image, a tile of columns by channels wide. Three rows stay in registers, in
float32, so each row is read once; the columns of a thread lie side by side and share their neighbours.

Backwards, a first kernel recomputes the convolution z, writes ``dz = dy silu'(z)``, and sums the parameters' gradients
over its strip; a second one turns ``dz`` into ``dx``. The strips' sums are added in a fixed order, without atomics.
"""
# mypy: allow-untyped-defs, disable-error-code="assignment"

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from mtmamba.kernels.dispatch import as_rows
from mtmamba.kernels.sums_triton import sum_parts


class Tile(NamedTuple):
    """What one program computes. Powers of two: ``channels``, and ``columns / per_thread``."""

    channels: int
    """64 of bfloat16 fill a cache line."""
    columns: int
    """Columns of the program, a multiple of ``per_thread``."""
    per_thread: int
    """Neighbouring columns in one thread."""
    rows: int
    """Rows of the strip, at most: strips of a map are of about one height."""
    unroll: int
    """Rows whose loads are in flight together."""
    warps: int
    """A thread has ``channels * columns / (32 * per_thread * warps)`` neighbouring channels."""


CONVOLVE = Tile(channels=64, columns=16, per_thread=2, rows=56, unroll=2, warps=8)
"""Tile of the forward pass."""
ACTIVATION_GRADIENT = Tile(channels=64, columns=16, per_thread=4, rows=56, unroll=2, warps=4)
"""Tile of the backward pass's first kernel."""
INPUT_GRADIENT = Tile(channels=64, columns=16, per_thread=2, rows=56, unroll=2, warps=8)
"""Tile of the backward pass's second kernel."""

RUN_TIME = ("batch", "rows", "height", "width")
"""Sizes whose values do not matter to the compiler: one compilation serves all."""


@triton.jit
def _locate(batch, rows, height, width, C: tl.constexpr, TILE: tl.constexpr):
    """This program's task, its rows from ``first`` to before ``last``, their first pixel, its columns and channels."""
    strips = tl.cdiv(height, rows)
    image = tl.program_id(2) // strips
    first = tl.program_id(2) % strips * rows
    groups: tl.constexpr = TILE.columns // TILE.per_thread
    channel = (tl.program_id(0) * TILE.channels + tl.arange(0, TILE.channels))[None, :]
    column = (tl.program_id(1) * TILE.columns + tl.arange(0, groups) * TILE.per_thread)[:, None]
    pixel = (image.to(tl.int64) * height + first) * width
    return image // batch, first, min(first + rows, height), pixel, column, channel


@triton.jit
def _load_row(at, exists, column, width, live, APART: tl.constexpr, PER_THREAD: tl.constexpr):
    """One row at each thread's columns and the one on either side, in float32; zeros outside the map."""
    values = ()
    for i in tl.static_range(-1, PER_THREAD + 1):
        inside = exists & (column + i >= 0) & (column + i < width)
        values += (tl.load(at + i * APART, mask=inside & live, other=0.0).to(tl.float32),)
    return values


@triton.jit
def _load_taps(weight, channel, live, C: tl.constexpr, REVERSED: tl.constexpr):
    """The nine weights of each channel, row by row."""
    taps = ()
    for k in tl.static_range(9):
        at = weight + channel * 9 + (8 - k if REVERSED else k)
        taps += (tl.load(at, mask=live, other=0.0).to(tl.float32),)
    return taps


@triton.jit
def _stencil(above, here, below, taps, total, i: tl.constexpr):
    """Add to ``total`` the weighted 3x3 neighbourhood of each thread's column ``i``."""
    for k in tl.static_range(3):
        total += above[i + k] * taps[k]
    for k in tl.static_range(3):
        total += here[i + k] * taps[3 + k]
    for k in tl.static_range(3):
        total += below[i + k] * taps[6 + k]
    return total


@triton.jit
def _sigmoid(z):
    """``1 / (1 + exp(-z))`` in six instructions, where a division would take thirteen."""
    root = tl.rsqrt(1 + tl.exp2(z * -1.4426950408889634))  # -1 / ln 2
    return root * root


@triton.jit(do_not_specialize=RUN_TIME)
def convolve_kernel(
    x_ptr,
    weight_ptr,
    bias_ptr,
    y_ptr,
    batch,
    rows,
    height,
    width,
    C: tl.constexpr,
    APART: tl.constexpr,
    TILE: tl.constexpr,
    TRANSPOSED: tl.constexpr,
):
    """SiLU of the convolution; or, TRANSPOSED, the convolution's gradient with respect to its input.

    Neighbouring pixels of ``x`` lie APART elements from one another.
    """
    PER_THREAD: tl.constexpr = TILE.per_thread
    UNROLL: tl.constexpr = TILE.unroll
    task, first, last, pixel, column, channel = _locate(batch, rows, height, width, C, TILE)
    live = channel < C
    taps = _load_taps(weight_ptr + task * C * 9, channel, live, C, TRANSPOSED)
    bias = tl.zeros(column.shape, tl.float32) + tl.zeros(channel.shape, tl.float32)
    if not TRANSPOSED:
        bias += tl.load(bias_ptr + task * C + channel, mask=live, other=0.0).to(tl.float32)
    start, stride = pixel * C, width.to(tl.int64) * C
    x_start, x_stride = pixel * APART, width.to(tl.int64) * APART
    x, y = x_ptr + column * APART + channel, y_ptr + column * C + channel
    above = _load_row(x + x_start - x_stride, first > 0, column, width, live, APART, PER_THREAD)
    here = _load_row(x + x_start, True, column, width, live, APART, PER_THREAD)
    row = first
    while row < last:
        window = (above, here)
        for r in tl.static_range(UNROLL):
            next_row = x + x_start + (r + 1) * x_stride
            window += (_load_row(next_row, row + r + 1 < height, column, width, live, APART, PER_THREAD),)
        for r in tl.static_range(UNROLL):
            for i in tl.static_range(PER_THREAD):
                z = _stencil(window[r], window[r + 1], window[r + 2], taps, bias, i)
                if not TRANSPOSED:
                    z *= _sigmoid(z)
                at = y + start + r * stride + i * C
                inside = live & (column + i < width) & (row + r < last)
                tl.store(at, z.to(y_ptr.dtype.element_ty), mask=inside)
        above, here = window[UNROLL], window[UNROLL + 1]
        row += UNROLL
        start += UNROLL * stride
        x_start += UNROLL * x_stride


@triton.jit(do_not_specialize=RUN_TIME)
def activation_gradient_kernel(
    dy_ptr,
    x_ptr,
    weight_ptr,
    bias_ptr,
    dz_ptr,
    partial_ptr,
    batch,
    rows,
    height,
    width,
    C: tl.constexpr,
    APART: tl.constexpr,
    TILE: tl.constexpr,
):
    """``dz = dy silu'(z)`` for ``z = conv(x)``, and this strip's sums of ``dz x`` (for each weight) and of ``dz``."""
    PER_THREAD: tl.constexpr = TILE.per_thread
    UNROLL: tl.constexpr = TILE.unroll
    task, first, last, pixel, column, channel = _locate(batch, rows, height, width, C, TILE)
    live = channel < C
    taps = _load_taps(weight_ptr + task * C * 9, channel, live, C, False)
    zeros = tl.zeros(column.shape, tl.float32) + tl.zeros(channel.shape, tl.float32)
    bias = zeros + tl.load(bias_ptr + task * C + channel, mask=live, other=0.0).to(tl.float32)
    sums = ()
    for _ in tl.static_range(10):
        sums += (zeros,)
    start, stride, place = pixel * C, width.to(tl.int64) * C, column * C + channel
    x_start, x_stride = pixel * APART, width.to(tl.int64) * APART
    dy, x, dz = dy_ptr + place, x_ptr + column * APART + channel, dz_ptr + place
    above = _load_row(x + x_start - x_stride, first > 0, column, width, live, APART, PER_THREAD)
    here = _load_row(x + x_start, True, column, width, live, APART, PER_THREAD)
    row = first
    while row < last:
        window = (above, here)
        upstream = ()
        for r in tl.static_range(UNROLL):
            next_row = x + x_start + (r + 1) * x_stride
            window += (_load_row(next_row, row + r + 1 < height, column, width, live, APART, PER_THREAD),)
            for i in tl.static_range(PER_THREAD):
                at = dy + start + r * stride + i * C
                inside = live & (column + i < width) & (row + r < last)
                upstream += (tl.load(at, mask=inside, other=0.0),)
        for r in tl.static_range(UNROLL):
            for i in tl.static_range(PER_THREAD):
                z = _stencil(window[r], window[r + 1], window[r + 2], taps, bias, i)
                s = _sigmoid(z)
                g = upstream[r * PER_THREAD + i].to(tl.float32) * (s + s * (z - z * s))
                at = dz + start + r * stride + i * C
                inside = live & (column + i < width) & (row + r < last)
                tl.store(at, g.to(dz_ptr.dtype.element_ty), mask=inside)
                added = ()
                for k in tl.static_range(9):
                    added += (sums[k] + g * window[r + k // 3][i + k % 3],)
                added += (sums[9] + g,)
                sums = added
        above, here = window[UNROLL], window[UNROLL + 1]
        row += UNROLL
        start += UNROLL * stride
        x_start += UNROLL * x_stride
    strips = batch * tl.cdiv(height, rows)  # of a task
    part = tl.program_id(2) % strips * tl.num_programs(1) + tl.program_id(1)
    biases = tl.num_programs(2) // strips * C  # their sums follow those of nine times as many weights
    partial = partial_ptr + part.to(tl.int64) * biases * 10
    for k in tl.static_range(10):
        at = (task * C + channel) * 9 + k if k < 9 else biases * 9 + task * C + channel
        tl.store(partial + at, tl.sum(sums[k], 0, keep_dims=True), mask=live)


def _launch(kernel: Any, tile: Tile, shape: torch.Size, apart: int, *tensors: Tensor, **constants: bool) -> None:
    """Run a kernel over maps of a shape, the pixels of the one that it convolves so many elements apart."""
    tasks, batch, height, width, channels = shape
    strips = triton.cdiv(height, tile.rows)
    grid = triton.cdiv(channels, tile.channels), triton.cdiv(width, tile.columns), tasks * batch * strips
    sizes = batch, triton.cdiv(height, strips), height, width, channels, apart
    with torch.cuda.device_of(tensors[0]):
        kernel[grid](*tensors, *sizes, TILE=tile, num_warps=tile.warps, **constants)


def forward(x: Tensor, weight: Tensor, bias: Tensor, tile: Tile = CONVOLVE, out: Tensor | None = None) -> Tensor:
    """Return ``silu(conv(x))`` for ``x`` ``(T, B, H, W, C)`` and ``weight`` of T C 9 elements; in ``out``, if given.

    Tensors are contiguous, but the pixels of ``x`` may lie at any one distance.
    """
    out, pixels = x.new_empty(x.shape) if out is None else out, as_rows(x)
    _launch(convolve_kernel, tile, x.shape, pixels.stride(0), pixels, weight, bias, out, TRANSPOSED=False)
    return out


def activation_gradient(
    dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor, tile: Tile = ACTIVATION_GRADIENT
) -> tuple[Tensor, Tensor]:
    """Return the gradients of the convolution's output, and of weight and bias one after another, in float32."""
    _, batch, height, width, _ = x.shape
    dz, pixels = x.new_empty(x.shape), as_rows(x)
    parts = batch * triton.cdiv(height, tile.rows) * triton.cdiv(width, tile.columns)
    partial = x.new_empty(parts, weight.numel() + bias.numel(), dtype=torch.float32)
    _launch(activation_gradient_kernel, tile, x.shape, pixels.stride(0), dy, pixels, weight, bias, dz, partial)
    return dz, sum_parts(partial)


def input_gradient(dz: Tensor, weight: Tensor, tile: Tile = INPUT_GRADIENT) -> Tensor:
    """Return the gradient with respect to the convolution's input."""
    dx = torch.empty_like(dz)
    _launch(convolve_kernel, tile, dz.shape, dz.shape[-1], dz, weight, weight, dx, TRANSPOSED=True)  # without a bias
    return dx
