"""PAD-Net: initial predictions of every task, then features distilled from task to task."""

from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor, nn

from mtmamba.models.decoders import Decoder
from mtmamba.models.decoders.conv import Bottleneck, Distil, Fuse, Predict, channels_first, enlarge
from mtmamba.types import Logits


class PADNet(Decoder):
    """Fuse the four maps; per task two bottlenecks and an initial prediction; distil; two bottlenecks and a prediction.

    Initial predictions (auxiliary ``initial``, at a quarter of the resolution) have their task's loss and feed nothing.

    Args:
        channels: of the encoder's maps at strides 4, 8, 16, 32.
        num_outputs: logits per task, in the tasks' order.
        dim: width d of every task's branch; a multiple of 4.

    Shape: four maps ``(B, h, w, c)`` → ``{task: (B, n, 4h, 4w)}`` of the first map's h, w.
    Source: Xu et al., PAD-Net, CVPR 2018, exactly as re-implemented in the survey of Vandenhende et al. (PAMI 2021),
    whose four-scale fusion for HRNet serves any pyramid. Parameters, S the sum of the channels, N of the outputs:
    ``S² + 3S + T (5Sd/4 + 4d² + 14d) + 18 T (T-1) d² + 2 (d+1) N``.

    Raises:
        ValueError: there is no task, or ``dim`` is no multiple of 4.
    """

    def __init__(self, channels: Sequence[int], num_outputs: Mapping[str, int], *, dim: int = 256) -> None:
        super().__init__()
        if not num_outputs or dim % 4 or dim < 4:
            raise ValueError(
                f"Expected at least one task and decoder.dim as a multiple of 4, got {list(num_outputs)} and {dim}: "
                "choose tasks=[…] and decoder.dim=256."
            )
        tasks, total = len(num_outputs), sum(channels)
        self.tasks = tuple(num_outputs)
        self.fuse = Fuse(channels, total)
        self.initial = nn.Sequential(Bottleneck(tasks, total, dim, shared=True), Bottleneck(tasks, dim, dim))
        self.initial_predict = Predict(dim, dict(num_outputs))
        self.distil = Distil(tasks, dim)
        self.refine = nn.Sequential(Bottleneck(tasks, dim, dim), Bottleneck(tasks, dim, dim))
        self.predict = Predict(dim, dict(num_outputs))

    def forward(self, features: Sequence[Tensor]) -> Logits:
        """Decode the encoder's maps."""
        logits, auxiliary = self.decode(features)
        self.auxiliary = auxiliary if self.training else {}
        return logits

    def decode(self, features: Sequence[Tensor]) -> tuple[Logits, dict[str, Logits]]:
        """Return final and initial predictions."""
        x = self.initial(self.fuse(channels_first(features)))  # (B, T dim, h, w)
        initial = self.initial_predict(x)
        return enlarge(self.predict(self.refine(self.distil(x)))), {"initial": initial}

    def blocks(self) -> Iterator[nn.Module]:
        """Yield what may be recomputed."""
        yield from (*self.initial, self.distil, *self.refine)

    def parts(self) -> Iterator[tuple[str, nn.Module]]:
        """Name the parts of the specification's table."""
        yield "fuse", self.fuse
        yield "initial", self.initial
        yield "initial", self.initial_predict
        yield "distil", self.distil
        yield "refine", self.refine
        yield "head", self.predict
