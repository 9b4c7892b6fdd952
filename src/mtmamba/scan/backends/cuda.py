"""The four-direction scan fused into one CUDA kernel each for forward and backward (``csrc/ss2d.cuh``).

Maps are read where they lie, channels last, in float32 or bfloat16; states are float32. Time steps are projected in
here, for a stretch of every sequence at a time, so that the map of all of them, four times the signal's size, never
exists. Saved for the backward pass are the inputs and the states before every 16th or 32nd step, in the maps'
precision. Every sum has one fixed order: results are the same bits from run to run.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mtmamba.kernels import nvrtc
from mtmamba.kernels.derivatives import first_only
from mtmamba.kernels.products import weight_gradient
from mtmamba.scan.cuda_operators import PACK, PAD, STATES, ss2d_forward
from mtmamba.scan.registry import ONLY_FIRST, Backend, register

MOST_BYTES = 2**32
"""Bytes of an image's map at most: what the kernels' 32-bit offsets reach."""


def why_unavailable(device_type: str, dtype: torch.dtype) -> str | None:
    """Why the kernel cannot scan tensors on such a device and in this precision, or None if it can."""
    if device_type != "cuda":
        return f"it needs CUDA tensors, got {device_type}"
    if dtype == torch.float64:
        return "it has no float64 kernel"
    return nvrtc.why_unavailable()


def ss2d_cuda(
    x: Tensor, x_proj: Tensor, dt_weight: Tensor, dt_bias: Tensor, A_log: Tensor, D: Tensor, source: Tensor
) -> Tensor:
    """Scan maps in four directions and sum the results, as :func:`mtmamba.scan.ss2d` describes.

    Maps are bfloat16 if ``x`` is, else float32.
    """
    tasks, batch, height, width, e = x.shape
    r, dtype = dt_weight.shape[-1], _map_dtype(x)
    steering, projected = _Projection.apply(source.to(dtype).reshape(tasks, -1, e), x_proj, r)
    signal = steering.view(x.shape) if source is x else x.to(dtype)
    projected = projected.view(tasks, batch, height * width, -1)
    dt_weight = _pad(dt_weight, 3, _whole(r)).to(dtype)
    A = -torch.exp(A_log.float())
    return _scan_maps(signal, projected, A, dt_weight, dt_bias.float(), D.float()).to(x.dtype)


class _Projection(torch.autograd.Function):
    """Return maps ``(T, B L, e)`` as they are, and their time steps, B and C as the operators take them.

    Backwards the product is added to the maps' gradient in place: in `ss2d_cuda` nothing but the scan sends one.
    """

    @staticmethod
    def forward(ctx: Any, maps: Tensor, x_proj: Tensor, r: int) -> tuple[Tensor, Tensor]:
        tasks, directions, _, e = x_proj.shape
        weight = maps.new_zeros(tasks, directions * (_whole(r) + 2 * STATES), e)
        for part, of_weight in zip(*_Projection.parts(x_proj, weight, r), strict=True):
            of_weight.copy_(part)
        ctx.save_for_backward(maps, weight)
        ctx.set_materialize_grads(False)
        ctx.shape, ctx.dtype, ctx.r = x_proj.shape, x_proj.dtype, r
        with torch.autocast(maps.device.type, enabled=False):
            return maps, maps @ weight.mT

    @staticmethod
    @first_only(*ONLY_FIRST)
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        (dmaps, dprojected), (maps, weight) = gradients, ctx.saved_tensors
        assert dprojected is not None
        dx_proj, dweight = weight.new_empty(ctx.shape, dtype=ctx.dtype), weight_gradient(dprojected, maps, ctx.dtype)
        for part, of_weight in zip(*_Projection.parts(dx_proj, dweight, ctx.r), strict=True):
            part.copy_(of_weight)
        dmaps = dprojected @ weight if dmaps is None else dmaps.baddbmm_(dprojected, weight)
        return dmaps, dx_proj, None

    @staticmethod
    def parts(x_proj: Tensor, weight: Tensor, r: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Time steps, and B and C: views of ``(T, K, r + 2n, e)`` and of its rows as ``(T, K (rank + 2 * 16), e)``."""
        _, directions, rows, _ = x_proj.shape
        n, low, bc = (rows - r) // 2, directions * _whole(r), directions * 2 * STATES
        low_rows, bc_rows = weight.split((low, bc), dim=1)
        return (x_proj[:, :, :r], x_proj[:, :, r:].unflatten(2, (2, n))), (
            low_rows.unflatten(1, (directions, -1))[:, :, :r],
            bc_rows.unflatten(1, (directions, 2, STATES))[:, :, :, :n],
        )


