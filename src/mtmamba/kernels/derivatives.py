"""Gradients written by hand are first derivatives: a second one is refused by name, with a remedy."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch.library import CustomOpDef

PLAIN = "compute in float64 or on a CPU, where PyTorch's operators can be differentiated again"
"""The remedy for the kernels of this package."""


def refuse_second(backward: CustomOpDef, name: str, remedy: str) -> None:
    """Let an operator that computes gradients raise RuntimeError where it is differentiated itself.

    Args:
        backward: the operator.
        name: what its gradients are of.
        remedy: what to do instead.
    """

    def refuse(ctx: Any, *_: Tensor | None) -> None:
        raise RuntimeError(_message(name, remedy))

    backward.register_autograd(refuse)


def first_only(name: str, remedy: str) -> Callable[[Callable[..., tuple[Any, ...]]], Callable[..., tuple[Any, ...]]]:
    """Decorate the ``backward`` of a `torch.autograd.Function` alike.

    PyTorch's ``once_differentiable`` does so only where the given gradient has a graph. Here nothing is differentiated
    twice in silence, not even a sum, whose gradient is constant.
    """

    def decorate(backward: Callable[..., tuple[Any, ...]]) -> Callable[..., tuple[Any, ...]]:
        @wraps(backward)
        def once(ctx: Any, *gradients: Tensor | None) -> tuple[Any, ...]:
            with torch.no_grad():
                results = backward(ctx, *gradients)
            if not torch.is_grad_enabled():
                return results
            return tuple(
                g if g is None else _Refusal.apply(_message(name, remedy), g.requires_grad_()) for g in results
            )

        return once

    return decorate


class _Refusal(torch.autograd.Function):
    """A tensor as it is, whose gradient nobody may ask for."""

    @staticmethod
    def forward(ctx: Any, message: str, x: Tensor) -> Tensor:
        ctx.message = message
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Any:
        raise RuntimeError(ctx.message)


def _message(name: str, remedy: str) -> str:
    return f"Expected first derivatives of {name} alone, got a second one asked for (create_graph=True): {remedy}."
