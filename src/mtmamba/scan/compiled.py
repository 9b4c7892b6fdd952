"""The selective scan compiled for CPUs with Numba: one pass over the sequence, its states in the caches.

Arrays are ``(rows, steps, channels)``, a row being one image's group: the innermost loops run over channels and become
vector instructions, the exponential included. The forward pass keeps a row's state once every ``sqrt(l)`` steps; the
backward pass computes a chunk's states and decays again from there. Rows are shared out over PyTorch's threads.
"""
# mypy: disable-error-code="no-untyped-def,untyped-decorator"

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Any

import numba
import numpy as np
import torch
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

LN2 = np.float32(math.log(2))
LOWEST, HIGHEST, HALF = np.float32(-126), np.float32(127), np.float32(0.5)
C0, C1, C2, C3, C4, C5, C6 = (np.float32(math.log(2) ** k / math.factorial(k)) for k in range(7))
ZERO = np.float32(0)


def why_unavailable(device_type: str, dtype: torch.dtype) -> str | None:
    """Why this cannot scan tensors on such a device and in this precision, or None if it can."""
    if device_type != "cpu":
        return f"it needs CPU tensors, got {device_type}"
    return "it has no float64 code" if dtype == torch.float64 else None


def scan_compiled(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor) -> Tensor:
    """Scan in float32 on a CPU; each gradient has the dtype of its input.

    Shape: as in :func:`mtmamba.scan.selective_scan`, whose ``numba`` backend this is.
    """
    groups = B.shape[1]

    def rows(tensor: Tensor) -> Tensor:  # (b, g*d, l) → (b*g, l, d)
        return tensor.float().unflatten(1, (groups, -1)).flatten(0, 1).mT

    delta = F.softplus(delta.float() + delta_bias.float()[:, None])
    y = _CompiledScan.apply(
        rows(u), rows(delta), A.float().unflatten(0, (groups, -1)), *(m.float().flatten(0, 1).mT for m in (B, C))
    )
    y = y.mT.reshape(u.shape)
    return torch.addcmul(y, D.float()[:, None], u.float())


@intrinsic
def _float_of_bits(typing_context, bits):
    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), generate


@numba.njit(inline="always")
def _exp2(x):
    """``2^x`` to 2e-7, between 2^-126 and 2^127: the exponent's bits times a polynomial."""
    x = min(max(x, LOWEST), HIGHEST)
    whole = np.floor(x + HALF)
    f = x - whole
    power = C0 + f * (C1 + f * (C2 + f * (C3 + f * (C4 + f * (C5 + f * C6)))))
    bits = (np.int32(whole) + np.int32(127)) << np.int32(23)
    return power * _float_of_bits(bits)  # type: ignore[call-arg]


_compile = numba.njit(nogil=True, cache=True, fastmath={"contract", "reassoc", "nsz"}, error_model="numpy")


