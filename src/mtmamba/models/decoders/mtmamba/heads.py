"""The heads of MTMamba and MTMamba++: every task's map to its logits."""

from collections.abc import Mapping
from functools import partial

from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from mtmamba.kernels.head import norm_project
from mtmamba.models.layers import TaskConv2d, TaskLayerNorm, TaskwiseLinear
from mtmamba.models.recomputation import recomputed
from mtmamba.types import Logits


class NormProject(nn.Linear):
    """A task's layer norm and 1x1 projection, of a map whose pixels hold ``s x s`` pixels of ``dim`` channels each.

    Shape: ``(B, H, W, s s dim), (dim,), (dim,) → (B, n, s H, s W)``, float32 at least.
    """

    counted_as = "conv"

    def forward(self, x: Tensor, norm_weight: Tensor, norm_bias: Tensor) -> Tensor:  # type: ignore[override]
        """Normalise over the channels, scale, shift, and predict."""
        return norm_project(x, norm_weight, norm_bias, self.weight, self.bias)


class TaskwiseExpand(nn.Module):
    """The parameters of a patch expand by 4 for each task: its linear layer, and the layer norm of its pixels."""

    def __init__(self, tasks: int, dim: int) -> None:
        super().__init__()
        self.expand = TaskwiseLinear(tasks, dim, 16 * dim)
        self.norm = TaskLayerNorm(tasks, dim)


class ExpandHead(nn.Module):
    """MTMamba's heads: patch expand to the input's resolution, then a 1x1 projection per task (section 3.5).

    Tasks go one by one: the expanded map is the largest of the model, and so only one task's is alive at a time. It is
    normalised and projected in one operator, which keeps what the expand's linear layer gave; with ``recompute`` not
    even that is kept for the backward pass.

    Shape: ``(T, B, H, W, dim) → {task: (B, n, 4H, 4W)}``, float32 at least.
    """

    counted_resize = True  # the published program resizes these logits to the size that they have

    def __init__(self, dim: int, num_outputs: Mapping[str, int]) -> None:
        super().__init__()
        self.expand = TaskwiseExpand(len(num_outputs), dim)
        self.project = nn.ModuleDict({task: NormProject(dim, n) for task, n in num_outputs.items()})
        self.recompute = False

    def forward(self, z: Tensor) -> Logits:
        """Predict every pixel of every task."""
        predict = partial(recomputed, self._logits) if self.recompute else self._logits
        expand, norm = self.expand.expand, self.expand.norm
        own = zip(self.project, z, expand.weight, norm.weight, norm.bias, strict=True)
        return {task: predict(task, *tensors) for task, *tensors in own}

    def _logits(self, task: str, z: Tensor, weight: Tensor, norm_weight: Tensor, norm_bias: Tensor) -> Tensor:
        return self.project[task](self.expand.expand(z, weight), norm_weight, norm_bias)


class Project(nn.Linear):
    """A 1x1 projection."""

    counted_as = "conv"
    rounded = ("weight", "bias")


class ConvHead(nn.Module):
    """MTMamba++'s heads: 3x3 convolution, batch norm, ReLU and a 1x1 projection at H/4, then bilinear x4.

    Shape: ``(T, B, H, W, dim) → {task: (B, n, 4H, 4W)}``.
    """

    def __init__(self, dim: int, num_outputs: Mapping[str, int], hidden: int = 96) -> None:
        super().__init__()
        self.conv = TaskConv2d(len(num_outputs), dim, hidden)
        nn.init.trunc_normal_(self.conv.weight, std=0.02)
        self.norm = nn.BatchNorm2d(len(num_outputs) * hidden)
        self.project = nn.ModuleDict({task: Project(hidden, n) for task, n in num_outputs.items()})

    def forward(self, z: Tensor) -> Logits:
        """Predict every pixel of every task."""
        x = F.relu(self.norm(rearrange(self.conv(z), "t b h w c -> b (t c) h w")))
        maps = rearrange(x, "b (t c) h w -> t b h w c", t=len(self.project))
        return {
            task: F.interpolate(project(x).permute(0, 3, 1, 2), scale_factor=4, mode="bilinear", align_corners=False)
            for (task, project), x in zip(self.project.items(), maps, strict=True)
        }
