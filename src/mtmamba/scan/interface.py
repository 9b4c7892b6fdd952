"""One selective scan, several implementations: checks the arguments and calls the backend."""

from contextlib import nullcontext

import torch
from torch import Tensor

from mtmamba.kernels.dispatch import exporting
from mtmamba.scan.registry import BACKENDS, choose


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    delta_bias: Tensor,
    *,
    backend: str = "auto",
) -> Tensor:
    """Run ``h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t``, ``y_t = C_t h_t + D u_t`` over the last axis.

    ``delta`` first becomes ``softplus(delta + delta_bias)``. Channel ``c`` takes its ``B`` and ``C`` from group
    ``c // d``. The states are float32, or float64 if any input is; autocast does not reach them.

    Args:
        u: signal, ``(b, g*d, l)``.
        delta: time steps before bias and softplus, ``(b, g*d, l)``.
        A: decay rates, negative for a stable scan, ``(g*d, n)``.
        B: input matrices, ``(b, g, n, l)``.
        C: output matrices, ``(b, g, n, l)``.
        D: skip connection, ``(g*d)``.
        delta_bias: bias of ``delta``, ``(g*d)``.
        backend: ``cuda`` (our fused kernel), ``mamba_ssm`` (that package's kernel), ``numba`` (compiled for CPUs),
            ``torch`` (chunked, any device), ``reference`` (one step at a time in the inputs' own precision, for
            tests), or ``auto``: the fastest that can run, logged once.

    Returns:
        ``y``, ``(b, g*d, l)``, in the dtype of ``u``.

    Raises:
        ValueError: a shape does not fit, tensors lie on different devices, or no backend has this name.
        TypeError: a tensor is not of floating point.
        RuntimeError: the backend asked for cannot run here.

    Source: Lin et al., MTMamba, ECCV 2024, section 3.1, equations (3) to (5).

    >>> u, A, B, D = torch.ones(1, 6, 5), -torch.ones(6, 4), torch.ones(1, 2, 4, 5), torch.ones(6)
    >>> selective_scan(u, u, A, B, B, D, D).shape
    torch.Size([1, 6, 5])
    """
    return _scan({"u": u, "delta": delta, "A": A, "B": B, "C": C, "D": D, "delta_bias": delta_bias}, backend)


@torch.compiler.disable  # a compiler would unroll every block and step
def _scan(tensors: dict[str, Tensor], backend: str) -> Tensor:
    """Check the inputs and run the backend out of autocast's reach."""
    _check(tensors)
    if exporting():
        return operator(*tensors.values())
    dtype = torch.float64 if any(x.dtype == torch.float64 for x in tensors.values()) else torch.float32
    u = tensors["u"]
    if u.is_meta:  # nothing to compute, in thousands of steps
        return torch.empty_like(u)
    scan = BACKENDS[choose(backend, u.device.type, dtype)].scan
    autocast = torch.amp.is_autocast_available(u.device.type)  # not so on meta tensors
    with torch.autocast(u.device.type, enabled=False) if autocast else nullcontext():
        return scan(*tensors.values()).to(u.dtype)


@torch.library.custom_op("mtmamba::selective_scan", mutates_args=())
def operator(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor) -> Tensor:
    """Scan as `selective_scan` does: one node of what ``torch.export`` writes, for any backend where it then runs."""
    return selective_scan(u, delta, A, B, C, D, delta_bias).contiguous()


@operator.register_fake
def _(u: Tensor, *_: Tensor) -> Tensor:
    return u.new_empty(u.shape)


def check_shape(name: str, tensor: Tensor, axes: str, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless ``tensor`` has ``shape``, whose axes are called ``axes``."""
    if tuple(tensor.shape) != shape:
        raise ValueError(f"Expected {name} of shape {axes} = {shape}, got {tuple(tensor.shape)}.")


def _check(tensors: dict[str, Tensor]) -> None:
    u, B = tensors["u"], tensors["B"]
    for name, axes, ndim in (("u", "(b, g*d, l)", 3), ("B", "(b, g, n, l)", 4)):
        if tensors[name].ndim != ndim or 0 in tensors[name].shape:
            raise ValueError(f"Expected {name} of shape {axes}, no axis empty, got {tuple(tensors[name].shape)}.")
    batch, channels, length = u.shape
    groups, n = B.shape[1:3]
    if channels % groups:
        raise ValueError(f"Expected u with a multiple of B's g = {groups} channels, got {channels}.")
    check_shape("delta", tensors["delta"], "(b, g*d, l)", (batch, channels, length))
    check_shape("A", tensors["A"], "(g*d, n)", (channels, n))
    for name in ("B", "C"):
        check_shape(name, tensors[name], "(b, g, n, l)", (batch, groups, n, length))
    for name in ("D", "delta_bias"):
        check_shape(name, tensors[name], "(g*d)", (channels,))
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise TypeError(f"Expected {name} of a floating-point dtype, got {tensor.dtype}.")
        if tensor.device != u.device:
            raise ValueError(f"Expected {name} on u's device {u.device}, got {tensor.device}.")
