"""The decoder's blocks: MFE, gates, STM and CTM, their ablations, and MTMamba++'s cross block.

A block maps ``(T, B, H, W, dim) → (T, B, H, W, dim)`` and holds its stochastic depth in `DropPath` modules, whose rates
the decoder sets. Equations are those of Lin et al., MTMamba, ECCV 2024.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from mtmamba.kernels.norm import scale_samples
from mtmamba.kernels.residual import residual_norm
from mtmamba.models.attention import SwinBlock
from mtmamba.models.decoders.mtmamba.extractors import EXPANSION, MFE, LinearGate, blend_features, project_and_gate
from mtmamba.models.drop_path import DropPath
from mtmamba.models.layers import JointLayerNorm, ResidualLinear, TaskConv2d, TaskLayerNorm, TaskLinear

Factory = Callable[..., Any]


class STM(nn.Module):
    """Self-task block: long-range context inside each task's map (eqs. 14-18).

    Normalise, extract features, let a gate keep or drop them, project back, add the input. Every pixel can reach every
    other; tasks never mix here (see `CTM`).

    >>> import torch
    >>> STM(2, 16, mfe=MFE, gate=LinearGate)(torch.zeros(2, 1, 4, 6, 16)).shape
    torch.Size([2, 1, 4, 6, 16])
    """

    def __init__(self, tasks: int, dim: int, mfe: Factory, gate: Factory) -> None:
        super().__init__()
        self.norm = TaskLayerNorm(tasks, dim)
        self.mfe = mfe(tasks, dim)
        self.gate = gate(tasks, dim)
        self.out_proj = ResidualLinear(tasks, EXPANSION * dim, dim)
        self.drop_path = DropPath(tasks=tasks)

    def forward(self, z: Tensor) -> Tensor:
        """Refine each task's map."""
        z, x = residual_norm(z, self.norm.weight, self.norm.bias)  # eq. 14
        signal, gate = project_and_gate(x, self.mfe.in_proj, self.gate)  # linear layers of eqs. 15 and 16
        features = self.mfe.gated(signal, gate, self.drop_path.factor(z))  # eqs. 15 to 17
        return self.out_proj(features, residual=z)  # eq. 18


class SharedBranch(nn.Module):
    """The CTM's view of all tasks: their maps side by side on the channels, normalised, through one MFE (eqs. 20, 22).

    Shape: ``(T, B, H, W, dim) → (1, B, H, W, EXPANSION * dim)``.
    """

    def __init__(self, tasks: int, dim: int, mfe: Factory) -> None:
        super().__init__()
        self.norm = JointLayerNorm(tasks, dim)
        self.mfe = mfe(1, dim, tasks * dim)

    def forward(self, z: Tensor) -> Tensor:
        """Extract what the tasks have in common."""
        return self.mfe(self.norm(z))


class CTM(nn.Module):
    """Cross-task block: each task blends its own features with those of all tasks together (eqs. 19-25).

    The gate weighs the *shared* features, as Table 5's "g=1: shared only" says and the authors' program does; equation
    24 as printed has it the other way round.
    """

    def __init__(self, tasks: int, dim: int, mfe: Factory, gate: Factory) -> None:
        super().__init__()
        self.norm = TaskLayerNorm(tasks, dim)
        self.own = mfe(tasks, dim)
        self.shared = SharedBranch(tasks, dim, mfe)
        self.gate = gate(tasks, dim)
        self.out_proj = ResidualLinear(tasks, EXPANSION * dim, dim)
        self.drop_path = DropPath(tasks=tasks)

    def forward(self, z: Tensor) -> Tensor:
        """Exchange information between the tasks' maps."""
        z, x = residual_norm(z, self.norm.weight, self.norm.bias)  # eq. 19
        joint = self.shared.norm(z)  # eq. 20
        signal, gate = project_and_gate(x, self.own.in_proj, self.gate)  # linear layers of eqs. 21 and 23
        joint = self.shared.mfe.in_proj(joint)  # linear layer of eq. 22
        mixed = blend_features(
            self.own, self.shared.mfe, signal, joint, gate, self.drop_path.factor(z)
        )  # eqs. 21 to 24
        return self.out_proj(mixed, residual=z)  # eq. 25


