"""Networks without values: for their shapes, their parameters and what they cost."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

FILLS = frozenset(
    getattr(Tensor, f"{name}_") for name in ("normal", "uniform", "erfinv", "mul", "add", "clamp", "fill", "zero")
)
"""What initial values are made by."""


class _Unfilled(TorchFunctionMode):
    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return args[0] if function in FILLS and args[0].is_meta else function(*args, **(kwargs or {}))


@contextmanager
def skeleton() -> Iterator[None]:
    """Build modules without storage, and without the time that PyTorch takes to draw values which nobody stores.

    >>> with skeleton():
    ...     torch.nn.Linear(10**6, 10**6).weight.numel()
    1000000000000
    """
    with torch.device("meta"), _Unfilled():
        yield