def scan_cuda(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor) -> Tensor:
    """Scan sequences with the same kernel: one direction, a map of height 1.

    Shape: as in :func:`mtmamba.scan.selective_scan`, whose ``cuda`` backend this is.
    """
    groups, n = B.shape[1:3]
    d = u.shape[1] // groups
    dtype = _map_dtype(u)

    def maps(tensor: Tensor) -> Tensor:  # (b, g*d, l) → (g, b, l, d)
        return tensor.unflatten(1, (groups, d)).permute(1, 0, 3, 2).to(dtype)

    def parameters(tensor: Tensor) -> Tensor:  # (g*d, …) → (g, 1, d, …)
        return tensor.float().unflatten(0, (groups, 1, d))

    y = torch.zeros((), device=u.device)
    for first in range(0, n, STATES):
        bc = torch.cat([B[:, :, first : first + STATES], C[:, :, first : first + STATES]], dim=2)  # (b, g, 2n', l)
        bc = _pad_states(bc.permute(1, 0, 3, 2).to(dtype), 3)
        y = y + _scan_maps(
            maps(u).unsqueeze(2),
            torch.cat([_pad(maps(delta), 3, -(-d // PACK) * PACK), bc], dim=3),
            parameters(A[:, first : first + STATES]),
            None,
            parameters(delta_bias),
            parameters(D) if first == 0 else torch.zeros_like(parameters(D)),
        )
    return y.squeeze(2).permute(1, 0, 3, 2).reshape(u.shape)


def _map_dtype(x: Tensor) -> torch.dtype:
    return x.dtype if x.dtype == torch.bfloat16 else torch.float32


def _whole(rank: int) -> int:
    """Round up to whole packs, which matrix products want rows of: zeros fill the low-rank time step up."""
    return -(-rank // PACK) * PACK


def _pad(tensor: Tensor, axis: int, size: int) -> Tensor:
    """Fill an axis up to ``size`` with zeros; a full one is left alone."""
    if tensor.shape[axis] == size:
        return tensor
    return F.pad(tensor, [0, 0] * (tensor.ndim - 1 - axis % tensor.ndim) + [0, size - tensor.shape[axis]])


def _pad_states(bc: Tensor, axis: int) -> Tensor:
    """Fill B and C, side by side along an axis, up to the kernel's states each."""
    half = bc.shape[axis] // 2
    return bc if half == STATES else torch.cat([_pad(part, axis, STATES) for part in bc.split(half, axis)], axis)


def _scan_maps(x: Tensor, projected: Tensor, A: Tensor, dt_weight: Tensor | None, dt_bias: Tensor, D: Tensor) -> Tensor:
    """Scan ``(T, B, H, W, e)`` in K directions; channels and decay rates that the kernel lacks are zero.

    Args:
        x: the signal.
        projected: time steps, B and C, as the operators take them.
        A: decay rates, ``(T, K, e, n)``, n at most 16.
        dt_weight: from the low-rank time step to all channels, ``(T, K, e, r)``.
        dt_bias: ``(T, K, e)``.
        D: skip connections, ``(T, K, e)``.

    Raises:
        ValueError: an image's map has more bytes than the kernels count.
    """
    e, directions = x.shape[-1], A.shape[1]
    pixels, row = x.shape[2] * x.shape[3], max(e, projected.shape[-1]) * x.element_size()
    if (pixels + PAD) * row >= MOST_BYTES:
        raise ValueError(
            f"Expected fewer than {MOST_BYTES} bytes of an image's maps, got {pixels} pixels of {row} bytes each: use "
            "smaller images, or backend=mamba_ssm."
        )
    wide = -(-e // PACK) * PACK
    A = _pad(_pad(A, -1, STATES), -2, wide)
    x, dt_bias, D = (_pad(tensor, -1, wide).contiguous() for tensor in (x, dt_bias, D))
    if dt_weight is not None:
        dt_weight = _pad(dt_weight, -2, wide)
    inputs = (x, projected, A, dt_weight, dt_bias, D)
    save = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs)
    y, _ = ss2d_forward(x, projected.contiguous(), A.contiguous(), dt_weight, dt_bias, D, directions, save)
    return y[..., :e]


register(Backend("cuda", 0, scan_cuda, why_unavailable, ss2d_cuda))
