"""Activations that are computed once more in the backward pass instead of being kept."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def recomputed(function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """Call a function now, and once more in the backward pass, instead of keeping its activations.

    What is random in it is drawn alike again, unless a CUDA graph is being captured, which has no generator to set
    back: then its only draws may be those of `seed_drop_path`. Where it is a module's method, the averages of the
    module's batch norms take the batch in once.
    """
    captured = torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()
    module = getattr(function, "__self__", None)
    found = module.modules() if isinstance(module, nn.Module) else ()
    if norms := [m for m in found if hasattr(m, "num_batches_tracked")]:  # a compiler takes no contexts
        named["context_fn"] = lambda: (nullcontext(), _kept_averages(norms))
    return checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=not captured, **named)


@contextmanager
def _kept_averages(norms: Sequence[Any]) -> Iterator[None]:
    """Let batch norms normalise by the batch, and leave their averages as they are."""
    kept = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, norm.num_batches_tracked.clone()  # synchronised ones need it
    try:
        yield
    finally:
        for norm, momentum, count in kept:
            norm.momentum, norm.num_batches_tracked = momentum, count
