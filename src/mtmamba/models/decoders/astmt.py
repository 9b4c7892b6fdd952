"""ASTMT: one network that is run once for every task, modulated by adapters, squeeze and excitation, and norms."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtmamba.models.decoders import AuxiliaryDecoder
from mtmamba.models.decoders.conv import SE, Predict, channels_first, conv, enlarge, require_by_task
from mtmamba.models.encoders.encoder import Encoder
from mtmamba.models.encoders.modulated import ModulatedSwin
from mtmamba.types import Logits

RATES = (6, 12, 18)
"""Dilations of the 3x3 branches at stride 16."""


class Unit(nn.Module):
    """A convolution that all tasks share, and each task's adapter, batch norm, ReLU, squeeze and excitation.

    Args:
        tasks: T.
        channels: that a task's map has.
        out: that the result has.
        kernel: side of the shared kernel.
        dilation: of the shared kernel.
        shared: whether all tasks have the same map.
        adapter: whether there is an adapter, a 1x1 convolution that starts at 0 beside the shared one.
        reduction: of squeeze and excitation.

    Shape: ``(B, T channels, h, w)``, shared ``(B, channels, h, w)`` → ``(B, T out, h, w)``.
    """

    def __init__(
        self,
        tasks: int,
        channels: int,
        out: int,
        kernel: int = 1,
        dilation: int = 1,
        *,
        shared: bool = False,
        adapter: bool = True,
        reduction: int = 16,
    ) -> None:
        super().__init__()
        self.tasks, self.maps = tasks, 1 if shared else tasks
        padding = dilation * (kernel // 2)
        self.conv = nn.Conv2d(channels, out, kernel, padding=padding, dilation=dilation, bias=False)
        self.adapter = conv(tasks, channels, out, shared=shared) if adapter else None
        self.norm, self.se = nn.BatchNorm2d(tasks * out), SE(tasks, out, shared=False, reduction=reduction)

    def forward(self, x: Tensor) -> Tensor:
        """Transform every task's map."""
        y = self.conv(x.unflatten(1, (self.maps, -1)).flatten(0, 1))  # (B maps, out, h, w)
        y = y.unflatten(0, (-1, self.maps)).expand(-1, self.tasks, -1, -1, -1).flatten(1, 2)
        if self.adapter is not None:
            y = y + self.adapter(x)
        return self.se(F.relu(self.norm(y)))


