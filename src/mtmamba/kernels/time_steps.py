"""The product that widens low-rank time steps to all channels, and its gradients: one map outweighs all others.

On CUDA maps of half precision the product is one Triton kernel, and so are both gradients, which read this map once
(`time_steps_triton`). Elsewhere, and in float32, where the arithmetic outweighs the reads, they are PyTorch's products.
"""

import torch
from torch import Tensor

from mtmamba.kernels.dispatch import has_kernel


def widen(low: Tensor, weight: Tensor) -> Tensor:
    """Return ``low weightᵀ``, contiguous.

    Args:
        low: ``(T, K, N, r)``, a view of a map ``(T, N, ...)`` whose rows have the ranks of all directions side by side.
        weight: ``(T, K, e, r)``.

    Returns:
        ``(T, K, N, e)``.
    """
    if _has_kernel(low):
        from mtmamba.kernels import time_steps_triton as kernels

        return kernels.widen(low, weight.contiguous())
    out = low.new_empty(*low.shape[:3], weight.shape[2])
    for k in range(low.shape[1]):  # a single product would copy what lies apart
        torch.bmm(low[:, k], weight[:, k].mT, out=out[:, k])
    return out


def widen_backward(dt: Tensor, weight: Tensor, low: Tensor, dlow: Tensor) -> Tensor:
    """Write the gradient of ``low`` to ``dlow`` and return that of ``weight``.

    Args:
        dt: gradient of the result of :func:`widen`, ``(T, K, N, e)``, contiguous.
        weight: ``(T, K, e, r)``.
        low: as for :func:`widen`.
        dlow: like ``low``, of a map of its own.

    Returns:
        ``(T, K, e, r)``, in the dtype of ``weight``. Its sums are in float32 and reproducible bit for bit.
    """
    if _has_kernel(dt):
        from mtmamba.kernels import time_steps_triton as kernels

        return kernels.gradients(dt, weight.contiguous(), low, dlow).to(weight.dtype)
    for k in range(dt.shape[1]):
        torch.bmm(dt[:, k], weight[:, k], out=dlow[:, k])
    return dt.mT @ low


def _has_kernel(x: Tensor) -> bool:
    return has_kernel(x) and x.dtype != torch.float32
