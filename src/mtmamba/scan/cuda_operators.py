"""The fused scan's two operators, one node each to ``torch.compile``: their launches, shapes and gradients."""

import math
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mtmamba.scan import nvrtc

STATES = 16
"""States of a channel in the kernel."""
PARTS = 4
"""Threads that share a channel."""
PACK = 8
"""Channels are filled up to a multiple of this: rows of maps are then aligned for matrix products."""
THREADS, STRIDE = 128, 16
"""Threads of a block; steps from one saved state to the next."""
BLOCKS = {"FORWARD_BLOCKS": 4, "BACKWARD_BLOCKS": 3}
"""Blocks of each kernel that a multiprocessor must have the registers for."""
SATURATED = 4 * 132
"""Warps that keep a large GPU's four schedulers in each of 132 multiprocessors busy."""


def _channels(sequences: int, e: int) -> int:
    """Channels of a thread: more of them spare instructions, fewer give more threads and waste less of a block."""
    warps = sequences * e * PARTS / 32
    for channels in (4, 2):
        if warps >= 2 * channels * SATURATED and _blocks(e, channels) * _width(channels) <= 1.1 * e:
            return channels
    return 1


@cache
def source(kernel: str) -> str:
    """The CUDA C++ of a kernel: what the two share, then its own."""
    return "".join(Path(__file__).with_name(name).read_text(encoding="utf-8") for name in ("ss2d.cuh", f"{kernel}.cu"))


def options(dtype: torch.dtype, directions: int, channels: int) -> tuple[str, ...]:
    """What the compiler is told for maps of a precision, so many directions, and channels of a thread."""
    real = "bf16" if dtype == torch.bfloat16 else "float"
    sizes = {"REAL": real, "DIRECTIONS": directions, "CHANNELS": channels, "THREADS": THREADS, "STRIDE": STRIDE}
    sizes |= {"SUB": _sub(channels), **BLOCKS}
    return ("--std=c++17", *(f"-D{name}={value}" for name, value in sizes.items()))


def _run(kernel: str, x: Tensor, directions: int, arguments: tuple[Tensor | None, ...]) -> None:
    """Launch a kernel for maps like ``x``."""
    tasks, batch, height, width, e = x.shape
    channels = _channels(tasks * batch * directions, e)
    shared = 0
    if kernel == "ss2d_backward":  # struct Chunk of ss2d_backward.cu
        kept = THREADS // _sub(channels) * STATES // PARTS * max(channels * x.element_size(), _sub(channels))
        shared = STRIDE * (16 * _width(channels) + 4 * STATES * 4 + kept + 16)
    nvrtc.launch(
        source(kernel),
        kernel,
        options(x.dtype, directions, channels),
        (_blocks(e, channels), batch * directions, tasks),
        THREADS,
        shared,
        (*arguments, tasks, batch, height, width, e),
    )


def _width(channels: int) -> int:
    """Channels of a block."""
    return THREADS // PARTS * channels


def _sub(channels: int) -> int:
    """Steps whose states the backward kernel holds in registers."""
    return 2 if channels == 4 else 4


