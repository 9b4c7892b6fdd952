"""Triton kernels behind `mtmamba.kernels.head.norm_project`, on maps ``(B, H, W, s s C)``.

A program goes through tiles of pixels that are neighbours in one row of the logits, which so are read and written along
the width; in ``x`` these are runs of s pixels. Channels come in chunks, so that any number of them fits.

With ``y = (x - mean) / std`` the logits are ``weight y + bias``. So ``mean(dy)`` and ``mean(dy y)``, which make ``dx``,
are sums over the outputs: of ``dlogits mean(weight)`` and of ``dlogits (logits - bias) / C``. Backwards no sum runs
over the channels, and each chunk goes through registers by itself. A program adds up its pixels' gradients of weight
and bias in registers; the programs' sums are added in a fixed order, without atomics.
"""
# mypy: allow-untyped-defs, disable-error-code="assignment"

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from mtmamba.kernels.sums_triton import sum_parts


class Tile(NamedTuple):
    """How the work is shared out."""

    columns: int
    """Pixels at a time: a power of two, 16 or more."""
    programs: int
    """Their number at most; each goes through as many tiles, a power of two."""
    warps: int
    stages: int
    """Tiles whose loads are in flight together."""


FORWARD = {2: Tile(columns=64, programs=1056, warps=4, stages=3), 4: Tile(columns=32, programs=1056, warps=4, stages=2)}
BACKWARD = {2: Tile(columns=32, programs=528, warps=8, stages=3), 4: Tile(columns=16, programs=528, warps=8, stages=2)}
"""Either kernel's tile, by the bytes of an element of ``x``."""

RUN_TIME = ("tiles", "height")
"""Sizes whose values do not matter to the compiler: one compilation serves all."""


