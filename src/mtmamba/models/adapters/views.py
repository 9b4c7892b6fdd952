"""Tables of views: what holds a released tensor's numbers, and copying into it and out of it."""

from collections.abc import Mapping

import torch
from torch import Tensor

State = Mapping[str, Tensor]
Views = dict[str, tuple[list[Tensor], tuple[int, ...]]]
"""Released name → our pieces, joined along their first axis, and the released shape."""


class ReleasedError(ValueError):
    """Released weights are not those that were asked for; the message says which tensors."""


def strip_prefix(state: State, prefix: str) -> dict[str, Tensor]:
    """Return a state dict without a prefix that names may carry."""
    return {name.removeprefix(prefix): x for name, x in state.items()}


def export_views(views: Views) -> dict[str, Tensor]:
    """Return copies of the tensors that a table of views stands for, under their released names."""
    return {
        name: torch.cat([torch.atleast_1d(p) for p in pieces]).reshape(shape) for name, (pieces, shape) in views.items()
    }


def mismatches(views: Views, state: State) -> list[str]:
    """Return, in words, every tensor that is missing, unknown or of another shape."""
    problems = [f"missing {name}" for name in views.keys() - state.keys()]
    problems += [f"unexpected {name}" for name in state.keys() - views.keys()]
    problems += [
        f"{name} has shape {tuple(state[name].shape)}, expected {shape}"
        for name, (_, shape) in views.items()
        if name in state and tuple(state[name].shape) != shape
    ]
    return sorted(problems)


@torch.no_grad()
def fill(views: Views, state: State) -> None:
    """Copy a state dict without mismatches into the pieces."""
    for name, (pieces, _) in views.items():
        parts = state[name].reshape(-1).split([p.numel() for p in pieces])
        for piece, values in zip(pieces, parts, strict=True):
            piece.copy_(values.reshape(piece.shape))


def load_strictly(views: Views, state: State, what: str) -> None:
    """Copy a state dict into the pieces, all of it or nothing.

    Raises:
        ReleasedError: a tensor is missing, unknown, or of another shape.
    """
    if problems := mismatches(views, state):
        more = f"\n  ... and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise ReleasedError(
            f"Expected the {len(views)} tensors of a released {what} of this size and these tasks, got {len(state)} "
            "that do not fit: choose the experiment, encoder, decoder and tasks of the checkpoint.\n  "
            + "\n  ".join(problems[:10])
            + more
        )
    fill(views, state)
