"""InvPT: attention among the tokens of all tasks, at strides 32, 16 and 8."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from mtmamba.models.decoders import AuxiliaryDecoder
from mtmamba.models.decoders.conv import Predict, channels_first, conv, conv_norm_relu, enlarge, resize
from mtmamba.types import Logits

HEADS = 2


class Attention(nn.Module):
    """Queries at half a stage's resolution attend to the keys of all tasks, at half the coarsest stage's.

    From the second stage on, the logits of the stage before, their query grid enlarged, are mixed into this stage's.

    Args:
        tasks: T.
        dim: channels e of a task. Logits are divided by the root of e, not of a head's width.
        stage: 0, 1, 2 at strides 32, 16, 8.

    Shape: tokens ``(B, T, h, w, e)``, the stage before's logits ``(B, 2, T h/4 w/4, keys)`` or None in stage 0 →
    ``(B, T, h, w, e)``, logits ``(B, 2, T h/2 w/2, keys)``; all halves are rounded up.
    """

    def __init__(self, tasks: int, dim: int, stage: int) -> None:
        super().__init__()
        self.tasks, self.scale, self.pool = tasks, dim**-0.5, 2 ** (stage + 1)
        width = tasks * dim
        self.conv = nn.Conv2d(width, width, 3, stride=2, padding=1, groups=width, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.query, self.key, self.value, self.proj = (nn.Linear(dim, dim) for _ in range(4))
        self.fuse = nn.Conv2d(2 * HEADS, HEADS, 1) if stage else None

    def forward(self, x: Tensor, before: Tensor | None) -> tuple[Tensor, Tensor]:
        """Attend; return the logits too, before their softmax."""
        size, maps = x.shape[2:4], rearrange(x, "b t h w c -> b (t c) h w")
        queries, keys = self.norm(self.conv(maps)), F.avg_pool2d(maps, self.pool, ceil_mode=True)
        height, width = queries.shape[-2:]
        q, k, v = (
            rearrange(
                project(rearrange(y, "b (t c) h w -> b (t h w) c", t=self.tasks)), "b n (a c) -> b a n c", a=HEADS
            )
            for project, y in ((self.query, queries), (self.key, keys), (self.value, keys))
        )
        logits = q @ k.mT * self.scale
        if self.fuse is not None and before is not None:
            rows, columns = (height + 1) // 2, (width + 1) // 2  # ONNX rounds quotients of negative numbers towards 0
            before = rearrange(before, "b a (t h w) k -> (b a t) k h w", t=self.tasks, h=rows, w=columns)
            before = resize(before, (height, width))
            before = rearrange(before, "(b a t) k h w -> b a (t h w) k", a=HEADS, t=self.tasks)
            logits = self.fuse(torch.cat((logits, before), 1))
        found = self.proj(rearrange(logits.softmax(-1) @ v, "b a n c -> b n (a c)"))
        found = resize(rearrange(found, "b (t h w) c -> b (t c) h w", t=self.tasks, h=height), size)
        return rearrange(found, "b (t c) h w -> b t h w c", t=self.tasks), logits


class Stage(nn.Module):
    """A transformer block on the tokens of all tasks; before it, at strides 16 and 8, the maps are enlarged and halved.

    Only the convolutions are each task's own; the encoder's map, which they are added to, is the same for all.

    Args:
        tasks: T.
        dim: channels e of a task.
        stage: 0, 1, 2 at strides 32, 16, 8.
        skip: channels of the encoder's map at this stride; not read in stage 0.

    Shape: maps ``(B, T 2e, h/2, w/2)``, in stage 0 ``(B, T e, h, w)``; the encoder's ``(B, skip, h, w)``; logits as in
    `Attention` → ``(B, T e, h, w)`` and logits.
    """

    def __init__(self, tasks: int, dim: int, stage: int, skip: int) -> None:
        super().__init__()
        self.tasks = tasks
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = Attention(tasks, dim, stage)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        self.embed = self.skip = None
        if stage:
            self.embed = nn.Sequential(
                conv_norm_relu(tasks, 2 * dim, dim, 3, dilation=2), conv_norm_relu(tasks, dim, dim, 3, dilation=2)
            )
            self.skip = nn.Conv2d(skip, dim, 3, padding=1)

    def forward(self, x: Tensor, skip: Tensor, before: Tensor | None) -> tuple[Tensor, Tensor]:
        """Transform the maps of all tasks; return the attention's logits too."""
        if self.embed is not None and self.skip is not None:
            x = self.embed(resize(x, skip.shape[-2:])) + self.skip(skip).repeat(1, self.tasks, 1, 1)
        x = rearrange(x, "b (t c) h w -> b t h w c", t=self.tasks)
        found, logits = self.attention(self.norm1(x), before)
        x = x + found
        x = x + self.mlp(self.norm2(x))
        return rearrange(x, "b t h w c -> b (t c) h w"), logits


