"""Convolutional blocks for all tasks at once: the task axis folded into the channels, one group of channels a task.

Maps are channels first here, ``(B, T C, h, w)``, and a convolution with T groups holds every task's own weights.
A batch norm over ``T C`` channels has the statistics of T separate ones.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def conv(
    tasks: int,
    channels: int,
    out: int,
    kernel: int = 1,
    *,
    shared: bool = False,
    bias: bool = False,
    dilation: int = 1,
) -> nn.Conv2d:
    """Return each task's own convolution, of the same size.

    Args:
        tasks: T.
        channels: that a task's convolution reads.
        out: that it writes.
        kernel: side of the kernel.
        shared: whether all tasks read one map instead of each its own.
        bias: whether it adds one.
        dilation: distance of the kernel's pixels.

    Shape: ``(B, T channels, h, w)``, shared ``(B, channels, h, w)`` → ``(B, T out, h, w)``.
    """
    groups = 1 if shared else tasks
    padding = dilation * (kernel // 2)
    return nn.Conv2d(
        groups * channels, tasks * out, kernel, padding=padding, dilation=dilation, groups=groups, bias=bias
    )


def conv_norm_relu(
    tasks: int, channels: int, out: int, kernel: int = 1, *, shared: bool = False, dilation: int = 1
) -> nn.Sequential:
    """Return each task's own convolution without bias, of the same size, its batch norm, and a ReLU.

    Shape: as `conv`.
    """
    layer = conv(tasks, channels, out, kernel, shared=shared, dilation=dilation)
    return nn.Sequential(layer, nn.BatchNorm2d(tasks * out), nn.ReLU())


class Repeat(nn.Module):
    """Give every task the same map: ``(B, c, h, w) → (B, T c, h, w)``."""

    def __init__(self, tasks: int) -> None:
        super().__init__()
        self.tasks = tasks

    def forward(self, x: Tensor) -> Tensor:
        """Repeat the channels."""
        return x.repeat(1, self.tasks, 1, 1)


def shortcut(tasks: int, channels: int, out: int, *, shared: bool) -> nn.Module:
    """Return what carries a residual block's input to its output: a projection with a norm where the widths differ."""
    if channels != out:
        return nn.Sequential(conv(tasks, channels, out, shared=shared), nn.BatchNorm2d(tasks * out))
    return Repeat(tasks) if shared else nn.Identity()


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions with batch norms around a quarter of the width, added to a shortcut.

    The shortcut is a projection where the widths differ.

    Shape: ``(B, T channels, h, w)``, shared ``(B, channels, h, w)`` → ``(B, T out, h, w)``.
    Source: He et al., Deep residual learning, CVPR 2016.
    """

    def __init__(self, tasks: int, channels: int, out: int, *, shared: bool = False) -> None:
        super().__init__()
        middle = out // 4
        self.conv1, self.bn1 = conv(tasks, channels, middle, shared=shared), nn.BatchNorm2d(tasks * middle)
        self.conv2, self.bn2 = conv(tasks, middle, middle, 3), nn.BatchNorm2d(tasks * middle)
        self.conv3, self.bn3 = conv(tasks, middle, out), nn.BatchNorm2d(tasks * out)
        self.shortcut = shortcut(tasks, channels, out, shared=shared)

    def forward(self, x: Tensor) -> Tensor:
        """Transform every task's map."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + self.shortcut(x))


