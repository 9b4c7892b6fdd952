"""PAD-Net: initial predictions of every task, then features distilled from task to task."""

from collections.abc import Mapping, Sequence

from torch import nn

from mtmamba.models.decoders.conv import Distil
from mtmamba.models.decoders.fused import FusedDecoder


class PADNet(FusedDecoder):
    """A `FusedDecoder` whose tasks are mixed by distillation.

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
        super().__init__(channels, num_outputs, dim)
        self.distil = Distil(len(num_outputs), dim)
        self.add_refinement(dim)

    def mixing(self) -> tuple[str, nn.Module]:
        """Return the distillation."""
        return "distil", self.distil
