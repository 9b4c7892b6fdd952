"""Depthwise 3x3 convolution and SiLU in one operator, for maps whose tasks have weights of their own.

On CUDA tensors it is a pair of Triton kernels that read and write each map once (`depthwise_triton`), one node to
``torch.compile``. Elsewhere it is PyTorch's convolution.
"""

from typing import Any

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from mtmamba.kernels.derivatives import PLAIN, refuse_second
from mtmamba.kernels.dispatch import autocast, has_kernel

Signal = tuple[Tensor, Tensor, Tensor]
"""Maps, and the weight and the bias that they are convolved with."""


def depthwise_silu(x: Tensor, weight: Tensor, bias: Tensor, beside: Signal | None = None) -> Tensor:
    """Return ``silu(conv(x) + bias)``: a 3x3 filter for each task and channel, stride 1, zero padding.

    The Triton kernels run for float32, bfloat16 and float16 maps on CUDA where Triton is installed, and accumulate in
    float32; the backward pass keeps ``x`` alone, and its gradients are reproducible bit for bit. All else takes
    PyTorch's convolution in the dtype of ``x``. Under autocast, ``x`` is first cast to autocast's dtype.

    Args:
        x: ``(T, B, H, W, C)``; may be some of the channels of a wider map.
        weight: ``(T, C, 3, 3)``, or ``(T, C, 1, 3, 3)`` as a grouped convolution stores it.
        bias: ``(T, C)``.
        beside: S further maps ``(S, B, H, W, C)`` with parameters of their own, where two signals go on as one.

    Returns:
        ``(T, B, H, W, C)`` in the dtype of ``x`` after autocast; ``(T + S, B, H, W, C)`` with ``beside``.

    Raises:
        ValueError: a shape does not fit, or tensors lie on different devices.
        TypeError: a tensor is not of floating point.

    Source: Lin et al., MTMamba, ECCV 2024, eq. 13.

    >>> depthwise_silu(torch.ones(2, 1, 4, 5, 6), torch.ones(2, 6, 3, 3), torch.zeros(2, 6)).shape
    torch.Size([2, 1, 4, 5, 6])
    """
    _check(x, weight, bias)
    if beside is not None:
        _check(*beside)
        if beside[0].shape[1:] != x.shape[1:]:
            raise ValueError(
                f"Expected maps beside x of the shape of x, {tuple(x.shape)}, but for the first axis, "
                f"got {tuple(beside[0].shape)}."
            )
    if has_kernel(x):
        others = () if beside is None else (autocast(beside[0]), *beside[1:])
        return _depthwise_silu(autocast(x), weight, bias, *others)
    y = torch_depthwise_silu(x, weight, bias)
    return y if beside is None else torch.cat([y, torch_depthwise_silu(*beside)])


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
def _depthwise_silu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    x2: Tensor | None = None,
    weight2: Tensor | None = None,
    bias2: Tensor | None = None,
) -> Tensor:
    from mtmamba.kernels import depthwise_triton as kernels

    y = x.new_empty(_shape(x, x2))
    kernels.forward(x, weight.contiguous(), bias.contiguous(), out=y[: len(x)])
    if x2 is not None and weight2 is not None and bias2 is not None:
        kernels.forward(x2, weight2.contiguous(), bias2.contiguous(), out=y[len(x) :])
    return y


def _shape(x: Tensor, x2: Tensor | None) -> tuple[int, ...]:
    return (len(x) + (0 if x2 is None else len(x2)), *x.shape[1:])


@_depthwise_silu.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, x2: Tensor | None = None, *_: Any) -> Tensor:
    return x.new_empty(_shape(x, x2))


@torch.library.custom_op("mtmamba::depthwise_silu_backward", mutates_args=())
def _depthwise_silu_backward(dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of x, and of weight and bias one after another, in float32."""
    from mtmamba.kernels import depthwise_triton as kernels

    dy, weight, bias = (t.contiguous() for t in (dy, weight, bias))
    dz, sums = kernels.activation_gradient(dy, x, weight, bias)
    return kernels.input_gradient(dz, weight), sums


@_depthwise_silu_backward.register_fake
def _(dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(weight.numel() + bias.numel(), dtype=torch.float32)


def _save(ctx: Any, inputs: tuple[Tensor | None, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, bias, *beside = ctx.saved_tensors
    if beside[0] is None:
        return *_gradients(dy, x, weight, bias), None, None, None
    return *_gradients(dy[: len(x)], x, weight, bias), *_gradients(dy[len(x) :], *beside)


def _gradients(dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> Signal:
    dx, sums = _depthwise_silu_backward(dy, x, weight, bias)
    dweight, dbias = sums.split((weight.numel(), bias.numel()))
    return dx, dweight.view(weight.shape).to(weight.dtype), dbias.view(bias.shape).to(bias.dtype)


_depthwise_silu.register_autograd(_backward, setup_context=_save)
refuse_second(_depthwise_silu_backward, "the convolution's kernel", PLAIN)
