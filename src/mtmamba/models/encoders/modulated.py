"""A Swin encoder run once for every task, modulated by adapters, squeeze and excitation, and its own norms."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtmamba.models.drop_path import DropPath
from mtmamba.models.encoders.encoder import Encoder
from mtmamba.models.encoders.swin import SwinEncoder
from mtmamba.models.encoders.swin_blocks import LayerNorm, PatchMerging, SwinBlock
from mtmamba.models.layers import TaskLayerNorm, TaskLinear

OPEN = 4.0
"""Where the last bias of squeeze and excitation starts: its factors near 1, as pretrained weights expect."""


class Excite(nn.Module):
    """Each task's squeeze and excitation of its map, over a sixteenth of the channels.

    Shape: ``(T, B, h, w, dim) → (T, B, h, w, dim)``.
    Source: Hu et al., Squeeze-and-excitation networks, CVPR 2018.
    """

    def __init__(self, tasks: int, dim: int) -> None:
        super().__init__()
        hidden = max(1, dim // 16)
        self.reduce, self.expand = TaskLinear(tasks, dim, hidden), TaskLinear(tasks, hidden, dim)
        assert self.expand.bias is not None
        nn.init.constant_(self.expand.bias, OPEN)

    def forward(self, x: Tensor) -> Tensor:
        """Weigh the channels."""
        gates = self.expand(F.relu(self.reduce(x.mean((2, 3))))).sigmoid()  # (T, B, dim)
        return x * gates[:, :, None, None]


class ModulatedBlock(nn.Module):
    """A Swin block whose attention and MLP serve all tasks, each with its own norms, adapter and excitation.

    Args:
        block: with its weights.
        dim: its channels.
        tasks: T.

    Shape: ``(T, B, h, w, dim) → (T, B, h, w, dim)``.
    """

    def __init__(self, block: SwinBlock, dim: int, tasks: int) -> None:
        super().__init__()
        self.norm1, self.attn = own_norms(block.norm1, tasks), block.attn
        self.adapter = TaskLinear(tasks, dim, dim, bias=False)
        nn.init.zeros_(self.adapter.weight)
        self.norm2, self.mlp, self.excite = own_norms(block.norm2, tasks), block.mlp, Excite(tasks, dim)
        self.drop_path1, self.drop_path2 = (DropPath(drop.rate, tasks) for drop in (block.drop_path1, block.drop_path2))

    def forward(self, x: Tensor) -> Tensor:
        """Attend, then transform each pixel; both residual."""
        normed = self.norm1(x)
        attended = self.attn(normed.flatten(0, 1)).unflatten(0, x.shape[:2])
        x = x + self.drop_path1(attended + self.adapter(normed))
        return x + self.drop_path2(self.excite(self.mlp(self.norm2(x))))


class ModulatedMerging(nn.Module):
    """Patch merging with norms of each task: ``(T, B, 2h, 2w, dim / 2) → (T, B, h, w, dim)``."""

    def __init__(self, merging: PatchMerging, tasks: int) -> None:
        super().__init__()
        self.norm, self.reduction = own_norms(merging.norm, tasks), merging.reduction

    def forward(self, x: Tensor) -> Tensor:
        """Join the pixels, and halve their channels."""
        joined = PatchMerging.joined(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        return self.reduction(self.norm(joined))


class ModulatedSwin(Encoder):
    """A Swin encoder that every task runs through on its own, after the patch embedding, which is the same for all.

    Linear layers and attention serve all tasks. In each block a task has norms of its own, an adapter beside the
    attention that starts at 0, and squeeze and excitation after the MLP that starts near 1, so that at first every
    task's maps are nearly the encoder's. All this costs T passes.

    Args:
        encoder: with its weights, which are taken over.
        tasks: T.

    Shape: images ``(B, 3, H, W)`` → four maps ``(T, B, h, w, c)``.

    Raises:
        ValueError: the encoder is not one of Swin's.
    """

    def __init__(self, encoder: Encoder, tasks: int) -> None:
        super().__init__()
        if not isinstance(encoder, SwinEncoder):
            raise ValueError(
                f"Expected a Swin encoder to modulate for each task, got {type(encoder).__name__}: choose "
                "encoder=swin_…, or decoder=astmt_decoder."
            )
        self.tasks, self.channels = tasks, encoder.channels
        self.patch_embed = encoder.patch_embed
        self.layers = nn.ModuleList()
        for layer, dim in zip(encoder.layers, encoder.channels, strict=True):
            first: nn.Module = layer.downsample  # type: ignore[assignment]
            merging = ModulatedMerging(first, tasks) if isinstance(first, PatchMerging) else nn.Identity()
            blocks = (ModulatedBlock(block, dim, tasks) for block in layer.blocks)  # type: ignore[union-attr]
            self.layers.append(nn.Sequential(merging, *blocks))
        self.norms = nn.ModuleList(own_norms(norm, tasks) for norm in encoder.norms)  # type: ignore[arg-type]
        own = (name for name, _ in self.named_modules() if name.endswith((".adapter", ".excite")))
        self.fresh = ("norms", *own)

    def blocks(self) -> Iterator[nn.Module]:
        """Yield the modulated blocks, first to last."""
        return (module for module in self.layers.modules() if isinstance(module, ModulatedBlock))

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the four normed maps of every task."""
        x, maps = self.patch_embed(images).expand(self.tasks, -1, -1, -1, -1).contiguous(), []
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = layer(x)
            maps.append(norm(x))
        return maps


@torch.no_grad()
def own_norms(norm: LayerNorm, tasks: int) -> TaskLayerNorm:
    """Return a layer norm for each task that starts as a given one."""
    own = TaskLayerNorm(tasks, norm.normalized_shape[0])
    own.weight.copy_(norm.weight.expand(tasks, -1))
    own.bias.copy_(norm.bias.expand(tasks, -1))
    return own
