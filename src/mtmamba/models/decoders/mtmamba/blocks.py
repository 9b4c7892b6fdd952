"""The decoder's blocks: MFE, gates, STM and CTM, their ablations, and MTMamba++'s cross block.

A block maps ``(T, B, H, W, dim) → (T, B, H, W, dim)`` and holds its stochastic depth in `DropPath` modules, whose rates
the decoder sets. Equations are those of Lin et al., MTMamba, ECCV 2024.
"""

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from mtmamba.kernels.blend import blend
from mtmamba.kernels.depthwise import depthwise_silu
from mtmamba.kernels.norm import gated_norm, scale_samples
from mtmamba.kernels.residual import residual_norm
from mtmamba.models.attention import SwinBlock, WindowAttention
from mtmamba.models.layers import DropPath, JointLayerNorm, TaskConv2d, TaskLayerNorm, TaskLinear, project_jointly
from mtmamba.models.ss2d import SS2D

EXPANSION = 2
"""Width of a mixer over its block's: alpha in section 4.1."""

Factory = Callable[..., Any]


class MFE(nn.Module):
    """Mamba-based feature extractor: linear, depthwise convolution, SiLU, SS2D, layer norm (eq. 13).

    Args:
        tasks: T.
        dim: the block's width d; the mixer works at ``EXPANSION * d``, with a step-size rank of ``ceil(d / 16)``.
        dim_in: channels of the input, where they are not ``dim``.

    Shape: ``(T, B, H, W, dim_in) → (T, B, H, W, EXPANSION * dim)``.
    """

    def __init__(self, tasks: int, dim: int, dim_in: int | None = None) -> None:
        super().__init__()
        inner = EXPANSION * dim
        self.in_proj = TaskLinear(tasks, dim_in or dim, inner, bias=False)
        self.conv = TaskConv2d(tasks, inner, inner, groups=inner)
        self.ss2d = SS2D(tasks, inner, dt_rank=math.ceil(dim / 16))
        self.norm = TaskLayerNorm(tasks, inner)

    def forward(self, x: Tensor) -> Tensor:
        """Extract features."""
        return self.norm(self._scan(self.in_proj(x)))

    def gated(self, x: Tensor, gate: nn.Module, scale: Tensor | None, source: Tensor | None = None) -> Tensor:
        """Return the features times silu(``gate(x)``) and each sample's ``scale`` ``(T, B)``, if any (eq. 17).

        The scan is steered by ``source`` ``(T, B, H, W, EXPANSION * dim)`` where given, else by the signal itself.
        """
        signal, opening = self._project(x, gate)
        return gated_norm(self._scan(signal, source), self.norm.weight, self.norm.bias, opening, scale)

    def blended(self, x: Tensor, shared: "MFE", joint: Tensor, gate: nn.Module, scale: Tensor | None) -> Tensor:
        """Weigh the features by sigmoid(``gate(x)``) against those that ``shared`` finds in ``joint`` (eqs. 23, 24)."""
        signal, opening = self._project(x, gate)
        beside = shared.in_proj(joint), shared.conv.weight, shared.conv.bias
        maps = depthwise_silu(signal, self.conv.weight, self.conv.bias, beside)
        norms = self.norm.weight, self.norm.bias, shared.norm.weight, shared.norm.bias
        return blend(self.ss2d(maps, None, shared.ss2d), opening, *norms, scale)

    def _project(self, x: Tensor, gate: nn.Module) -> tuple[Tensor, Tensor]:
        if isinstance(gate, LinearGate):
            return project_jointly(x, self.in_proj, gate)
        return self.in_proj(x), gate(x)

    def _scan(self, signal: Tensor, source: Tensor | None = None) -> Tensor:
        y: Tensor = self.ss2d(depthwise_silu(signal, self.conv.weight, self.conv.bias), source)
        return y


