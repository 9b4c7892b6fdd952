"""The multi-task baseline: a head of its own for every task on the four maps, and nothing between tasks."""

from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor, nn

from mtmamba.models.decoders import AuxiliaryDecoder
from mtmamba.models.decoders.conv import Fuse, Predict, channels_first, enlarge
from mtmamba.types import Logits


class ConcatHead(AuxiliaryDecoder):
    """Per task: the four maps joined at stride 4, a 1x1 convolution, batch norm, ReLU, and a 1x1 convolution.

    Args:
        channels: of the encoder's maps at strides 4, 8, 16, 32.
        num_outputs: logits per task, in the tasks' order.
        head_width: channels between the two convolutions; None for as many as there are in the four maps, as in the
            original: at Swin-Large's widths four such heads cost as much as all of MTMamba.

    Shape: four maps ``(B, h, w, c)`` → ``{task: (B, n, 4h, 4w)}`` of the first map's h, w.
    Source: the HRNet head of the survey of Vandenhende et al. (PAMI 2021). Parameters, S the sum of the channels, w the
    width, N the sum of the outputs: ``T (Sw + 3w) + (w+1) N``.

    Raises:
        ValueError: there is no task, or no width.
    """

    shared = True
    """Whether all tasks read the same maps."""

    def __init__(
        self, channels: Sequence[int], num_outputs: Mapping[str, int], *, head_width: int | None = 256
    ) -> None:
        super().__init__()
        width = sum(channels) if head_width is None else head_width
        if not num_outputs or width < 1:
            raise ValueError(
                f"Expected at least one task and decoder.head_width of at least 1, got {list(num_outputs)} and {width}"
                ": choose tasks=[…] and decoder.head_width=256."
            )
        self.tasks = tuple(num_outputs)
        self.fuse = Fuse(channels, width, len(num_outputs), shared=self.shared)
        self.predict = Predict(width, dict(num_outputs))

    def decode(self, features: Sequence[Tensor]) -> tuple[Logits, dict[str, Logits]]:
        """Return every task's logits, and no intermediate ones."""
        return enlarge(self.predict(self.fuse(channels_first(features)))), {}

    def blocks(self) -> Iterator[nn.Module]:
        """Yield what may be recomputed."""
        yield self.fuse

    def parts(self) -> Iterator[tuple[str, nn.Module]]:
        """Name the decoder's only part."""
        yield "head", self
