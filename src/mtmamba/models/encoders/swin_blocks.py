"""The parts of the Swin encoder: timm's, with windows padded first, over the functions of `mtmamba.kernels`."""

from typing import NamedTuple

from timm.models.swin_transformer import PatchMerging, SwinTransformerBlock
from torch import Tensor, nn

from mtmamba.kernels.linear import linear, linear_gelu
from mtmamba.kernels.norm import layer_norm, scale_samples
from mtmamba.kernels.residual import residual_norm
from mtmamba.kernels.window_attention import window_attention
from mtmamba.models.layers import DropPath


class LayerNorm(nn.LayerNorm):
    """A layer norm that on CUDA keeps the dtype of its input, or autocast's, where PyTorch's returns float32.

    Shape: ``(B, H, W, C) → (B, H, W, C)``.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise over the channels."""
        return layer_norm(x, self.weight, self.bias)


class Linear(nn.Linear):
    """A linear layer whose parameters' gradients on CUDA are as `mtmamba.kernels.linear` has them."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer to the last axis."""
        return linear(x, self.weight, self.bias)


class LinearGELU(nn.Linear):
    """A `Linear` with bias, and the exact GELU of what it gives."""

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


def add_and_norm(norm: nn.Module, residual: Residual) -> tuple[Tensor, Tensor]:
    """Return the sum and its norm."""
    if isinstance(norm, LayerNorm):
        return residual_norm(residual.x, norm.weight, norm.bias, residual.added, residual.scale)
    x = residual.total()
    return x, norm(x)


class CopyFreePatchMerging(PatchMerging):
    """timm's patch merging, which pads, and so copies, maps of even sides all the same.

    Shape: ``(B, H, W, C) → (B, ceil(H / 2), ceil(W / 2), 2 C)``.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Join the channels of 2x2 pixels, the upper left one's first and the lower left one's next."""
        if x.shape[1] % 2 or x.shape[2] % 2:
            padded: Tensor = super().forward(x)
            return padded
        pixels = x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2))  # (B, H / 2, row, W / 2, column, C)
        y: Tensor = self.reduction(self.norm(pixels.permute(0, 1, 3, 4, 2, 5).flatten(3)))
        return y


class PadFirstBlock(SwinTransformerBlock):
    """timm's Swin block with windows padded before they are shifted, as the published models were trained.

    timm shifts first and pads after, which moves image content across the border whenever a side is no multiple of
    the window. Attention is one function (`mtmamba.kernels.window_attention`), and so is each norm with the residual
    sum before it; the block's last sum is left to the norm that follows.

    Shape: ``(B, H, W, C)``, or a `Residual` of such maps → a `Residual` of such maps, where timm's block returns a map:
    timm's stage hands on what its blocks return, whatever it is.
    """

    def forward(self, x: Tensor | Residual) -> Residual:  # type: ignore[override]
        """Attend, then transform each pixel; both residual."""
        x, normed = add_and_norm(self.norm1, x if isinstance(x, Residual) else Residual(x))
        y = self._attn(normed)
        x, normed = add_and_norm(self.norm2, Residual(x, y, _factor(self.drop_path1, y)))
        y = self.mlp(normed)
        return Residual(x, y, _factor(self.drop_path2, y))

    def _attn(self, x: Tensor) -> Tensor:
        """Attend within windows, padded pixels included."""
        attention, (window, _), (shift, _) = self.attn, self.window_size, self.shift_size
        qkv, proj = attention.qkv, attention.proj
        table = attention.relative_position_bias_table
        return window_attention(x, qkv.weight, qkv.bias, proj.weight, proj.bias, table, window, shift)


def _factor(drop_path: nn.Module, x: Tensor) -> Tensor | None:
    """Return what stochastic depth multiplies each sample of ``x`` by; None for ones."""
    return drop_path.factor(x) if isinstance(drop_path, DropPath) else None
