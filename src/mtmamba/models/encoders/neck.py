"""A neck: four maps of any channels brought to the widths that MTMamba's decoders follow."""

from collections.abc import Sequence

from torch import Tensor, nn


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
        return [norm(project(x)) for project, norm, x in zip(self.project, self.norms, maps, strict=True)]
