"""Four maps with the widths that MTMamba's decoders follow, from four of any channels, or from one."""

from collections.abc import Sequence

from timm.layers import LayerNorm2d
from torch import Tensor, nn

from mtmamba.models.encoders.encoder import STRIDES


class Neck(nn.Module):
    """A 1x1 projection and a layer norm for each of four maps.

    Args:
        channels: of the maps, finest first.
        width: channels of the first map that leaves; each further map has twice as many.

    Attributes:
        channels: of the maps that leave, ``width`` times 1, 2, 4, 8.

    Shape: four maps ``(B, h, w, c)`` → four maps ``(B, h, w, width 2^i)``.
    """

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.channels = tuple(width * 2**i for i in range(len(channels)))
        self.project = nn.ModuleList(nn.Linear(c, out) for c, out in zip(channels, self.channels, strict=True))
        self.norms = nn.ModuleList(nn.LayerNorm(out) for out in self.channels)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Project and normalise each map."""
        return [self.level(i, x) for i, x in enumerate(maps)]

    def level(self, i: int, x: Tensor) -> Tensor:
        """Project and normalise the map of one scale, 0 for the finest."""
        return self.norms[i](self.project[i](x))


class SimplePyramid(nn.Module):
    """Four maps from one of a plain ViT: transposed convolutions or pooling, then a 1x1 and a 3x3 convolution.

    Args:
        dim: channels of the ViT's map.
        width: channels of the first map that leaves; each further map has twice as many.
        stride: of the ViT's map, a power of two.

    Attributes:
        channels: of the maps that leave, ``width`` times 1, 2, 4, 8.

    Shape: ``(B, dim, h, w)`` → four maps ``(B, h', w', width 2^i)`` at strides 4, 8, 16, 32.
    Source: Li et al., Exploring Plain Vision Transformer Backbones for Object Detection, ECCV 2022.
    """

    def __init__(self, dim: int, width: int, stride: int) -> None:
        super().__init__()
        self.channels = tuple(width * 2**i for i in range(len(STRIDES)))
        levels = zip(STRIDES, self.channels, strict=True)
        self.levels = nn.ModuleList(_level(dim, out, stride, target) for target, out in levels)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Bring the map to each stride."""
        return [level(x).permute(0, 2, 3, 1) for level in self.levels]  # (B, h', w', width 2^i)


def _level(dim: int, out: int, stride: int, target: int) -> nn.Module:
    layers: list[nn.Module] = []
    while stride > target:
        layers += [nn.ConvTranspose2d(dim, dim // 2, 2, stride=2)]
        dim, stride = dim // 2, stride // 2
        if stride > target:
            layers += [LayerNorm2d(dim), nn.GELU()]
    if stride < target:
        layers += [nn.MaxPool2d(target // stride)]
    layers += [nn.Conv2d(dim, out, 1, bias=False), LayerNorm2d(out)]
    layers += [nn.Conv2d(out, out, 3, padding=1, bias=False), LayerNorm2d(out)]
    return nn.Sequential(*layers)
