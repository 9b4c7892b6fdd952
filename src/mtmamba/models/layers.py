"""Layers whose parameters carry a leading task axis: T independent layers applied in one call, without a loop.

Feature maps are ``(T, B, H, W, C)``, channels last. A first axis of 1 means one map shared by all tasks.
Parameters start as PyTorch's own ``Linear``, ``Conv2d`` and ``LayerNorm`` would start for each task.
"""

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from mtmamba.kernels.depthwise import depthwise_silu
from mtmamba.kernels.norm import joint_layer_norm, layer_norm
from mtmamba.kernels.products import fuse, project, project_twice


def _uniform(*shape: int, fan_in: int) -> nn.Parameter:
    """Return a parameter drawn as PyTorch draws a ``Linear`` or ``Conv2d``: U(-fan_in^-1/2, fan_in^-1/2)."""
    return nn.Parameter(torch.empty(shape).uniform_(-(fan_in**-0.5), fan_in**-0.5))


class TaskLinear(nn.Module):
    """T linear layers side by side.

    Shape: ``(T or 1, ..., dim_in) → (T, ..., dim_out)``.

    >>> TaskLinear(4, 8, 16)(torch.zeros(1, 2, 3, 5, 8)).shape
    torch.Size([4, 2, 3, 5, 16])
    """

    rounded: tuple[str, ...] = ("weight", "bias")

    def __init__(self, tasks: int, dim_in: int, dim_out: int, bias: bool = True) -> None:
        super().__init__()
        self.weight = _uniform(tasks, dim_out, dim_in, fan_in=dim_in)
        self.bias = _uniform(tasks, dim_out, fan_in=dim_in) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Apply layer t to map t."""
        if self.bias is None:
            return project(x, self.weight)
        maps = x.flatten(1, -2).expand(len(self.weight), -1, -1)  # (T, N, dim_in)
        return torch.baddbmm(self.bias[:, None], maps, self.weight.mT).unflatten(1, x.shape[1:-1])


class ResidualLinear(TaskLinear):
    """T linear layers without bias, added to what was there before.

    Shape: ``(T, ..., dim_in), (T, ..., dim_out) → (T, ..., dim_out)``.
    """

    def __init__(self, tasks: int, dim_in: int, dim_out: int) -> None:
        super().__init__(tasks, dim_in, dim_out, bias=False)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:  # type: ignore[override]
        """Add ``residual`` to what layer t makes of map t."""
        return project(x, self.weight, residual)


class TaskwiseLinear(TaskLinear):
    """T linear layers without bias that are applied one at a time, each given by its weight.

    Shape: ``(..., dim_in), (dim_out, dim_in) → (..., dim_out)``.
    """

    def __init__(self, tasks: int, dim_in: int, dim_out: int) -> None:
        super().__init__(tasks, dim_in, dim_out, bias=False)

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:  # type: ignore[override]
        """Apply the layer of one task."""
        return project(x[None], weight[None]).squeeze(0)


def project_jointly(x: Tensor, first: TaskLinear, second: TaskLinear) -> tuple[Tensor, Tensor]:
    """Apply two layers without bias to the same maps: on CUDA in one product, whose halves are the results.

    Shape: ``(T, ..., dim_in) → (T, ..., dim_out), (T, ..., dim_out)``.
    """
    return project_twice(x, first.weight, second.weight)


class TaskLayerNorm(nn.Module):
    """T layer norms over the channels (eps 1e-5), the result in the dtype of the input, under autocast too.

    Shape: ``(T, ..., dim) → (T, ..., dim)``.
    """

    def __init__(self, tasks: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(tasks, dim))
        self.bias = nn.Parameter(torch.zeros(tasks, dim))

    def forward(self, x: Tensor, upscale: int = 1) -> Tensor:
        """Normalise, scale and shift map t with parameters t.

        With ``upscale``, the channels of ``x`` are those of ``upscale x upscale`` pixels: ``(T, B, H, W, upscale² dim)
        → (T, B, upscale H, upscale W, dim)``.
        """
        return layer_norm(x, self.weight, self.bias, upscale)


class JointLayerNorm(nn.LayerNorm):
    """Layer norm over the channels of all tasks together (eq. 20).

    Shape: ``(T, B, H, W, dim) → (1, B, H, W, T dim)``.
    """

    def __init__(self, tasks: int, dim: int) -> None:
        super().__init__(tasks * dim)

    def forward(self, x: Tensor) -> Tensor:
        """Put the tasks' channels side by side and normalise them."""
        return joint_layer_norm(x, self.weight, self.bias)


