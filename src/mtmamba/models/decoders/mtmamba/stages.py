"""A stage of MTMamba's decoders: twice the resolution, the encoder's map, then blocks."""

from collections.abc import Sequence

from torch import Tensor, nn

from mtmamba.models.layers import PatchExpand, SkipFuse


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
