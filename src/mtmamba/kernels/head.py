"""Layer norm and 1x1 projection of an expanded map in one operator: the map is never stored in normalised form.

On CUDA tensors it is a Triton kernel each way (`head_triton`), one node to ``torch.compile``; each reads the map once.
Elsewhere it is PyTorch's layer norm and linear layer.
"""

from typing import Any

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from mtmamba.kernels.derivatives import PLAIN, refuse_second
from mtmamba.kernels.dispatch import has_kernel

EPS = 1e-5
"""Added to the variance."""


def norm_project(x: Tensor, norm_weight: Tensor, norm_bias: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return ``weight · (layer_norm(x) norm_weight + norm_bias) + bias`` of every pixel of an expanded map.

    Each of ``x``'s pixels holds ``s x s`` pixels of C channels, in the order (row, column, channel), as a patch
    expand's linear layer leaves them. The Triton kernels run for float32, bfloat16 and float16 maps on CUDA where
    Triton is installed and s is a power of two. They multiply in the dtype of ``x`` (float32 as three products of
    TF32 parts) and add in float32. The backward pass keeps ``x``, the logits, and each pixel's mean and standard
    deviation; its gradients are reproducible bit for bit.

    Args:
        x: ``(B, H, W, s s C)``.
        norm_weight: ``(C,)``.
        norm_bias: ``(C,)``.
        weight: ``(n, C)``.
        bias: ``(n,)``.

    Returns:
        Logits ``(B, n, s H, s W)``, in float32 if ``x`` has half precision and in the dtype of ``x`` otherwise.

    Raises:
        ValueError: a shape does not fit.

    Source: Lin et al., MTMamba, ECCV 2024, section 3.5.

    >>> norm_project(torch.ones(2, 5, 6, 4 * 3), torch.ones(3), torch.ones(3), torch.ones(7, 3), torch.zeros(7)).shape
    torch.Size([2, 7, 10, 12])
    """
    scale = _scale(x, norm_weight, norm_bias, weight, bias)
    if has_kernel(x) and scale.bit_count() == 1:
        logits, *_ = _norm_project(x, norm_weight, norm_bias, weight, bias, scale)
        return logits
    return torch_norm_project(x, norm_weight, norm_bias, weight, bias, scale)


def _scale(x: Tensor, norm_weight: Tensor, norm_bias: Tensor, weight: Tensor, bias: Tensor) -> int:
    """Return s."""
    if x.ndim != 4 or weight.ndim != 2:
        raise ValueError(f"Expected x (B, H, W, s s C) and weight (n, C), got {tuple(x.shape)}, {tuple(weight.shape)}.")
    outputs, channels = weight.shape
    scale = round((x.shape[-1] / channels) ** 0.5)
    if scale * scale * channels != x.shape[-1]:
        raise ValueError(
            f"Expected x with s s C channels for a whole s, where C = {channels} as in weight, got {x.shape[-1]}."
        )
    for name, tensor, size in (
        ("norm_weight", norm_weight, channels),
        ("norm_bias", norm_bias, channels),
        ("bias", bias, outputs),
    ):
        if tuple(tensor.shape) != (size,):
            raise ValueError(f"Expected {name} of shape ({size},), as weight has, got {tuple(tensor.shape)}.")
    return scale


def torch_norm_project(
    x: Tensor, norm_weight: Tensor, norm_bias: Tensor, weight: Tensor, bias: Tensor, scale: int
) -> Tensor:
    """Return what `norm_project` does, by PyTorch's layer norm and a product that scales and shifts too."""
    pixels = F.layer_norm(x.unflatten(-1, (scale**2, -1)), norm_weight.shape, eps=EPS).to(x.dtype)  # (B, H, W, s s, C)
    weight = weight.to(x.dtype)  # rounded by itself, as under autocast
    folded, shift = weight * norm_weight, (weight * norm_bias).sum(1) + bias
    maps = folded.to(x.dtype) @ pixels.flatten(1, 3).mT + shift.to(x.dtype)[:, None]  # (B, n, H W s s)
    logits = rearrange(maps, "b n (h w p q) -> b n (h p) (w q)", h=x.shape[1], w=x.shape[2], p=scale)
    return logits.to(torch.promote_types(x.dtype, torch.float32))


@torch.library.custom_op("mtmamba::norm_project", mutates_args=())
def _norm_project(
    x: Tensor, norm_weight: Tensor, norm_bias: Tensor, weight: Tensor, bias: Tensor, scale: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the logits, and each pixel's mean and 1 / standard deviation ``(B, s H, s W)``."""
    from mtmamba.kernels import head_triton as kernels

    return kernels.forward(x.contiguous(), *_folded(norm_weight, norm_bias, weight, bias), scale, EPS)


@_norm_project.register_fake
def _(
    x: Tensor, norm_weight: Tensor, norm_bias: Tensor, weight: Tensor, bias: Tensor, scale: int
) -> tuple[Tensor, Tensor, Tensor]:
    batch, height, width, _ = x.shape
    size = scale * height, scale * width
    logits = x.new_empty(batch, len(weight), *size, dtype=torch.float32)
    return logits, logits.new_empty(batch, *size), logits.new_empty(batch, *size)


def _folded(norm_weight: Tensor, norm_bias: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Return weight ``(n, C)`` and bias ``(n,)`` of the projection of what is normalised but not yet scaled."""
    return (weight.float() * norm_weight).contiguous(), (weight.float() * norm_bias).sum(1) + bias


@torch.library.custom_op("mtmamba::norm_project_backward", mutates_args=())
def _norm_project_backward(
    dlogits: Tensor,
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    weight: Tensor,
    bias: Tensor,
    logits: Tensor,
    mean: Tensor,
    inverse: Tensor,
    scale: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    from mtmamba.kernels import head_triton as kernels

    folded = _folded(norm_weight, norm_bias, weight, bias)
    dx, dfolded, dbias = kernels.backward(dlogits.contiguous(), x.contiguous(), *folded, logits, mean, inverse, scale)
    dweight = torch.addcmul(dbias[:, None] * norm_bias, dfolded, norm_weight)
    return (
        dx,
        (dfolded * weight).sum(0).to(norm_weight.dtype),
        (dbias[:, None] * weight).sum(0).to(norm_bias.dtype),
        dweight.to(weight.dtype),
        dbias.to(bias.dtype),
    )


@_norm_project_backward.register_fake
def _(
    dlogits: Tensor,
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    weight: Tensor,
    bias: Tensor,
    logits: Tensor,
    mean: Tensor,
    inverse: Tensor,
    scale: int,
) -> tuple[Tensor, ...]:
    return tuple(t.new_empty(t.shape) for t in (x, norm_weight, norm_bias, weight, bias))


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    *tensors, ctx.scale = inputs
    ctx.save_for_backward(*tensors, *output)
    ctx.set_materialize_grads(False)  # there is none for mean and deviation


def _backward(ctx: Any, dlogits: Tensor, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    return *_norm_project_backward(dlogits, *ctx.saved_tensors, ctx.scale), None


_norm_project.register_autograd(_backward, setup_context=_save)
refuse_second(_norm_project_backward, "the head's kernel", PLAIN)
