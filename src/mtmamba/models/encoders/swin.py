"""Swin Transformer: the encoder of the paper."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from mtmamba.models.encoders.encoder import StagedEncoder, on_meta
from mtmamba.models.encoders.swin_blocks import LayerNorm, PatchEmbed, Residual, SwinBlock, SwinStage, add_and_norm
from mtmamba.models.pretrained import load_pretrained, load_weights


class SwinEncoder(StagedEncoder):
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
    Source: Liu et al., Swin Transformer, ICCV 2021; the output norms are those of its segmentation models.

    Raises:
        ValueError: there are not four stages, or a stage's heads do not divide its channels.
        WeightsError: the weights cannot be had, or do not match this encoder.
    """

    fresh = ("norms",)

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
        self.channels = self.streams = tuple(embed_dim * 2**i for i in range(4))
        if not len(depths) == len(num_heads) == 4 or min(depths) < 1:
            raise ValueError(
                f"Expected four depths of at least 1 and four numbers of heads, got {list(depths)} and "
                f"{list(num_heads)}: correct encoder.depths and encoder.num_heads."
            )
        if any(heads < 1 or dim % heads for dim, heads in zip(self.channels, num_heads, strict=True)):
            raise ValueError(
                f"Expected numbers of heads that divide the channels {list(self.channels)}, got {list(num_heads)}: "
                "correct encoder.embed_dim or encoder.num_heads."
            )
        rates = torch.linspace(0, drop_path, sum(depths), device="cpu").split(list(depths))
        self.patch_embed = PatchEmbed(embed_dim)
        self.layers = nn.ModuleList(
            SwinStage(dim, heads, window, rate.tolist(), first=dim == embed_dim)
            for dim, heads, rate in zip(self.channels, num_heads, rates, strict=True)
        )
        self.norms = nn.ModuleList(LayerNorm(c) for c in self.channels)
        for module in self.layers.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

        if not on_meta():
            if weights is not None:
                load_weights(self, Path(weights))
            elif pretrained:
                load_pretrained(self, name)

    def blocks(self) -> Iterator[SwinBlock]:
        """Yield the Swin blocks, first to last."""
        return (module for module in self.layers.modules() if isinstance(module, SwinBlock))

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the four normed maps, finest first."""
        x, maps = self.patch_embed(images), []
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x, y = add_and_norm(cast(LayerNorm, norm), layer(x))
            maps.append(y)
        return maps

    def stage(self, s: int, x: Tensor) -> Tensor:
        """Run a stage, the first one on embedded patches."""
        return self.tapped(s, x)[1]

    def tapped(self, s: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """Run a stage; return what its last block reads, too: ``(B, h, w, c)`` both."""
        layer = cast(SwinStage, self.layers[s])
        residual = Residual(layer.downsample(x if s else self.patch_embed(x)))
        *others, last = layer.blocks
        for block in others:
            residual = block(residual)
        return residual.total(), last(residual).total()

    def output(self, s: int, x: Tensor) -> Tensor:
        """Normalise a stage's result."""
        return self.norms[s](x)
