"""Decoders, a file each: four encoder maps to every task's logits."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence

from torch import Tensor, nn

from mtmamba.types import Logits

Loss = Callable[[Tensor, Tensor], Tensor]
"""``(logits (B, n, H, W), target) → (B,)``, as in `mtmamba.losses`."""


class Decoder(nn.Module, ABC):
    """What the program asks of a decoder: any module that has these works, a subclass or not.

    It is built as ``decoder(channels, num_outputs, …)``: the channels of the encoder's maps at strides 4, 8, 16, 32,
    and the number of logits by task, in the tasks' order. A module inside it that has an attribute ``recompute`` can
    do without its full-resolution activations, and is told so by ``model.checkpointing=heads``.

    Attributes:
        auxiliary: intermediate logits ``{name: {task: (B, n, h, w)}}`` of the last training pass, at whatever scale
            they have; empty after any other pass, and where there are none. Each has its task's loss.
        aux_weight: what auxiliary losses are multiplied by before they are added to their task's.
        auxiliary_losses: losses of those auxiliary logits that have another than their task's.

    A decoder that needs more than a pretrained encoder's four maps has a method ``adapt``, too: given the encoder, it
    returns the one to use, whose maps it reads, such as a copy for every task.

    Shape: four maps ``(B, h, w, c)``, finest first → ``{task: (B, n, H, W)}`` with ``H, W`` four times the first map's.
    """

    aux_weight: float = 1.0
    auxiliary_losses: Mapping[str, Mapping[str, Loss]] = {}

    def __init__(self) -> None:
        super().__init__()
        self.auxiliary: dict[str, Logits] = {}

    @abstractmethod
    def forward(self, features: Sequence[Tensor]) -> Logits:
        """Decode the encoder's maps."""

    @abstractmethod
    def blocks(self) -> Iterator[nn.Module]:
        """Yield the modules whose activations may be recomputed in the backward pass."""

    @abstractmethod
    def parts(self) -> Iterator[tuple[str, nn.Module]]:
        """Yield names and modules for tables of parameters and FLOPs.

        A module counts for the last part that holds it; several may share a name. What is in none is ``decoder``.
        """


class AuxiliaryDecoder(Decoder):
    """A decoder that is one function, `decode`, from maps to final and intermediate logits."""

    @abstractmethod
    def decode(self, features: Sequence[Tensor]) -> tuple[Logits, dict[str, Logits]]:
        """Return every task's logits and, by name, intermediate ones; none where the method has none."""

    def forward(self, features: Sequence[Tensor]) -> Logits:
        """Decode the encoder's maps."""
        logits, auxiliary = self.decode(features)
        self.auxiliary = auxiliary if self.training else {}
        return logits
