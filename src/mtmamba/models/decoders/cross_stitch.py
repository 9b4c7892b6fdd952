"""Cross-Stitch networks: an encoder for every task, whose results are added up channel by channel after each stage."""

import torch
from torch import Tensor, nn

from mtmamba.models.decoders.stitched import StitchedDecoder


class CrossStitchUnit(nn.Module):
    """Each task's channels are learned sums of all tasks': ``out_i[c] = sum over j of a_ij[c] x_j[c]``.

    Args:
        tasks: T.
        dim: channels.
        alpha: where ``a_ii`` start.
        beta: where the others start.

    Shape: ``(T, B, h, w, dim) → (T, B, h, w, dim)``.
    """

    rounded = ("weight",)

    def __init__(self, tasks: int, dim: int, alpha: float, beta: float) -> None:
        super().__init__()
        start = torch.full((tasks, tasks), beta).fill_diagonal_(alpha)
        self.weight = nn.Parameter(start[..., None].repeat(1, 1, dim))  # target, source, channel

    def forward(self, x: Tensor) -> Tensor:
        """Add up the tasks' maps."""
        return torch.einsum("ijc,jbhwc->ibhwc", self.weight, x)


class CrossStitch(StitchedDecoder):
    """A `StitchedDecoder` with cross-stitch units: the encoder is T encoders.

    Its arguments are those of `StitchedDecoder`.

    Source: Misra et al., Cross-stitch networks, CVPR 2016; a number for each channel and pair of tasks as in the survey
    of Vandenhende et al. (PAMI 2021), where the paper has one for each pair. On Swin it is our adaptation: units lie
    between stages, before the output norms, and each task has a head on four maps. Parameters beyond T encoders and
    the heads of `ConcatHead`: ``T² S``, S the sum of the stages' channels.
    """

    def unit(self, channels: int) -> CrossStitchUnit:
        """Make a unit for results of some channels."""
        return CrossStitchUnit(len(self.tasks), channels, self.alpha, self.beta)