class AttentionMFE(nn.Module):
    """Table 3's stand-in for MFE: the input linear layer, then window attention with 6 heads and window 12.

    Shape: ``(T, B, H, W, dim_in) → (T, B, H, W, EXPANSION * dim)``.
    """

    def __init__(self, tasks: int, dim: int, dim_in: int | None = None) -> None:
        super().__init__()
        inner = EXPANSION * dim
        self.in_proj = TaskLinear(tasks, dim_in or dim, inner, bias=False)
        self.attention = WindowAttention(tasks, inner, heads=6)

    def forward(self, x: Tensor) -> Tensor:
        """Mix the pixels of each window."""
        return self.attention(self.in_proj(x))

    def gated(self, x: Tensor, gate: nn.Module, scale: Tensor | None) -> Tensor:
        """Return the features times silu(``gate(x)``) and each sample's ``scale``, as `MFE.gated` does."""
        return scale_samples(self(x) * F.silu(gate(x)), scale)

    def blended(self, x: Tensor, shared: nn.Module, joint: Tensor, gate: nn.Module, scale: Tensor | None) -> Tensor:
        """Weigh the features by sigmoid(``gate(x)``) against those of ``shared``, as `MFE.blended` does."""
        own = self(x)
        return scale_samples(own + gate(x).sigmoid() * (shared(joint) - own), scale)


class LinearGate(TaskLinear):
    """The input-dependent gate's linear layer (eqs. 16 and 23); the block applies its activation.

    Shape: ``(T, B, H, W, dim) → (T, B, H, W, EXPANSION * dim)``.
    """

    def __init__(self, tasks: int, dim: int) -> None:
        super().__init__(tasks, dim, EXPANSION * dim, bias=False)


class AttentionGate(nn.Sequential):
    """Table 4's stand-in for the linear gate: window attention at the block's width before the linear layer.

    Shape: ``(T, B, H, W, dim) → (T, B, H, W, EXPANSION * dim)``.
    """

    def __init__(self, tasks: int, dim: int) -> None:
        super().__init__(WindowAttention(tasks, dim, heads=6), LinearGate(tasks, dim))


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
        self.out_proj = TaskLinear(tasks, EXPANSION * dim, dim, bias=False)
        self.drop_path = DropPath(tasks=tasks)

    def forward(self, z: Tensor) -> Tensor:
        """Refine each task's map."""
        z, x = residual_norm(z, self.norm.weight, self.norm.bias)
        features = self.mfe.gated(x, self.gate, self.drop_path.factor(z))
        return self.out_proj(features, residual=z)


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
        self.out_proj = TaskLinear(tasks, EXPANSION * dim, dim, bias=False)
        self.drop_path = DropPath(tasks=tasks)

    def forward(self, z: Tensor) -> Tensor:
        """Exchange information between the tasks' maps."""
        z, x = residual_norm(z, self.norm.weight, self.norm.bias)
        joint, scale = self.shared.norm(z), self.drop_path.factor(z)
        mixed = self.own.blended(x, self.shared.mfe, joint, self.gate, scale)
        return self.out_proj(mixed, residual=z)


class OwnCTM(nn.Module):
    """Table 5's g = 0: a CTM block that keeps each task's own features only."""

    def __init__(self, tasks: int, dim: int, mfe: Factory, **_: Factory) -> None:
        super().__init__()
        self.norm = TaskLayerNorm(tasks, dim)
        self.own = mfe(tasks, dim)
        self.out_proj = TaskLinear(tasks, EXPANSION * dim, dim, bias=False)
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
        self.out_proj = TaskLinear(tasks, EXPANSION * dim, dim, bias=False)
        self.drop_path = DropPath(tasks=tasks)

    def forward(self, z: Tensor) -> Tensor:
        """Exchange information between the tasks' maps."""
        source = self.cross_proj(self.conv_shared(self.norm_shared(z)))
        z, x = residual_norm(z, self.norm.weight, self.norm.bias)
        features = self.mfe.gated(x, self.gate, self.drop_path.factor(z), source)
        return self.out_proj(features, residual=z)


def stm_stack(tasks: int, dim: int, *, depth: int, mfe: Factory, gate: Factory) -> list[nn.Module]:
    """Return one stage's self-task blocks: ``depth`` STM, one after another."""
    return [STM(tasks, dim, mfe, gate) for _ in range(depth)]


def swin_pair(tasks: int, dim: int, *, window: int = 12) -> list[nn.Module]:
    """Return one stage's two Swin blocks, the second shifted, with heads of 32 channels (Table 2, "2*Swin")."""
    return [SwinBlock(tasks, dim, max(1, dim // 32), window, shift) for shift in (0, window // 2)]


def no_cross(tasks: int, dim: int, **_: Factory) -> None:
    """Return no block: the decoders whose tasks never meet."""
