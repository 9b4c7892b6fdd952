"""What Cross-Stitch and NDDR-CNN have in common: an encoder for every task, and heads that never meet."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from mtmamba.models.decoders.concat_head import ConcatHead
from mtmamba.models.decoders.conv import require_by_task
from mtmamba.models.encoders.encoder import Encoder, on_meta
from mtmamba.models.encoders.stitched import StitchedEncoder
from mtmamba.models.pretrained import WeightsError, read_state
from mtmamba.types import Logits


class StitchedDecoder(ConcatHead):
    """The heads of `ConcatHead` on each task's own maps, and units between the tasks' encoders after each stage.

    Args:
        channels: of the encoder's maps at strides 4, 8, 16, 32.
        num_outputs: logits per task, in the tasks' order.
        head_width: channels of a head; None for as many as there are in the four maps.
        alpha: weight that a task's own result starts with, in (0, 1]; the others share the rest. None for 0.9 with two
            tasks, 0.8 with more and 1 with one.
        lr_scale: what the units' learning rate is multiplied by. The originals use 100 with SGD.
        weights: checkpoints of single-task runs with ``decoder=concat_head``, the same encoder and ``head_width``, by
            task: each task's encoder and head start from them, as in the originals. None for copies of the encoder.

    Shape: four maps ``(T, B, h, w, c)`` → ``{task: (B, n, 4h, 4w)}`` of the first map's h, w.

    Raises:
        ValueError: there is no task, no width, another ``alpha``, or ``lr_scale`` is below 0.
        WeightsError: a task's checkpoint is missing, or is another network's.
    """

    shared = False

    def __init__(
        self,
        channels: Sequence[int],
        num_outputs: Mapping[str, int],
        *,
        head_width: int | None = 256,
        alpha: float | None = None,
        lr_scale: float = 10.0,
        weights: Mapping[str, str | Path] | None = None,
    ) -> None:
        super().__init__(channels, num_outputs, head_width=head_width)
        tasks = len(self.tasks)
        self.alpha = {1: 1.0, 2: 0.9}.get(tasks, 0.8) if alpha is None else alpha
        if not 0 < self.alpha <= 1 or (tasks == 1 and self.alpha != 1):
            raise ValueError(
                f"Expected decoder.alpha above 0 and up to 1, with one task 1, got {alpha} with {tasks}: choose null."
            )
        if lr_scale < 0:
            raise ValueError(f"Expected decoder.lr_scale of at least 0, got {lr_scale}: choose 10.")
        self.beta = (1 - self.alpha) / max(1, tasks - 1)
        self.lr_scale, self.weights = lr_scale, weights

    @abstractmethod
    def unit(self, channels: int) -> nn.Module:
        """Make what lets the tasks' results of one stage meet: ``(T, B, h, w, c) → (T, B, h, w, c)``."""

    def adapt(self, encoder: Encoder) -> StitchedEncoder:
        """Return an encoder for every task, with units between them."""
        stitched = StitchedEncoder(encoder, len(self.tasks), self.unit, lr_scale=self.lr_scale)
        if self.weights is not None and not on_meta():
            self.load_single_tasks(stitched)
        return stitched

    def decode(self, features: Sequence[Tensor]) -> tuple[Logits, dict[str, Logits]]:
        """Return every task's logits."""
        require_by_task(features)
        return super().decode([x.permute(1, 2, 3, 0, 4).flatten(3) for x in features])  # (B, h, w, T c)

    @torch.no_grad()
    def load_single_tasks(self, encoder: StitchedEncoder) -> None:
        """Start every task's encoder and head from a single-task run's checkpoint."""
        assert self.weights is not None
        if missing := [task for task in self.tasks if task not in self.weights]:
            raise WeightsError(f"Expected decoder.weights of every task, got none of {missing}: add their checkpoints.")
        for t, (task, copy) in enumerate(zip(self.tasks, encoder.copies, strict=True)):
            state = read_state(Path(self.weights[task]))
            own = {f"model.encoder.{name}": x for name, x in copy.state_dict().items()}
            for name, x in self.fuse.state_dict().items():
                own[f"model.decoder.fuse.{name}"] = x.chunk(len(self.tasks))[t] if x.ndim else x
            for name, x in self.predict[task].state_dict().items():
                own[f"model.decoder.predict.{task}.{name}"] = x
            network = {name: x for name, x in state.items() if name.startswith("model.")}
            if {name: x.shape for name, x in own.items()} != {name: x.shape for name, x in network.items()}:
                raise WeightsError(
                    f"Expected a run of tasks=[{task}] decoder=concat_head with this encoder and decoder.head_width in "
                    f"{self.weights[task]}, got another network's weights: train one, or leave decoder.weights at null."
                )
            for name, x in own.items():
                x.copy_(network[name])
