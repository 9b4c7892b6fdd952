"""Matrix products of layers whose parameters carry a leading task axis, and the gradients of these parameters.

All are PyTorch's products. On CUDA, maps are first cast to autocast's dtype, sums are made within the products, and the
gradients of parameters end in the parameters' precision. Elsewhere they are written as one would, and follow autocast
and autograd by themselves.
"""

from typing import Any

import torch
from torch import Tensor

from mtmamba.kernels.derivatives import first_only
from mtmamba.kernels.dispatch import autocast, on_cuda


def weight_gradient(dy: Tensor, x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return ``dyᵀ x``, the gradient of the weight in ``y = x weightᵀ``.

    On CUDA a product of half precision writes float32 itself: its sums are not rounded to half precision, and nothing
    is left to cast.

    Args:
        dy: ``(N, n)`` or ``(T, N, n)``.
        x: ``(N, C)`` or ``(T, N, C)``, in the dtype of ``dy``.
        dtype: of the result.

    Returns:
        ``(n, C)`` or ``(T, n, C)``.
    """
    if dy.is_cuda and dtype == torch.float32 and dy.dtype in (torch.bfloat16, torch.float16):
        product = torch.mm if dy.ndim == 2 else torch.bmm
        return product(dy.mT, x, out_dtype=dtype)
    return (dy.mT @ x).to(dtype)


def project(x: Tensor, weight: Tensor, residual: Tensor | None = None) -> Tensor:
    """Return ``x weightᵀ``, plus ``residual``.

    Args:
        x: ``(T, ..., C)``, or ``(1, ..., C)`` for all tasks.
        weight: ``(T, n, C)``.
        residual: ``(T, ..., n)``.

    Returns:
        ``(T, ..., n)``.

    >>> project(torch.ones(1, 2, 3), torch.ones(4, 5, 3), torch.ones(4, 2, 5)).unique()
    tensor([4.])
    """
    tasks, outputs, _ = weight.shape
    rows = x.flatten(1, -2)  # (T, N, C)
    if on_cuda(x):
        added = None if residual is None else autocast(residual).flatten(1, -2)
        y: Tensor = _Projection.apply(autocast(rows), weight, added)
        return y.view(tasks, *x.shape[1:-1], outputs)
    y = (rows.expand(tasks, -1, -1) @ weight.mT).view(tasks, *x.shape[1:-1], outputs)
    return y if residual is None else residual + y


class _Projection(torch.autograd.Function):
    """The product in the dtype of ``x``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, residual: Tensor | None) -> Tensor:
        ctx.dtype, ctx.adds = weight.dtype, residual is not None
        weight = weight.to(x.dtype)
        ctx.save_for_backward(x, weight)
        maps = x.expand(len(weight), -1, -1)
        return torch.bmm(maps, weight.mT) if residual is None else torch.baddbmm(residual, maps, weight.mT)

    @staticmethod
    @first_only("the products of task layers on CUDA", "compute on a CPU")
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (dy,), (x, weight) = gradients, ctx.saved_tensors
        dx = torch.bmm(dy, weight)
        dx = dx if len(x) == len(dy) else dx.sum(0, keepdim=True)
        return dx, weight_gradient(dy, x.expand(len(dy), -1, -1), ctx.dtype), dy if ctx.adds else None


def project_twice(x: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``x firstᵀ`` and ``x secondᵀ``: on CUDA the halves of one product, whose rows lie ``2 n`` apart.

    Args:
        x: ``(T, ..., C)``.
        first: ``(T, n, C)``.
        second: like ``first``.

    Returns:
        Two ``(T, ..., n)``.

    >>> y, z = project_twice(torch.ones(2, 1, 3), torch.ones(2, 5, 3), torch.zeros(2, 5, 3))
    >>> y.unique(), z.unique()
    (tensor([3.]), tensor([0.]))
    """
    if not on_cuda(x):
        return project(x, first), project(x, second)
    y, z = _JointProjection.apply(autocast(x).flatten(1, -2), first, second)
    return y.view(*x.shape[:-1], -1), z.view(*x.shape[:-1], -1)


class _JointProjection(torch.autograd.Function):
    """Both halves in the dtype of ``x``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, ...]:
        weight = torch.cat([first, second], dim=1).to(x.dtype)
        ctx.save_for_backward(x, weight)
        ctx.dtype = first.dtype
        return (x @ weight.mT).chunk(2, dim=-1)

    @staticmethod
    @first_only("the products of task layers on CUDA", "compute on a CPU")
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        x, weight = ctx.saved_tensors
        (dy, dz), (first, second) = gradients, weight.chunk(2, dim=1)
        dx = (dy @ first).baddbmm_(dz, second)
        return dx, weight_gradient(dy, x, ctx.dtype), weight_gradient(dz, x, ctx.dtype)


def fuse(expanded: Tensor, skip: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return ``[expanded, skip] weightᵀ + bias``: one product for each half, so that neither is copied.

    Args:
        expanded: ``(T, ..., C)``.
        skip: ``(..., C)``, for all tasks.
        weight: ``(T, C, 2 C)``.
        bias: ``(T, C)``.

    Returns:
        ``(T, ..., C)``.

    >>> fuse(torch.ones(2, 4, 3), torch.ones(4, 3), torch.ones(2, 3, 6), torch.ones(2, 3)).unique()
    tensor([7.])
    """
    maps, shared = expanded.flatten(1, -2), skip.reshape(-1, skip.shape[-1])  # (T, N, C), (N, C)
    if on_cuda(expanded):
        y: Tensor = _Fusion.apply(autocast(maps), autocast(shared), weight, bias)
        return y.view(expanded.shape)
    for_expanded, for_skip = weight.chunk(2, dim=2)
    y = torch.baddbmm(bias[:, None], shared.expand(len(weight), -1, -1), for_skip.mT)
    y.baddbmm_(maps.to(y.dtype), for_expanded.mT.to(y.dtype))  # where y lies
    return y.view(expanded.shape)


class _Fusion(torch.autograd.Function):
    """The two products in the dtype of the maps."""

    @staticmethod
    def forward(ctx: Any, expanded: Tensor, skip: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.dtypes = weight.dtype, bias.dtype
        weight = weight.to(skip.dtype)
        ctx.save_for_backward(expanded, skip, weight)
        for_expanded, for_skip = weight.chunk(2, dim=2)
        y = torch.empty_like(expanded)
        for shift, matrix, out in zip(bias.to(skip.dtype), for_skip, y, strict=True):
            torch.addmm(shift, skip, matrix.mT, out=out)
        return y.baddbmm_(expanded, for_expanded.mT)

    @staticmethod
    @first_only("the products of task layers on CUDA", "compute on a CPU")
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        (dy,), (expanded, skip, weight), (of_weight, of_bias) = gradients, ctx.saved_tensors, ctx.dtypes
        for_expanded, for_skip = weight.chunk(2, dim=2)
        halves = [weight_gradient(dy, x, of_weight) for x in (expanded, skip.expand(len(dy), -1, -1))]
        dskip = torch.bmm(dy, for_skip).sum(0)
        return torch.bmm(dy, for_expanded), dskip, torch.cat(halves, dim=2), dy.sum(1, dtype=of_bias)
