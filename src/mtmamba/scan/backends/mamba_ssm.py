"""The selective scan through the CUDA kernel of the mamba-ssm package (2.2.x).

The kernel's extension module is called directly. Importing ``mamba_ssm`` itself would also import its language
models, and with them fails under transformers 5.
"""

import importlib
from typing import Any

import torch
from torch import Tensor

from mtmamba.kernels.derivatives import first_only
from mtmamba.scan.registry import ONLY_FIRST, Backend, register

KERNEL = "selective_scan_cuda"
"""Extension module that the package installs beside itself."""


def why_unavailable(device_type: str, dtype: torch.dtype) -> str | None:
    """Why the kernel cannot scan tensors on such a device and in this precision, or None if it can."""
    if device_type != "cuda":
        return f"it needs CUDA tensors, got {device_type}"
    if dtype == torch.float64:
        return "it has no float64 kernel"
    try:
        importlib.import_module(KERNEL)
    except ImportError as error:
        return f"its CUDA kernel cannot be imported ({error}); install it with: pip install 'mtmamba[mamba]'"
    return None


def scan_mamba_ssm(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor) -> Tensor:
    """Scan in float32 with mamba-ssm's kernel; each gradient has the dtype of its input.

    Shape: as in :func:`mtmamba.scan.selective_scan`, whose ``mamba_ssm`` backend this is.

    Source: Gu and Dao, Mamba: Linear-Time Sequence Modeling with Selective State Spaces, 2023, section 3.3.
    """
    return _KernelScan.apply(*(x.float().contiguous() for x in (u, delta, A, B, C, D, delta_bias)))


class _KernelScan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor
    ) -> Tensor:
        kernel = importlib.import_module(KERNEL)
        y, states = kernel.fwd(u, delta, A, B, C, D, None, delta_bias, True)  # no z gate; softplus on delta
        ctx.save_for_backward(u, delta, A, B, C, D, delta_bias, states)
        return y

    @staticmethod
    @first_only(*ONLY_FIRST)
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, ...]:
        kernel = importlib.import_module(KERNEL)
        u, delta, A, B, C, D, delta_bias, states = ctx.saved_tensors
        # No z gate, hence neither its output nor its gradient; softplus on delta; nothing to recompute.
        grads = kernel.bwd(u, delta, A, B, C, D, None, delta_bias, dy.contiguous(), states, None, None, True, False)
        return tuple(grads[:7])


register(Backend("mamba_ssm", 1, scan_mamba_ssm, why_unavailable))
