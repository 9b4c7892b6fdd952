"""What the blocks are made of: MFE and its stand-in, gates, and how two extractors' features are weighed by a gate."""

import math

from torch import Tensor, nn
from torch.nn import functional as F

from mtmamba.kernels.blend import blend
from mtmamba.kernels.depthwise import depthwise_silu
from mtmamba.kernels.norm import gated_norm, scale_samples
from mtmamba.models.attention import WindowAttention
from mtmamba.models.layers import DepthwiseConv2d, TaskLayerNorm, TaskLinear, project_jointly
from mtmamba.models.ss2d import SS2D

EXPANSION = 2
"""Width of a mixer over its block's: alpha in section 4.1."""


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
        self.conv = DepthwiseConv2d(tasks, inner)
        self.ss2d = SS2D(tasks, inner, dt_rank=math.ceil(dim / 16))
        self.norm = TaskLayerNorm(tasks, inner)

    def forward(self, x: Tensor) -> Tensor:
        """Extract features."""
        return self.norm(self.ss2d(self.conv(self.in_proj(x))))

    def gated(self, signal: Tensor, gate: Tensor, scale: Tensor | None, source: Tensor | None = None) -> Tensor:
        """Return the features of what ``in_proj`` has given, times silu(``gate``) and each sample's ``scale`` (eq. 17).

        Args:
            signal: ``(T, B, H, W, EXPANSION * dim)``.
            gate: like ``signal``.
            scale: ``(T, B)``; None for ones.
            source: what steers the scan, like ``signal``; the convolved signal itself by default.
        """
        y = self.ss2d(self.conv(signal), source)
        return gated_norm(y, self.norm.weight, self.norm.bias, gate, scale)


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

    def gated(self, signal: Tensor, gate: Tensor, scale: Tensor | None) -> Tensor:
        """Return the features times silu(``gate``) and each sample's ``scale``, as `MFE.gated` does."""
        return scale_samples(self.attention(signal) * F.silu(gate), scale)


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


def project_and_gate(x: Tensor, layer: TaskLinear, gate: nn.Module) -> tuple[Tensor, Tensor]:
    """Return what an extractor's input layer and a gate make of the same maps; two linear layers go together."""
    if isinstance(gate, LinearGate):
        return project_jointly(x, layer, gate)
    return layer(x), gate(x)


def blend_features(
    own: MFE | AttentionMFE,
    shared: MFE | AttentionMFE,
    signal: Tensor,
    joint: Tensor,
    gate: Tensor,
    scale: Tensor | None,
) -> Tensor:
    """Weigh two extractors' features by a gate: ``scale ((1 - g) own + g shared)``, g = sigmoid(gate).

    Two MFEs are convolved, scanned, normalised and weighed together: the shared maps are one task more.

    Args:
        own: the tasks' extractor, an `MFE` or an `AttentionMFE`.
        shared: that of all tasks together, of the same kind.
        signal: what the input layer of ``own`` has given, ``(T, B, H, W, EXPANSION * dim)``.
        joint: what that of ``shared`` has given, ``(1, B, H, W, EXPANSION * dim)``.
        gate: like ``signal``.
        scale: ``(T, B)``; None for ones.
    """
    if isinstance(own, MFE) and isinstance(shared, MFE):
        beside = joint, shared.conv.weight, shared.conv.bias
        maps = depthwise_silu(signal, own.conv.weight, own.conv.bias, beside)  # (T + 1, B, H, W, EXPANSION * dim)
        norms = own.norm.weight, own.norm.bias, shared.norm.weight, shared.norm.bias
        return blend(own.ss2d(maps, None, shared.ss2d), gate, *norms, scale)
    assert isinstance(own, AttentionMFE)
    assert isinstance(shared, AttentionMFE)
    features = own.attention(signal)
    return scale_samples(features + gate.sigmoid() * (shared.attention(joint) - features), scale)
