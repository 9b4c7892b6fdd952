"""Window attention on the task axis: the parts of the paper's Swin decoder and of its attention ablations."""

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from mtmamba.models.drop_path import DropPath
from mtmamba.models.layers import TaskLayerNorm, TaskLinear


def relative_position_index(window: int) -> Tensor:
    """Return, for each pair of a window's pixels, the row of the bias table that holds their offset.

    Shape: ``(window², window²)`` int64, in ``[0, (2 window - 1)²)``.
    """
    pixels = torch.cartesian_prod(torch.arange(window), torch.arange(window))
    offset = pixels[:, None] - pixels[None] + window - 1
    return offset[..., 0] * (2 * window - 1) + offset[..., 1]


def partition(x: Tensor, window: int) -> Tensor:
    """Cut maps into windows: ``(..., H, W, C) → (..., windows, window², C)``; H and W are multiples of ``window``."""
    x = rearrange(x, "... (i p) (j q) c -> ... i j p q c", p=window, q=window)
    return x.flatten(-5, -4).flatten(-3, -2)


def shift_mask(height: int, width: int, window: int, shift: int, device: torch.device) -> Tensor:
    """Return which pairs of a shifted map's window were neighbours before the shift.

    Shape: ``(windows, window², window²)`` bool.
    """
    rows, columns = (
        (torch.arange(n, device=device) >= n - window).int() + (torch.arange(n, device=device) >= n - shift).int()
        for n in (height, width)
    )
    region = partition((3 * rows[:, None] + columns)[..., None], window).squeeze(-1)
    return region[:, :, None] == region[:, None]


class WindowAttention(nn.Module):
    """Window-based multi-head self-attention with relative position bias, for T tasks at once.

    Maps are padded right and bottom to a multiple of the window first, then shifted.

    Args:
        tasks: T.
        dim: channels.
        heads: attention heads; must divide ``dim``.
        window: side of a window, pixels.
        shift: how far windows are shifted, pixels.

    Shape: ``(T, B, H, W, dim) → (T, B, H, W, dim)``.
    Source: Liu et al., Swin Transformer, ICCV 2021.
    """

    rounded = ("position_bias",)
    position_index: Tensor

    def __init__(self, tasks: int, dim: int, heads: int, window: int = 12, shift: int = 0) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(
                f"Expected a width that {heads} attention heads divide, got {dim}: choose an encoder whose width is a "
                "multiple, such as encoder=swin_large or encoder=swin_tiny."
            )
        self.heads, self.window, self.shift = heads, window, shift
        self.qkv = TaskLinear(tasks, dim, 3 * dim)
        self.proj = TaskLinear(tasks, dim, dim)
        self.position_bias = nn.Parameter(
            nn.init.trunc_normal_(torch.empty(tasks, (2 * window - 1) ** 2, heads), std=0.02)
        )
        self.register_buffer("position_index", relative_position_index(window), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Let the pixels of each window attend to one another."""
        _, batch, height, width, _ = x.shape
        window, shift = self.window, self.shift
        rows, columns = ((side + window - 1) // window for side in (height, width))
        x = F.pad(x, (0, 0, 0, columns * window - width, 0, rows * window - height))
        bias = self.position_bias[:, self.position_index].permute(0, 3, 1, 2)[:, None]  # (T, 1, heads, n, n)
        if shift:
            x = x.roll((-shift, -shift), dims=(2, 3))
            mask = shift_mask(x.shape[2], x.shape[3], window, shift, x.device)
            bias = bias.masked_fill(~mask[:, None], -100.0).repeat(1, batch, 1, 1, 1)  # (T, B windows, heads, n, n)
        qkv = self.qkv(partition(x, window).flatten(1, 2))  # (T, B windows, n, 3 dim)
        q, k, v = rearrange(qkv, "t w n (three h c) -> three t w h n c", three=3, h=self.heads)
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
        x = self.proj(rearrange(x, "t w h n c -> t w n (h c)"))
        x = rearrange(x, "t (b i j) (p q) c -> t b (i p) (j q) c", i=rows, j=columns, p=window)
        if shift:
            x = x.roll((shift, shift), dims=(2, 3))
        return x[:, :, :height, :width]


class SwinBlock(nn.Module):
    """A standard Swin Transformer block for T tasks at once, the decoder block of Table 2's "2*Swin".

    Shape: ``(T, B, H, W, dim) → (T, B, H, W, dim)``.
    Source: Liu et al., Swin Transformer, ICCV 2021, eq. 3.
    """

    def __init__(self, tasks: int, dim: int, heads: int, window: int, shift: int) -> None:
        super().__init__()
        self.norm1 = TaskLayerNorm(tasks, dim)
        self.attention = WindowAttention(tasks, dim, heads, window, shift)
        self.norm2 = TaskLayerNorm(tasks, dim)
        self.mlp = nn.Sequential(TaskLinear(tasks, dim, 4 * dim), nn.GELU(), TaskLinear(tasks, 4 * dim, dim))
        self.drop_path1 = DropPath(tasks=tasks)
        self.drop_path2 = DropPath(tasks=tasks)

    def forward(self, x: Tensor) -> Tensor:
        """Attend, then transform each pixel; both residual."""
        x = x + self.drop_path1(self.attention(self.norm1(x)))
        return x + self.drop_path2(self.mlp(self.norm2(x)))