@triton.jit
def _locate(tile, tiles, height, width, C: tl.constexpr, N: tl.constexpr, S: tl.constexpr, COLUMNS: tl.constexpr):
    """Where a tile begins in ``x``, in maps of the logits' size and in the logits; how many of its pixels exist."""
    across = tl.cdiv(width, COLUMNS)
    row, column = tile // across, tile % across * COLUMNS  # rows of all images
    source = ((row // S * (width // S) + column // S) * S + row % S).to(tl.int64) * (S * C)
    logit = (row // height * N * height + row % height).to(tl.int64) * width + column
    return source, row * width + column, logit, tl.where(tile < tiles, width - column, 0)


@triton.jit(do_not_specialize=RUN_TIME)
def forward_kernel(
    x_ptr,
    weight_ptr,
    bias_ptr,
    logits_ptr,
    mean_ptr,
    inverse_ptr,
    tiles,
    height,
    width,
    C: tl.constexpr,
    N: tl.constexpr,
    S: tl.constexpr,
    EPS: tl.constexpr,
    CHUNK: tl.constexpr,
    OUTPUTS: tl.constexpr,
    COLUMNS: tl.constexpr,
    EACH: tl.constexpr,
):
    """``(weight x - mean sum(weight)) / std + bias``, so that ``x`` is multiplied as it was read; mean and 1 / std."""
    CHUNKS: tl.constexpr = (C + CHUNK - 1) // CHUNK
    channel, output = tl.arange(0, CHUNK), tl.arange(0, OUTPUTS)[None, :]
    pixel = tl.arange(0, COLUMNS)
    within = ((pixel // S * S * S + pixel % S) * C)[:, None]  # of a tile in x
    wanted = output < N
    bias = tl.load(bias_ptr + output, mask=wanted, other=0.0)
    weights = ()
    total = tl.zeros((1, OUTPUTS), tl.float32)
    for k in tl.static_range(CHUNKS):
        rows = (k * CHUNK + channel)[:, None]
        weight = tl.load(weight_ptr + output * C + rows, mask=wanted & (rows < C), other=0.0)
        weights += (weight.to(x_ptr.dtype.element_ty),)
        total += tl.sum(weights[k].to(tl.float32), 0, keep_dims=True)
    for i in range(EACH):
        tile = tl.program_id(0) * EACH + i
        source, place, logit, count = _locate(tile, tiles, height, width, C, N, S, COLUMNS)
        inside = pixel < count
        chunks = ()
        mean = tl.zeros((COLUMNS,), tl.float32)
        product = tl.zeros((COLUMNS, OUTPUTS), tl.float32)
        for k in tl.static_range(CHUNKS):
            columns = k * CHUNK + channel[None, :]
            x = tl.load(x_ptr + source + (within + columns), mask=inside[:, None] & (columns < C), other=0.0)
            chunks += (x,)
            mean += tl.sum(x.to(tl.float32), 1) / C
            product = tl.dot(x, weights[k], product, input_precision="tf32x3")
        variance = tl.zeros((COLUMNS,), tl.float32)
        for k in tl.static_range(CHUNKS):
            centred = tl.where(k * CHUNK + channel[None, :] < C, chunks[k].to(tl.float32) - mean[:, None], 0.0)
            variance += tl.sum(centred * centred, 1) / C
        inverse = tl.rsqrt(variance + EPS)
        logits = (product - mean[:, None] * total) * inverse[:, None] + bias
        at = pixel[:, None] + output * (height * width)
        tl.store(logits_ptr + logit + at, logits, mask=inside[:, None] & wanted)
        tl.store(mean_ptr + place + pixel, mean, mask=inside)
        tl.store(inverse_ptr + place + pixel, inverse, mask=inside)


@triton.jit(do_not_specialize=RUN_TIME)
def backward_kernel(
    dlogits_ptr,
    x_ptr,
    weight_ptr,
    bias_ptr,
    logits_ptr,
    mean_ptr,
    inverse_ptr,
    dx_ptr,
    dweight_ptr,
    dbias_ptr,
    tiles,
    height,
    width,
    C: tl.constexpr,
    N: tl.constexpr,
    S: tl.constexpr,
    CHUNK: tl.constexpr,
    OUTPUTS: tl.constexpr,
    COLUMNS: tl.constexpr,
    EACH: tl.constexpr,
):
    """``dx = (dy - mean(dy) - y mean(dy y)) / std`` for ``dy = weight' dlogits``; this program's ``dweight, dbias``.

    With ``g = dlogits / std`` this is ``weight' g - x slope + shift``, and ``dweight`` is the sum of ``g (x - mean)``.
    """
    CHUNKS: tl.constexpr = (C + CHUNK - 1) // CHUNK
    channel, output = tl.arange(0, CHUNK)[None, :], tl.arange(0, OUTPUTS)[:, None]
    pixel = tl.arange(0, COLUMNS)
    within = ((pixel // S * S * S + pixel % S) * C)[:, None] + channel  # of a tile in x
    among = pixel[None, :] + output * (height * width)  # and in the logits
    wanted = output < N
    bias = tl.load(bias_ptr + output, mask=wanted, other=0.0)
    weights, dweights = (), ()
    average = tl.zeros((OUTPUTS, 1), tl.float32)
    for k in tl.static_range(CHUNKS):
        columns = k * CHUNK + channel
        weight = tl.load(weight_ptr + output * C + columns, mask=wanted & (columns < C), other=0.0)
        weights += (weight.to(x_ptr.dtype.element_ty),)
        average += tl.sum(weights[k].to(tl.float32), 1, keep_dims=True) / C
        dweights += (tl.zeros((OUTPUTS, CHUNK), tl.float32),)
    dbias = tl.zeros((OUTPUTS, COLUMNS), tl.float32)
    surplus = tl.zeros((OUTPUTS, COLUMNS), tl.float32)
    for i in range(EACH):
        tile = tl.program_id(0) * EACH + i
        source, place, logit, count = _locate(tile, tiles, height, width, C, N, S, COLUMNS)
        inside = pixel < count
        dlogits = tl.load(dlogits_ptr + logit + among, mask=inside[None, :] & wanted, other=0.0)
        logits = tl.load(logits_ptr + logit + among, mask=inside[None, :] & wanted, other=0.0)
        mean = tl.load(mean_ptr + place + pixel, mask=inside, other=0.0)
        inverse = tl.load(inverse_ptr + place + pixel, mask=inside, other=0.0)
        g = (dlogits * inverse[None, :]).to(x_ptr.dtype.element_ty)
        rounded = g.to(tl.float32)
        slope = tl.sum(rounded * (logits - bias), 0) * inverse / C
        shift = mean * slope - tl.sum(rounded * average, 0)
        dbias += dlogits
        surplus += rounded * mean[None, :]
        added = ()
        for k in tl.static_range(CHUNKS):
            mask = inside[:, None] & (k * CHUNK + channel < C)
            x = tl.load(x_ptr + source + (within + k * CHUNK), mask=mask, other=0.0)
            added += (tl.dot(g, x, dweights[k], input_precision="tf32x3"),)
            dx = tl.dot(tl.trans(g), weights[k], input_precision="tf32x3")
            dx += shift[:, None] - x.to(tl.float32) * slope[:, None]
            tl.store(dx_ptr + source + (within + k * CHUNK), dx.to(x.dtype), mask=mask)
        dweights = added
    first = tl.program_id(0).to(tl.int64) * N + output
    tl.store(dbias_ptr + first, tl.sum(dbias, 1, keep_dims=True), mask=wanted)
    for k in tl.static_range(CHUNKS):
        columns = k * CHUNK + channel
        dweight = dweights[k] - tl.sum(surplus, 1, keep_dims=True)
        tl.store(dweight_ptr + first * C + columns, dweight, mask=wanted & (columns < C))


def _programs(x: Tensor, scale: int, tile: Tile) -> tuple[int, int, int]:
    """Return the number of tiles, how many each program takes, and the number of programs."""
    batch, height, width, _ = x.shape
    tiles = batch * scale * height * triton.cdiv(scale * width, tile.columns)
    each = triton.next_power_of_2(triton.cdiv(tiles, tile.programs))
    return tiles, each, triton.cdiv(tiles, each)


def _padded(size: int) -> int:
    """Round up to what `tl.dot` takes."""
    return max(16, triton.next_power_of_2(size))


def _launch(
    kernel: Any, tile: Tile, x: Tensor, weight: Tensor, scale: int, *tensors: Tensor, **constants: float
) -> None:
    _, height, width, _ = x.shape
    outputs, channels = weight.shape
    tiles, each, programs = _programs(x, scale, tile)
    chunk, padded = min(64, _padded(channels)), _padded(outputs)
    constants |= {"C": channels, "N": outputs, "S": scale, "CHUNK": chunk, "OUTPUTS": padded}
    with torch.cuda.device_of(x):
        kernel[(programs,)](
            *tensors,
            tiles,
            scale * height,
            scale * width,
            COLUMNS=tile.columns,
            EACH=each,
            num_warps=tile.warps,
            num_stages=tile.stages,
            **constants,
        )


def forward(
    x: Tensor, weight: Tensor, bias: Tensor, scale: int, eps: float, tile: Tile | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return float32 logits ``(B, n, s H, s W)``, and each pixel's mean and 1 / std, both ``(B, s H, s W)``.

    All tensors are contiguous, and the parameters in float32.
    """
    tile = tile or FORWARD[x.element_size()]
    batch, height, width, _ = x.shape
    logits = x.new_empty(batch, len(weight), scale * height, scale * width, dtype=torch.float32)
    mean, inverse = (torch.empty_like(logits[:, 0], memory_format=torch.contiguous_format) for _ in range(2))
    _launch(forward_kernel, tile, x, weight, scale, x, weight, bias, logits, mean, inverse, EPS=eps)
    return logits, mean, inverse


def backward(
    dlogits: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    logits: Tensor,
    mean: Tensor,
    inverse: Tensor,
    scale: int,
    tile: Tile | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients with respect to ``x``, in its dtype, and to weight and bias, in float32."""
    tile = tile or BACKWARD[x.element_size()]
    dx = torch.empty_like(x)
    *_, programs = _programs(x, scale, tile)
    dweight = weight.new_empty(programs, *weight.shape)
    dbias = weight.new_empty(programs, len(weight))
    tensors = dlogits, x, weight, bias, logits, mean, inverse, dx, dweight, dbias
    _launch(backward_kernel, tile, x, weight, scale, *tensors)
    return dx, sum_parts(dweight), sum_parts(dbias)