class ASTMTDecoder(AuxiliaryDecoder):
    """ASTMT's decoder on a plain encoder that all tasks share: DeepLab-v3+'s, modulated for each task.

    Five branches read the coarsest map at stride 16: a 1x1 and three dilated 3x3 convolutions, and the map's mean,
    whose batch norm needs two images per device in training, or several devices. They are joined, brought to stride 4,
    joined with the finest map, and refined.

    The adversarial gradients of the paper are left out: tasks are trained together, their losses added up.

    Args:
        channels: of the encoder's maps at strides 4, 8, 16, 32.
        num_outputs: logits per task, in the tasks' order.
        width: channels of the branches; a multiple of 16. DeepLab's own is 256.

    Shape: four maps ``(B, h, w, c)`` → ``{task: (B, n, 4h, 4w)}`` of the first map's h, w.
    Source: Maninis et al., Attentive single-tasking of multiple tasks, CVPR 2019, decoder as in the authors' program;
    the coarsest map is enlarged to stride 16, so that dilations keep their meaning.

    Raises:
        ValueError: there is no task, or ``width`` is no multiple of 16; in training, one image on one device.
    """

    shared = True
    """Whether all tasks read the same maps."""

    def __init__(self, channels: Sequence[int], num_outputs: Mapping[str, int], *, width: int = 64) -> None:
        super().__init__()
        if not num_outputs or width % 16 or width < 16:
            raise ValueError(
                f"Expected at least one task and decoder.width as a multiple of 16, got {list(num_outputs)} and {width}"
                ": choose tasks=[…] and decoder.width=64."
            )
        tasks, low, shared = len(num_outputs), 48 * width // 256, self.shared
        self.tasks = tuple(num_outputs)
        self.branches = nn.ModuleList(
            Unit(tasks, channels[3], width, kernel, rate, shared=shared)
            for kernel, rate in ((1, 1), *((3, rate) for rate in RATES))
        )
        self.pooled = Unit(tasks, channels[3], width, shared=shared, adapter=False)
        self.join = Unit(tasks, (len(self.branches) + 1) * width, width)
        self.low = Unit(tasks, channels[0], low, shared=shared, reduction=4)
        self.refine = nn.Sequential(Unit(tasks, width + low, width, 3), Unit(tasks, width, width, 3))
        self.predict = Predict(width, dict(num_outputs))
        self.start()

    def start(self) -> None:
        """Initialise the weights as the authors do: small convolutions, adapters at 0."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
        for module in self.modules():
            if isinstance(module, SE):
                for layer in (module.reduce, module.expand):
                    nn.init.kaiming_normal_(layer.weight)
                    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
            if isinstance(module, Unit) and module.adapter is not None:
                nn.init.zeros_(module.adapter.weight)

    def maps(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Return the encoder's maps as the units read them."""
        return channels_first(features)

    def decode(self, features: Sequence[Tensor]) -> tuple[Logits, dict[str, Logits]]:
        """Return every task's logits, and no intermediate ones."""
        fine, second, third, coarse = self.maps(features)
        if self.training:
            self.require_statistics(len(coarse))
            coarse = coarse + 0 * (second.mean() + third.mean())  # DDP waits for the gradient of every parameter
        x = F.interpolate(coarse, scale_factor=2, mode="bilinear", align_corners=False)  # stride 16
        mean = self.pooled(x.mean((2, 3), keepdim=True)).expand(-1, -1, *x.shape[2:])
        deep = self.join(self.side_by_side([*(branch(x) for branch in self.branches), mean]))
        deep = F.interpolate(deep, scale_factor=4, mode="bilinear", align_corners=False)
        decoded = self.refine(self.side_by_side([deep, self.low(fine)]))
        return enlarge(self.predict(decoded)), {}

    def require_statistics(self, images: int) -> None:
        """Refuse a batch that the batch norm of means cannot be trained on, which has one number for each image."""
        if images == 1 and type(self.pooled.norm) is nn.BatchNorm2d:  # not one that devices share
            raise ValueError(
                "Expected at least two images per device to train this decoder, got one: raise data.device_batch_size, "
                "or use more devices."
            )

    def side_by_side(self, maps: Sequence[Tensor]) -> Tensor:
        """Join the channels of every task's maps: ``(B, T c, h, w)`` each → ``(B, T sum of c, h, w)``."""
        return torch.cat([x.unflatten(1, (len(self.tasks), -1)) for x in maps], 2).flatten(1, 2)

    def blocks(self) -> Iterator[nn.Module]:
        """Yield what may be recomputed."""
        yield from (*self.branches, self.join, self.low, *self.refine)

    def parts(self) -> Iterator[tuple[str, nn.Module]]:
        """Name the decoder's only part."""
        yield "decoder", self


class ASTMT(ASTMTDecoder):
    """ASTMT without its adversarial gradients: the whole network, encoder included, is run once for every task.

    Modulation of Swin is our adaptation: `ModulatedSwin`.

    Args:
        channels: of the encoder's maps at strides 4, 8, 16, 32.
        num_outputs: logits per task, in the tasks' order.
        width: as in `ASTMTDecoder`.

    Shape: four maps ``(T, B, h, w, c)`` → ``{task: (B, n, 4h, 4w)}`` of the first map's h, w.
    Source: as for `ASTMTDecoder`.
    """

    shared = False

    def adapt(self, encoder: Encoder) -> ModulatedSwin:
        """Return the encoder, modulated for each task."""
        return ModulatedSwin(encoder, len(self.tasks))

    def maps(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Return every task's maps as the units read them."""
        require_by_task(features)
        return [x.permute(1, 0, 4, 2, 3).flatten(1, 2) for x in features]  # (B, T c, h, w)
