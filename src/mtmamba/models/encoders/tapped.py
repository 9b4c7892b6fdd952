"""An encoder that gives, beside its maps, what each stage's last block reads."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from mtmamba.models.encoders.encoder import Encoder
from mtmamba.models.encoders.swin import SwinEncoder


class TappedEncoder(Encoder):
    """An encoder's maps, each after the map before its stage's last block; both have the stage's output norm.

    Args:
        encoder: one of Swin's; its blocks keep the channels of their stage.

    Shape: images ``(B, 3, H, W)`` → four pairs of maps ``(2, B, h, w, c)``, before and after.

    Raises:
        ValueError: another encoder.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        if not hasattr(encoder, "tapped"):
            raise ValueError(
                f"Expected an encoder whose stages can be tapped before their last block, got {type(encoder).__name__}"
                ": choose encoder=swin_…, or decoder=concat_head."
            )
        self.encoder: SwinEncoder = encoder  # type: ignore[assignment]
        self.channels = encoder.channels
        self.fresh = tuple(f"encoder.{name}" for name in encoder.fresh)

    def blocks(self) -> Iterator[nn.Module]:
        """Yield the encoder's blocks."""
        yield from self.encoder.blocks()

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the four pairs of maps."""
        x, pairs = images, []
        for s in range(len(self.channels)):
            before, x = self.encoder.tapped(s, x)
            pairs.append(torch.stack([self.encoder.output(s, before), self.encoder.output(s, x)]))
        return pairs
