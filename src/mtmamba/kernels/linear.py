"""A linear layer whose bias's gradient, a sum over all pixels, is read at the memory's speed.

On CUDA tensors that sum is a Triton kernel (`linear_triton`), the products are PyTorch's. Elsewhere, and where
``torch.compile`` fuses the sum itself, it is PyTorch's layer.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mtmamba.kernels.derivatives import PLAIN, first_only
from mtmamba.kernels.dispatch import autocast, has_kernel
from mtmamba.kernels.products import weight_gradient


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return ``x weightᵀ + bias``, in autocast's dtype if it is on.

    Args:
        x: ``(..., C)``.
        weight: ``(n, C)``.
        bias: ``(n,)``; None for none.

    Returns:
        ``(..., n)``. The bias's gradient is summed in float32 and is reproducible bit for bit.

    >>> linear(torch.ones(2, 3), torch.ones(4, 3), torch.ones(4)).unique()
    tensor([4.])
    """
    if not has_kernel(x) or torch.compiler.is_compiling():
        return F.linear(x, weight, bias)
    return LinearFunction.apply(autocast(x), weight, bias)


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return the exact GELU of ``x weightᵀ + bias``; otherwise as `linear`.

    >>> linear_gelu(torch.ones(2, 3), torch.ones(4, 3), -3 * torch.ones(4)).unique()
    tensor([0.])
    """
    if not has_kernel(x) or torch.compiler.is_compiling():
        return F.gelu(F.linear(x, weight, bias))
    return LinearGeluFunction.apply(autocast(x), weight, bias)


class LinearFunction(torch.autograd.Function):
    """The layer in the dtype of ``x``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Compute the outputs."""
        ctx.dtypes = weight.dtype, None if bias is None else bias.dtype
        weight = weight.to(x.dtype)
        ctx.save_for_backward(x, weight)
        return F.linear(x, weight, None if bias is None else bias.to(x.dtype))

    @staticmethod
    @first_only("a linear layer's kernels", PLAIN)
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Compute the gradients."""
        (dy,), (x, weight), (of_weight, of_bias) = gradients, ctx.saved_tensors, ctx.dtypes
        rows = dy.reshape(-1, dy.shape[-1])
        dweight = weight_gradient(rows, x.reshape(-1, x.shape[-1]), of_weight)
        return dy @ weight, dweight, None if of_bias is None else column_sums(rows).to(of_bias)


class LinearGeluFunction(torch.autograd.Function):
    """The layer and its GELU in the dtype of ``x``; what GELU reads is kept, what it gives is not."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Compute the outputs."""
        ctx.dtypes = weight.dtype, bias.dtype
        weight = weight.to(x.dtype)
        h = F.linear(x, weight, bias.to(x.dtype))
        ctx.save_for_backward(x, weight, h)
        return F.gelu(h)

    @staticmethod
    @first_only("a linear layer's kernels", PLAIN)
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        """Compute the gradients."""
        (dy,), (x, weight, h), (of_weight, of_bias) = gradients, ctx.saved_tensors, ctx.dtypes
        dh, sums = gelu_gradient(dy, h)
        dweight = weight_gradient(dh.flatten(0, -2), x.reshape(-1, x.shape[-1]), of_weight)
        return dh @ weight, dweight, sums.to(of_bias)


@torch.library.custom_op("mtmamba::column_sums", mutates_args=())
def column_sums(x: Tensor) -> Tensor:
    """Return the sums over the rows of a matrix, in float32."""
    from mtmamba.kernels import linear_triton as kernels

    return kernels.column_sums(x.contiguous())


@column_sums.register_fake
def _(x: Tensor) -> Tensor:
    return x.new_empty(x.shape[1:], dtype=torch.float32)


@torch.library.custom_op("mtmamba::gelu_gradient", mutates_args=())
def gelu_gradient(dy: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradient of what GELU reads, ``(..., n)``, and its sums over all but the last axis, in float32."""
    from mtmamba.kernels import linear_triton as kernels

    return kernels.gelu_gradient(dy.contiguous(), h.contiguous())


@gelu_gradient.register_fake
def _(dy: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    return h.new_empty(h.shape), h.new_empty(h.shape[-1:], dtype=torch.float32)
