"""MTI-Net: tasks meet at every scale, and what they know together is handed to the next finer one."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtmamba.models.decoders import AuxiliaryDecoder
from mtmamba.models.decoders.conv import SE, Basic, Distil, Fuse, Predict, channels_first, conv, enlarge
from mtmamba.types import Logits


class Propagate(nn.Module):
    """Feature propagation: what all tasks know at a scale, gated for each and added to its own map.

    ``mask(z)`` is normalised over groups of T neighbouring channels. As the tasks' channels follow one another, a group
    lies inside one task: the paper speaks of a softmax over tasks, its program, and so this one, has this.

    Shape: ``(B, T dim, h, w) → (B, T dim, h, w)``.
    Source: Vandenhende et al., MTI-Net, ECCV 2020, section 3.3, as in the authors' program.
    """

    def __init__(self, tasks: int, dim: int) -> None:
        super().__init__()
        self.tasks, joint = tasks, tasks * dim
        self.mask = nn.Sequential(
            Basic(1, joint, joint // 4), Basic(1, joint // 4, joint // 4), nn.Conv2d(joint // 4, joint, 1)
        )
        self.share = Basic(1, joint, dim)
        self.se = SE(tasks, dim, shared=True)

    def forward(self, x: Tensor) -> Tensor:
        """Add the shared map to every task's."""
        mask = self.mask(x).unflatten(1, (-1, self.tasks)).softmax(2).flatten(1, 2)  # (B, T dim, h, w)
        return self.se(self.share(mask * x)) + x


class MTINet(AuxiliaryDecoder):
    """From the coarsest scale on: initial task maps and predictions, propagated to the next scale; distil; a head.

    Initial predictions (auxiliary ``scale_0`` at stride 4 to ``scale_3`` at stride 32) have their task's loss and feed
    nothing. With one task nothing is distilled, and the propagation's mask is 1 whatever its weights.

    Args:
        channels: of the encoder's maps at strides 4, 8, 16, 32.
        num_outputs: logits per task, in the tasks' order.
        width: channels of the finest scale, twice as many at each further one, to which maps are projected: on raw
            Swin maps the decoder would have more than a billion parameters. None takes the maps as they are, as the
            original does with HRNet's.

    Shape: four maps ``(B, h, w, c)`` → ``{task: (B, n, 4h, 4w)}`` of the first map's h, w.
    Source: Vandenhende et al., MTI-Net, ECCV 2020, as in the authors' program; the projection is ours. Parameters in
    the specification's closed form: `tests/models/decoders/test_mti_net.py`.

    Raises:
        ValueError: there is no task, or the mask's width, a quarter of all tasks' channels, is no whole number.
    """

    def __init__(self, channels: Sequence[int], num_outputs: Mapping[str, int], *, width: int | None = 48) -> None:
        super().__init__()
        dims = list(channels) if width is None else [width * 2**s for s in range(4)]
        tasks, total = len(num_outputs), sum(dims)
        if not num_outputs or min(dims) < 1 or any(tasks * dim % 4 for dim in dims[1:]):
            raise ValueError(
                f"Expected at least one task and 4 to divide the {tasks} tasks' channels of each scale, got tasks "
                f"{list(num_outputs)} and {dims} channels: choose tasks=[…] and decoder.width=48."
            )
        self.tasks = tuple(num_outputs)
        outputs, inputs = dict(num_outputs), [*(a + b for a, b in pairwise(dims)), dims[3]]
        self.project = nn.ModuleList(
            nn.Identity() if width is None else nn.Sequential(conv(1, c, dim), nn.BatchNorm2d(dim), nn.ReLU())
            for c, dim in zip(channels, dims, strict=True)
        )
        self.initial = nn.ModuleList(
            nn.Sequential(Basic(tasks, c, dim, shared=s == 3), Basic(tasks, dim, dim))
            for s, (c, dim) in enumerate(zip(inputs, dims, strict=True))
        )
        self.initial_predict = nn.ModuleList(Predict(dim, outputs) for dim in dims)
        self.propagate = nn.ModuleList(Propagate(tasks, dim) for dim in dims[1:])
        self.distil = nn.ModuleList(Distil(tasks, dim) for dim in dims)
        self.fuse = Fuse(dims, total, tasks)
        self.predict = Predict(total, outputs)

    def decode(self, features: Sequence[Tensor]) -> tuple[Logits, dict[str, Logits]]:
        """Return final and initial predictions."""
        maps = [project(x) for project, x in zip(self.project, channels_first(features), strict=True)]
        found = [self.initial[3](maps[3])]  # (B, T dim, h, w) of each scale, finest first
        for s in (2, 1, 0):
            coarse = F.interpolate(self.propagate[s](found[0]), scale_factor=2, mode="bilinear", align_corners=False)
            by_task = coarse.unflatten(1, (len(self.tasks), -1))  # (B, T, c, h, w)
            own = maps[s][:, None].expand(-1, len(self.tasks), -1, -1, -1)
            found.insert(0, self.initial[s](torch.cat([own, by_task], 2).flatten(1, 2)))
        initial = {
            f"scale_{s}": predict(x) for s, (predict, x) in enumerate(zip(self.initial_predict, found, strict=True))
        }
        distilled = [distil(x) for distil, x in zip(self.distil, found, strict=True)]
        return enlarge(self.predict(self.fuse(distilled))), initial

    def blocks(self) -> Iterator[nn.Module]:
        """Yield what may be recomputed."""
        yield from (*self.initial, *self.propagate, *self.distil, self.fuse)

    def parts(self) -> Iterator[tuple[str, nn.Module]]:
        """Name the parts of the specification's table."""
        yield "projection", self.project
        yield "initial", self.initial
        yield "initial", self.initial_predict
        yield "propagation", self.propagate
        yield "distil", self.distil
        yield "head", self.fuse
        yield "head", self.predict
