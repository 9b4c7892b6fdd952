"""Swin Transformer: the encoder of the paper."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from timm.models.swin_transformer import PatchMerging, SwinTransformer, SwinTransformerBlock
from torch import Tensor, nn

from mtmamba.models.encoders.encoder import Encoder, on_meta, own_drop_path
from mtmamba.models.encoders.swin_blocks import (
    CopyFreePatchMerging,
    LayerNorm,
    Linear,
    LinearGELU,
    PadFirstBlock,
    add_and_norm,
)
from mtmamba.models.pretrained import load_pretrained, load_weights


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
            norm_layer=LayerNorm,
        )
        self.patch_embed = swin.patch_embed
        self.layers = swin.layers
        self.norms = nn.ModuleList(LayerNorm(c) for c in self.channels)
        for block in self.blocks():
            block.__class__ = PadFirstBlock  # the same module with its attention step replaced
            block.attn.fused_attn = True  # type: ignore[misc]
            for layer in (block.attn.qkv, block.attn.proj, block.mlp.fc2):
                layer.__class__ = Linear
            block.mlp.fc1.__class__, block.mlp.act = LinearGELU, nn.Identity()
        for stage in self.layers:
            if isinstance(stage.downsample, PatchMerging):
                stage.downsample.__class__ = CopyFreePatchMerging
                stage.downsample.reduction.__class__ = Linear
        own_drop_path(self)

        if not on_meta():
            if weights is not None:
                load_weights(self, Path(weights))
            elif pretrained:
                load_pretrained(self, name)

    def blocks(self) -> Iterator[SwinTransformerBlock]:
        """Yield the Swin blocks, first to last."""
        for module in self.layers.modules():
            if isinstance(module, SwinTransformerBlock):
                yield module

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the four normed maps, finest first."""
        x, maps = self.patch_embed(images), []
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x, y = add_and_norm(norm, layer(x))
            maps.append(y)
        return maps