class OwnCTM(nn.Module):
    """Table 5's g = 0: a CTM block that keeps each task's own features only."""

    def __init__(self, tasks: int, dim: int, mfe: Factory, **_: Factory) -> None:
        super().__init__()
        self.norm = TaskLayerNorm(tasks, dim)
        self.own = mfe(tasks, dim)
        self.out_proj = ResidualLinear(tasks, EXPANSION * dim, dim)
        self.drop_path = DropPath(tasks=tasks)

    def forward(self, z: Tensor) -> Tensor:
        """Refine each task's map by itself."""
        z, x = residual_norm(z, self.norm.weight, self.norm.bias)
        features = scale_samples(self.own(x), self.drop_path.factor(z))
        return self.out_proj(features, residual=z)


class SharedCTM(nn.Module):
    """Table 5's g = 1: a CTM block that keeps the shared features only."""

    def __init__(self, tasks: int, dim: int, mfe: Factory, **_: Factory) -> None:
        super().__init__()
        self.shared = SharedBranch(tasks, dim, mfe)
        self.out_proj = TaskLinear(tasks, EXPANSION * dim, dim, bias=False)
        self.drop_path = DropPath(tasks=tasks)

    def forward(self, z: Tensor) -> Tensor:
        """Add to each task's map what the tasks have in common."""
        return z + self.drop_path(self.out_proj(self.shared(z)))


class SCTM(nn.Module):
    """MTMamba++'s cross block: each task's signal is scanned with step sizes, B and C taken from a shared map.

    Source: Lin et al., MTMamba++, TPAMI 2025.
    """

    def __init__(self, tasks: int, dim: int) -> None:
        super().__init__()
        self.norm_shared = JointLayerNorm(tasks, dim)
        self.conv_shared = nn.Sequential(TaskConv2d(1, tasks * dim, dim, kernel=1), TaskConv2d(1, dim, dim, kernel=3))
        self.cross_proj = TaskLinear(tasks, dim, EXPANSION * dim, bias=False)
        self.norm = TaskLayerNorm(tasks, dim)
        self.mfe = MFE(tasks, dim)
        self.gate = LinearGate(tasks, dim)
        self.out_proj = ResidualLinear(tasks, EXPANSION * dim, dim)
        self.drop_path = DropPath(tasks=tasks)

    def forward(self, z: Tensor) -> Tensor:
        """Exchange information between the tasks' maps."""
        source = self.cross_proj(self.conv_shared(self.norm_shared(z)))
        z, x = residual_norm(z, self.norm.weight, self.norm.bias)
        signal, gate = project_and_gate(x, self.mfe.in_proj, self.gate)
        features = self.mfe.gated(signal, gate, self.drop_path.factor(z), source)
        return self.out_proj(features, residual=z)


def stm_stack(tasks: int, dim: int, *, depth: int, mfe: Factory, gate: Factory) -> list[nn.Module]:
    """Return one stage's self-task blocks: ``depth`` STM, one after another.

    Raises:
        ValueError: ``depth`` is below 0.
    """
    if depth < 0:
        raise ValueError(f"Expected decoder.own.depth of at least 0, got {depth}: choose 1, 2 or 3.")
    return [STM(tasks, dim, mfe, gate) for _ in range(depth)]


def swin_pair(tasks: int, dim: int, *, window: int = 12) -> list[nn.Module]:
    """Return one stage's two Swin blocks, the second shifted, with heads of 32 channels (Table 2, "2*Swin")."""
    return [SwinBlock(tasks, dim, max(1, dim // 32), window, shift) for shift in (0, window // 2)]


def no_cross(tasks: int, dim: int, **_: Factory) -> None:
    """Return no block: the decoders whose tasks never meet."""
