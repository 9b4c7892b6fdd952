"""The fused scan's two operators, one node each to ``torch.compile``: their launches, shapes and gradients.

Both take ``projected`` ``(T, B, L, K (r + 2 * 16))``: the time steps of rank r of all K directions, then B and C of all
directions. Without ``dt_weight``, which has the maps' dtype, these are the time steps themselves, ``r = e``.
"""

import math
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mtmamba.kernels.time_steps import widen, widen_backward
from mtmamba.scan import nvrtc

STATES = 16
"""States of a channel in the kernel."""
PARTS = 4
"""Threads that share a channel."""
PACK = 8
"""Channels are filled up to a multiple of this: rows of maps are then aligned for matrix products."""
THREADS, STRIDE, SUB = 128, 16, 4
"""Threads of a block; steps from one saved state to the next; steps that the backward kernel has in registers."""
BLOCKS = {"FORWARD_BLOCKS": 4, "BACKWARD_BLOCKS": 3}
"""Blocks of each kernel that a multiprocessor must have the registers for."""
SATURATED = 4 * 132
"""Warps that keep a large GPU's four schedulers in each of 132 multiprocessors busy."""


def _channels(sequences: int, e: int) -> int:
    """Channels of a thread: two spare instructions, one gives twice the threads where they are few."""
    return 2 if sequences * e * PARTS / 2 / 32 >= 2 * SATURATED else 1


@cache
def source(kernel: str) -> str:
    """The CUDA C++ of a kernel: what the two share, then its own."""
    return "".join(Path(__file__).with_name(name).read_text(encoding="utf-8") for name in ("ss2d.cuh", f"{kernel}.cu"))


def options(dtype: torch.dtype, directions: int, channels: int) -> tuple[str, ...]:
    """What the compiler is told for maps of a precision, so many directions, and channels of a thread."""
    real = "bf16" if dtype == torch.bfloat16 else "float"
    sizes = {"REAL": real, "DIRECTIONS": directions, "CHANNELS": channels, "THREADS": THREADS, "STRIDE": STRIDE}
    sizes |= {"SUB": SUB, **BLOCKS}
    return ("--std=c++17", *(f"-D{name}={value}" for name, value in sizes.items()))


def _run(kernel: str, x: Tensor, directions: int, arguments: tuple[Tensor | int | None, ...]) -> None:
    """Launch a scan kernel for maps like ``x``."""
    tasks, batch, height, width, e = x.shape
    channels = _channels(tasks * batch * directions, e)
    shared = 0
    if kernel == "ss2d_backward":  # struct Chunk of ss2d_backward.cu
        kept = THREADS // SUB * STATES // PARTS * max(channels * x.element_size(), SUB)
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


