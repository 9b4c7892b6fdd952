"""MTMamba's decoder: three stages from coarse to fine over all tasks at once, then a head for each task."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from mtmamba.models.decoders import Decoder
from mtmamba.models.decoders.mtmamba.blocks import Factory
from mtmamba.models.decoders.mtmamba.stages import Stage
from mtmamba.models.drop_path import DropPath
from mtmamba.models.ss2d import SS2D
from mtmamba.types import Logits


class MTMambaDecoder(Decoder):
    """Decode four encoder maps into every task's logits.

    Args:
        channels: channels of the encoder's maps at strides 4, 8, 16, 32; each twice the one before.
        num_outputs: logits per task, in the tasks' order.
        own: ``own(tasks, dim)`` returns the blocks that work on each task by itself.
        cross: ``cross(tasks, dim)`` returns the block that lets tasks meet, or None.
        head: ``head(dim, num_outputs)`` returns the heads.
        drop_path: stochastic depth, falling linearly from this rate at the first block to 0 at the last.
        backend: the selective scan's backend.

    Shape: four maps ``(B, h, w, c)`` → ``{task: (B, n, H, W)}`` with ``H, W`` four times the first map's.

    Raises:
        ValueError: ``channels`` do not double from map to map, or there is no task.
    """

    def __init__(
        self,
        channels: Sequence[int],
        num_outputs: Mapping[str, int],
        *,
        own: Callable[[int, int], list[nn.Module]],
        cross: Callable[[int, int], nn.Module | None],
        head: Factory,
        drop_path: float = 0.2,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        if len(channels) != 4 or any(2 * a != b for a, b in pairwise(channels)):
            raise ValueError(
                f"Expected the channels of four maps, each twice the one before, got {list(channels)}: the decoder "
                "follows encoders such as Swin (96, 192, 384, 768)."
            )
        if not num_outputs:
            raise ValueError("Expected at least one task, got none: choose some with tasks=[semseg,depth].")
        self.tasks = tuple(num_outputs)
        tasks, stages = len(self.tasks), []
        for dim in reversed(channels[:3]):
            crossing = cross(tasks, dim)
            stages.append(Stage(tasks, dim, own(tasks, dim) + ([crossing] if crossing is not None else [])))
        self.stages = nn.ModuleList(stages)
        self.head = head(channels[0], num_outputs)

        blocks = list(self.blocks())
        for block, rate in zip(blocks, torch.linspace(drop_path, 0, len(blocks), device="cpu").tolist(), strict=True):
            for module in block.modules():
                if isinstance(module, DropPath):
                    module.rate = rate
        for module in self.modules():
            if isinstance(module, SS2D):
                module.backend = backend

    def blocks(self) -> Iterator[nn.Module]:
        """Yield the stages' blocks, coarse to fine."""
        for stage in self.stages:
            yield from cast(Stage, stage).blocks

    def parts(self) -> Iterator[tuple[str, nn.Module]]:
        """Yield ``expand``, ``fuse``, the blocks by their class, ``head``, and what the head holds."""
        for module in self.stages:
            stage = cast(Stage, module)
            yield from (("expand", stage.expand), ("fuse", stage.fuse))
            yield from ((type(block).__name__, block) for block in stage.blocks)
        yield "head", self.head
        yield from ((f"head {name}", child) for name, child in self.head.named_children())

    def forward(self, features: Sequence[Tensor]) -> Logits:
        """Decode the encoder's maps, finest first."""
        *skips, z = features
        z = z[None]  # one map shared by all tasks
        for stage, skip in zip(self.stages, reversed(skips), strict=True):
            z = stage(z, skip)
        return self.head(z)
