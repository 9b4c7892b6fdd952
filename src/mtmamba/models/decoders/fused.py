"""What PAD-Net, PAP and PSD have in common: a fused map, initial predictions, a mixing of tasks, final predictions."""

from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from mtmamba.models.decoders import AuxiliaryDecoder
from mtmamba.models.decoders.conv import Bottleneck, Fuse, Predict, channels_first, conv, enlarge
from mtmamba.types import Logits


class FusedDecoder(AuxiliaryDecoder):
    """Fuse the four maps; per task two bottlenecks and an initial prediction; mix; two bottlenecks and a prediction.

    Initial predictions (auxiliary ``initial``, at a quarter of the resolution) have their task's loss and feed nothing.
    A subclass builds its mixing, ``mix``, after this and ends with `add_refinement`.

    Args:
        channels: of the encoder's maps at strides 4, 8, 16, 32.
        num_outputs: logits per task, in the tasks' order.
        dim: width d of every task's branch; a multiple of ``multiple``.

    Shape: four maps ``(B, h, w, c)`` → ``{task: (B, n, 4h, 4w)}`` of the first map's h, w.

    Raises:
        ValueError: there is no task, or another ``dim``.
    """

    multiple = 4
    mix: nn.Module

    def __init__(self, channels: Sequence[int], num_outputs: Mapping[str, int], dim: int) -> None:
        super().__init__()
        if not num_outputs or dim % self.multiple or dim < 1:
            raise ValueError(
                f"Expected at least one task and decoder.dim as a multiple of {self.multiple}, got {list(num_outputs)} "
                f"and {dim}: choose tasks=[…] and decoder.dim=256."
            )
        tasks, total = len(num_outputs), sum(channels)
        self.tasks, self.num_outputs = tuple(num_outputs), dict(num_outputs)
        self.fuse = Fuse(channels, total)
        self.initial = nn.Sequential(Bottleneck(tasks, total, dim, shared=True), Bottleneck(tasks, dim, dim))
        self.initial_predict = Predict(dim, self.num_outputs)

    def add_refinement(self, width: int) -> None:
        """Add what follows the mixing, whose maps have ``width`` channels for each task."""
        tasks = len(self.tasks)
        self.refine = nn.Sequential(Bottleneck(tasks, width, width), Bottleneck(tasks, width, width))
        self.predict = Predict(width, self.num_outputs)

    def mixing(self) -> tuple[str, nn.Module]:
        """Return what mixes tasks, ``(B, T dim, h, w) → (B, T width, h, w)``, and its name among the parts."""
        return "mix", self.mix

    def decode(self, features: Sequence[Tensor]) -> tuple[Logits, dict[str, Logits]]:
        """Return final and initial predictions."""
        x = self.initial(self.fuse(channels_first(features)))  # (B, T dim, h, w)
        initial = self.initial_predict(x)
        _, mix = self.mixing()
        return enlarge(self.predict(self.refine(mix(x)))), {"initial": initial}

    def blocks(self) -> Iterator[nn.Module]:
        """Yield what may be recomputed."""
        yield from (*self.initial, self.mixing()[1], *self.refine)

    def parts(self) -> Iterator[tuple[str, nn.Module]]:
        """Name the parts of the specification's table."""
        yield "fuse", self.fuse
        yield "initial", self.initial
        yield "initial", self.initial_predict
        yield self.mixing()
        yield "refine", self.refine
        yield "head", self.predict


class MixCoarsely(nn.Module):
    """Reduce every task's map to half the channels, and add what a mixing changes of it at half the resolution.

    Args:
        tasks: T.
        dim: channels of a task's map, even.
        change: what is to be added: ``(B, T, dim / 2, h / 2, w / 2)`` → the same shape.

    Shape: ``(B, T dim, h, w) → (B, T dim / 2, h, w)``, h and w even.
    """

    def __init__(self, tasks: int, dim: int, change: nn.Module) -> None:
        super().__init__()
        self.tasks = tasks
        self.reduce = conv(tasks, dim, dim // 2, bias=True)
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        """Mix the tasks' maps."""
        fine = self.reduce(x)
        coarse = F.avg_pool2d(fine, 2).unflatten(1, (self.tasks, -1))  # (B, T, dim / 2, h / 2, w / 2)
        change = self.change(coarse).flatten(1, 2)
        return fine + F.interpolate(change, scale_factor=2, mode="bilinear", align_corners=False)
