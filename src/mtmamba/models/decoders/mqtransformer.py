"""MQTransformer: a few queries of each task read its map, meet those of the other tasks, and are read by the map."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from mtmamba.models.decoders import AuxiliaryDecoder
from mtmamba.models.decoders.conv import Predict, channels_first, conv, conv_norm_relu, enlarge, join, start_small
from mtmamba.models.drop_path import DropPath
from mtmamba.types import Logits

HEADS = 4


def mlp(dim: int, ratio: int) -> nn.Sequential:
    """Return a layer norm and an MLP, whose hidden width is ``ratio`` times the width."""
    return nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, ratio * dim), nn.GELU(), nn.Linear(ratio * dim, dim))


class CrossAttention(nn.Module):
    """Attention with a layer norm of each input and 4 heads; all tasks share it.

    Shape: ``(T, B, n, dim), (T, B, m, dim), (T, B, m, dim) → (T, B, n, dim)``.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(3))
        self.inputs = nn.ModuleList(nn.Linear(dim, dim, bias=False) for _ in range(3))
        self.proj = nn.Linear(dim, dim)

    def forward(self, *tokens: Tensor) -> Tensor:
        """Let queries read keys and values, given in this order."""
        projected = (f(norm(x)) for f, norm, x in zip(self.inputs, self.norms, tokens, strict=True))
        q, k, v = (rearrange(x, "t b n (a c) -> (t b) a n c", a=HEADS) for x in projected)
        found = F.scaled_dot_product_attention(q, k, v)
        return self.proj(rearrange(found, "(t b) a n c -> t b n (a c)", t=len(tokens[0])))


class Read(nn.Module):
    """The query encoder: every task's queries read its map, then an MLP; all tasks share it.

    Shape: queries, the same with positions, and maps: ``(T, B, Q, dim), (T, B, Q, dim), (T, B, n, dim)`` →
    ``(T, B, Q, dim)``.
    """

    def __init__(self, tasks: int, dim: int, drop_path: float) -> None:
        super().__init__()
        self.attention, self.mlp = CrossAttention(dim), mlp(dim, 1)
        self.reason = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim, bias=False))
        self.drops = nn.ModuleList(DropPath(drop_path, tasks) for _ in range(2))

    def forward(self, queries: Tensor, placed: Tensor, x: Tensor) -> Tensor:
        """Read the maps."""
        queries = queries + self.drops[0](self.attention(placed, x, x))
        queries = queries + self.reason(queries)
        return queries + self.drops[1](self.mlp(queries))


class Meet(nn.Module):
    """The queries of all tasks attend to one another.

    In training a query's branch is dropped with probability 0.5, an attention weight with 0.1, for each image apart.

    Shape: ``(T, B, Q, dim) → (T, B, Q, dim)``.
    """

    def __init__(self, tokens: int, dim: int) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.LayerNorm(dim), *mlp(dim, 1))
        self.drop_weights = DropPath(0.1, HEADS * tokens**2)
        self.drops = nn.ModuleList(DropPath(0.5, tokens) for _ in range(2))
        nn.init.xavier_uniform_(self.qkv.weight)
        nn.init.zeros_(self.qkv.bias)
        nn.init.zeros_(self.proj.bias)

    def forward(self, queries: Tensor) -> Tensor:
        """Let the queries meet."""
        x = rearrange(queries, "t b q c -> (t q) b c")
        x = x + self.drops[0](self.attend(x))
        x = x + self.drops[1](self.mlp(x))
        return rearrange(x, "(t q) b c -> t b q c", t=len(queries))

    def attend(self, x: Tensor) -> Tensor:
        """Attend among tokens ``(n, B, dim)``."""
        q, k, v = rearrange(self.qkv(x), "n b (three a c) -> three b a n c", three=3, a=HEADS)
        weights = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1)  # (B, a, n, n)
        kept = self.drop_weights(weights.flatten(1).T).T.view_as(weights)
        return self.proj(rearrange(kept @ v, "b a n c -> n b (a c)"))


