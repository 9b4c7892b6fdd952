"""Matrix products of layers whose parameters carry a leading task axis, and the gradients of these parameters.

All are PyTorch's products; what is theirs here is which of them add to one another, and in which precision they end.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


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
    """Return ``x weightᵀ``, plus ``residual`` within the product, in the dtype of ``x``.

    Args:
        x: ``(T, N, C)``, or ``(1, N, C)`` for all tasks.
        weight: ``(T, n, C)``.
        residual: ``(T, N, n)``, in the dtype of ``x``.

    Returns:
        ``(T, N, n)``.
    """
    y: Tensor = _Projection.apply(x, weight, residual)
    return y


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
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (dy,), (x, weight) = gradients, ctx.saved_tensors
        dx = torch.bmm(dy, weight)
        dx = dx if len(x) == len(dy) else dx.sum(0, keepdim=True)
        return dx, weight_gradient(dy, x.expand(len(dy), -1, -1), ctx.dtype), dy if ctx.adds else None


def project_twice(x: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``x firstᵀ`` and ``x secondᵀ``, halves of one product in the dtype of ``x``.

    Args:
        x: ``(T, N, C)``.
        first: ``(T, n, C)``.
        second: like ``first``.

    Returns:
        Two ``(T, N, n)``, whose rows lie ``2 n`` apart.
    """
    y, z = _JointProjection.apply(x, first, second)
    return y, z


class _JointProjection(torch.autograd.Function):
    """Both halves in the dtype of ``x``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, ...]:
        weight = torch.cat([first, second], dim=1).to(x.dtype)
        ctx.save_for_backward(x, weight)
        ctx.dtype = first.dtype
        return (x @ weight.mT).chunk(2, dim=-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        x, weight = ctx.saved_tensors
        (dy, dz), (first, second) = gradients, weight.chunk(2, dim=1)
        dx = (dy @ first).baddbmm_(dz, second)
        return dx, weight_gradient(dy, x, ctx.dtype), weight_gradient(dz, x, ctx.dtype)


def fuse(expanded: Tensor, skip: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return ``[expanded, skip] weightᵀ + bias`` in the maps' dtype; each task's bias is added within a product.

    Args:
        expanded: ``(T, N, C)``.
        skip: ``(N, C)``, for all tasks, in the dtype of ``expanded``.
        weight: ``(T, C, 2 C)``.
        bias: ``(T, C)``.

    Returns:
        ``(T, N, C)``.
    """
    y: Tensor = _Fusion.apply(expanded, skip, weight, bias)
    return y


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
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        (dy,), (expanded, skip, weight), (of_weight, of_bias) = gradients, ctx.saved_tensors, ctx.dtypes
        for_expanded, for_skip = weight.chunk(2, dim=2)
        halves = [weight_gradient(dy, x, of_weight) for x in (expanded, skip.expand(len(dy), -1, -1))]
        dskip = torch.bmm(dy, for_skip).sum(0)
        return torch.bmm(dy, for_expanded), dskip, torch.cat(halves, dim=2), dy.sum(1, dtype=of_bias)
