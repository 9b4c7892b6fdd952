"""Whatever timm can make: pyramids of any channels, and plain ViTs through a simple feature pyramid."""

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import pairwise
from math import log2
from pathlib import Path
from statistics import fmean
from typing import Any

import timm
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import Format
from timm.models import FeatureListNet
from torch import Tensor, nn
from torch.nn import functional as F

from mtmamba.models.encoders.encoder import STRIDES, Encoder, Renormalise, on_meta, own_drop_path
from mtmamba.models.encoders.neck import Neck, SimplePyramid
from mtmamba.models.pretrained import create_pretrained, load_timm_weights
from mtmamba.models.skeleton import skeleton

TRIAL_SIZE = (416, 608)
"""Height and width of a trial: divisible by 32, but the maps are not divisible by any usual side of a window."""

TRIAL_SETTINGS: tuple[dict[str, Any], ...] = ({}, {"strict_img_size": False}, {"dynamic_img_size": True})
"""What makes some of timm's models take images of any size, position embeddings resampled."""


class UnfitError(ValueError):
    """A model of timm's cannot be an encoder.

    Attributes:
        reason: why, as a clause about the model.
    """

    def __init__(self, name: str, reason: str, remedy: str = "choose another, such as convnext_tiny") -> None:
        super().__init__(
            f"Expected a timm model with maps at strides {STRIDES}, or at one for every layer, of images of any size, "
            f"got encoder.name={name}, which {reason}: {remedy}."
        )
        self.reason = reason


