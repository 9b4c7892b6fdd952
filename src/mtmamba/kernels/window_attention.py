"""Shifted window attention of a Swin Transformer, one operator between two linear layers with Triton kernels on CUDA.

The kernels find a window's tokens by their addresses, so that no map is padded, rolled or cut into windows, and derive
position biases and the shift's mask from positions, so that neither is stored for pairs of tokens. Elsewhere maps are
padded, rolled and cut, and PyTorch attends.
"""

from typing import Any

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from mtmamba.kernels.derivatives import PLAIN, refuse_second
from mtmamba.kernels.dispatch import has_kernel
from mtmamba.kernels.linear import linear

HEAD_DIMS = (16, 32, 64)
LARGEST_WINDOW = 12
"""Side of the largest windows whose biases fit in the registers of a program."""


def window_attention(
    x: Tensor,
    qkv_weight: Tensor,
    qkv_bias: Tensor,
    proj_weight: Tensor,
    proj_bias: Tensor,
    table: Tensor,
    window: int,
    shift: int,
) -> Tensor:
    """Let the pixels of each window attend to one another, in float32 where sums are concerned.

    The map is padded with zeros right and bottom to multiples of the window, shifted up and left in a circle, and cut
    into windows; scores are products over √d, plus the bias of the pair's relative position, less 100 where the shift
    brought the pair together. The kernels take heads of 16, 32 or 64 channels and windows up to 12. Their backward
    pass keeps queries, keys and values, the output and a float32 for each pixel and head; its gradients are
    reproducible bit for bit.

    Args:
        x: ``(B, H, W, C)``, C = heads d.
        qkv_weight: of the layer that makes queries, keys and values of each head, ``(3 C, C)``.
        qkv_bias: ``(3 C,)``: queries, keys and values of padded pixels.
        proj_weight: of the layer that joins the heads, ``(C, C)``.
        proj_bias: ``(C,)``.
        table: ``((2 window - 1)², heads)``: biases by relative position, row by row.
        window: side of a window, pixels.
        shift: pixels, at least 0 and less than ``window``.

    Returns:
        ``(B, H, W, C)`` in the dtype of the layers' products.

    Raises:
        ValueError: a shape or the shift does not fit, or tensors lie on different devices.

    Source: Liu et al., Swin Transformer, ICCV 2021, eq. 4.

    >>> weight, bias = torch.zeros(24, 8), torch.zeros(24)
    >>> table = torch.zeros(49, 2)
    >>> window_attention(torch.zeros(1, 5, 6, 8), weight, bias, weight[:8], bias[:8], table, window=4, shift=2).shape
    torch.Size([1, 5, 6, 8])
    """
    _check(x, qkv_weight, qkv_bias, proj_weight, proj_bias, table, window, shift)
    if has_kernel(x) and x.shape[3] // table.shape[1] in HEAD_DIMS and window <= LARGEST_WINDOW:
        y, _ = _window_attention(linear(x, qkv_weight, qkv_bias), qkv_bias, table, window, shift)
        return linear(y, proj_weight, proj_bias)
    return torch_window_attention(x, qkv_weight, qkv_bias, proj_weight, proj_bias, table, window, shift)


def torch_window_attention(
    x: Tensor,
    qkv_weight: Tensor,
    qkv_bias: Tensor,
    proj_weight: Tensor,
    proj_bias: Tensor,
    table: Tensor,
    window: int,
    shift: int,
) -> Tensor:
    """Return what `window_attention` does, by PyTorch's attention among the pixels of windows that are cut out."""
    (batch, height, width, _), heads = x.shape, table.shape[1]
    rows, columns = ((side + window - 1) // window * window for side in (height, width))
    x = F.pad(x, (0, 0, 0, columns - width, 0, rows - height))
    x = x.roll((-shift, -shift), dims=(1, 2)) if shift else x
    x = rearrange(x, "b (h p) (w q) c -> (b h w) (p q) c", p=window, q=window)
    qkv = F.linear(x, qkv_weight, qkv_bias).unflatten(-1, (3, heads, -1))  # (windows, pixels, 3, heads, d)
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (windows, heads, pixels, d)
    scores = table[_relative_positions(window, table.device)].permute(2, 0, 1)[None]  # (1, heads, pixels, pixels)
    if shift:
        apart = _brought_together(rows, columns, window, shift, table.device)  # (windows of an image, pixels, pixels)
        scores = (scores - 100.0 * apart[:, None]).repeat(batch, 1, 1, 1)
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=scores.to(q.dtype))
    y = F.linear(y.transpose(1, 2).flatten(2), proj_weight, proj_bias)
    joined = "(b h w) (p q) c -> b (h p) (w q) c"
    y = rearrange(y, joined, b=batch, h=rows // window, w=columns // window, p=window, q=window)
    y = y.roll((shift, shift), dims=(1, 2)) if shift else y
    return y[:, :height, :width]


def _relative_positions(window: int, device: torch.device) -> Tensor:
    """Return the row of the table for each pair of a window's tokens, ``(window², window²)``."""
    at = torch.arange(window, device=device)
    offsets = at[:, None] - at + window - 1  # along one side
    pairs = offsets[:, None, :, None] * (2 * window - 1) + offsets[None, :, None, :]  # (row, column, row, column)
    return pairs.reshape(window**2, window**2)


def _brought_together(rows: int, columns: int, window: int, shift: int, device: torch.device) -> Tensor:
    """Return 1 for each pair of a window's tokens that are no neighbours but for the shift: ``(windows, n, n)``."""
    below, right = (torch.arange(side, device=device) >= side - shift for side in (rows, columns))
    parts = below[:, None] + 2 * right  # after the shift, the number of the part that a pixel is from
    parts = rearrange(parts, "(h p) (w q) -> (h w) (p q)", p=window, q=window)
    return (parts[:, None] != parts[:, :, None]).float()


def _check(x: Tensor, *rest: Any) -> None:
    *tensors, table, window, shift = rest
    if table.ndim != 2 or table.shape[0] != (2 * window - 1) ** 2:
        raise ValueError(
            f"Expected table of shape ((2 window - 1)², heads) = ({(2 * window - 1) ** 2}, heads), "
            f"got {tuple(table.shape)}."
        )
    heads, channels = table.shape[1], x.shape[-1]
    if x.ndim != 4 or channels % heads:
        raise ValueError(f"Expected x of shape (B, H, W, heads d) with heads = {heads}, got {tuple(x.shape)}.")
    if not 0 <= shift < window:
        raise ValueError(f"Expected a shift of at least 0 and less than the window {window}, got {shift}.")
    shapes = {
        "qkv_weight": (3 * channels, channels),
        "qkv_bias": (3 * channels,),
        "proj_weight": (channels, channels),
        "proj_bias": (channels,),
    }
    for (name, shape), tensor in zip(shapes.items(), tensors, strict=True):
        if tuple(tensor.shape) != shape:
            raise ValueError(f"Expected {name} of shape {shape}, got {tuple(tensor.shape)}.")
    for name, tensor in zip((*shapes, "table"), (*tensors, table), strict=True):
        if tensor.device != x.device:
            raise ValueError(f"Expected {name} on x's device {x.device}, got {tensor.device}.")


@torch.library.custom_op("mtmamba::window_attention", mutates_args=())
def _window_attention(qkv: Tensor, padding: Tensor, table: Tensor, window: int, shift: int) -> tuple[Tensor, Tensor]:
    """Attend: from qkv ``(B, H, W, 3 heads d)`` and that of padded pixels to ``(B, H, W, heads d)``, and logsumexp."""
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
refuse_second(_window_attention_backward, "window attention's kernel", PLAIN)
