"""Triton kernels behind `mtmamba.kernels.head.norm_project`, on maps ``(B, H, W, s s C)``.

A program goes through tiles of pixels that are neighbours in one row of the logits, which so are read and written along
the width; in ``x`` these are runs of s pixels. A pixel's mean and variance are computed from its C channels as they lie
in registers, in both directions: nothing is kept for the backward pass but ``x``.

With ``y = (x - mean) / std``, the logits are ``weight y + bias``. Backwards, a program adds up its pixels' gradients of
weight and bias in registers; the programs' sums are added in a fixed order, without atomics.
"""
# mypy: allow-untyped-defs, disable-error-code="assignment"

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor


class Tile(NamedTuple):
    """How the work is shared out."""

    columns: int
    """Pixels at a time: a power of two, 16 or more."""
    programs: int
    """At most; each goes through as many tiles, a power of two."""
    warps: int
    stages: int
    """Tiles whose loads are in flight together."""


FORWARD = Tile(columns=64, programs=1056, warps=8, stages=3)
BACKWARD = Tile(columns=32, programs=528, warps=8, stages=3)

RUN_TIME = ("tiles", "height")
"""Sizes whose values do not matter to the compiler: one compilation serves all."""


@triton.jit
def _locate(tile, tiles, height, width, N: tl.constexpr, S: tl.constexpr, COLUMNS: tl.constexpr):
    """Which of a tile's pixels exist, their places in ``x`` (in pixels), and those of their logits for output 0."""
    across = tl.cdiv(width, COLUMNS)
    row = (tile // across).to(tl.int64)  # of all images' rows
    column = tile % across * COLUMNS + tl.arange(0, COLUMNS)
    pixel = ((row // S * (width // S) + column // S) * S + row % S) * S + column % S
    return (tile < tiles) & (column < width), pixel, (row // height * N * height + row % height) * width + column


@triton.jit
def _normalise(x, live, C: tl.constexpr, EPS: tl.constexpr):
    """Each pixel's mean, and the inverse of its standard deviation."""
    x = x.to(tl.float32)
    mean = tl.sum(x, 1, keep_dims=True) / C
    centred = tl.where(live, x - mean, 0.0)
    return mean, tl.rsqrt(tl.sum(centred * centred, 1, keep_dims=True) / C + EPS)


@triton.jit(do_not_specialize=RUN_TIME)
def _forward(
    x_ptr,
    weight_ptr,
    bias_ptr,
    logits_ptr,
    tiles,
    height,
    width,
    C: tl.constexpr,
    N: tl.constexpr,
    S: tl.constexpr,
    EPS: tl.constexpr,
    PADDED_C: tl.constexpr,
    PADDED_N: tl.constexpr,
    COLUMNS: tl.constexpr,
    EACH: tl.constexpr,
):
    """``weight y + bias``, as ``(weight x - mean sum(weight)) / std + bias``: ``x`` is multiplied as it was read."""
    channel, output = tl.arange(0, PADDED_C), tl.arange(0, PADDED_N)[None, :]
    live, wanted = (channel < C)[None, :], output < N
    at = weight_ptr + output * C + channel[:, None]
    weight = tl.load(at, mask=wanted & (channel < C)[:, None], other=0.0).to(x_ptr.dtype.element_ty)
    total = tl.sum(weight.to(tl.float32), 0, keep_dims=True)
    bias = tl.load(bias_ptr + output, mask=wanted, other=0.0)
    for i in range(EACH):
        tile = tl.program_id(0) * EACH + i
        inside, pixel, place = _locate(tile, tiles, height, width, N, S, COLUMNS)
        x = tl.load(x_ptr + pixel[:, None] * C + channel[None, :], mask=inside[:, None] & live, other=0.0)
        mean, inverse = _normalise(x, live, C, EPS)
        logits = (tl.dot(x, weight, input_precision="ieee") - mean * total) * inverse + bias
        stride = height.to(tl.int64) * width
        tl.store(logits_ptr + place[:, None] + output * stride, logits, mask=inside[:, None] & wanted)


@triton.jit(do_not_specialize=RUN_TIME)
def _backward(
    dlogits_ptr,
    x_ptr,
    weight_ptr,
    dx_ptr,
    dweight_ptr,
    dbias_ptr,
    tiles,
    height,
    width,
    C: tl.constexpr,
    N: tl.constexpr,
    S: tl.constexpr,
    EPS: tl.constexpr,
    PADDED_C: tl.constexpr,
    PADDED_N: tl.constexpr,
    COLUMNS: tl.constexpr,
    EACH: tl.constexpr,
):
    """``dx = (dy - mean(dy) - y mean(dy y)) / std`` for ``dy = weight' dlogits``; this program's ``dweight, dbias``."""
    channel, output = tl.arange(0, PADDED_C)[None, :], tl.arange(0, PADDED_N)[:, None]
    live, wanted = channel < C, output < N
    weight = tl.load(weight_ptr + output * C + channel, mask=wanted & live, other=0.0).to(x_ptr.dtype.element_ty)
    dweight = tl.zeros((PADDED_N, PADDED_C), tl.float32)
    dbias = tl.zeros((PADDED_N, 1), tl.float32)
    for i in range(EACH):
        tile = tl.program_id(0) * EACH + i
        inside, pixel, place = _locate(tile, tiles, height, width, N, S, COLUMNS)
        stride = height.to(tl.int64) * width
        dlogits = tl.load(dlogits_ptr + place[None, :] + output * stride, mask=inside[None, :] & wanted, other=0.0)
        at, mask = pixel[:, None] * C + channel, inside[:, None] & live
        x = tl.load(x_ptr + at, mask=mask, other=0.0)
        mean, inverse = _normalise(x, live, C, EPS)
        y = tl.where(live, (x.to(tl.float32) - mean) * inverse, 0.0)
        rounded = dlogits.to(x.dtype)
        dy = tl.dot(tl.trans(rounded), weight, input_precision="ieee")
        slope = tl.sum(dy * y, 1, keep_dims=True) / C
        dx = (dy - tl.sum(dy, 1, keep_dims=True) / C - y * slope) * inverse
        tl.store(dx_ptr + at, dx.to(x.dtype), mask=mask)
        dweight = tl.dot(rounded, y.to(x.dtype), dweight, input_precision="ieee")
        dbias += tl.sum(dlogits.to(tl.float32), 1, keep_dims=True)
    at = tl.program_id(0).to(tl.int64) * N + output
    tl.store(dweight_ptr + at * C + channel, dweight, mask=wanted & live)
    tl.store(dbias_ptr + at, dbias, mask=wanted)


def _programs(x: Tensor, scale: int, tile: Tile) -> tuple[int, int, int]:
    """Return the number of tiles, how many each program takes, and the number of programs."""
    batch, height, width, _ = x.shape
    tiles = batch * scale * height * triton.cdiv(scale * width, tile.columns)
    each = triton.next_power_of_2(triton.cdiv(tiles, tile.programs))
    return tiles, each, triton.cdiv(tiles, each)


def _launch(kernel: Any, tile: Tile, x: Tensor, weight: Tensor, scale: int, eps: float, *tensors: Tensor) -> None:
    _, height, width, _ = x.shape
    outputs, channels = weight.shape
    tiles, each, programs = _programs(x, scale, tile)
    padded = triton.next_power_of_2(max(channels, 16)), triton.next_power_of_2(max(outputs, 16))
    sizes = tiles, scale * height, scale * width, channels, outputs, scale, eps, *padded, tile.columns, each
    with torch.cuda.device_of(x):
        kernel[(programs,)](*tensors, *sizes, num_warps=tile.warps, num_stages=tile.stages)


def forward(x: Tensor, weight: Tensor, bias: Tensor, scale: int, eps: float, tile: Tile = FORWARD) -> Tensor:
    """Return the float32 logits ``(B, n, s H, s W)``; all tensors contiguous, the parameters in float32."""
    batch, height, width, _ = x.shape
    logits = x.new_empty(batch, len(weight), scale * height, scale * width, dtype=torch.float32)
    _launch(_forward, tile, x, weight, scale, eps, x, weight, bias, logits)
    return logits


def backward(
    dlogits: Tensor, x: Tensor, weight: Tensor, scale: int, eps: float, tile: Tile = BACKWARD
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients with respect to ``x``, in its dtype, and to weight and bias, in float32."""
    dx = torch.empty_like(x)
    *_, programs = _programs(x, scale, tile)
    dweight = weight.new_empty(programs, *weight.shape)
    dbias = weight.new_empty(programs, len(weight))
    _launch(_backward, tile, x, weight, scale, eps, dlogits, x, weight, dx, dweight, dbias)
    return dx, dweight.sum(0), dbias.sum(0)
