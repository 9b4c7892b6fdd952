"""Depthwise 3x3 convolution and SiLU in one operator, for maps whose tasks have weights of their own.

On CUDA tensors it is a pair of Triton kernels that read and write each map once (`depthwise_triton`), one node to
``torch.compile``. Elsewhere it is PyTorch's convolution.
"""

from typing import Any

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from mtmamba.kernels.dispatch import autocast, has_kernel


def depthwise_silu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return ``silu(conv(x) + bias)``: a 3x3 filter for each task and channel, stride 1, zero padding.

    The Triton kernels run for float32, bfloat16 and float16 maps on CUDA where Triton is installed, and accumulate in
    float32; the backward pass keeps ``x`` alone, and its gradients are reproducible bit for bit. All else takes
    PyTorch's convolution in the dtype of ``x``. Under autocast, ``x`` is first cast to autocast's dtype.

    Args:
        x: ``(T, B, H, W, C)``; may be some of the channels of a wider map.
        weight: ``(T, C, 3, 3)``, or ``(T, C, 1, 3, 3)`` as a grouped convolution stores it.
        bias: ``(T, C)``.

    Returns:
        ``(T, B, H, W, C)`` in the dtype of ``x`` after autocast.

    Raises:
        ValueError: a shape does not fit, or tensors lie on different devices.
        TypeError: a tensor is not of floating point.

    Source: Lin et al., MTMamba, ECCV 2024, eq. 13.

    >>> depthwise_silu(torch.ones(2, 1, 4, 5, 6), torch.ones(2, 6, 3, 3), torch.zeros(2, 6)).shape
    torch.Size([2, 1, 4, 5, 6])
    """
    _check(x, weight, bias)
    if not has_kernel(x):
        return torch_depthwise_silu(x, weight, bias)
    y: Tensor = _depthwise_silu(autocast(x), weight, bias)
    return y


def _check(x: Tensor, weight: Tensor, bias: Tensor) -> None:
    if x.ndim != 5:
        raise ValueError(f"Expected x of shape (T, B, H, W, C), got {tuple(x.shape)}.")
    tasks, channels = x.shape[0], x.shape[-1]
    if tuple(weight.shape) not in ((tasks, channels, 3, 3), (tasks, channels, 1, 3, 3)):
        raise ValueError(
            f"Expected weight of shape (T, C, 3, 3) or (T, C, 1, 3, 3) with T = {tasks} and C = {channels}, as x has, "
            f"got {tuple(weight.shape)}."
        )
    if tuple(bias.shape) != (tasks, channels):
        raise ValueError(f"Expected bias of shape (T, C) = {(tasks, channels)}, got {tuple(bias.shape)}.")
    for name, tensor in (("x", x), ("weight", weight), ("bias", bias)):
        if not tensor.is_floating_point():
            raise TypeError(f"Expected {name} of a floating-point dtype, got {tensor.dtype}.")
        if tensor.device != x.device:
            raise ValueError(f"Expected {name} on x's device {x.device}, got {tensor.device}.")


def torch_depthwise_silu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return what `depthwise_silu` does, by PyTorch's convolution in the dtype of ``x``."""
    tasks, _, _, _, channels = x.shape
    maps = rearrange(x, "t b h w c -> b (t c) h w")
    filters = weight.reshape(-1, 1, 3, 3).to(x.dtype)
    z = F.conv2d(maps, filters, bias.flatten().to(x.dtype), padding=1, groups=tasks * channels)
    return rearrange(F.silu(z), "b (t c) h w -> t b h w c", t=tasks)


@torch.library.custom_op("mtmamba::depthwise_silu", mutates_args=())
def _depthwise_silu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    from mtmamba.kernels import depthwise_triton as kernels

    return kernels.forward(x, weight.contiguous(), bias.contiguous())


@_depthwise_silu.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return x.new_empty(x.shape)


@torch.library.custom_op("mtmamba::depthwise_silu_backward", mutates_args=())
def _depthwise_silu_backward(dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    from mtmamba.kernels import depthwise_triton as kernels

    dy, weight, bias = (t.contiguous() for t in (dy, weight, bias))
    dz, dweight, dbias = kernels.activation_gradient(dy, x, weight, bias)
    return kernels.input_gradient(dz, weight), dweight.to(weight.dtype), dbias.to(bias.dtype)


@_depthwise_silu_backward.register_fake
def _(dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), weight.new_empty(weight.shape), bias.new_empty(bias.shape)


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    gradients: tuple[Tensor, Tensor, Tensor] = _depthwise_silu_backward(dy, *ctx.saved_tensors)
    return gradients


_depthwise_silu.register_autograd(_backward, setup_context=_save)
