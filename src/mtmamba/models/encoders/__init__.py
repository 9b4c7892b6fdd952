"""Encoders: images to four normed channels-last maps at strides 4, 8, 16 and 32."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers import DropPath as TimmDropPath
from timm.layers import Format
from timm.models import FeatureListNet
from timm.models.swin_transformer import PatchMerging, SwinTransformer, SwinTransformerBlock
from torch import Tensor, nn

from mtmamba.models.encoders.swin_blocks import (
    CopyFreePatchMerging,
    LayerNorm,
    Linear,
    LinearGELU,
    PadFirstBlock,
    add_and_norm,
)
from mtmamba.models.layers import DropPath
from mtmamba.models.pretrained import create_pretrained, load_pretrained, load_weights

STRIDES = (4, 8, 16, 32)
TRIAL_SIZE = (416, 608)
"""Divisible by 32, its maps by nothing that a window's side could be."""


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


class TimmEncoder(Encoder):
    """Any timm model with features at strides 4, 8, 16 and 32, and a layer norm on each of these maps.

    Args:
        name: timm's name of the model, with or without the tag of its weights, such as ``convnext_tiny``.
        drop_path: stochastic depth, spread over the blocks as timm does; 0 for models without.
        pretrained: fetch its weights.

    Shape: images ``(B, 3, H, W)`` → four maps ``(B, h, w, c)``.
    Source: Wightman, PyTorch Image Models.

    Raises:
        ValueError: timm has no such model, or one without these maps, or that takes images of one size only.
        WeightsError: the pretrained weights cannot be had.
    """

    def __init__(self, name: str, *, drop_path: float = 0.1, pretrained: bool = False) -> None:
        super().__init__()
        settings = _feature_settings(name, drop_path)
        create = create_pretrained if pretrained and not on_meta() else timm.create_model
        features: Any = create(name, **settings)
        own_drop_path(features)
        self.features: nn.Module = features
        self.channels = tuple(features.feature_info.channels())
        self.channels_last = getattr(features, "output_fmt", Format.NCHW) == Format.NHWC
        self.norms = nn.ModuleList(nn.LayerNorm(c) for c in self.channels)

    def blocks(self) -> Iterator[nn.Module]:
        """Yield the model's stages, or the whole encoder where timm does not tell them apart."""
        if isinstance(self.features, FeatureListNet):
            for stage in self.features.return_layers:
                yield self.features[stage]
        else:
            yield self

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the four normed maps, finest first."""
        maps = self.features(images)
        if not self.channels_last:
            maps = [x.permute(0, 2, 3, 1) for x in maps]
        return [norm(x) for norm, x in zip(self.norms, maps, strict=True)]


def own_drop_path(model: nn.Module) -> None:
    """Put `DropPath` in the place of timm's, at the same rates: its draws can be set for each sample."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, TimmDropPath):
                setattr(parent, name, DropPath(child.drop_prob))


def on_meta() -> bool:
    """Whether tensors are being made without storage: then there is nothing to load weights into."""
    return torch.empty(0).device.type == "meta"


def _feature_settings(name: str, drop_path: float) -> dict[str, Any]:
    """Return what makes timm build the model as an encoder for any image size, found without allocating anything."""
    if not timm.is_model(name):
        raise ValueError(f"Expected the name of a timm model, got encoder.name={name}: see timm.list_models().")
    failures = []
    with torch.device("meta"):
        for extra in ({}, {"strict_img_size": False}):
            settings: dict[str, Any] = {"features_only": True, "drop_path_rate": drop_path or None, **extra}
            try:
                every: Any = timm.create_model(name, **settings)
                settings["out_indices"] = _stage_indices(name, every.feature_info.reduction())
                timm.create_model(name, **settings).eval()(torch.empty(1, 3, *TRIAL_SIZE))
            except (AssertionError, RuntimeError, TypeError) as error:
                failures.append(error)
            else:
                return settings
    raise ValueError(
        f"Expected a timm model that gives features for images of any size, got encoder.name={name}, which fails at "
        f"{TRIAL_SIZE} ({failures[0]}): choose another, or encoder.drop_path=0 if it has no stochastic depth."
    ) from failures[0]


def _stage_indices(name: str, strides: Sequence[int]) -> tuple[int, ...]:
    if missing := [stride for stride in STRIDES if stride not in strides]:
        raise ValueError(
            f"Expected features at strides {STRIDES}, got {tuple(strides)} from encoder.name={name}, without {missing}:"
            " choose a model of several resolutions, such as convnext_tiny or resnet50."
        )
    return tuple(strides.index(stride) for stride in STRIDES)
