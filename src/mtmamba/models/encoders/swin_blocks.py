"""The parts of the Swin encoder, over the functions of `mtmamba.kernels`; parameters have timm's names."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtmamba.kernels.linear import linear, linear_gelu
from mtmamba.kernels.norm import layer_norm, scale_samples
from mtmamba.kernels.residual import residual_norm
from mtmamba.kernels.window_attention import window_attention
from mtmamba.models.drop_path import DropPath


class LayerNorm(nn.LayerNorm):
    """A layer norm that on CUDA keeps the dtype of its input, or autocast's, where PyTorch's returns float32.

    Shape: ``(B, H, W, C) → (B, H, W, C)``.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise over the channels."""
        return layer_norm(x, self.weight, self.bias)


class Linear(nn.Linear):
    """A linear layer whose parameters' gradients on CUDA are as `mtmamba.kernels.linear` has them."""

    rounded = ("weight", "bias")

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer to the last axis."""
        return linear(x, self.weight, self.bias)


class LinearGELU(nn.Linear):
    """A `Linear` with bias, and the exact GELU of what it gives."""

    rounded = ("weight", "bias")

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer to the last axis, then GELU."""
        return linear_gelu(x, self.weight, self.bias)


class Residual(NamedTuple):
    """A residual sum that is not formed yet: the norm that comes next does so as it reads both maps."""

    x: Tensor
    added: Tensor | None = None
    scale: Tensor | None = None
    """Factors of ``added`` for each sample, ``(B,)``; None for ones."""

    def total(self) -> Tensor:
        """Return ``x + scale added``."""
        return self.x if self.added is None else self.x + scale_samples(self.added, self.scale)


def add_and_norm(norm: LayerNorm, residual: Residual) -> tuple[Tensor, Tensor]:
    """Return the sum and its norm."""
    return residual_norm(residual.x, norm.weight, norm.bias, residual.added, residual.scale)


class PatchEmbed(nn.Module):
    """Non-overlapping patches to tokens, and a layer norm.

    Shape: ``(B, 3, H, W) → (B, H / 4, W / 4, dim)``.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, kernel_size=4, stride=4)
        self.norm = LayerNorm(dim)

    def forward(self, images: Tensor) -> Tensor:
        """Embed each 4x4 patch."""
        return self.norm(self.proj(images).permute(0, 2, 3, 1))  # (B, H / 4, W / 4, dim)


class PatchMerging(nn.Module):
    """Join 2x2 pixels into one of twice the channels, padding odd sides with zeros.

    Shape: ``(B, H, W, C) → (B, ceil(H / 2), ceil(W / 2), 2 C)``.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = LayerNorm(4 * dim)
        self.reduction = Linear(dim * 4, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Join the pixels, and halve their channels."""
        return self.reduction(self.norm(self.joined(x)))

    @staticmethod
    def joined(x: Tensor) -> Tensor:
        """Join the channels of 2x2 pixels, the upper left one's first and the lower left one's next."""
        if x.shape[1] % 2 or x.shape[2] % 2:  # padding by nothing would copy
            x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        pixels = x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2))  # (B, H / 2, row, W / 2, column, C)
        return pixels.permute(0, 1, 3, 4, 2, 5).flatten(3)


class WindowAttention(nn.Module):
    """Attention of the pixels of each window, padded pixels included, with a bias by relative position.

    Maps are padded before they are shifted, as where the published weights were trained; timm shifts first, which moves
    image content across the border whenever a side is no multiple of the window.

    Shape: ``(B, H, W, dim) → (B, H, W, dim)``.
    """

    def __init__(self, dim: int, heads: int, window: int, shift: int) -> None:
        super().__init__()
        self.window, self.shift = window, shift
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.qkv = Linear(dim, 3 * dim)
        self.proj = Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Let the pixels of each window attend to one another."""
        qkv, proj, table = self.qkv, self.proj, self.relative_position_bias_table
        return window_attention(x, qkv.weight, qkv.bias, proj.weight, proj.bias, table, self.window, self.shift)


class MLP(nn.Module):
    """Two linear layers with a GELU between: ``(..., dim) → (..., dim)`` over four times as many channels."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = LinearGELU(dim, 4 * dim)
        self.fc2 = Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Transform each pixel."""
        return self.fc2(self.fc1(x))


class SwinBlock(nn.Module):
    """A Swin Transformer block whose last sum is left to the norm that follows.

    Args:
        dim: channels.
        heads: of the attention; they divide ``dim``.
        window: side of a window, pixels.
        shift: how far windows are shifted, pixels.
        drop_path: stochastic depth of both residual branches.

    Shape: a `Residual` of maps ``(B, H, W, dim)`` → one of such maps.
    Source: Liu et al., Swin Transformer, ICCV 2021, eq. 3; parameters have timm's names and order.
    """

    def __init__(self, dim: int, heads: int, window: int, shift: int, drop_path: float = 0.0) -> None:
        super().__init__()
        self.norm1 = LayerNorm(dim)
        self.attn = WindowAttention(dim, heads, window, shift)
        self.drop_path1 = DropPath(drop_path)
        self.norm2 = LayerNorm(dim)
        self.mlp = MLP(dim)
        self.drop_path2 = DropPath(drop_path)

    def forward(self, residual: Residual) -> Residual:
        """Attend, then transform each pixel; both residual."""
        x, normed = add_and_norm(self.norm1, residual)
        y = self.attn(normed)
        x, normed = add_and_norm(self.norm2, Residual(x, y, self.drop_path1.factor(y)))
        y = self.mlp(normed)
        return Residual(x, y, self.drop_path2.factor(y))


class SwinStage(nn.Module):
    """Patch merging, but in the first stage, and blocks of which every second one is shifted.

    Args:
        dim: channels of the stage.
        heads: of the attention.
        window: side of a window, pixels.
        drop_path: stochastic depth of each block.
        first: whether no stage comes before.

    Shape: ``(B, H, W, dim)`` where first, else ``(B, 2 H, 2 W, dim / 2)`` → a `Residual` of maps ``(B, H, W, dim)``.
    """

    def __init__(self, dim: int, heads: int, window: int, drop_path: Sequence[float], first: bool) -> None:
        super().__init__()
        self.downsample = nn.Identity() if first else PatchMerging(dim // 2)
        shifts = (window // 2 if i % 2 else 0 for i in range(len(drop_path)))
        blocks = (SwinBlock(dim, heads, window, shift, rate) for shift, rate in zip(shifts, drop_path, strict=True))
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Residual:
        """Halve the map and let its windows attend."""
        return self.blocks(Residual(self.downsample(x)))
