"""The fused scan's two operators, one node each to ``torch.compile``: their launches, shapes and gradients.

Both take ``projected`` ``(T, B, L, K (r + 2 * 16))``: the time steps of rank r of all K directions, then B and C of all
directions. Without ``dt_weight``, which has the maps' dtype, these are the time steps themselves, ``r = e``.
"""

import math
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mtmamba.kernels.time_steps import widen, widen_backward
from mtmamba.scan import nvrtc

STATES = 16
"""States of a channel in the kernel."""
PACK = 8
"""Channels are filled up to a multiple of this: rows of maps are then aligned for matrix products."""
THREADS, STRIDE = 128, 16
"""Threads of a block; steps from one saved state to the next."""
SATURATED = 2.5 * 4 * 132
"""Warps that keep a large GPU busy: some for each of the four schedulers of 132 multiprocessors."""


class Shape(NamedTuple):
    """How a kernel's threads share the work."""

    channels: int
    """Of a thread."""
    parts: int
    """Threads that share a channel's states."""

    @property
    def width(self) -> int:
        """Channels of a block."""
        return THREADS // self.parts * self.channels

    def blocks(self, e: int) -> int:
        """Return how many blocks share a sequence's ``e`` channels."""
        return -(-e // self.width)


FORWARD = Shape(2, 2), Shape(1, 2), Shape(1, 4), Shape(1, 8)
BACKWARD = Shape(2, 4), Shape(1, 4)
"""What a kernel can do, with ever more threads."""


def shape(kernel: str, sequences: int, e: int) -> Shape:
    """Return how so many sequences of ``e`` channels are shared: with the fewest threads that keep a GPU busy."""
    shapes = FORWARD if kernel == "ss2d_forward" else BACKWARD
    busy = (s for s in shapes if sequences * e / s.channels * s.parts / 32 >= SATURATED)
    return next(busy, shapes[-1])


@cache
def source(kernel: str) -> str:
    """The CUDA C++ of a kernel: what the two share, then its own."""
    return "".join(Path(__file__).with_name(name).read_text(encoding="utf-8") for name in ("ss2d.cuh", f"{kernel}.cu"))


def options(dtype: torch.dtype, directions: int, shape: Shape) -> tuple[str, ...]:
    """What the compiler is told for maps of a precision and so many directions."""
    real = "bf16" if dtype == torch.bfloat16 else "float"
    sizes = {"REAL": real, "DIRECTIONS": directions, "CHANNELS": shape.channels, "PARTS": shape.parts}
    sizes |= {"THREADS": THREADS, "STRIDE": STRIDE}
    return ("--std=c++17", *(f"-D{name}={value}" for name, value in sizes.items()))


def _run(kernel: str, x: Tensor, directions: int, arguments: tuple[Tensor | int | None, ...]) -> None:
    """Launch a scan kernel for maps like ``x``."""
    tasks, batch, height, width, e = x.shape
    sharing = shape(kernel, tasks * batch * directions, e)
    shared = 0
    if kernel == "ss2d_backward":  # struct Chunk of ss2d_backward.cu
        sub, real = 8 // sharing.channels, x.element_size()
        kept = THREADS // sub * STATES // sharing.parts * max(sharing.channels * real, sub)
        brought = (STRIDE * (3 * sharing.width + 2 * STATES) + sharing.width * STATES) * real
        shared = STRIDE * (16 * (sharing.width + 20) + 4 * STATES * 4 + kept + 16) + brought + 6 * 8
    nvrtc.launch(
        source(kernel),
        kernel,
        options(x.dtype, directions, sharing),
        (sharing.blocks(e), batch * directions, tasks),
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
        options(parts.dtype, 1, BACKWARD[-1]),
        grid,
        THREADS,
        0,
        (parts, out, count, rows, columns, out.stride(-2)),
    )
    return out


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
        saved = states if save else None
        inputs = bc, A * math.log2(math.e), dt_bias, D
        _run("ss2d_forward", x, directions, (x, _time_steps(low, dt_weight), *inputs, y, saved, bc.stride(-2)))
        return (_sum(y, torch.empty_like(x)) if directions > 1 else y.squeeze(0)), states


def _states_shape(x: Tensor, directions: int, save: bool) -> tuple[int, ...]:
    tasks, batch, height, width, e = x.shape
    return (tasks, directions, batch, -(-height * width // STRIDE) if save else 0, e, STATES)


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
    blocks = shape("ss2d_backward", tasks * batch * directions, e).blocks(e)
    dx = x.new_empty(directions, *x.shape)
    dbc = x.new_empty(blocks, tasks, batch, height * width, directions * 2 * STATES)
    dA = A.new_empty(tasks, directions, batch, e, STATES)
    dvectors = A.new_empty(2, tasks, directions, batch, e)
    dbias, dD = dvectors
    with torch.autocast(x.device.type, enabled=False):
        low, bc = _split(projected, directions)
        dt = _time_steps(low, dt_weight)  # becomes its gradient
        inputs = bc, A * math.log2(math.e), dt_bias, D, states, dy.contiguous()
        _run("ss2d_backward", x, directions, (x, dt, *inputs, dx, dbc, dA, dD, dbias, bc.stride(-2)))
        dprojected = torch.empty_like(projected)
        dlow_view, dbc_view = _split(dprojected, directions)
        _sum(dbc, dbc_view)
        del dbc  # a third of the memory
        dx = _sum(dx, torch.empty_like(x)) if directions > 1 else dx.squeeze(0)
        if dt_weight is None:
            dlow_view.copy_(dt)
            dweight = dt.new_empty(0)
        else:
            dweight = widen_backward(dt, dt_weight, low, dlow_view)
        return dx, dprojected, dA.sum(2), dweight, dvectors.sum(3)


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
