"""The four-direction scan fused into one CUDA kernel each for forward and backward (``ss2d.cuh``).

Maps are read where they lie, channels last, in float32 or bfloat16; states are float32. Time steps are projected in
here, so that the map of all of them, four times the signal's size, is not kept for the backward pass. Saved are the
inputs and the states before every 32nd step, in the maps' precision. Every sum has one fixed order: results are the same
bits from run to run.
"""

import math
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mtmamba.scan import nvrtc

STATES = 16
"""States of a channel in the kernel."""
PACK = 8
"""The kernel reads so many neighbouring channels at once."""
THREADS, STRIDE = 128, 32
"""Threads of a block; steps from one saved state to the next."""
SATURATED = 4 * 132
"""Warps that keep a large GPU's four schedulers in each of 132 multiprocessors busy."""


def why_unavailable(device_type: str, dtype: torch.dtype) -> str | None:
    """Why the kernel cannot scan tensors on such a device and in this precision, or None if it can."""
    if device_type != "cuda":
        return f"it needs CUDA tensors, got {device_type}"
    if dtype == torch.float64:
        return "it has no float64 kernel"
    return nvrtc.why_unavailable()


def ss2d_cuda(
    x: Tensor, x_proj: Tensor, dt_weight: Tensor, dt_bias: Tensor, A_log: Tensor, D: Tensor, source: Tensor
) -> Tensor:
    """Scan maps in four directions and sum the results, as :func:`mtmamba.scan.ss2d` describes.

    Maps are bfloat16 if ``x`` is, else float32.
    """
    tasks, batch, height, width, e = x.shape
    directions, r = dt_weight.shape[1], dt_weight.shape[-1]
    rank = -(-r // PACK) * PACK  # matrix products want rows of whole packs: zeros fill the low-rank time step up
    dtype = _map_dtype(x)
    flat = source.to(dtype).reshape(tasks, -1, e)
    weight = x_proj.to(dtype)
    low = (flat @ _pad(weight[:, :, :r], 2, rank).flatten(1, 2).mT).to(dtype)  # (T, B L, 4 rank)
    bc = (flat @ weight[:, :, r:].flatten(1, 2).mT).to(dtype)  # (T, B L, 4 * 2 n)
    shape = (tasks, batch, height * width, directions, -1)
    A = -torch.exp(A_log.float())
    y = _scan_maps(
        x.to(dtype), low.view(shape), bc.view(shape), A, _pad(dt_weight, 3, rank), dt_bias.float(), D.float()
    )
    return y.to(x.dtype)


def scan_cuda(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor) -> Tensor:
    """Scan sequences with the same kernel: one direction, a map of height 1.

    Shape: as in :func:`mtmamba.scan.selective_scan`, whose ``cuda`` backend this is.
    """
    groups, n = B.shape[1:3]
    d = u.shape[1] // groups
    dtype = _map_dtype(u)

    def maps(tensor: Tensor) -> Tensor:  # (b, g*d, l) → (g, b, l, d)
        return tensor.unflatten(1, (groups, d)).permute(1, 0, 3, 2).to(dtype)

    def parameters(tensor: Tensor) -> Tensor:  # (g*d, …) → (g, 1, d, …)
        return tensor.float().unflatten(0, (groups, 1, d))

    y = torch.zeros((), device=u.device)
    for first in range(0, n, STATES):
        bc = torch.cat([_pad(m[:, :, first : first + STATES], 2, STATES) for m in (B, C)], dim=2)  # (b, g, 2N, l)
        y = y + _scan_maps(
            maps(u).unsqueeze(2),
            maps(delta).unsqueeze(3),
            bc.permute(1, 0, 3, 2).to(dtype).unsqueeze(3),
            parameters(A[:, first : first + STATES]),
            None,
            parameters(delta_bias),
            parameters(D) if first == 0 else torch.zeros_like(parameters(D)),
        )
    return y.squeeze(2).permute(1, 0, 3, 2).reshape(u.shape)


def _map_dtype(x: Tensor) -> torch.dtype:
    return x.dtype if x.dtype == torch.bfloat16 else torch.float32


def _pad(tensor: Tensor, axis: int, size: int) -> Tensor:
    """Fill an axis up to ``size`` with zeros."""
    return F.pad(tensor, [0, 0] * (tensor.ndim - 1 - axis % tensor.ndim) + [0, size - tensor.shape[axis]])


def _scan_maps(
    x: Tensor, low: Tensor, bc: Tensor, A: Tensor, dt_weight: Tensor | None, dt_bias: Tensor, D: Tensor
) -> Tensor:
    """Scan ``(T, B, H, W, e)`` in K directions; channels and states that the kernel lacks are zero.

    Args:
        x: the signal.
        low: the low-rank time step ``(T, B, L, K, r)``; without ``dt_weight`` the time step itself, ``r = e``.
        bc: B and C side by side, ``(T, B, L, K, 2 * 16)``.
        A: decay rates, ``(T, K, e, n)``, n at most 16.
        dt_weight: from the low-rank time step to all channels, ``(T, K, e, r)``.
        dt_bias: ``(T, K, e)``.
        D: skip connections, ``(T, K, e)``.
    """
    e, n = x.shape[-1], A.shape[-1]
    wide = -(-e // PACK) * PACK
    if n != STATES and bc.shape[-1] != 2 * STATES:
        bc = torch.cat([_pad(m, -1, STATES) for m in bc.split(n, dim=-1)], dim=-1)
    A = _pad(_pad(A, -1, STATES), -2, wide)
    if wide != e:
        x, dt_bias, D = (_pad(tensor, -1, wide) for tensor in (x, dt_bias, D))
        if dt_weight is None:
            low = _pad(low, -1, wide)
        else:
            dt_weight = _pad(dt_weight, -2, wide)
    inputs = (x, low, bc, A, dt_weight, dt_bias, D)
    save = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs)
    y, _ = _forward(x.contiguous(), low, bc.contiguous(), A.contiguous(), dt_weight, dt_bias, D, save)
    return y[..., :e]


def _channels(sequences: int, e: int) -> int:
    """Channels of a thread: two spare instructions, one gives twice the threads where they are few."""
    return 2 if sequences * e // 16 >= 4 * SATURATED else 1


@cache
def source(kernel: str) -> str:
    """The CUDA C++ of a kernel: what the two share, then its own."""
    return "".join(Path(__file__).with_name(name).read_text(encoding="utf-8") for name in ("ss2d.cuh", f"{kernel}.cu"))


def _run(kernel: str, x: Tensor, directions: int, arguments: tuple[Tensor | None, ...]) -> None:
    """Launch a kernel for maps like ``x``."""
    tasks, batch, height, width, e = x.shape
    channels = _channels(tasks * batch * directions, e)
    real, size = ("bf16", 2) if x.dtype == torch.bfloat16 else ("float", 4)
    options = {"REAL": real, "DIRECTIONS": directions, "CHANNELS": channels, "THREADS": THREADS, "STRIDE": STRIDE}
    shared = 0
    if kernel == "ss2d_backward":  # struct Chunk of ss2d_backward.cu
        block = THREADS // 4 * channels
        shared = STRIDE * (block * (8 + 2 * size) + 2 * STATES * 4 + block * STATES // 4 * size)
    nvrtc.launch(
        source(kernel),
        kernel,
        ("--std=c++17", *(f"-D{name}={value}" for name, value in options.items())),
        (_blocks(e, channels), batch * directions, tasks),
        THREADS,
        shared,
        (*arguments, tasks, batch, height, width, e),
    )


def _blocks(e: int, channels: int) -> int:
    return -(-e // (THREADS // 4 * channels))


def _time_steps(x: Tensor, low: Tensor, dt_weight: Tensor | None) -> Tensor:
    """Time steps of every channel before bias and softplus, ``(T, K, B, L, e)``."""
    low = low.permute(0, 3, 1, 2, 4)  # (T, K, B, L, r)
    if dt_weight is None:
        return low.to(x.dtype).clone(memory_format=torch.contiguous_format)
    dt = low.flatten(2, 3) @ dt_weight.to(x.dtype).mT
    return dt.unflatten(2, low.shape[2:4])


@torch.library.custom_op("mtmamba::ss2d_forward", mutates_args=())
def _forward(
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
    return (tasks, directions, batch, -(-height * width // STRIDE) if save else 0, e, STATES)


@_forward.register_fake
def _(x: Tensor, low: Tensor, bc: Tensor, A: Tensor, dt_weight: Any, dt_bias: Tensor, D: Tensor, save: bool) -> Any:
    return torch.empty_like(x), x.new_empty(_states_shape(x, low.shape[3], save))


@torch.library.custom_op("mtmamba::ss2d_backward", mutates_args=())
def _backward(
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


@_backward.register_fake
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
    dx, dlow, dbc, dA, dweight, dbias, dD = _backward(dy, x, low, bc, A, dt_weight, dt_bias, D, states)
    return dx, dlow, dbc, dA, None if dt_weight is None else dweight, dbias, dD, None


_forward.register_autograd(_gradients, setup_context=_setup_context)
