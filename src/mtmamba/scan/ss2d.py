"""SS2D: a map scanned along four directions, for all tasks at once."""

import torch
from torch import Tensor

from mtmamba.kernels.dispatch import exporting
from mtmamba.scan.interface import check_shape, selective_scan
from mtmamba.scan.order import DIRECTIONS, along
from mtmamba.scan.registry import BACKENDS, choose


def ss2d(
    x: Tensor,
    x_proj: Tensor,
    dt_weight: Tensor,
    dt_bias: Tensor,
    A_log: Tensor,
    D: Tensor,
    *,
    source: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """Scan every task's map in four directions and sum the four results, in a single selective scan.

    Direction k of a task projects the map to ``r + 2n`` channels: the time step of rank r, B and C. The projections
    follow autocast; states are float32, or float64 if ``x`` is. The backends ``cuda`` and ``numba`` read the map where
    it lies; for the others it is written out along each direction.

    Args:
        x: the signal, ``(T, B, H, W, e)``, T tasks.
        x_proj: projections to the time step, B and C, rows in this order, ``(T, 4, r + 2n, e)``.
        dt_weight: projections of the time step to all channels, ``(T, 4, e, r)``.
        dt_bias: their bias, inside softplus, ``(T, 4, e)``.
        A_log: logarithm of the decay rates, ``A = -exp(A_log)``, ``(T, 4, e, n)``.
        D: skip connections, ``(T, 4, e)``.
        source: the map that time step, B and C come from, shaped like ``x``; default ``x`` itself. The cross-task
            block of MTMamba++ passes the shared map.
        backend: as in :func:`selective_scan`.

    Returns:
        ``(T, B, H, W, e)`` in the dtype of ``x``.

    Raises:
        ValueError: a shape does not fit; otherwise as :func:`selective_scan`.

    Source: Lin et al., MTMamba, ECCV 2024, section 3.4, equations (10) to (12).
    """
    n, r = A_log.shape[-1], dt_weight.shape[-1]
    _check(x, x_proj, dt_weight, dt_bias, A_log, D, source)
    tasks, batch, height, width, e = x.shape
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    source = x if source is None else source
    written_out = x.is_meta or exporting()
    fused = None if written_out else BACKENDS[_chosen(backend, x.device.type, dtype)].ss2d
    if fused is not None:
        return fused(x, x_proj, dt_weight, dt_bias, A_log, D, source)

    projected = torch.einsum("tbhwe,tkce->btkchw", source, x_proj)
    walks = [along(maps, k) for k, maps in enumerate(projected.unbind(2))]
    sequences = torch.stack(walks, dim=2)  # (B, T, 4, r + 2n, L)
    time_step, B, C = sequences.split((r, n, n), dim=3)
    delta = dt_weight @ time_step  # (B, T, 4, e, L)
    maps = x.to(dtype).permute(1, 0, 4, 2, 3)  # (B, T, e, H, W)
    u = torch.stack([along(maps, k) for k in range(DIRECTIONS)], dim=2)  # (B, T, 4, e, L)

    y = selective_scan(
        u.flatten(1, 3),
        delta.to(dtype).flatten(1, 3),
        -torch.exp(A_log.to(dtype)).flatten(0, 2),
        B.to(dtype).flatten(1, 2),
        C.to(dtype).flatten(1, 2),
        D.to(dtype).flatten(),
        dt_bias.to(dtype).flatten(),
        backend=backend,
    ).view(batch, tasks, DIRECTIONS, e, -1)
    rows, columns, rows_back, columns_back = y.unbind(2)
    rows = rows + rows_back.flip(-1)  # (B, T, e, H*W)
    columns = columns + columns_back.flip(-1)  # (B, T, e, W*H)
    merged = rows.unflatten(-1, (height, width)) + columns.unflatten(-1, (width, height)).mT
    return merged.permute(1, 0, 3, 4, 2).to(x.dtype)


@torch.compiler.assume_constant_result
def _chosen(backend: str, device_type: str, dtype: torch.dtype) -> str:
    return choose(backend, device_type, dtype)


def _check(
    x: Tensor, x_proj: Tensor, dt_weight: Tensor, dt_bias: Tensor, A_log: Tensor, D: Tensor, source: Tensor | None
) -> None:
    if x.ndim != 5:
        raise ValueError(f"Expected x of shape (T, B, H, W, e), got {tuple(x.shape)}.")
    tasks, e = x.shape[0], x.shape[-1]
    n, r = A_log.shape[-1], dt_weight.shape[-1]
    check_shape("x_proj", x_proj, "(T, 4, r + 2n, e)", (tasks, DIRECTIONS, r + 2 * n, e))
    check_shape("dt_weight", dt_weight, "(T, 4, e, r)", (tasks, DIRECTIONS, e, r))
    check_shape("dt_bias", dt_bias, "(T, 4, e)", (tasks, DIRECTIONS, e))
    check_shape("A_log", A_log, "(T, 4, e, n)", (tasks, DIRECTIONS, e, n))
    check_shape("D", D, "(T, 4, e)", (tasks, DIRECTIONS, e))
    if source is not None:
        check_shape("source", source, "(T, B, H, W, e)", tuple(x.shape))
