"""The scan's backends by name: what each must tell, and the choice among them."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

import torch
from torch import Tensor

logger = logging.getLogger(__name__)


def _always(device_type: str, dtype: torch.dtype) -> None:
    """Nothing stands in the way of a backend in plain PyTorch."""


ONLY_FIRST = "the scan", "use backend=reference, which can be differentiated again"
"""What `mtmamba.kernels.derivatives` says of gradients written by hand: whose they are, and the remedy."""


@dataclass(frozen=True)
class Backend:
    """One implementation of the scan."""

    name: str
    rank: int
    """``auto`` takes the backend of the lowest rank that can run: the fastest."""
    scan: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
    """From u, delta, A, B, C, D and delta_bias to y, as `mtmamba.scan.selective_scan` describes them."""
    why_unavailable: Callable[[str, torch.dtype], str | None] = _always
    """From the tensors' device type and the scan's precision to the reason why it cannot run, or None."""
    ss2d: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], Tensor] | None = None
    """From x, x_proj, dt_weight, dt_bias, A_log, D and source to y, as `mtmamba.scan.ss2d` describes them: scans maps
    as they lie, in all directions at once. None: maps are written out along each direction for ``scan``."""


_ranked: dict[str, Backend] = {}
BACKENDS = MappingProxyType(_ranked)
"""Every backend by name, the fastest first: the order in which ``auto`` tries them."""


def register(backend: Backend) -> None:
    """Add a backend to those that ``backend=`` can name and ``auto`` chooses from.

    Registering a name again replaces its record.

    Raises:
        ValueError: the name is ``auto`` or no identifier.
    """
    if backend.name == "auto" or not backend.name.isidentifier():
        raise ValueError(f"Expected a backend's name such as my_scan, got {backend.name!r}: rename it.")
    ranked = sorted((BACKENDS | {backend.name: backend}).values(), key=lambda known: known.rank)
    _ranked.clear()
    _ranked.update({known.name: known for known in ranked})
    choose.cache_clear()


def available_backends(device: torch.device | str, dtype: torch.dtype = torch.float32) -> dict[str, str | None]:
    """Say for each backend, fastest first, why it cannot scan on ``device`` in precision ``dtype`` (None: it can).

    >>> available_backends("cpu")["torch"] is None
    True
    """
    device_type = torch.device(device).type
    return {name: backend.why_unavailable(device_type, dtype) for name, backend in BACKENDS.items()}


@cache
def choose(backend: str, device_type: str, dtype: torch.dtype) -> str:
    """Return the name of the backend to use, for ``auto`` the fastest that can run, which is logged once.

    Raises:
        ValueError: no backend has this name.
        RuntimeError: it cannot run here.
    """
    if backend not in ("auto", *BACKENDS):
        raise ValueError(f"Expected backend to be one of auto, {', '.join(BACKENDS)}, got {backend!r}.")
    reasons = available_backends(device_type, dtype)
    usable = [name for name, reason in reasons.items() if reason is None]
    if backend == "auto":
        skipped = "; ".join(f"not {name}: {reason}" for name, reason in reasons.items() if reason)
        log = f" ({skipped})" if skipped else ""
        logger.info("Selective scan on %s: backend %s%s.", device_type, usable[0], log)
        return usable[0]
    if reasons[backend]:
        raise RuntimeError(
            f"Expected a backend that can scan on {device_type} in {dtype}, got {backend!r}: {reasons[backend]}. "
            f"Or use one of: auto, {', '.join(usable)}."
        )
    return backend