class TimmEncoder(Encoder):
    """Any timm model: its maps at strides 4, 8, 16 and 32, or those of a plain ViT's layers made into a pyramid.

    Channels that double from map to map are kept, and each map gets a layer norm; other channels go through a `Neck`.
    Images are normalised as everywhere in this program; the encoder turns them into what the model's weights expect. A
    ViT whose patches are no power of two sees images resized so that its maps have a stride of one: 14 becomes 16.

    Args:
        name: timm's name of the model, with or without the tag of its weights, such as ``convnext_tiny``.
        width: channels of the first map, each further one having twice as many; the model's own, or the nearest
            multiple of 8, by default.
        layers: of a ViT, the numbers of the blocks whose maps are taken, side by side; the last by default.
        drop_path: stochastic depth, spread over the blocks as timm does; 0 for models without.
        pretrained: fetch its weights.
        weights: a file of weights to load instead, in timm's naming or one that timm's filter for the model knows.

    Shape: images ``(B, 3, H, W)`` → four maps ``(B, h, w, c)``.
    Source: Wightman, PyTorch Image Models; Li et al., Exploring Plain Vision Transformer Backbones for Object
        Detection, ECCV 2022, for the pyramid.

    Raises:
        ValueError: timm has no such model; UnfitError where it has not these maps, or takes images of one size only.
        WeightsError: the weights cannot be had, or are not this model's.
    """

    fresh = ("norms", "neck", "pyramid")

    def __init__(
        self,
        name: str,
        *,
        width: int | None = None,
        layers: Sequence[int] | None = None,
        drop_path: float = 0.1,
        pretrained: bool = False,
        weights: str | Path | None = None,
    ) -> None:
        super().__init__()
        if width is not None and width < 1:
            raise ValueError(f"Expected encoder.width of at least 1, got {width}: leave it at null, or try 96.")
        settings, strides = _feature_settings(name, drop_path, None if layers is None else tuple(layers))
        fetched = pretrained and weights is None and not on_meta()
        features: Any = (create_pretrained if fetched else timm.create_model)(name, **settings)
        if weights is not None and not on_meta():
            load_timm_weights(features, name, Path(weights))
        own_drop_path(features)
        self.features: nn.Module = features
        self.channels_last = channels_last(features)
        own = timm.get_pretrained_cfg(name)
        mean, std = (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD) if own is None else (own.mean, own.std)
        standard = (tuple(mean), tuple(std)) == (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
        self.renormalise = nn.Identity() if standard else Renormalise(mean, std)

        channels = tuple(features.feature_info.channels())
        self.resize = 1.0
        self.pyramid, self.neck, self.norms = None, None, None
        if strides != STRIDES:  # a plain ViT
            stride = 2 ** round(log2(strides[0]))
            self.resize = strides[0] / stride
            self.pyramid = SimplePyramid(sum(channels), width or _multiple_of_8(channels[0] * 4 / stride), stride)
            self.channels = self.pyramid.channels
        elif width not in (None, channels[0]) or any(2 * a != b for a, b in pairwise(channels)):
            self.neck = Neck(channels, width or _nearest_width(channels))
            self.channels = self.neck.channels
        else:
            self.norms = nn.ModuleList(nn.LayerNorm(c) for c in channels)
            self.channels = channels

    def blocks(self) -> Iterator[nn.Module]:
        """Yield the model's stages or a ViT's blocks, or the whole encoder where timm does not tell them apart."""
        if isinstance(self.features, FeatureListNet):
            for stage in self.features.return_layers:
                yield self.features[stage]
        elif self.pyramid is not None and isinstance(blocks := getattr(self.features.model, "blocks", None), nn.Module):
            yield from blocks.children()
        else:
            yield self

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the four normed maps, finest first."""
        images = self.renormalise(images)
        if self.resize != 1:
            size = [round(side * self.resize) for side in images.shape[2:]]
            images = F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=self.resize < 1)
        maps: list[Tensor] = self.features(images)
        if self.pyramid is not None:
            x = torch.cat(maps, dim=1)  # (B, layers * C, h, w)
            return self.pyramid(x)
        if not self.channels_last:
            maps = [x.permute(0, 2, 3, 1) for x in maps]  # (B, h, w, c)
        if self.neck is not None:
            return self.neck(maps)
        assert self.norms is not None
        return [norm(x) for norm, x in zip(self.norms, maps, strict=True)]


def _nearest_width(channels: Sequence[int]) -> int:
    """Return the width whose doublings are nearest to some channels, by their ratios."""
    return _multiple_of_8(2 ** fmean(log2(c) - i for i, c in enumerate(channels)))


def _multiple_of_8(width: float) -> int:
    return max(8, 8 * round(width / 8))


@cache
def _feature_settings(
    name: str, drop_path: float, layers: tuple[int, ...] | None
) -> tuple[dict[str, Any], tuple[int, ...]]:
    """Return what makes timm build the model as an encoder for any image size, and the strides of its maps.

    It is found without allocating anything, once for a model.
    """
    if not timm.is_model(name):
        raise ValueError(f"Expected the name of a timm model, got encoder.name={name}: see timm.list_models().")
    failures = []
    with skeleton():
        for extra in TRIAL_SETTINGS:
            settings: dict[str, Any] = {"features_only": True, "drop_path_rate": drop_path or None, **extra}
            try:
                every: Any = timm.create_model(name, **settings)
                strides = tuple(every.feature_info.reduction())
                settings["out_indices"] = _indices(name, strides, layers, every.feature_info.out_indices)
                features: Any = timm.create_model(name, **settings)
                stride = 2 ** round(log2(strides[0]))
                sides = [side * strides[0] // stride for side in TRIAL_SIZE] if len(set(strides)) == 1 else TRIAL_SIZE
                maps = features.eval()(torch.empty(1, 3, *sides))
            except (AssertionError, RuntimeError, TypeError) as error:
                failures.append(error)
            else:
                found = tuple(features.feature_info.reduction())
                _require_sides(name, maps, sides, found, channels_last(features))
                return settings, found
    remedy = "choose another, or encoder.drop_path=0 if it has no stochastic depth"
    raise UnfitError(name, f"fails at {TRIAL_SIZE} ({failures[0]})", remedy) from failures[0]


def channels_last(features: nn.Module) -> bool:
    """Return whether one of timm's feature extractors gives maps ``(B, h, w, c)``, not ``(B, c, h, w)``."""
    return getattr(features, "output_fmt", Format.NCHW) == Format.NHWC


def _require_sides(name: str, maps: Sequence[Tensor], sides: Sequence[int], strides: Sequence[int], last: bool) -> None:
    """Refuse maps that are not as large as their strides say, as where convolutions do not pad."""
    for x, stride in zip(maps, strides, strict=True):
        found, expected = tuple(x.shape[1:3] if last else x.shape[2:]), tuple(side // stride for side in sides)
        if found != expected:
            raise UnfitError(name, f"has a map of {found} at stride {stride} of {tuple(sides)}, not {expected}")


def _indices(
    name: str, strides: Sequence[int], layers: tuple[int, ...] | None, numbers: Sequence[int]
) -> tuple[int, ...]:
    """Return which of a model's maps to take, given the strides of those that it has and timm's numbers of these."""
    if len(set(strides)) == 1:  # a plain ViT, whose layers all have the same
        return (-1,) if layers is None else layers
    if layers is not None:
        raise ValueError(f"Expected encoder.layers=null with encoder.name={name}, whose maps have strides {strides}.")
    if missing := [stride for stride in STRIDES if stride not in strides]:
        raise UnfitError(name, f"has maps at strides {tuple(strides)}, without {missing}")
    return tuple(numbers[strides.index(stride)] for stride in STRIDES)