def _blocks(e: int, channels: int) -> int:
    return -(-e // _width(channels))


def _time_steps(x: Tensor, low: Tensor, dt_weight: Tensor | None) -> Tensor:
    """Time steps of every channel before bias and softplus, ``(T, K, B, L, e)``."""
    low = low.permute(0, 3, 1, 2, 4)  # (T, K, B, L, r)
    if dt_weight is None:
        return low.to(x.dtype).clone(memory_format=torch.contiguous_format)
    dt = low.flatten(2, 3) @ dt_weight.to(x.dtype).mT
    return dt.unflatten(2, low.shape[2:4])


@torch.library.custom_op("mtmamba::ss2d_forward", mutates_args=())
def ss2d_forward(
    x: Tensor, low: Tensor, bc: Tensor, A: Tensor, dt_weight: Tensor | None, dt_bias: Tensor, D: Tensor, save: bool
) -> tuple[Tensor, Tensor]:
    """Return the sum of the directions, like ``x``, and the saved states (none unless ``save``)."""
    directions = low.shape[3]
    y = x.new_empty(directions, *x.shape)
    states = x.new_empty(_states_shape(x, directions, save))
    with torch.autocast(x.device.type, enabled=False):
        dt = _time_steps(x, low, dt_weight)
        A2 = A * math.log2(math.e)
        saved = states if save else None
        _run("ss2d_forward", x, directions, (x, dt, bc, A2, dt_bias.contiguous(), D.contiguous(), y, saved))
        return y.sum(0), states


def _states_shape(x: Tensor, directions: int, save: bool) -> tuple[int, ...]:
    tasks, batch, height, width, e = x.shape
    channels = _channels(tasks * batch * directions, e)
    chunks = -(-height * width // STRIDE) if save else 0
    return (tasks, directions, batch, chunks, _blocks(e, channels), channels, THREADS, STATES // PARTS)


@ss2d_forward.register_fake
def _(x: Tensor, low: Tensor, bc: Tensor, A: Tensor, dt_weight: Any, dt_bias: Tensor, D: Tensor, save: bool) -> Any:
    return torch.empty_like(x), x.new_empty(_states_shape(x, low.shape[3], save))


@torch.library.custom_op("mtmamba::ss2d_backward", mutates_args=())
def ss2d_backward(
    dy: Tensor,
    x: Tensor,
    low: Tensor,
    bc: Tensor,
    A: Tensor,
    dt_weight: Tensor | None,
    dt_bias: Tensor,
    D: Tensor,
    states: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of x, low, bc, A, dt_weight, dt_bias and D; that of a missing dt_weight is empty."""
    tasks, batch, height, width, e = x.shape
    directions, length = low.shape[3], height * width
    blocks = _blocks(e, _channels(tasks * batch * directions, e))
    dx = x.new_empty(directions, *x.shape)
    dbc = x.new_empty(blocks, *bc.shape)
    dA = A.new_empty(tasks, directions, batch, e, STATES)
    dD, dbias = A.new_empty(2, tasks, directions, batch, e)
    with torch.autocast(x.device.type, enabled=False):
        dt = _time_steps(x, low, dt_weight)  # becomes its gradient
        A2 = A * math.log2(math.e)
        arguments = (x, dt, bc, A2, dt_bias.contiguous(), D.contiguous(), states, dy.contiguous())
        _run("ss2d_backward", x, directions, (*arguments, dx, dbc, dA, dD, dbias))
        dx_sum, dbc_sum = dx.sum(0), dbc.sum(0)
        del dx, dbc
        low = low.permute(0, 3, 1, 2, 4)
        if dt_weight is None:
            dlow, dweight = dt, dt.new_empty(0)
        else:
            flat = dt.flatten(2, 3)
            dlow = (flat @ dt_weight.to(x.dtype)).unflatten(2, (batch, length))
            dweight = (flat.mT @ low.flatten(2, 3).to(x.dtype)).to(dt_weight.dtype)
        dlow = dlow.permute(0, 2, 3, 1, 4).contiguous()
        return dx_sum, dlow, dbc_sum, dA.sum(2), dweight, dbias.sum(2), dD.sum(2)


@ss2d_backward.register_fake
def _(
    dy: Tensor,
    x: Tensor,
    low: Tensor,
    bc: Tensor,
    A: Tensor,
    dt_weight: Any,
    dt_bias: Tensor,
    D: Tensor,
    states: Tensor,
) -> Any:
    dweight = x.new_empty(0) if dt_weight is None else torch.empty_like(dt_weight)
    dlow = low.new_empty(low.shape, dtype=x.dtype)
    return (
        torch.empty_like(x),
        dlow,
        torch.empty_like(bc),
        torch.empty_like(A),
        dweight,
        torch.empty_like(dt_bias),
        torch.empty_like(D),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:-1], output[1])


def _gradients(ctx: Any, dy: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    x, low, bc, A, dt_weight, dt_bias, D, states = ctx.saved_tensors
    dx, dlow, dbc, dA, dweight, dbias, dD = ss2d_backward(dy, x, low, bc, A, dt_weight, dt_bias, D, states)
    return dx, dlow, dbc, dA, None if dt_weight is None else dweight, dbias, dD, None


ss2d_forward.register_autograd(_gradients, setup_context=_setup_context)
