"""Shifted window attention of a Swin Transformer in one operator, with Triton kernels on CUDA.

The kernels find a window's tokens by their addresses, so that no map is padded, rolled or cut into windows, and derive
position biases and the shift's mask from positions, so that neither is stored for pairs of tokens.
"""

from typing import Any

import torch
from torch import Tensor

from mtmamba.kernels.dispatch import KERNEL_DTYPES, has_kernel

HEAD_DIMS = (16, 32, 64)
LARGEST_WINDOW = 12
"""Of windows whose biases fit in the registers of a program."""


def has_kernels(x: Tensor, head_dim: int, window: int) -> bool:
    """Return whether `window_attention` serves maps of this device and dtype, heads and windows."""
    return has_kernel(x) and head_dim in HEAD_DIMS and window <= LARGEST_WINDOW


def window_attention(qkv: Tensor, padding: Tensor, table: Tensor, window: int, shift: int) -> Tensor:
    """Let the pixels of each window attend to one another, in float32 where sums are concerned.

    The map is padded right and bottom to multiples of the window, shifted up and left in a circle, and cut into
    windows; scores are products over √d, plus the bias of the pair's relative position, less 100 where the shift
    brought the pair together. The backward pass keeps the arguments, the output and a float32 for each pixel and head;
    its gradients are reproducible bit for bit.

    Args:
        qkv: ``(B, H, W, 3 heads d)``: queries, keys and values, each of ``heads`` times ``d`` channels.
        padding: ``(3 heads d,)``: those of padded pixels, which a linear layer makes its bias.
        table: ``((2 window - 1)², heads)``: biases by relative position, row by row.
        window: side of a window, pixels.
        shift: pixels, at least 0 and less than ``window``.

    Returns:
        ``(B, H, W, heads d)`` in the dtype of ``qkv``.

    Raises:
        ValueError: a shape or the shift does not fit, tensors lie on different devices, or there are no kernels for
            them (see `has_kernels`).

    Source: Liu et al., Swin Transformer, ICCV 2021, eq. 4.
    """
    _check(qkv, padding, table, window, shift)
    y: Tensor
    y, _ = _window_attention(qkv, padding, table, window, shift)
    return y


def _check(qkv: Tensor, padding: Tensor, table: Tensor, window: int, shift: int) -> None:
    if table.ndim != 2 or table.shape[0] != (2 * window - 1) ** 2:
        raise ValueError(
            f"Expected table of shape ((2 window - 1)², heads) = ({(2 * window - 1) ** 2}, heads), "
            f"got {tuple(table.shape)}."
        )
    heads = table.shape[1]
    if qkv.ndim != 4 or qkv.shape[3] % (3 * heads):
        raise ValueError(f"Expected qkv of shape (B, H, W, 3 heads d) with heads = {heads}, got {tuple(qkv.shape)}.")
    if padding.shape != qkv.shape[3:]:
        raise ValueError(f"Expected padding of shape {tuple(qkv.shape[3:])}, got {tuple(padding.shape)}.")
    if not 0 <= shift < window:
        raise ValueError(f"Expected a shift of at least 0 and less than the window {window}, got {shift}.")
    for name, tensor in (("padding", padding), ("table", table)):
        if tensor.device != qkv.device:
            raise ValueError(f"Expected {name} on qkv's device {qkv.device}, got {tensor.device}.")
    if not has_kernels(qkv, head_dim := qkv.shape[3] // (3 * heads), window):
        raise ValueError(
            f"Expected {', '.join(map(str, KERNEL_DTYPES))} on a CUDA device with Triton, d among {HEAD_DIMS} and "
            f"windows up to {LARGEST_WINDOW}, got {qkv.dtype} on {qkv.device}, d = {head_dim} and a window of "
            f"{window}: use timm's block there."
        )


@torch.library.custom_op("mtmamba::window_attention", mutates_args=())
def _window_attention(qkv: Tensor, padding: Tensor, table: Tensor, window: int, shift: int) -> tuple[Tensor, Tensor]:
    from mtmamba.kernels import window_attention_triton as kernels

    padding = padding.to(qkv.dtype)  # addressed as if it were a row of the map
    return kernels.forward(qkv.contiguous(), padding.contiguous(), table.contiguous(), window, shift)


@_window_attention.register_fake
def _(qkv: Tensor, padding: Tensor, table: Tensor, window: int, shift: int) -> tuple[Tensor, Tensor]:
    batch, height, width, channels = qkv.shape
    windows = batch * -(-height // window) * -(-width // window)
    lse = qkv.new_empty(windows, table.shape[1], window**2, dtype=torch.float32)
    return qkv.new_empty(batch, height, width, channels // 3), lse


@torch.library.custom_op("mtmamba::window_attention_backward", mutates_args=())
def _window_attention_backward(
    dout: Tensor, qkv: Tensor, padding: Tensor, table: Tensor, out: Tensor, lse: Tensor, window: int, shift: int
) -> tuple[Tensor, Tensor, Tensor]:
    from mtmamba.kernels import window_attention_backward_triton as kernels

    dout, qkv, row, table, out, lse = (t.contiguous() for t in (dout, qkv, padding.to(qkv.dtype), table, out, lse))
    dqkv, dpadding, dtable = kernels.backward(dout, qkv, row, table, out, lse, window, shift)
    return dqkv, dpadding.to(padding.dtype), dtable.to(table.dtype)


@_window_attention_backward.register_fake
def _(
    dout: Tensor, qkv: Tensor, padding: Tensor, table: Tensor, out: Tensor, lse: Tensor, window: int, shift: int
) -> tuple[Tensor, Tensor, Tensor]:
    return qkv.new_empty(qkv.shape), padding.new_empty(padding.shape), table.new_empty(table.shape)


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, int, int], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.window, ctx.shift = inputs
    ctx.save_for_backward(*tensors, *output)
    ctx.set_materialize_grads(False)  # there is none for lse


def _backward(ctx: Any, dout: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    gradients = _window_attention_backward(dout, *ctx.saved_tensors, ctx.window, ctx.shift)
    return *gradients, None, None


_window_attention.register_autograd(_backward, setup_context=_save)
