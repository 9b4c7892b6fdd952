"""MTAN: every task attends to what a shared encoder's stages give, led by what it attended to before."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtmamba.models.decoders import AuxiliaryDecoder
from mtmamba.models.decoders.conv import Bottleneck, Fuse, Predict, conv, enlarge
from mtmamba.models.encoders.encoder import Encoder
from mtmamba.models.encoders.tapped import TappedEncoder
from mtmamba.types import Logits


class Attention(nn.Sequential):
    """Each task's mask of a map, in (0, 1): two 1x1 convolutions with batch norms over a quarter of the channels.

    Shape: ``(B, T channels, h, w)``, shared ``(B, channels, h, w)`` → ``(B, T dim, h, w)``.
    """

    def __init__(self, tasks: int, channels: int, dim: int, *, shared: bool) -> None:
        hidden = dim // 4
        super().__init__(
            conv(tasks, channels, hidden, shared=shared, bias=True),
            nn.BatchNorm2d(tasks * hidden),
            nn.ReLU(),
            conv(tasks, hidden, dim, bias=True),
            nn.BatchNorm2d(tasks * dim),
            nn.Sigmoid(),
        )


class MTAN(AuxiliaryDecoder):
    """Per task and stage: a mask of the stage's map, decided by the map before the stage's last block and by what the
    task attended to at the stage before; a head on the four masked maps.

    What is handed from stage to stage goes through one bottleneck for all tasks, whose batch norms see the tasks'
    maps together; the original calls it for one task after the other.

    Args:
        channels: of the encoder's maps at strides 4, 8, 16, 32.
        num_outputs: logits per task, in the tasks' order.
        head_width: channels of a head; None for as many as there are in the four maps.

    Shape: four pairs of maps ``(2, B, h, w, c)``, before and after the last block, of `TappedEncoder` → ``{task: (B, n,
    4h, 4w)}`` of the first map's h, w.
    Source: Liu et al., MTAN, CVPR 2019, attention modules as in the survey of Vandenhende et al. (PAMI 2021). On Swin
    it is our adaptation: maps have the output norms, pooling follows each of the first three stages, and heads are
    those of `ConcatHead`. Parameters beyond the heads: ``T sum of [m (in + c + 3) + 3c]``, ``m = c/4``, in the
    channels that a mask is decided by, and three bottlenecks.

    Raises:
        ValueError: there is no task, 4 does not divide the channels, or there is no head width.
    """

    def __init__(
        self, channels: Sequence[int], num_outputs: Mapping[str, int], *, head_width: int | None = 256
    ) -> None:
        super().__init__()
        width = sum(channels) if head_width is None else head_width
        if not num_outputs or width < 1 or any(c % 4 for c in channels):
            raise ValueError(
                f"Expected at least one task, decoder.head_width of at least 1 and channels that 4 divides, got "
                f"{list(num_outputs)}, {width} and {list(channels)}: choose tasks=[…], decoder.head_width=256 and an "
                "encoder=swin_…."
            )
        tasks = len(num_outputs)
        self.tasks = tuple(num_outputs)
        self.attention = nn.ModuleList(
            Attention(tasks, c if s == 0 else 2 * c, c, shared=s == 0) for s, c in enumerate(channels)
        )
        self.refine = nn.ModuleList(Bottleneck(1, c, following) for c, following in pairwise(channels))
        self.fuse = Fuse(channels, width, tasks)
        self.predict = Predict(width, dict(num_outputs))

    def adapt(self, encoder: Encoder) -> TappedEncoder:
        """Return an encoder that gives what the stages' last blocks read, too."""
        return TappedEncoder(encoder)

    def decode(self, features: Sequence[Tensor]) -> tuple[Logits, dict[str, Logits]]:
        """Return every task's logits, and no intermediate ones."""
        if any(x.ndim != 5 or len(x) != 2 for x in features):
            raise ValueError(
                f"Expected pairs of maps (2, B, h, w, c), got {[tuple(x.shape) for x in features]}: call the whole "
                "network, or the encoder that adapt(encoder) returns."
            )
        return enlarge(self.predict(self.fuse(self.attended(features)))), {}

    def attended(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Return each task's masked maps ``(B, T c, h, w)``."""
        tasks = len(self.tasks)
        found: list[Tensor] = []
        for s, (attention, pair) in enumerate(zip(self.attention, features, strict=True)):
            led, seen = pair.permute(0, 1, 4, 2, 3)  # (B, c, h, w) both
            if s > 0:
                each = found[-1].unflatten(1, (tasks, -1)).flatten(0, 1)  # (B T, c / 2, 2h, 2w)
                before = F.max_pool2d(self.refine[s - 1](each), 2).unflatten(0, (-1, tasks))  # (B, T, c, h, w)
                led = torch.cat([led[:, None].expand_as(before), before], 2).flatten(1, 2)
            found.append(attention(led) * seen.repeat(1, tasks, 1, 1))
        return found

    def blocks(self) -> Iterator[nn.Module]:
        """Yield what may be recomputed."""
        yield from (*self.attention, *self.refine, self.fuse)

    def parts(self) -> Iterator[tuple[str, nn.Module]]:
        """Name the parts."""
        yield "attention", self.attention
        yield "refine", self.refine
        yield "head", self.fuse
        yield "head", self.predict