@_compile
def _forward(first, last, u, delta, A2, B, C, chunk, starts, y):
    _, length, channels = u.shape
    n_states = A2.shape[1]
    h = np.empty((n_states, channels), np.float32)
    drive = np.empty(channels, np.float32)
    out = np.empty(channels, np.float32)
    for row in range(first, last):
        h[:] = ZERO
        rates = A2[row % A2.shape[0]]
        for t in range(length):
            if t % chunk == 0:
                starts[row, t // chunk] = h
            step = delta[row, t]
            for d in range(channels):
                drive[d] = step[d] * u[row, t, d]
                out[d] = ZERO
            for n in range(n_states):
                b, c = B[row, t, n], C[row, t, n]
                for d in range(channels):
                    state = _exp2(step[d] * rates[n, d]) * h[n, d] + b * drive[d]
                    h[n, d] = state
                    out[d] += c * state
            y[row, t] = out


@_compile
def _backward(first, last, u, delta, A2, B, C, chunk, starts, dy, du, ddelta, dA, dB, dC):
    _, length, channels = u.shape
    n_states = A2.shape[1]
    shape = (chunk, n_states, channels)
    decays, states = np.empty(shape, np.float32), np.empty((chunk + 1, n_states, channels), np.float32)
    carry = np.empty((n_states, channels), np.float32)
    drive, to_drive, to_exponent, dh, inner = np.empty((5, channels), np.float32)
    for row in range(first, last):
        carry[:] = ZERO
        rates = A2[row % A2.shape[0]]
        dA[row] = ZERO
        for start in range((length - 1) // chunk * chunk, -1, -chunk):
            steps = min(chunk, length - start)
            states[0] = starts[row, start // chunk]
            for i in range(steps):
                step = delta[row, start + i]
                for d in range(channels):
                    drive[d] = step[d] * u[row, start + i, d]
                for n in range(n_states):
                    b = B[row, start + i, n]
                    for d in range(channels):
                        decay = _exp2(step[d] * rates[n, d])
                        decays[i, n, d] = decay
                        states[i + 1, n, d] = decay * states[i, n, d] + b * drive[d]
            for i in range(steps - 1, -1, -1):
                t = start + i
                step, grad = delta[row, t], dy[row, t]
                for d in range(channels):
                    drive[d] = step[d] * u[row, t, d]
                    to_drive[d] = ZERO
                    to_exponent[d] = ZERO
                for n in range(n_states):
                    b, c = B[row, t, n], C[row, t, n]
                    to_b, to_c = ZERO, ZERO
                    # Loops of few arrays: what each may overlap with is checked before it runs as vectors.
                    for d in range(channels):
                        dh[d] = c * grad[d] + carry[n, d]
                    for d in range(channels):
                        to_c += states[i + 1, n, d] * grad[d]
                        to_b += dh[d] * drive[d]
                    for d in range(channels):
                        to_drive[d] += dh[d] * b
                    for d in range(channels):
                        carry[n, d] = decays[i, n, d] * dh[d]
                    for d in range(channels):
                        inner[d] = carry[n, d] * states[i, n, d]
                    for d in range(channels):
                        dA[row, n, d] += inner[d] * step[d]
                    for d in range(channels):
                        to_exponent[d] += inner[d] * rates[n, d]
                    dB[row, t, n] = to_b
                    dC[row, t, n] = to_c
                for d in range(channels):
                    du[row, t, d] = to_drive[d] * step[d]
                    ddelta[row, t, d] = to_drive[d] * u[row, t, d] + to_exponent[d] * LN2


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="mtmamba-scan")


def _share(kernel: Callable[..., None], *arguments: Any) -> None:
    """Run a kernel over all rows, on as many threads as PyTorch has."""
    arrays = [x.numpy() if isinstance(x, Tensor) else x for x in arguments]
    rows, threads = len(arrays[0]), torch.get_num_threads()
    bounds = [rows * i // threads for i in range(threads + 1)]
    if threads == 1:
        kernel(0, rows, *arrays)
        return
    jobs = [_pool(threads).submit(kernel, a, b, *arrays) for a, b in pairwise(bounds) if a < b]
    for job in jobs:
        job.result()


class _CompiledScan(torch.autograd.Function):
    """From u, delta ``(rows, l, d)``, A ``(g, d, n)``, B and C ``(rows, l, n)`` to ``(rows, l, d)``."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
        u, delta, B, C = (x.detach().contiguous() for x in (u, delta, B, C))
        A2 = (A.detach() * math.log2(math.e)).mT.contiguous()  # (g, n, d)
        rows, length, channels = u.shape
        chunk = math.isqrt(length - 1) + 1
        starts = u.new_empty(rows, -(-length // chunk), A2.shape[1], channels)
        y = torch.empty_like(u)
        _share(_forward, u, delta, A2, B, C, chunk, starts, y)
        ctx.save_for_backward(u, delta, A2, B, C, starts)
        ctx.chunk = chunk
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, ...]:
        u, delta, A2, B, C, starts = ctx.saved_tensors
        du, ddelta, dB, dC = (torch.empty_like(x) for x in (u, delta, B, C))
        dA = u.new_empty(len(u), *A2.shape[1:])
        grads = (du, ddelta, dA, dB, dC)
        _share(_backward, u, delta, A2, B, C, ctx.chunk, starts, dy.contiguous(), *grads)
        return du, ddelta, dA.unflatten(0, (-1, len(A2))).sum(0).mT, dB, dC
