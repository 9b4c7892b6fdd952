"""The cross-task block's gate, and the two layer norms before it, in one operator.

On CUDA tensors Triton kernels (`blend_triton`) compute it in a pass over the maps, and its gradients in a pass over own
features and one over shared; elsewhere it is PyTorch's operators.
"""

from typing import Any

import torch
from torch import Tensor

from mtmamba.kernels.derivatives import PLAIN, refuse_second
from mtmamba.kernels.dispatch import autocast, has_kernel
from mtmamba.kernels.norm import check_parameters, scale_samples, torch_layer_norm


def blend(
    features: Tensor,
    gate: Tensor,
    own_weight: Tensor,
    own_bias: Tensor,
    shared_weight: Tensor,
    shared_bias: Tensor,
    scale: Tensor | None = None,
) -> Tensor:
    """Return ``scale ((1 - g) layer_norm(own) + g layer_norm(shared))`` with ``g = sigmoid(gate)``: eqs. 23 and 24.

    Args:
        features: each task's own, then those of all tasks together, ``(T + 1, B, H, W, C)``.
        gate: ``(T, B, H, W, C)``; may be some of the channels of a wider map.
        own_weight: of the own features' norm, ``(T, C)``.
        own_bias: like ``own_weight``.
        shared_weight: of the shared features' norm, ``(1, C)``.
        shared_bias: like ``shared_weight``.
        scale: ``(T, B)``, without gradient; None for ones.

    Raises:
        ValueError: a shape does not fit.

    >>> features, gate = torch.zeros(3, 1, 3, 4, 5), torch.zeros(2, 1, 3, 4, 5)
    >>> blend(features, gate, *torch.ones(2, 2, 5), *torch.ones(2, 1, 5)).shape
    torch.Size([2, 1, 3, 4, 5])
    """
    tasks, channels = gate.shape[0], gate.shape[-1]
    if features.shape != (tasks + 1, *gate.shape[1:]):
        raise ValueError(
            f"Expected features like the gates, of shape {tuple(gate.shape)}, and one more map, "
            f"got {tuple(features.shape)}."
        )
    check_parameters(features, own_weight, own_bias, (tasks, channels))
    check_parameters(features, shared_weight, shared_bias, (1, channels))
    if has_kernel(features):
        parameters = own_weight, own_bias, shared_weight, shared_bias
        return _blend(autocast(features), autocast(gate), *parameters, scale)[0]
    own, shared = features.split((tasks, 1))
    own = torch_layer_norm(own, own_weight, own_bias)
    shared = torch_layer_norm(shared, shared_weight, shared_bias)
    return scale_samples(own + gate.sigmoid() * (shared - own), scale)


@torch.library.custom_op("mtmamba::blend", mutates_args=())
def _blend(
    features: Tensor,
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
        features.contiguous(),
        gate,
        [p.contiguous() for p in parameters],
        None if scale is None else scale.contiguous(),
    )


@_blend.register_fake
def _(features: Tensor, gate: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    statistics = (2, len(features), gate[0].numel() // gate.shape[-1])
    return features.new_empty(gate.shape), features.new_empty(statistics, dtype=torch.float32)


@torch.library.custom_op("mtmamba::blend_backward", mutates_args=())
def _blend_backward(
    d_mixed: Tensor,
    features: Tensor,
    gate: Tensor,
    own_weight: Tensor,
    own_bias: Tensor,
    shared_weight: Tensor,
    shared_bias: Tensor,
    scale: Tensor | None,
    statistics: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of features and gate, and those of all weights and all biases, ``(2, T + 1, C)`` float32."""
    from mtmamba.kernels import blend_triton as kernels

    parameters = own_weight, own_bias, shared_weight, shared_bias
    return kernels.backward(
        d_mixed.contiguous(),
        features.contiguous(),
        gate,
        [p.contiguous() for p in parameters],
        statistics,
        None if scale is None else scale.contiguous(),
    )


@_blend_backward.register_fake
def _(d_mixed: Tensor, features: Tensor, gate: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    sums = features.new_empty(2, len(features), features.shape[-1], dtype=torch.float32)
    return features.new_empty(features.shape), gate.new_empty(gate.shape), sums


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs, output[1])
    ctx.set_materialize_grads(False)  # no zeros for the statistics


def _backward(ctx: Any, d_mixed: Tensor, _: None) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors  # once: under checkpointing a second look would raise
    d_features, d_gate, sums = _blend_backward(d_mixed, *saved)
    own_and_shared = *sums[:, :-1], *sums[:, -1:]
    d_parameters = (d.to(p.dtype) for d, p in zip(own_and_shared, saved[2:6], strict=True))
    return d_features, d_gate, *d_parameters, None


_blend.register_autograd(_backward, setup_context=_save)
refuse_second(_blend_backward, "the gate's kernel", PLAIN)
