"""FCN, the baseline of ATRC's authors: a wide convolution of the joined maps for each task, and a prediction."""

from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor, nn

from mtmamba.models.decoders import AuxiliaryDecoder
from mtmamba.models.decoders.conv import Predict, channels_first, conv_norm_relu, enlarge, join, start_small
from mtmamba.types import Logits


class FCN(AuxiliaryDecoder):
    """Join the four maps, and predict each task from a 3x3 convolution of its own to a quarter of their channels.

    Args:
        channels: of the encoder's maps at strides 4, 8, 16, 32.
        num_outputs: logits per task, in the tasks' order.
        neck: channels to which 1x1 convolutions bring the four maps first; None for none.

    Shape: four maps ``(B, h, w, c)`` → ``{task: (B, n, 4h, 4w)}`` of the first map's h, w.
    Source: Bruggemann et al., Exploring Relational Context for Multi-Task Dense Prediction, ICCV 2021, as in the
    authors' program; the neck is ours. Parameters without it, P the sum of the channels, d = P // 4, N of the outputs:
    ``T (9Pd + 2d) + (d+1) N``.

    Raises:
        ValueError: there is no task, or the neck has not four widths that sum to at least 4.
    """

    def __init__(
        self, channels: Sequence[int], num_outputs: Mapping[str, int], *, neck: Sequence[int] | None = None
    ) -> None:
        super().__init__()
        widths = list(channels if neck is None else neck)
        if not num_outputs or len(widths) != 4 or min(widths) < 1:
            raise ValueError(
                f"Expected at least one task and four widths in decoder.neck, got {list(num_outputs)} and {widths}: "
                "choose tasks=[…] and decoder.neck=[48,96,192,384], or null for none."
            )
        self.tasks, self.total = tuple(num_outputs), sum(widths)
        self.dim = self.total // 4
        self.neck = nn.ModuleList(
            nn.Identity() if neck is None else conv_norm_relu(1, c, width)
            for c, width in zip(channels, widths, strict=True)
        )
        self.features = conv_norm_relu(len(self.tasks), self.total, self.dim, 3, shared=True)
        self.predict = Predict(self.dim, dict(num_outputs))
        start_small(self.predict)

    def decode(self, features: Sequence[Tensor]) -> tuple[Logits, dict[str, Logits]]:
        """Return predictions, and no auxiliary ones."""
        return enlarge(self.predict(self.features(self.joined(features)))), {}

    def joined(self, features: Sequence[Tensor]) -> Tensor:
        """Return the four maps side by side ``(B, P, h, w)``, at the finest one's size."""
        return join([neck(x) for neck, x in zip(self.neck, channels_first(features), strict=True)])

    def blocks(self) -> Iterator[nn.Module]:
        """Yield what may be recomputed."""
        yield self.features

    def parts(self) -> Iterator[tuple[str, nn.Module]]:
        """Name the parts of the specification's table."""
        yield "neck", self.neck
        yield "features", self.features
        yield "head", self.predict