class Write(nn.Module):
    """The decoder: every pixel reads its task's queries, then MLPs and a linear map; all tasks share it.

    Shape: maps, queries, the same with positions: ``(T, B, n, dim), (T, B, Q, dim), (T, B, Q, dim)`` →
    ``(T, B, n, dim)``.
    """

    def __init__(self, tasks: int, dim: int, drop_path: float) -> None:
        super().__init__()
        self.attention, self.mlp1, self.mlp2 = CrossAttention(dim), mlp(dim, 3), mlp(dim, 3)
        self.value, self.proj = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.drops = nn.ModuleList(DropPath(drop_path, tasks) for _ in range(4))
        nn.init.zeros_(self.value.bias)
        nn.init.zeros_(self.proj.bias)

    def forward(self, x: Tensor, queries: Tensor, placed: Tensor) -> Tensor:
        """Read the queries; the second residual is the map that came in."""
        y = x + self.drops[0](self.attention(x, placed, queries))
        y = y + self.drops[1](self.mlp1(y))
        y = x + self.drops[2](self.proj(self.value(y)))
        return F.gelu(y + self.drops[3](self.mlp2(y)))


class MQTransformer(AuxiliaryDecoder):
    """Project the joined maps for each task; its queries read them, meet the other tasks', and are read; a head.

    Args:
        channels: of the encoder's maps at strides 4, 8, 16, 32.
        num_outputs: logits per task, in the tasks' order.
        dim: width W of maps and queries, a multiple of 4.
        queries: Q, queries of a task.
        drop_path: rate of stochastic depth where queries read maps and are read.

    Shape: four maps ``(B, h, w, c)`` → ``{task: (B, n, 4h, 4w)}`` of the first map's h, w.
    Source: Xu et al., Multi-Task Learning with Multi-Query Transformer for Dense Prediction, 2022, as the released
    program is at one image a device, how it was trained: there its last attention, among the images of a batch, is the
    linear map of `Write`, and queries are dropped image by image. Parameters, P the sum of the channels, N of outputs:
    ``T ((P+1)W + 3QW/2 + 9W²/4 + W/2) + (W/4+1) N + 31W² + 44W``.

    Raises:
        ValueError: there is no task or no query, or ``dim`` is no multiple of 4.
    """

    def __init__(
        self,
        channels: Sequence[int],
        num_outputs: Mapping[str, int],
        *,
        dim: int = 256,
        queries: int = 64,
        drop_path: float = 0.1,
    ) -> None:
        super().__init__()
        if not num_outputs or dim % HEADS or min(dim, queries) < 1:
            raise ValueError(
                f"Expected at least one task, decoder.dim as a multiple of {HEADS} and decoder.queries of at least 1, "
                f"got {list(num_outputs)}, {dim} and {queries}: choose tasks=[…], decoder.dim=256, decoder.queries=64."
            )
        tasks = len(num_outputs)
        self.tasks = tuple(num_outputs)
        self.project = conv(tasks, sum(channels), dim, shared=True, bias=True)
        self.queries, self.query_places, self.key_places = (
            nn.Parameter(nn.init.trunc_normal_(torch.empty(tasks, queries, width), std=0.02))
            for width in (dim, dim // HEADS, dim // HEADS)
        )
        self.read = Read(tasks, dim, drop_path)
        self.meet = Meet(tasks * queries, dim)
        self.write = Write(tasks, dim, drop_path)
        self.head = conv_norm_relu(tasks, dim, dim // 4, 3)
        self.predict = Predict(dim // 4, dict(num_outputs))
        start_small(self.predict)

    def decode(self, features: Sequence[Tensor]) -> tuple[Logits, dict[str, Logits]]:
        """Return predictions, and no auxiliary ones."""
        x = self.project(join(channels_first(features)))
        height = x.shape[2]
        x = rearrange(x, "b (t c) h w -> t b (h w) c", t=len(self.tasks))
        queries = self.queries[:, None].expand(-1, x.shape[1], -1, -1)  # (T, B, Q, dim)
        queries = self.meet(self.read(queries, self._placed(queries, self.query_places), x))
        x = self.write(x, queries, self._placed(queries, self.key_places))
        x = rearrange(x, "t b (h w) c -> b (t c) h w", h=height)
        return enlarge(self.predict(self.head(x))), {}

    @staticmethod
    def _placed(queries: Tensor, places: Tensor) -> Tensor:
        """Add positions ``(T, Q, dim/4)`` to queries ``(T, B, Q, dim)``, the same for every head."""
        return queries + places.repeat(1, 1, HEADS)[:, None]

    def blocks(self) -> Iterator[nn.Module]:
        """Yield what may be recomputed."""
        yield from (self.read, self.meet, self.write, self.head)

    def parts(self) -> Iterator[tuple[str, nn.Module]]:
        """Name the parts; queries and positions are in none."""
        yield "projection", self.project
        yield "read", self.read
        yield "meet", self.meet
        yield "write", self.write
        yield "head", self.head
        yield "head", self.predict
