"""Encoders: images to four normed channels-last maps at strides 4, 8, 16 and 32."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from timm.layers import DropPath as TimmDropPath
from timm.models.swin_transformer import SwinTransformer, SwinTransformerBlock, window_partition, window_reverse
from torch import Tensor, nn
from torch.nn import functional as F

from mtmamba.models.layers import DropPath
from mtmamba.models.pretrained import load_pretrained, load_weights


class Encoder(nn.Module, ABC):
    """What the decoder asks of an encoder.

    Attributes:
        channels: channels of the four maps, finest first.

    Shape: images ``(B, 3, H, W)``, sides divisible by 32 → four maps ``(B, h, w, c)``.
    """

    channels: tuple[int, ...]

    @abstractmethod
    def blocks(self) -> Iterator[nn.Module]:
        """Yield the blocks whose activations may be recomputed."""


class PadFirstBlock(SwinTransformerBlock):
    """timm's Swin block with windows padded before they are shifted, as the published models were trained.

    timm shifts first and pads after, which moves image content across the border whenever a side is no multiple of
    the window.
    """

    def _attn(self, x: Tensor) -> Tensor:
        (_, height, width, channels), (window, _), (shift, _) = x.shape, self.window_size, self.shift_size
        x = F.pad(x, (0, 0, 0, -width % window, 0, -height % window))
        padded = x.shape
        if shift:
            x = x.roll((-shift, -shift), dims=(1, 2))
        windows = window_partition(x, self.window_size).view(-1, window * window, channels)
        windows = self.attn(windows, mask=self.get_attn_mask(x)).view(-1, window, window, channels)
        x = window_reverse(windows, self.window_size, padded[1], padded[2])
        if shift:
            x = x.roll((shift, shift), dims=(1, 2))
        return x[:, :height, :width]


class SwinEncoder(Encoder):
    """Swin Transformer with a layer norm on each stage's output.

    Every second block is shifted at every resolution, and any sides divisible by 32 work.

    Args:
        embed_dim: channels of the first map; each further map has twice as many.
        depths: blocks per stage.
        num_heads: attention heads per stage.
        window: side of the attention window, in pixels of a map.
        drop_path: stochastic depth, rising linearly from 0 at the first block to this rate at the last.
        name: timm's name of the pretrained weights, with tag, such as
            ``swin_large_patch4_window12_384.ms_in22k_ft_in1k``.
        pretrained: fetch those weights.
        weights: a file of weights to load instead, with timm's, the Swin authors' or mmsegmentation's names.

    Shape: images ``(B, 3, H, W)`` → four maps ``(B, h, w, c)``.
    Source: Liu et al., Swin Transformer, ICCV 2021, by timm; the output norms are those of its segmentation models.

    Raises:
        WeightsError: the weights cannot be had, or do not match this encoder.
    """

    def __init__(
        self,
        embed_dim: int,
        depths: Sequence[int],
        num_heads: Sequence[int],
        window: int,
        *,
        drop_path: float = 0.1,
        name: str | None = None,
        pretrained: bool = False,
        weights: str | Path | None = None,
    ) -> None:
        super().__init__()
        self.channels = tuple(embed_dim * 2**i for i in range(4))
        swin = SwinTransformer(
            embed_dim=embed_dim,
            depths=tuple(depths),
            num_heads=tuple(num_heads),
            window_size=window,
            drop_path_rate=drop_path,
            num_classes=0,
            strict_img_size=False,
            always_partition=True,
            norm_layer=nn.LayerNorm,
        )
        self.patch_embed = swin.patch_embed
        self.layers = swin.layers
        self.norms = nn.ModuleList(nn.LayerNorm(c) for c in self.channels)
        for block in self.blocks():
            block.__class__ = PadFirstBlock  # the same module with its attention step replaced
            block.attn.fused_attn = True
            for drop in ("drop_path1", "drop_path2"):
                if isinstance(rate := getattr(block, drop), TimmDropPath):
                    setattr(block, drop, DropPath(rate.drop_prob))

        if torch.empty(0).device.type != "meta":
            if weights is not None:
                load_weights(self, Path(weights))
            elif pretrained:
                load_pretrained(self, name)

    def blocks(self) -> Iterator[nn.Module]:
        """Yield the Swin blocks, first to last."""
        for stage in self.layers:
            yield from stage.blocks

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the four normed maps, finest first."""
        x, maps = self.patch_embed(images), []
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = layer(x)
            maps.append(norm(x))
        return maps