class TaskConv2d(nn.Module):
    """T convolutions side by side, stride 1, zero padding that keeps the size.

    Args:
        tasks: T.
        dim_in: channels in.
        dim_out: channels out.
        kernel: odd side of the kernel.
        groups: groups of each task's convolution; ``dim_in`` makes it depthwise.

    Shape: ``(T, B, H, W, dim_in) → (T, B, H, W, dim_out)``.
    """

    rounded: tuple[str, ...] = ("weight", "bias")

    def __init__(self, tasks: int, dim_in: int, dim_out: int, kernel: int = 3, groups: int = 1) -> None:
        super().__init__()
        self.groups = groups
        fan_in = dim_in // groups * kernel * kernel
        self.weight = _uniform(tasks, dim_out, dim_in // groups, kernel, kernel, fan_in=fan_in)
        self.bias = _uniform(tasks, dim_out, fan_in=fan_in)

    def forward(self, x: Tensor) -> Tensor:
        """Apply convolution t to map t."""
        tasks, kernel = self.weight.shape[0], self.weight.shape[-1]
        x = rearrange(x, "t b h w c -> b (t c) h w")
        x = F.conv2d(x, self.weight.flatten(0, 1), self.bias.flatten(), padding=kernel // 2, groups=tasks * self.groups)
        return rearrange(x, "b (t c) h w -> t b h w c", t=tasks)


class DepthwiseConv2d(TaskConv2d):
    """T depthwise 3x3 convolutions, each followed by SiLU in one operator that reads the weights in float32.

    Shape: ``(T, B, H, W, dim) → (T, B, H, W, dim)``.
    """

    rounded = ()

    def __init__(self, tasks: int, dim: int) -> None:
        super().__init__(tasks, dim, dim, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve each channel, and apply SiLU."""
        return depthwise_silu(x, self.weight, self.bias)


class PatchExpand(nn.Module):
    """Turn channels into space: a bias-free linear layer, ``scale x scale`` pixels out of each one, a layer norm.

    Shape: ``(T or 1, B, H, W, dim) → (T, B, scale H, scale W, dim_out)``.
    Source: Lin et al., MTMamba, ECCV 2024, eq. 26 and section 3.5.
    """

    def __init__(self, tasks: int, dim: int, dim_out: int, scale: int) -> None:
        super().__init__()
        self.scale = scale
        self.expand = TaskLinear(tasks, dim, scale * scale * dim_out, bias=False)
        self.norm = TaskLayerNorm(tasks, dim_out)

    def forward(self, x: Tensor) -> Tensor:
        """Read the new channel axis as (row, column, channel)."""
        return self.norm(self.expand(x), upscale=self.scale)


class SkipFuse(TaskLinear):
    """Concatenate an expanded map with the encoder's, and halve the channels (eq. 27).

    The encoder's map is the same for every task, so the concatenation is never formed: one product for each half.

    Shape: ``(T, B, H, W, dim), (B, H, W, dim) → (T, B, H, W, dim)``.
    """

    def __init__(self, tasks: int, dim: int) -> None:
        super().__init__(tasks, 2 * dim, dim)

    def forward(self, expanded: Tensor, skip: Tensor) -> Tensor:  # type: ignore[override]
        """Fuse each task's map with the shared one."""
        assert self.bias is not None
        return fuse(expanded, skip, self.weight, self.bias)