def _sum(parts: Tensor, out: Tensor) -> Tensor:
    """Sum over the first axis into ``out``, whose rows may lie apart; in float32, always in the same order."""
    count, columns = len(parts), parts.shape[-1]
    rows = out.numel() // columns
    grid = (-(-rows * columns // (PACK * THREADS)), 1, 1)
    nvrtc.launch(
        source("sum_parts"),
        "sum_parts",
        options(parts.dtype, 1, 1),
        grid,
        THREADS,
        0,
        (parts, out, count, rows, columns, out.stride(-2)),
    )
    return out


def _width(channels: int) -> int:
    """Channels of a block."""
    return THREADS // PARTS * channels


def _blocks(e: int, channels: int) -> int:
    return -(-e // _width(channels))


def _split(projected: Tensor, directions: int) -> tuple[Tensor, Tensor]:
    """Time steps ``(T, K, B L, r)``, and B and C ``(T, B, L, K 2n)``, both views."""
    low, bc = projected.split((projected.shape[-1] - directions * 2 * STATES, directions * 2 * STATES), dim=-1)
    return low.unflatten(-1, (directions, -1)).flatten(1, 2).transpose(1, 2), bc


def _time_steps(low: Tensor, dt_weight: Tensor | None) -> Tensor:
    """Time steps of every channel before bias and softplus, ``(T, K, B L, e)``, in memory of their own."""
    return low.clone(memory_format=torch.contiguous_format) if dt_weight is None else widen(low, dt_weight)


@torch.library.custom_op("mtmamba::ss2d_forward", mutates_args=())
def ss2d_forward(
    x: Tensor,
    projected: Tensor,
    A: Tensor,
    dt_weight: Tensor | None,
    dt_bias: Tensor,
    D: Tensor,
    directions: int,
    save: bool,
) -> tuple[Tensor, Tensor]:
    """Return the sum of the directions, like ``x``, and the saved states (none unless ``save``)."""
    y = x.new_empty(directions, *x.shape)
    states = x.new_empty(_states_shape(x, directions, save))
    with torch.autocast(x.device.type, enabled=False):
        low, bc = _split(projected, directions)
        arguments = (x, _time_steps(low, dt_weight), bc, A * math.log2(math.e), dt_bias, D, y, states if save else None)
        _run("ss2d_forward", x, directions, (*arguments, bc.stride(-2)))
        return (_sum(y, torch.empty_like(x)) if directions > 1 else y.squeeze(0)), states


def _states_shape(x: Tensor, directions: int, save: bool) -> tuple[int, ...]:
    tasks, batch, height, width, e = x.shape
    channels = _channels(tasks * batch * directions, e)
    chunks = -(-height * width // STRIDE) if save else 0
    return (tasks, directions, batch, chunks, _blocks(e, channels), channels, THREADS, STATES // PARTS)


@ss2d_forward.register_fake
def _(
    x: Tensor,
    projected: Tensor,
    A: Tensor,
    dt_weight: Any,
    dt_bias: Tensor,
    D: Tensor,
    directions: int,
    save: bool,
) -> Any:
    return torch.empty_like(x), x.new_empty(_states_shape(x, directions, save))


@torch.library.custom_op("mtmamba::ss2d_backward", mutates_args=())
def ss2d_backward(
    dy: Tensor,
    x: Tensor,
    projected: Tensor,
    A: Tensor,
    dt_weight: Tensor | None,
    dt_bias: Tensor,
    D: Tensor,
    states: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of x, projected, A, dt_weight (empty where it is None), and of dt_bias and D in one."""
    tasks, batch, height, width, e = x.shape
    directions = A.shape[1]
    blocks = _blocks(e, _channels(tasks * batch * directions, e))
    dx = x.new_empty(directions, *x.shape)
    dbc = x.new_empty(blocks, tasks, batch, height * width, directions * 2 * STATES)
    dA = A.new_empty(tasks, directions, batch, e, STATES)
    dvectors = A.new_empty(2, tasks, directions, batch, e)
    dbias, dD = dvectors
    dprojected = torch.empty_like(projected)
    with torch.autocast(x.device.type, enabled=False):
        low, bc = _split(projected, directions)
        dt = _time_steps(low, dt_weight)  # becomes its gradient
        arguments = (x, dt, bc, A * math.log2(math.e), dt_bias, D, states, dy.contiguous(), dx, dbc, dA, dD, dbias)
        _run("ss2d_backward", x, directions, (*arguments, bc.stride(-2)))
        dlow_view, dbc_view = _split(dprojected, directions)
        _sum(dbc, dbc_view)
        dx_sum = _sum(dx, torch.empty_like(x)) if directions > 1 else dx.squeeze(0)
        if dt_weight is None:
            dlow_view.copy_(dt)
            dweight = dt.new_empty(0)
        else:
            dweight = widen_backward(dt, dt_weight, low, dlow_view)
        return dx_sum, dprojected, dA.sum(2), dweight, dvectors.sum(3)


@ss2d_backward.register_fake
def _(
    dy: Tensor,
    x: Tensor,
    projected: Tensor,
    A: Tensor,
    dt_weight: Any,
    dt_bias: Tensor,
    D: Tensor,
    states: Tensor,
) -> Any:
    dweight = x.new_empty(0) if dt_weight is None else torch.empty_like(dt_weight)
    return *(torch.empty_like(t) for t in (x, projected, A)), dweight, dt_bias.new_empty(2, *dt_bias.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:-2], output[1])
    ctx.set_materialize_grads(False)  # there is none for the states


def _gradients(ctx: Any, dy: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors  # which checkpointing lets nobody ask for twice
    dx, dprojected, dA, dweight, dvectors = ss2d_backward(dy, *saved)
    return dx, dprojected, dA, None if saved[3] is None else dweight, *dvectors, None, None


ss2d_forward.register_autograd(_gradients, setup_context=_setup_context)
