"""A residual sum and the layer norm that reads it in one operator, forwards and backwards.

On CUDA tensors these are Triton kernels (`residual_triton`): the sum is written once and not read again, and the
gradients of its two uses are added where that of the norm is computed. ``torch.compile`` sees one node. Elsewhere they
are PyTorch's operators, as in `mtmamba.kernels.norm`, whose epsilon, precision and reproducibility these share.
"""

from typing import Any

import torch
from torch import Tensor

from mtmamba.kernels import norm
from mtmamba.kernels.derivatives import PLAIN, first_only, refuse_second
from mtmamba.kernels.dispatch import autocast, has_kernel


def residual_norm(
    x: Tensor, weight: Tensor, bias: Tensor, added: Tensor | None = None, scale: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return ``x + scale added`` and its layer norm.

    Args:
        x: ``(T, B, ..., C)``, or ``(B, ..., C)`` of no task.
        weight: ``(T, C)``, or ``(C,)``.
        bias: like ``weight``.
        added: like ``x``; None for nothing, and the first result is ``x``.
        scale: factors of ``added`` for each sample, ``(T, B)`` or ``(B,)``, without gradient; None for ones.

    Raises:
        ValueError: a shape does not fit.

    >>> x, weight = torch.ones(2, 1, 3, 4), torch.ones(2, 4)
    >>> total, normed = residual_norm(x, weight, 5 * weight, added=x)
    >>> total.unique(), normed.unique()
    (tensor([2.]), tensor([5.]))
    """
    tasks = x.shape[: weight.ndim - 1]
    norm.check_parameters(x, weight, bias, (*tasks, x.shape[-1]))
    if added is not None and added.shape != x.shape:
        raise ValueError(f"Expected added of the shape of x, {tuple(x.shape)}, got {tuple(added.shape)}.")
    if not has_kernel(x):
        total = x if added is None else x + norm.scale_samples(added, scale)
        return total, norm.torch_layer_norm(total, weight, bias)
    if not tasks:
        added, scale = (None if t is None else t[None] for t in (added, scale))
        total, y = residual_norm(x[None], weight[None], bias[None], added, scale)
        return total.squeeze(0), y.squeeze(0)
    if added is None:
        total, y = BranchFunction.apply(autocast(x), weight, bias)
    else:
        total, y, _ = add_norm(autocast(x), autocast(added), weight, bias, scale)
    return total, y


class BranchFunction(torch.autograd.Function):
    """Return a map as it is, and its layer norm."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the outputs."""
        y, statistics = norm.norm_operator(x, weight, bias, None, None, 1, 1)
        ctx.save_for_backward(x, weight, statistics)
        ctx.set_materialize_grads(False)
        return x, y

    @staticmethod
    @first_only("the layer norm's kernel", PLAIN)
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        """Compute the gradients."""
        (dtotal, dy), (x, weight, statistics) = gradients, ctx.saved_tensors
        if dy is None:
            return dtotal, None, None
        dx, _, dparameters = _residual_norm_backward(dy, dtotal, x, weight, None, statistics)
        return dx, *dparameters


@torch.library.custom_op("mtmamba::add_norm", mutates_args=())
def add_norm(
    x: Tensor, added: Tensor, weight: Tensor, bias: Tensor, scale: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the sum, its norm and each row's statistics."""
    from mtmamba.kernels import residual_triton as kernels

    x, added, weight, bias = (t.contiguous() for t in (x, added, weight, bias))
    return kernels.forward(x, added, weight, bias, None if scale is None else scale.contiguous())


@add_norm.register_fake
def _(x: Tensor, added: Tensor, weight: Tensor, bias: Tensor, scale: Any) -> tuple[Tensor, Tensor, Tensor]:
    statistics = x.new_empty(2, len(weight), x.numel() // weight.numel(), dtype=torch.float32)
    return x.new_empty(x.shape), x.new_empty(x.shape), statistics


@torch.library.custom_op("mtmamba::residual_norm_backward", mutates_args=())
def _residual_norm_backward(
    dy: Tensor, dtotal: Tensor | None, total: Tensor, weight: Tensor, scale: Tensor | None, statistics: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of the sum, of what was scaled (empty without ``scale``), and of weight and bias in one."""
    from mtmamba.kernels import residual_triton as kernels

    dy, total, weight = (t.contiguous() for t in (dy, total, weight))
    dtotal, scale = (None if t is None else t.contiguous() for t in (dtotal, scale))
    dx, dadded, dparameters = kernels.backward(dy, dtotal, total, weight, scale, statistics)
    return dx, dx.new_empty(0) if dadded is None else dadded, dparameters.to(weight.dtype)


@_residual_norm_backward.register_fake
def _(dy: Any, dtotal: Any, total: Tensor, weight: Tensor, scale: Any, statistics: Any) -> Any:
    dadded = total.new_empty(0 if scale is None else total.shape)
    return total.new_empty(total.shape), dadded, weight.new_empty(2, *weight.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    _, _, weight, _, scale = inputs
    total, _, statistics = output
    ctx.save_for_backward(total, weight, scale, statistics)
    ctx.set_materialize_grads(False)  # there is none for the statistics


def _backward(ctx: Any, dtotal: Tensor | None, dy: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
    total, weight, scale, statistics = ctx.saved_tensors
    dy = torch.zeros_like(total) if dy is None else dy
    dx, dadded, dparameters = _residual_norm_backward(dy, dtotal, total, weight, scale, statistics)
    return dx, dx if scale is None else dadded, *dparameters, None


add_norm.register_autograd(_backward, setup_context=_save)
refuse_second(_residual_norm_backward, "the layer norm's kernel", PLAIN)
