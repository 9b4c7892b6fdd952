"""Layer norms for T tasks, with what stands around them in the decoder, in one operator: gate, factors, rearranging.

`layer_norm` without an axis of tasks is PyTorch's, for an encoder; on CUDA it is the same kernel.

On CUDA tensors each is a Triton kernel forwards and one backwards (`norm_triton`) that read and write each map once;
statistics and sums are in float32, the backward pass keeps the inputs and two numbers a row, and its gradients are
reproducible bit for bit. ``torch.compile`` sees one node. Elsewhere they are PyTorch's operators, in the dtype of the
input. On CUDA, maps are first cast to autocast's dtype. Epsilon is 1e-5.
"""

from typing import Any

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from mtmamba.kernels.derivatives import PLAIN, refuse_second
from mtmamba.kernels.dispatch import autocast, has_kernel


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, upscale: int = 1) -> Tensor:
    """Normalise the channels of each pixel, scale and shift them by the parameters of the map's task.

    Args:
        x: ``(T, B, ..., C)``, or ``(B, ..., C)`` of no task; with ``upscale``, ``(T, B, H, W, upscale² C)``.
        weight: ``(T, C)``, or ``(C,)``.
        bias: like ``weight``.
        upscale: read the channels as (row, column, channel) of ``upscale x upscale`` pixels, as eq. 26 does.

    Returns:
        Like ``x``; with ``upscale``, ``(T, B, upscale H, upscale W, C)``.

    Raises:
        ValueError: a shape does not fit.

    >>> layer_norm(torch.zeros(2, 1, 3, 4, 20), torch.ones(2, 5), torch.ones(2, 5), upscale=2).shape
    torch.Size([2, 1, 6, 8, 5])
    """
    tasks = x.shape[: weight.ndim - 1]
    check_parameters(x, weight, bias, (*tasks, x.shape[-1] // upscale**2))
    if has_kernel(x):
        if not tasks:
            return layer_norm(x[None], weight[None], bias[None]).squeeze(0)
        x = autocast(x).contiguous()  # here, so that the backward pass has no copy to make again
        return norm_operator(x, weight, bias, None, None, upscale, 1)[0]
    if upscale > 1:
        x = rearrange(x, "t b h w (p q c) -> t b (h p) (w q) c", p=upscale, q=upscale)
    return torch_layer_norm(x, weight, bias)


def joint_layer_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Put the channels of all tasks side by side and normalise them together.

    Args:
        x: ``(T, B, H, W, C)``.
        weight: ``(T C,)``.
        bias: ``(T C,)``.

    Returns:
        ``(1, B, H, W, T C)``.

    Raises:
        ValueError: a shape does not fit.

    >>> joint_layer_norm(torch.zeros(2, 1, 3, 4, 5), torch.ones(10), torch.ones(10)).shape
    torch.Size([1, 1, 3, 4, 10])
    """
    check_parameters(x, weight, bias, (x.shape[0] * x.shape[-1],))
    if has_kernel(x):
        return norm_operator(autocast(x), weight, bias, None, None, 1, len(x))[0]
    x = rearrange(x, "t b h w c -> 1 b h w (t c)")
    return F.layer_norm(x, weight.shape, weight.to(x.dtype), bias.to(x.dtype))


def gated_norm(x: Tensor, weight: Tensor, bias: Tensor, gate: Tensor, scale: Tensor | None = None) -> Tensor:
    """Return ``scale layer_norm(x) silu(gate)``: eqs. 13 and 17, with stochastic depth's factors for each sample.

    Args:
        x: ``(T, B, H, W, C)``.
        weight: ``(T, C)``.
        bias: ``(T, C)``.
        gate: like ``x``; may be some of the channels of a wider map.
        scale: ``(T, B)``, without gradient; None for ones.

    Raises:
        ValueError: a shape does not fit.

    >>> x = torch.zeros(2, 1, 3, 4, 5)
    >>> gated_norm(x, torch.ones(2, 5), torch.ones(2, 5), gate=x).shape
    torch.Size([2, 1, 3, 4, 5])
    """
    check_parameters(x, weight, bias, (x.shape[0], x.shape[-1]))
    if gate.shape != x.shape:
        raise ValueError(f"Expected a gate of the shape of x, {tuple(x.shape)}, got {tuple(gate.shape)}.")
    if has_kernel(x):
        return norm_operator(autocast(x), weight, bias, autocast(gate), scale, 1, 1)[0]
    return scale_samples(torch_layer_norm(x, weight, bias) * F.silu(gate), scale)


def torch_layer_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return the layer norm of maps ``(T, B, ..., C)`` by PyTorch, in the dtype of ``x``.

    Without tasks it is PyTorch's own, in the dtype that autocast gives it.
    """
    if weight.ndim == 1:
        return F.layer_norm(x, weight.shape, weight, bias)
    tasks, channels = weight.shape
    shape = (tasks, *[1] * (x.ndim - 2), channels)
    return torch.addcmul(bias.view(shape), F.layer_norm(x, (channels,)), weight.view(shape)).to(x.dtype)


def scale_samples(x: Tensor, scale: Tensor | None) -> Tensor:
    """Multiply maps ``(T, B, ...)`` or ``(B, ...)`` by factors ``(T, B)`` or ``(B,)``, or by none, in their dtype."""
    return x if scale is None else x * scale.to(x.dtype).view(*scale.shape, *[1] * (x.ndim - scale.ndim))


def check_parameters(x: Tensor, weight: Tensor, bias: Tensor, shape: tuple[int, ...]) -> None:
    """Raise ValueError where the parameters of a norm have another shape."""
    for name, parameter in (("weight", weight), ("bias", bias)):
        if tuple(parameter.shape) != shape:
            raise ValueError(
                f"Expected {name} of shape {shape} for x of shape {tuple(x.shape)}, got {tuple(parameter.shape)}."
            )


@torch.library.custom_op("mtmamba::layer_norm", mutates_args=())
def norm_operator(
    x: Tensor, weight: Tensor, bias: Tensor, gate: Tensor | None, scale: Tensor | None, upscale: int, joined: int
) -> tuple[Tensor, Tensor]:
    """Return the result and each row's statistics; ``joined`` maps are normalised together."""
    from mtmamba.kernels import norm_triton as kernels

    x, weight, bias = x.contiguous(), weight.contiguous(), bias.contiguous()
    scale = None if scale is None else scale.contiguous()
    y, statistics = kernels.forward(x, weight, bias, gate, scale, upscale=upscale, joined=joined)
    return y.view(_shape(x, upscale, joined)), statistics


def _shape(x: Tensor, upscale: int, joined: int) -> tuple[int, ...]:
    """Return the shape of the result."""
    if upscale > 1:
        tasks, batch, height, width, channels = x.shape
        return tasks, batch, height * upscale, width * upscale, channels // upscale**2
    return (x.shape[0] // joined, *x.shape[1:-1], x.shape[-1] * joined)


@norm_operator.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, gate: Any, scale: Any, upscale: int, joined: int) -> Any:
    rows = x.numel() // weight.numel()
    statistics = x.new_empty(2, weight.numel() // weight.shape[-1], rows, dtype=torch.float32)
    return x.new_empty(_shape(x, upscale, joined)), statistics


@torch.library.custom_op("mtmamba::layer_norm_backward", mutates_args=())
def _layer_norm_backward(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    gate: Tensor | None,
    scale: Tensor | None,
    statistics: Tensor,
    upscale: int,
    joined: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of x, of weight and bias in one, and of gate; that of a missing gate is empty."""
    from mtmamba.kernels import norm_triton as kernels

    dy, x, weight, bias = (t.contiguous() for t in (dy, x, weight, bias))
    scale = None if scale is None else scale.contiguous()
    dx, dgate, dparameters = kernels.backward(
        dy, x, weight, bias, statistics, gate, scale, upscale=upscale, joined=joined
    )
    return dx, dparameters.to(weight.dtype), x.new_empty(0) if dgate is None else dgate


@_layer_norm_backward.register_fake
def _(dy: Any, x: Tensor, weight: Tensor, bias: Any, gate: Any, *_: Any) -> Any:
    dgate = x.new_empty(0) if gate is None else gate.new_empty(gate.shape)
    return x.new_empty(x.shape), weight.new_empty(2, *weight.shape), dgate


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.upscale, ctx.joined = inputs
    ctx.save_for_backward(*tensors, output[1])
    ctx.set_materialize_grads(False)  # there is none for the statistics


def _backward(ctx: Any, dy: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors  # once: under checkpointing a second look would raise
    dx, dparameters, dgate = _layer_norm_backward(dy, *saved, ctx.upscale, ctx.joined)
    return dx, *dparameters, None if saved[3] is None else dgate, None, None, None


norm_operator.register_autograd(_backward, setup_context=_save)
refuse_second(_layer_norm_backward, "the layer norm's kernel", PLAIN)
