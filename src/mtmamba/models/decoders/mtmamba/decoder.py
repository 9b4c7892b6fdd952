"""The decoder: three stages from coarse to fine over all tasks at once, then a head for each task."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from mtmamba.kernels.head import norm_project
from mtmamba.models.decoders.mtmamba.blocks import Factory
from mtmamba.models.layers import DropPath, PatchExpand, SkipFuse, TaskConv2d, recomputed
from mtmamba.models.ss2d import SS2D
from mtmamba.types import Logits


class Stage(nn.Module):
    """One decoder stage: expand, fuse with the encoder's map, then the blocks in turn (eqs. 26-29).

    Args:
        tasks: T.
        dim: width d of the stage.
        blocks: the stage's blocks, in order.

    Shape: ``(T or 1, B, H, W, 2 dim), (B, 2H, 2W, dim) → (T, B, 2H, 2W, dim)``.
    """

    def __init__(self, tasks: int, dim: int, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.expand = PatchExpand(tasks, 2 * dim, dim, scale=2)
        self.fuse = SkipFuse(tasks, dim)
        self.blocks = nn.ModuleList(blocks)

    def forward(self, z: Tensor, skip: Tensor) -> Tensor:
        """Double the resolution of every task's map."""
        z = self.fuse(self.expand(z), skip)
        for block in self.blocks:
            z = block(z)
        return z


class NormProject(nn.Linear):
    """A task's layer norm and 1x1 projection, of a map whose pixels hold ``s x s`` pixels of ``dim`` channels each.

    Shape: ``(B, H, W, s s dim), (dim,), (dim,) → (B, n, s H, s W)``, float32 at least.
    """

    def forward(self, x: Tensor, norm_weight: Tensor, norm_bias: Tensor) -> Tensor:  # type: ignore[override]
        """Normalise over the channels, scale, shift, and predict."""
        return norm_project(x, norm_weight, norm_bias, self.weight, self.bias)


class ExpandHead(nn.Module):
    """MTMamba's heads: patch expand to the input's resolution, then a 1x1 projection per task (section 3.5).

    Tasks go one by one: the expanded map is the largest of the model, and so only one task's is alive at a time. It is
    normalised and projected in one operator, which keeps what the expand's linear layer gave; with ``recompute`` not
    even that is kept for the backward pass.

    Shape: ``(T, B, H, W, dim) → {task: (B, n, 4H, 4W)}``, float32 at least.
    """

    def __init__(self, dim: int, num_outputs: Mapping[str, int]) -> None:
        super().__init__()
        self.expand = PatchExpand(len(num_outputs), dim, dim, scale=4)
        self.project = nn.ModuleDict({task: NormProject(dim, n) for task, n in num_outputs.items()})
        self.recompute = False

    def forward(self, z: Tensor) -> Logits:
        """Predict every pixel of every task."""
        predict = partial(recomputed, self._logits) if self.recompute else self._logits
        expand, norm = self.expand.expand, self.expand.norm
        own = zip(self.project, z, expand.weight, norm.weight, norm.bias, strict=True)
        return {task: predict(task, *tensors) for task, *tensors in own}

    def _logits(self, task: str, z: Tensor, weight: Tensor, norm_weight: Tensor, norm_bias: Tensor) -> Tensor:
        expanded = self.expand.expand(z[None], weight=weight[None]).squeeze(0)
        logits: Tensor = self.project[task](expanded, norm_weight, norm_bias)
        return logits


class ConvHead(nn.Module):
    """MTMamba++'s heads: 3x3 convolution, batch norm, ReLU and a 1x1 projection at H/4, then bilinear x4.

    Shape: ``(T, B, H, W, dim) → {task: (B, n, 4H, 4W)}``.
    """

    def __init__(self, dim: int, num_outputs: Mapping[str, int], hidden: int = 96) -> None:
        super().__init__()
        self.conv = TaskConv2d(len(num_outputs), dim, hidden)
        nn.init.trunc_normal_(self.conv.weight, std=0.02)
        self.norm = nn.BatchNorm2d(len(num_outputs) * hidden)
        self.project = nn.ModuleDict({task: nn.Linear(hidden, n) for task, n in num_outputs.items()})

    def forward(self, z: Tensor) -> Logits:
        """Predict every pixel of every task."""
        x = F.relu(self.norm(rearrange(self.conv(z), "t b h w c -> b (t c) h w")))
        maps = rearrange(x, "b (t c) h w -> t b h w c", t=len(self.project))
        return {
            task: F.interpolate(project(x).permute(0, 3, 1, 2), scale_factor=4, mode="bilinear", align_corners=False)
            for (task, project), x in zip(self.project.items(), maps, strict=True)
        }


class Decoder(nn.Module):
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

    def forward(self, features: Sequence[Tensor]) -> Logits:
        """Decode the encoder's maps, finest first."""
        *skips, z = features
        z = z[None]  # one map shared by all tasks
        for stage, skip in zip(self.stages, reversed(skips), strict=True):
            z = stage(z, skip)
        return self.head(z)
