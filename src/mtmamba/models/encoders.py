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
from timm.models.swin_transformer import SwinTransformer, SwinTransformerBlock, window_partition, window_reverse
from torch import Tensor, nn
from torch.nn import functional as F

from mtmamba.kernels.dispatch import has_kernel
from mtmamba.kernels.norm import layer_norm, scale_samples
from mtmamba.kernels.residual import residual_norm
from mtmamba.kernels.window_attention import has_kernels, window_attention
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


class LayerNorm(nn.LayerNorm):
    """A layer norm that on CUDA keeps the dtype of its input, or autocast's, where PyTorch's returns float32.

    Shape: ``(B, H, W, C) → (B, H, W, C)``.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise over the channels."""
        if not has_kernel(x):
            return super().forward(x)
        return layer_norm(x[None], self.weight[None], self.bias[None]).squeeze(0)


def add_and_norm(
    x: Tensor, norm: nn.Module, added: Tensor | None = None, scale: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return ``x``, plus ``added`` times its samples' factors ``(B,)`` where given, and the norm of the sum."""
    if not (isinstance(norm, LayerNorm) and has_kernel(x)):
        x = x if added is None else x + scale_samples(added, scale)
        return x, norm(x)
    added, scale = (None if t is None else t[None] for t in (added, scale))
    total, y = residual_norm(x[None], norm.weight[None], norm.bias[None], added, scale)
    return total.squeeze(0), y.squeeze(0)


class PadFirstBlock(SwinTransformerBlock):
    """timm's Swin block with windows padded before they are shifted, as the published models were trained.

    timm shifts first and pads after, which moves image content across the border whenever a side is no multiple of
    the window. On CUDA, attention is one operator (`mtmamba.kernels.window_attention`) where there are kernels for it,
    and so is each norm with the residual sum before it.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Attend, then transform each pixel; both residual."""
        x, normed = add_and_norm(x, self.norm1)
        y = self._attn(normed)
        x, normed = add_and_norm(x, self.norm2, y, _factor(self.drop_path1, y))
        y = self.mlp(normed)
        scale = _factor(self.drop_path2, y)
        return x + y if scale is None else torch.addcmul(x, y, scale.to(y.dtype).view(-1, 1, 1, 1))

    def _attn(self, x: Tensor) -> Tensor:
        served = has_kernels(x, x.shape[-1] // self.attn.num_heads, self.window_size[0])
        return self.fused_attention(x) if served and not self.attn.attn_drop.p else self.timm_attention(x)

    def fused_attention(self, x: Tensor) -> Tensor:
        """Attend within windows that are never formed: padded pixels, zeros, have the linear layer's bias."""
        attention, (window, _), (shift, _) = self.attn, self.window_size, self.shift_size
        table = attention.relative_position_bias_table
        y = window_attention(attention.qkv(x), attention.qkv.bias, table, window, shift)
        out: Tensor = attention.proj_drop(attention.proj(y))
        return out

    def timm_attention(self, x: Tensor) -> Tensor:
        """Attend within windows padded, shifted and cut out, by timm's module."""
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


def _factor(drop_path: nn.Module, x: Tensor) -> Tensor | None:
    """Return what stochastic depth multiplies each sample of ``x`` by; None for ones."""
    return drop_path.factor(x) if isinstance(drop_path, DropPath) else None


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
        own_drop_path(self)

        if not _on_meta():
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
            x, y = add_and_norm(layer(x), norm)
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
        create = create_pretrained if pretrained and not _on_meta() else timm.create_model
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


def _on_meta() -> bool:
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
