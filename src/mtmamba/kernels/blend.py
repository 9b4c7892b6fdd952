"""The cross-task block's gate, and the two layer norms before it, in one operator.

On CUDA tensors it is a Triton kernel forwards and one backwards (`blend_triton`) that read and write each map once, as
those of `mtmamba.kernels.norm` do; elsewhere it is PyTorch's operators.
"""

from typing import Any

import torch
from torch import Tensor

from mtmamba.kernels.dispatch import autocast, has_kernel
from mtmamba.kernels.norm import check_parameters, scale_samples, torch_layer_norm


def blend(
    own: Tensor,
    shared: Tensor,
    gate: Tensor,
    own_weight: Tensor,
    own_bias: Tensor,
    shared_weight: Tensor,
    shared_bias: Tensor,
    scale: Tensor | None = None,
) -> Tensor:
    """Return ``scale ((1 - g) layer_norm(own) + g layer_norm(shared))`` with ``g = sigmoid(gate)``: eqs. 23 and 24.

    Args:
        own: each task's features, ``(T, B, H, W, C)``.
        shared: those of all tasks together, ``(1, B, H, W, C)``.
        gate: like ``own``; may be some of the channels of a wider map.
        own_weight: of the own features' norm, ``(T, C)``.
        own_bias: like ``own_weight``.
        shared_weight: of the shared features' norm, ``(1, C)``.
        shared_bias: like ``shared_weight``.
        scale: ``(T, B)``, without gradient; None for ones.

    Raises:
        ValueError: a shape does not fit.

    >>> own, shared = torch.zeros(2, 1, 3, 4, 5), torch.zeros(1, 1, 3, 4, 5)
    >>> blend(own, shared, own, *torch.ones(2, 2, 5), *torch.ones(2, 1, 5)).shape
    torch.Size([2, 1, 3, 4, 5])
    """
    check_parameters(own, own_weight, own_bias, (own.shape[0], own.shape[-1]))
    check_parameters(shared, shared_weight, shared_bias, (1, own.shape[-1]))
    if gate.shape != own.shape or shared.shape != (1, *own.shape[1:]):
        raise ValueError(
            f"Expected gates of the shape of own, {tuple(own.shape)}, and shared with a first axis of 1 in its place, "
            f"got {tuple(gate.shape)} and {tuple(shared.shape)}."
        )
    parameters = own_weight, own_bias, shared_weight, shared_bias
    if has_kernel(own):
        y: Tensor = _blend(autocast(own), autocast(shared), autocast(gate), *parameters, scale)[0]
        return y
    own = torch_layer_norm(own, own_weight, own_bias)
    shared = torch_layer_norm(shared, shared_weight, shared_bias)
    return scale_samples(own + gate.sigmoid() * (shared - own), scale)


@torch.library.custom_op("mtmamba::blend", mutates_args=())
def _blend(
    own: Tensor,
    shared: Tensor,
    gate: Tensor,
    own_weight: Tensor,
    own_bias: Tensor,
    shared_weight: Tensor,
    shared_bias: Tensor,
    scale: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Return the result and each row's statistics."""
    from mtmamba.kernels import blend_triton as kernels

    parameters = own_weight, own_bias, shared_weight, shared_bias
    return kernels.forward(
        (own.contiguous(), shared.contiguous(), gate),
        [p.contiguous() for p in parameters],
        None if scale is None else scale.contiguous(),
    )


@_blend.register_fake
def _(own: Tensor, shared: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    statistics = (2, own.shape[0] + 1, shared.numel() // shared.shape[-1])
    return own.new_empty(own.shape), own.new_empty(statistics, dtype=torch.float32)


@torch.library.custom_op("mtmamba::blend_backward", mutates_args=())
def _blend_backward(
    d_mixed: Tensor,
    own: Tensor,
    shared: Tensor,
    gate: Tensor,
    own_weight: Tensor,
    own_bias: Tensor,
    shared_weight: Tensor,
    shared_bias: Tensor,
    scale: Tensor | None,
    statistics: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of maps and parameters, in their order."""
    from mtmamba.kernels import blend_triton as kernels

    parameters = own_weight, own_bias, shared_weight, shared_bias
    gradients = kernels.backward(
        d_mixed.contiguous(),
        (own.contiguous(), shared.contiguous(), gate),
        [p.contiguous() for p in parameters],
        statistics,
        None if scale is None else scale.contiguous(),
    )
    d_own, d_shared, d_gate, d_own_weight, d_own_bias, d_shared_weight, d_shared_bias = (
        d.to(t.dtype) for d, t in zip(gradients, (own, shared, gate, *parameters), strict=True)
    )
    return d_own, d_shared, d_gate, d_own_weight, d_own_bias, d_shared_weight, d_shared_bias


@_blend_backward.register_fake
def _(d_mixed: Tensor, *tensors: Any) -> Any:
    return tuple(t.new_empty(t.shape) for t in tensors[:7])


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs, output[1])


def _backward(ctx: Any, d_mixed: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return *_blend_backward(d_mixed, *ctx.saved_tensors), None


_blend.register_autograd(_backward, setup_context=_save)
