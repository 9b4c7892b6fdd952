"""Which tensors the kernels take, and how these are handed to them.

Every function of this package asks here, and else computes its plain form by PyTorch's operators: its callers know of
neither device nor kernel.
"""

from importlib.util import find_spec

import torch
from torch import Tensor

HAS_TRITON = find_spec("triton") is not None
KERNEL_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def on_cuda(x: Tensor) -> bool:
    """Whether a map lies where PyTorch's own products are put together for speed."""
    return x.is_cuda


def has_kernel(x: Tensor) -> bool:
    """Whether a map lies where the Triton kernels run, in a dtype that they read."""
    return x.is_cuda and HAS_TRITON and x.dtype in KERNEL_DTYPES


def exporting() -> bool:
    """Whether ``torch.export`` traces this code; ``torch.compile`` says of itself that it exports."""
    return torch.compiler.is_exporting() and not torch.compiler.is_dynamo_compiling()


def autocast(x: Tensor) -> Tensor:
    """Return a CUDA map in the dtype that autocast has set, if it is on: a custom operator is not cast by itself."""
    return x.to(torch.get_autocast_dtype("cuda")) if torch.is_autocast_enabled("cuda") else x


def as_rows(x: Tensor) -> Tensor:
    """Return a map ``(..., C)`` as rows ``(N, C)`` whose channels lie side by side, copied only where it must be.

    Half of a wider map's channels is read as it lies: such rows are further apart than they are long.
    """
    try:
        rows = x.view(-1, x.shape[-1])
    except RuntimeError:  # its leading axes do not collapse
        return x.reshape(-1, x.shape[-1])
    return rows if rows.stride(-1) == 1 else rows.contiguous()


def triton_products(dtype: torch.dtype) -> str:
    """How Triton multiplies: float32 as TF32 where PyTorch may, else by three products of TF32 (errors of 1e-6)."""
    if dtype != torch.float32:
        return "ieee"
    return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "tf32x3"
