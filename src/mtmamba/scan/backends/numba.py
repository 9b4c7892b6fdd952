"""The selective scan compiled for CPUs with Numba: one pass over the pixels, its states in the caches.

Maps stay channels last, as the network has them, and all four directions read the same map. The forward pass keeps the
state before every ``sqrt(l)``-th step; the backward pass computes a chunk's states and decays again from there. Images
and groups are shared out over PyTorch's threads, and directions too where there are fewer of those than threads.
"""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mtmamba.kernels.derivatives import first_only
from mtmamba.scan.order import pixels_in_order
from mtmamba.scan.registry import ONLY_FIRST, Backend, register


def why_unavailable(device_type: str, dtype: torch.dtype) -> str | None:
    """Why this cannot scan tensors on such a device and in this precision, or None if it can."""
    if device_type != "cpu":
        return f"it needs CPU tensors, got {device_type}"
    return "it has no float64 code" if dtype == torch.float64 else None


@torch.compiler.disable
def ss2d_numba(
    x: Tensor, x_proj: Tensor, dt_weight: Tensor, dt_bias: Tensor, A_log: Tensor, D: Tensor, source: Tensor
) -> Tensor:
    """Scan maps in four directions and sum the results, as :func:`mtmamba.scan.ss2d` describes."""
    tasks, batch, height, width, e = x.shape
    directions, rows = x_proj.shape[1:3]
    projected = source.reshape(tasks, -1, e) @ x_proj.flatten(1, 2).mT  # (T, B L, 4 (r + 2n))
    y: Tensor = _NumbaScan.apply(
        x.float().flatten(2, 3),
        projected.float().view(tasks, batch, height * width, directions, rows),
        dt_weight.to(projected.dtype).float().mT,  # rounded as autocast would
        dt_bias.float(),
        None,
        -torch.exp(A_log.float()),
        D.float().sum(1),
        pixels_in_order(height, width),
        torch.is_grad_enabled(),
    )
    return y.view(x.shape).to(x.dtype)


def scan_numba(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor) -> Tensor:
    """Scan sequences with the same code, in one direction; each gradient has the dtype of its input.

    Shape: as in :func:`mtmamba.scan.selective_scan`, whose ``numba`` backend this is.
    """
    groups = B.shape[1]

    def maps(tensor: Tensor) -> Tensor:  # (b, g*d, l) → (g, b, l, d)
        return tensor.float().unflatten(1, (groups, -1)).permute(1, 0, 3, 2)

    bc = torch.cat([B.float(), C.float()], dim=2).permute(1, 0, 3, 2)  # (g, b, l, 2n)
    y = _NumbaScan.apply(
        maps(u),
        bc.unsqueeze(3),
        u.new_empty(groups, 1, 0, u.shape[1] // groups, dtype=torch.float32),
        u.new_empty(groups, 1, 0, dtype=torch.float32),
        F.softplus(maps(delta + delta_bias[:, None])).unsqueeze(1),
        A.float().unflatten(0, (groups, 1, -1)),
        D.float().unflatten(0, (groups, -1)),
        torch.arange(u.shape[2])[None],
        True,
    )
    return y.permute(1, 0, 3, 2).reshape(u.shape)


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="mtmamba-scan")


def _share(name: str, jobs: int, *arguments: Any) -> None:
    """Run a kernel over all jobs, on as many threads as PyTorch has."""
    from mtmamba.scan import numba_kernels  # here: nobody waits for Numba who does not scan with it

    kernel: Callable[..., None] = getattr(numba_kernels, name)
    arrays = [x.numpy() if isinstance(x, Tensor) else x for x in arguments]
    threads = torch.get_num_threads()
    if threads == 1:
        kernel(0, jobs, *arrays)
        return
    bounds = [jobs * i // threads for i in range(threads + 1)]
    for running in [_pool(threads).submit(kernel, a, b, *arrays) for a, b in pairwise(bounds) if a < b]:
        running.result()


class _NumbaScan(torch.autograd.Function):
    """From u ``(G, R, L, d)`` and what steers it to y ``(G, R, L, d)``.

    The axes are those of `mtmamba.scan.numba_kernels`, and A is ``(G, K, d, n)``. Time steps are computed pixel by
    pixel from rank r, and stored where ``keep`` says that gradients may follow; or they are given, with r = 0.
    """

    @staticmethod
    def forward(
        ctx: Any,
        u: Tensor,
        projected: Tensor,
        weight: Tensor,
        bias: Tensor,
        given: Tensor | None,
        A: Tensor,
        D: Tensor,
        order: Tensor,
        keep: bool,
    ) -> Tensor:
        u, projected, weight, bias, D = (x.detach().contiguous() for x in (u, projected, weight, bias, D))
        A2 = (A.detach() * math.log2(math.e)).mT.contiguous()  # (G, K, n, d)
        groups, images, length, channels = u.shape
        directions, n = A2.shape[1:3]
        steps = (groups, directions, images, length if keep else 1, channels)
        delta = u.new_empty(steps) if given is None else given.detach().contiguous()
        chunk = math.isqrt(length - 1) + 1
        parts = directions if groups * images < torch.get_num_threads() else 1
        starts = u.new_empty(groups, images, directions, -(-length // chunk), n, channels)
        y = u.new_empty(parts, *u.shape)
        arrays = (u, projected, weight, bias, delta, A2, D, order, chunk, starts, y)
        _share("forward", parts * groups * images, *arrays)
        ctx.save_for_backward(u, projected, delta, A2, D, order, starts, weight)
        ctx.chunk, ctx.parts = chunk, parts
        return y.sum(0) if parts > 1 else y[0]

    @staticmethod
    @first_only(*ONLY_FIRST)
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, starts, weight = ctx.saved_tensors
        u, projected, delta, A2, _, _ = inputs
        (groups, images, length, channels), directions = u.shape, A2.shape[1]
        du, dD = u.new_empty(ctx.parts, *u.shape), u.new_empty(ctx.parts, groups, images, channels)
        ddelta, dprojected = torch.empty_like(delta), torch.empty_like(projected)
        dA = u.new_empty(groups, images, directions, *A2.shape[2:])
        arrays = (*inputs, ctx.chunk, starts, dy.contiguous(), du, ddelta, dprojected, dA, dD)
        _share("backward", ctx.parts * groups * images, *arrays)
        du, dA, dD = du.sum(0) if ctx.parts > 1 else du[0], dA.sum(1).mT, dD.sum((0, 2))
        if not (rank := weight.shape[2]):
            return du, dprojected, None, None, ddelta, dA, dD, None, None
        dsteps = ddelta.mul_(torch.expm1(-delta).neg_()).flatten(2, 3)  # by the slope of softplus, (G, K, R L, d)
        low = projected[..., :rank].flatten(1, 2).transpose(1, 2)  # (G, K, R L, r)
        dlow = (dsteps @ weight.mT).unflatten(2, (images, length))  # (G, K, R, L, r)
        dprojected[..., :rank] = dlow.permute(0, 2, 3, 1, 4)
        return du, dprojected, low.mT @ dsteps, dsteps.sum(2), None, dA, dD, None, None


register(Backend("numba", 2, scan_numba, why_unavailable, ss2d_numba))
