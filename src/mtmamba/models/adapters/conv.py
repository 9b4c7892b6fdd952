"""What the released checkpoints of convolutional decoders call layers that hold all tasks here."""

from collections.abc import Sequence

import torch

from mtmamba.models.adapters.views import State, Views
from mtmamba.models.decoders.conv import Distil

LEAVES = ("weight", "bias", "running_mean", "running_var")


class ConvViews:
    """A table of views that grows layer by layer.

    Args:
        tasks: of the decoder, in its order.
        state: its tensors by name, or gradients; a layer has those of `LEAVES` that are there.
        counted: whether released norms count their batches.
    """

    def __init__(self, tasks: Sequence[str], state: State, *, counted: bool = False) -> None:
        self.tasks, self.state = tasks, state
        self.leaves = (*LEAVES, "num_batches_tracked") if counted else LEAVES
        self.views: Views = {}

    def add(self, released: str, ours: str, task: int | None = None, *, linear: bool = False) -> None:
        """Add a layer, or one task's share of it; ``linear`` where the released one is no convolution."""
        for leaf in self.leaves:
            if (x := self.state.get(f"{ours}.{leaf}")) is not None:
                part = x if task is None or not x.ndim else x.chunk(len(self.tasks))[task]
                self.views[f"{released}.{leaf}"] = ([part], tuple(part.shape[: 2 if linear else None]))

    def add_unused(self, released: str, **shapes: tuple[int, ...]) -> None:
        """Add parameters that the released module holds and never reads, with zeros of ours; they have no gradients."""
        if any(name.endswith("running_mean") for name in self.state):
            self.views |= {f"{released}.{leaf}": ([torch.zeros(shape)], shape) for leaf, shape in shapes.items()}

    def add_block(self, released: str, ours: str, task: int | None = None) -> None:
        """Add a residual block of convolutions, norms and perhaps a projection."""
        for layer in (1, 2, 3):
            self.add(f"{released}.conv{layer}", f"{ours}.conv{layer}", task)
            self.add(f"{released}.bn{layer}", f"{ours}.bn{layer}", task)
        self.add(f"{released}.downsample.0", f"{ours}.shortcut.0", task)
        self.add(f"{released}.downsample.1", f"{ours}.shortcut.1", task)

    def add_distil(self, released: str, ours: str, distil: Distil) -> None:
        """Add a distillation: a mask and values for each pair of tasks."""
        if (weight := self.state.get(f"{ours}.messages.weight")) is None:  # of a single task
            return
        messages = weight.chunk(distil.pairs.numel())  # (2 dim, dim, 3, 3) each
        for t, target in enumerate(self.tasks):
            sources = [task for task in self.tasks if task != target]
            for source, pair in zip(sources, distil.pairs[t].tolist(), strict=True):
                for leaf, part in zip(("attention.0", "conv"), messages[pair].chunk(2), strict=True):
                    name = f"{released}.self_attention.{target}.{source}.{leaf}.weight"
                    self.views[name] = ([part], tuple(part.shape))