class Basic(nn.Module):
    """Two 3x3 convolutions with batch norms, added to a shortcut, which is a projection where the widths differ.

    Shape: ``(B, T channels, h, w)``, shared ``(B, channels, h, w)`` → ``(B, T out, h, w)``.
    Source: He et al., Deep residual learning, CVPR 2016.
    """

    def __init__(self, tasks: int, channels: int, out: int, *, shared: bool = False) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(tasks, channels, out, 3, shared=shared), nn.BatchNorm2d(tasks * out)
        self.conv2, self.bn2 = conv(tasks, out, out, 3), nn.BatchNorm2d(tasks * out)
        self.shortcut = shortcut(tasks, channels, out, shared=shared)

    def forward(self, x: Tensor) -> Tensor:
        """Transform every task's map."""
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class SE(nn.Module):
    """Squeeze and excitation by each task, of its own map or of one: channels times gates that their means decide.

    Args:
        tasks: T.
        dim: channels of a map.
        shared: whether all tasks have the same map.
        reduction: how many times fewer channels there are between.

    Shape: ``(B, T dim, h, w)``, shared ``(B, dim, h, w)`` → ``(B, T dim, h, w)``.
    Source: Hu et al., Squeeze-and-excitation networks, CVPR 2018.
    """

    def __init__(self, tasks: int, dim: int, *, shared: bool, reduction: int = 16) -> None:
        super().__init__()
        hidden = max(1, dim // reduction)
        self.each = Repeat(tasks) if shared else nn.Identity()
        self.reduce = conv(tasks, dim, hidden, shared=shared, bias=True)
        self.expand = conv(tasks, hidden, dim, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """Gate every task's map."""
        gates = self.expand(F.relu(self.reduce(x.mean((2, 3), keepdim=True)))).sigmoid()  # (B, T dim, 1, 1)
        return self.each(x) * gates


class Fuse(nn.Module):
    """Four maps brought to the first one's size, joined, and mixed by a 1x1 convolution, batch norm and ReLU.

    Args:
        channels: of the four maps.
        out: channels of the result, of each task.
        tasks: T where each task has its own maps or weights.
        shared: whether all tasks read the same maps.

    Shape: four maps ``(B, c, h, w)``, of tasks ``(B, T c, h, w)``, finest first → ``(B, T out, h, w)``.
    """

    def __init__(self, channels: Sequence[int], out: int, tasks: int = 1, *, shared: bool = False) -> None:
        super().__init__()
        self.tasks = 1 if shared else tasks
        self.conv, self.norm = conv(tasks, sum(channels), out, shared=shared, bias=True), nn.BatchNorm2d(tasks * out)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Fuse the maps of every task."""
        size = maps[0].shape[-2:]
        resized = [maps[0], *(resize(x, size) for x in maps[1:])]
        by_task = [x.unflatten(1, (self.tasks, -1)) for x in resized]  # (B, T, c, h, w)
        return F.relu(self.norm(self.conv(torch.cat(by_task, 2).flatten(1, 2))))


class Distil(nn.Module):
    """Add to every task's map what each other task's attention lets through.

    ``out_t = x_t + sum over a != t of sigmoid(A_ta x_a) * V_ta x_a``, A and V 3x3 convolutions of the **source** a: the
    paper takes the mask from the target, the program that everybody uses from the source.

    Shape: ``(B, T dim, h, w) → (B, T dim, h, w)``.
    Source: Xu et al., PAD-Net, CVPR 2018, as in the survey of Vandenhende et al.
    """

    pairs: Tensor  # (T, T - 1): for each target, where its sources' messages lie among the (source, target) pairs

    def __init__(self, tasks: int, dim: int) -> None:
        super().__init__()
        self.tasks, self.dim = tasks, dim
        others = tasks - 1
        self.messages = conv(tasks, dim, 2 * others * dim, 3) if others else nn.Identity()
        pairs = [[a * others + (t - (t > a)) for a in range(tasks) if a != t] for t in range(tasks)]
        self.register_buffer("pairs", torch.tensor(pairs, dtype=torch.long).view(tasks, others), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Let every task read all others."""
        if self.tasks == 1:
            return x
        messages = self.messages(x).unflatten(1, (-1, 2, self.dim))  # (B, T (T - 1), 2, dim, h, w)
        mask, values = messages.unbind(2)
        found = (mask.sigmoid() * values)[:, self.pairs]  # (B, T, T - 1, dim, h, w)
        return x + found.sum(2).flatten(1, 2)


class Predict(nn.ModuleDict):
    """A task's 1x1 convolution with bias to its logits.

    Shape: ``(B, T dim, h, w) → {task: (B, n, h, w)}``.
    """

    def __init__(self, dim: int, num_outputs: dict[str, int]) -> None:
        super().__init__({task: nn.Conv2d(dim, n, 1) for task, n in num_outputs.items()})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Predict every task."""
        return {task: project(y) for (task, project), y in zip(self.items(), x.chunk(len(self), 1), strict=True)}


def start_small(predict: nn.Module) -> None:
    """Draw the weights of convolutions to logits from a normal distribution of deviation 0.01, with biases of 0."""
    for name, parameter in predict.named_parameters():
        nn.init.normal_(parameter, std=0.01 if name.endswith("weight") else 0)


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """Resize a map bilinearly: ``(B, C, h, w) → (B, C, *size)``."""
    return F.interpolate(x, tuple(size), mode="bilinear", align_corners=False)


def join(maps: Sequence[Tensor]) -> Tensor:
    """Bring maps to the first one's size and join their channels: maps ``(B, c, h, w)`` → ``(B, sum c, h, w)``."""
    return torch.cat([maps[0], *(resize(x, maps[0].shape[-2:]) for x in maps[1:])], 1)


def enlarge(logits: dict[str, Tensor], scale: int = 4) -> dict[str, Tensor]:
    """Resize logits bilinearly: ``(B, n, h, w) → (B, n, scale h, scale w)``."""
    return {
        task: F.interpolate(x, scale_factor=scale, mode="bilinear", align_corners=False) for task, x in logits.items()
    }


def require_by_task(features: Sequence[Tensor]) -> None:
    """Refuse maps that are not of each task, ``(T, B, h, w, c)``."""
    if any(x.ndim != 5 for x in features):
        raise ValueError(
            f"Expected maps (T, B, h, w, c) of each task, got {[tuple(x.shape) for x in features]}: call the whole "
            "network, or the encoder that adapt(encoder) returns."
        )


def channels_first(features: Sequence[Tensor]) -> list[Tensor]:
    """Return an encoder's maps ``(B, h, w, c)`` as ``(B, c, h, w)``, without a copy."""
    return [x.permute(0, 3, 1, 2) for x in features]