class Out(nn.Module):
    """A stage's result for the sum: one layer norm over all tasks' channels, and the task's width made E.

    Shape: ``(B, T e, h, w) → (B, T E, h, w)``.
    """

    def __init__(self, tasks: int, dim: int, out: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(tasks * dim)
        self.reduce = nn.Identity() if dim == out else conv(tasks, dim, out, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise and widen."""
        return self.reduce(self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))


class InvPT(AuxiliaryDecoder):
    """Preliminary predictions at stride 32; three stages of attention among all tasks' tokens; a head on their sum.

    Preliminary predictions (auxiliary ``preliminary``, at a 32nd of the resolution) have their task's loss, are fed
    into the tokens, and gradients flow through them. The finest map is not read.

    Args:
        channels: of the encoder's maps at strides 4, 8, 16, 32.
        num_outputs: logits per task, in the tasks' order.
        dim: width D of every task's preliminary features.
        extra: what the tokens' width E has beyond D; E is halved from stage to stage and must be a multiple of 8.

    Shape: four maps ``(B, h, w, c)`` → ``{task: (B, n, 4h, 4w)}`` of the first map's h, w.
    Source: Ye and Xu, Inverted Pyramid Multi-task Transformer, ECCV 2022, as the authors' program has it for ViT. Which
    maps of a Swin enter is a reconstruction: the coarsest first, those at strides 16 and 8 added to the later stages.
    Stochastic depth is 0 there, whatever its configuration says. Grids of odd sides, which that program refuses, are
    halved with rounding up.

    Raises:
        ValueError: there is no task, or E is no multiple of 8.
    """

    def __init__(
        self, channels: Sequence[int], num_outputs: Mapping[str, int], *, dim: int = 512, extra: int = 64
    ) -> None:
        super().__init__()
        width = dim + extra
        if not num_outputs or dim < 1 or width < 8 or width % 8:
            raise ValueError(
                f"Expected at least one task and decoder.dim + decoder.extra as a multiple of 8, got "
                f"{list(num_outputs)} and {dim} + {extra}: choose tasks=[…], decoder.dim=512 and decoder.extra=64."
            )
        tasks = len(num_outputs)
        self.tasks, self.width, outputs = tuple(num_outputs), width, dict(num_outputs)
        _, fine, middle, coarse = channels
        self.preliminary = nn.Sequential(
            conv_norm_relu(tasks, coarse, coarse, 3, shared=True), conv_norm_relu(tasks, coarse, dim, 3)
        )
        self.preliminary_predict = Predict(dim, outputs)
        self.mix = nn.ModuleDict({task: nn.Conv2d(dim + n, width, 1) for task, n in outputs.items()})
        widths = (width, width // 2, width // 4)
        self.stages = nn.ModuleList(
            Stage(tasks, e, i, skip) for i, (e, skip) in enumerate(zip(widths, (coarse, middle, fine), strict=True))
        )
        self.outs = nn.ModuleList(Out(tasks, e, width) for e in widths)
        last = conv(tasks, width, width, 3, bias=True)
        nn.init.trunc_normal_(last.weight, std=0.02)
        self.head = nn.Sequential(last, nn.BatchNorm2d(tasks * width), nn.ReLU())
        self.predict = Predict(width, outputs)

    def decode(self, features: Sequence[Tensor]) -> tuple[Logits, dict[str, Logits]]:
        """Return final and preliminary predictions."""
        finest, *skips = channels_first(features)
        x = self.preliminary(skips[-1])  # (B, T D, h/8, w/8)
        preliminary = self.preliminary_predict(x)
        own = zip(self.mix.items(), x.chunk(len(self.tasks), 1), strict=True)
        x = torch.cat([mix(torch.cat((y, preliminary[task]), 1)) for (task, mix), y in own], 1)
        total, message = 0 * finest[0, 0, 0, 0], None  # whose gradient 0 distributed training waits for
        for stage, out, skip in zip(self.stages, self.outs, reversed(skips), strict=True):
            x, message = stage(x, skip, message)
            total = total + resize(out(x), finest.shape[-2:])  # (B, T E, h, w)
        return enlarge(self.predict(self.head(total))), {"preliminary": preliminary}

    def blocks(self) -> Iterator[nn.Module]:
        """Yield what may be recomputed."""
        yield from (self.preliminary, *self.stages, *self.outs, self.head)

    def parts(self) -> Iterator[tuple[str, nn.Module]]:
        """Name the parts of the specification's table."""
        yield "preliminary", self.preliminary
        yield "preliminary", self.preliminary_predict
        yield "mix", self.mix
        for i, stage in enumerate(self.stages):
            yield f"stage {i}", stage
        yield "out", self.outs
        yield "head", self.head
        yield "head", self.predict
