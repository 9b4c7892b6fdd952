"""The product that widens low-rank time steps to all channels, and its gradients: one map outweighs all others.

The ranks lie in maps, and the time steps in the order in which a scan visits the pixels. On CUDA maps of half precision
the product is one Triton kernel, and so are both gradients, which read the time steps' once (`dt_proj_triton`).
Elsewhere, and in float32, where the arithmetic outweighs the reads, they are PyTorch's products.
"""

import torch
from torch import Tensor

from mtmamba.kernels.dispatch import has_kernel


def widen(low: Tensor, weight: Tensor | None, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the time steps ``ranks weightᵀ`` at the pixels of some steps, and the ranks.

    Args:
        low: the ranks of every pixel, ``(T, B, L, K r)``, channels of a wider map.
        weight: ``(T, K, e, r)``; None for the identity.
        pixels: each step's, -1 for none, which leaves its results undefined; ``(K, S)``, int32, a part of longer walks.

    Returns:
        ``(T, K, B, S, e)`` and ``(T, K, B, S, r)``, contiguous; with the identity the same tensor twice.
    """
    if weight is not None and _has_kernel(low):
        from mtmamba.scan import dt_proj_triton as kernels

        return kernels.widen(low, weight.contiguous(), pixels)
    directions = torch.arange(len(pixels), device=low.device)[:, None]
    ranks = low.unflatten(-1, (len(pixels), -1))[:, :, pixels, directions]  # (T, B, K, S, r)
    ranks = ranks.transpose(1, 2).contiguous()
    return ranks if weight is None else ranks @ weight.mT[:, :, None], ranks


def widen_backward(dt: Tensor, weight: Tensor | None, ranks: Tensor, dweight: Tensor) -> Tensor:
    """Return the gradient of ``ranks`` in parts yet to be summed, and add that of ``weight`` to ``dweight``.

    Args:
        dt: gradient of the time steps, ``(T, K, B, S, e)``, contiguous; zero where there is no pixel.
        weight: as for :func:`widen`.
        ranks: ``(T, K, B, S, r)``, contiguous.
        dweight: like ``weight``, float32.

    Returns:
        ``(parts, T, K, B, S, r)``. Sums are in float32 and reproducible bit for bit.
    """
    if weight is None:
        return dt[None]
    if _has_kernel(dt):
        from mtmamba.scan import dt_proj_triton as kernels

        return kernels.gradients(dt, weight.contiguous(), ranks, dweight)
    dweight += dt.flatten(2, 3).mT @ ranks.flatten(2, 3)
    return (dt @ weight[:, :, None])[None]


def _has_kernel(x: Tensor) -> bool:
    return has_kernel(x) and x.dtype != torch.float32
