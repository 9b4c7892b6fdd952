"""NDDR-CNN: an encoder for every task; after each stage all tasks' results are joined and reduced for each task."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from mtmamba.models.decoders.stitched import StitchedDecoder

ACTIVATIONS: Mapping[str, type[nn.Module]] = {"identity": nn.Identity, "relu": nn.ReLU}


class NDDRUnit(nn.Module):
    """All tasks' channels side by side, a 1x1 convolution to each task's, batch norm, and perhaps ReLU.

    Args:
        tasks: T.
        dim: channels of a task.
        alpha: where a channel's weight of itself starts.
        beta: where its weights of the other tasks' same channel start; all others start at 0.
        activation: what ends it.

    Shape: ``(T, B, h, w, dim) → (T, B, h, w, dim)``.
    """

    def __init__(self, tasks: int, dim: int, alpha: float, beta: float, activation: nn.Module) -> None:
        super().__init__()
        self.tasks = tasks
        self.conv = nn.Conv2d(tasks * dim, tasks * dim, 1, bias=False)
        start = torch.full((tasks, tasks), beta).fill_diagonal_(alpha)
        self.conv.weight.data[..., 0, 0] = torch.kron(start, torch.eye(dim))
        self.norm = nn.BatchNorm2d(tasks * dim, momentum=0.05)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """Join and reduce the tasks' maps."""
        joined = x.permute(1, 0, 4, 2, 3).flatten(1, 2)  # (B, T dim, h, w)
        y: Tensor = self.activation(self.norm(self.conv(joined)))
        return y.unflatten(1, (self.tasks, -1)).permute(1, 0, 3, 4, 2)


class NDDR(StitchedDecoder):
    """A `StitchedDecoder` with the layers of neural discriminative dimensionality reduction: the encoder is T encoders.

    Args:
        channels: of the encoder's maps at strides 4, 8, 16, 32.
        num_outputs: logits per task, in the tasks' order.
        activation: ``identity``, or the original's ``relu``, which would erase the negative half of what a transformer
            passes from stage to stage.
        head_width: channels of a head; None for as many as there are in the four maps.
        alpha: as in `StitchedDecoder`.
        lr_scale: as in `StitchedDecoder`.
        weights: as in `StitchedDecoder`.

    Shape: four maps ``(T, B, h, w, c)`` → ``{task: (B, n, 4h, 4w)}`` of the first map's h, w.
    Source: Gao et al., NDDR-CNN, CVPR 2019, units as in the survey of Vandenhende et al. (PAMI 2021). On Swin it is our
    adaptation: four units between stages, before the output norms, and a head on four maps. Parameters beyond T
    encoders and the heads of `ConcatHead`: ``T² sum of c² + 2 T sum of c``, c the stages' channels.

    Raises:
        ValueError: another ``activation``, or as in `StitchedDecoder`.
    """

    def __init__(
        self,
        channels: Sequence[int],
        num_outputs: Mapping[str, int],
        *,
        activation: str = "identity",
        head_width: int | None = 256,
        alpha: float | None = None,
        lr_scale: float = 10.0,
        weights: Mapping[str, str | Path] | None = None,
    ) -> None:
        super().__init__(channels, num_outputs, head_width=head_width, alpha=alpha, lr_scale=lr_scale, weights=weights)
        if activation not in ACTIVATIONS:
            raise ValueError(
                f"Expected decoder.activation={'|'.join(ACTIVATIONS)}, got {activation}: choose one of those."
            )
        self.activation = activation

    def unit(self, channels: int) -> NDDRUnit:
        """Make a unit for results of some channels."""
        activation = ACTIVATIONS[self.activation]()
        return NDDRUnit(len(self.tasks), channels, self.alpha, self.beta, activation)
