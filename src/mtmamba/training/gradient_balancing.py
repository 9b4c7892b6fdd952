"""Gradients of several tasks made into one, where the tasks meet: at the encoder."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from mtmamba.data.sampler import sample_key
from mtmamba.losses import LOG_OFFSET
from mtmamba.training.balancing import Moment

PLACES = ("maps", "parameters")
"""Where the tasks' gradients are compared: the encoder's maps, or its parameters."""


class GradientBalancing(nn.Module):
    """Weigh the tasks' gradients for the encoder by their Gramian; the decoder's gradient stays that of the sum.

    At ``maps``, each task's gradient for the encoder's four maps takes a pass back through the decoder; their weighted
    sum goes back through the encoder once. The maps of all processes' images count as one vector, so the processes'
    Gramians add up. At ``parameters``, each task takes a pass back through the whole network; its gradient is averaged
    over micro-batches and processes before the Gramian is taken.

    The Gramian is divided by the mean of its diagonal, so that no method's constants depend on the losses' scale.
    A task without a gradient, as without labels in the batch, is left out and weighs 0.

    Args:
        tasks: how many.
        weighting: Gramian float64 ``(T, T)`` → weights ``(T,)``, such as one of torchjd's; what it draws comes from
            PyTorch's generator.
        at: ``maps`` or ``parameters``.
        seed: of what the weighting draws.
        of_logs: whether losses may be logarithms already.
        take_logs: train the sum of the losses' logarithms.

    Raises:
        ValueError: another ``at``.

    Source: Sener and Koltun, Multi-Task Learning as Multi-Objective Optimization, NeurIPS 2018, for the maps; Quinton
        and Rey, Jacobian Descent for Multi-Objective Optimization, 2024, for the Gramian.
    """

    def __init__(
        self,
        tasks: int,
        weighting: Callable[[Tensor], Tensor],
        *,
        at: str = "maps",
        seed: int = 0,
        take_logs: bool = False,
    ) -> None:
        super().__init__()
        if at not in PLACES:
            raise ValueError(f"Expected balancing.at={'|'.join(PLACES)}, got {at}: choose one of those.")
        self.tasks, self.weighting, self.at, self.seed, self.take_logs = tasks, weighting, at, seed, take_logs
        self.of_logs = not take_logs
        self.whole_batch = at == "maps" or take_logs
        self.latest = torch.ones(tasks)
        self.gramian = torch.eye(tasks)
        self._rows: Tensor | int = 0  # (T, M) summed over micro-batches

    def forward(self, losses: Tensor, share: Tensor, moment: Moment, encoder: nn.Module, maps: list[Tensor]) -> Tensor:
        """Return what to train: a scalar whose backward pass leaves the weighted gradients.

        With ``parameters``, `finish` must follow the last micro-batch's backward pass.

        Args:
            losses: this process's, ``(T,)``.
            share: of each task's labels, ``(T,)``; see `mtmamba.training.balancing.LossWeighting`.
            moment: of training.
            encoder: the network's.
            maps: what it has returned, from `watched`.
        """
        if self.take_logs:
            losses = losses / (moment.reduce(losses.detach()) + LOG_OFFSET)  # its gradient is the logarithm's
        inputs = maps if self.at == "maps" else list(encoder.parameters())
        inputs = [x for x in inputs if x.requires_grad]
        rows = torch.stack([_gradient(loss * moment.scale, inputs) for loss in losses]) / moment.scale  # (T, M)
        total = losses.sum()
        if self.at == "parameters":
            self._rows = self._rows + rows
            return total
        # In the mean over R processes, the gradient for a process's own maps is 1 / R of this.
        self._weigh(moment.reduce(rows @ rows.T) / moment.processes, moment)
        factors: list[Tensor] = []  # what training multiplies the loss by
        total.register_hook(factors.append)
        for x, balanced in zip(inputs, self._combined(rows, inputs), strict=True):
            x.register_hook(lambda gradient, balanced=balanced: (factors[-1] * balanced).to(gradient.dtype))
        return total

    def finish(self, encoder: nn.Module, micro_batches: int, moment: Moment) -> None:
        """Put the weighted gradient into the encoder's parameters, before the optimiser's step."""
        assert isinstance(self._rows, Tensor), "a backward pass comes first"
        rows = moment.reduce(self._rows / micro_batches)
        self._rows = 0
        self._weigh(rows @ rows.T, moment)
        trained = [p for p in encoder.parameters() if p.requires_grad]
        for parameter, balanced in zip(trained, self._combined(rows, trained), strict=True):
            if parameter.grad is not None:  # it takes part
                parameter.grad.copy_(balanced)

    def cosines(self) -> Tensor:
        """Return the cosines between the tasks' gradients ``(T, T)``, NaN with a gradient of 0."""
        norms = self.gramian.diagonal().sqrt()
        return self.gramian / norms / norms[:, None]

    def _weigh(self, found: Tensor, moment: Moment) -> None:
        self.gramian = found.double().cpu()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(sample_key(self.seed, moment.step, 0))
            self.latest = self.weights(self.gramian)

    def weights(self, found: Tensor) -> Tensor:
        """Return the weights ``(T,)`` for a Gramian float64 ``(T, T)``; NaN where that is not finite."""
        squares = found.diagonal()
        there = squares > 0
        weights = torch.zeros_like(squares)
        if not found.isfinite().all():
            return weights + torch.nan
        if there.any():
            weights[there] = self.weighting(found[there][:, there] / squares[there].mean())
        return weights

    def _combined(self, rows: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
        """Return the weighted sum of the rows ``(T, M)`` in the shapes of some tensors."""
        parts = (self.latest.to(rows) @ rows).split([x.numel() for x in like])
        return [part.view(x.shape) for part, x in zip(parts, like, strict=True)]


def _gradient(loss: Tensor, inputs: Sequence[Tensor]) -> Tensor:
    """Return a loss's gradient as one vector, in float32 at least."""
    found = torch.autograd.grad(loss, inputs, retain_graph=True, allow_unused=True, materialize_grads=True)
    return torch.cat([x.flatten().to(torch.promote_types(x.dtype, torch.float32)) for x in found])


class NashWeights:
    """Weights that share out the gain as Nash's bargaining does: ``G w = 1 / w``, by torchjd's solver.

    It begins anew at every step, so that nothing need be remembered.

    Args:
        max_norm: of the weighted sum, in units of the tasks' root mean square.
        iterations: of the solver.

    Source: Navon et al., Multi-Task Learning as a Bargaining Game, ICML 2022.
    """

    def __init__(self, max_norm: float = 1.0, iterations: int = 20) -> None:
        self.max_norm, self.iterations = max_norm, iterations

    def __call__(self, found: Tensor) -> Tensor:
        """Return the weights for a Gramian."""
        from torchjd.aggregation import NashMTL  # of an extra

        values, vectors = torch.linalg.eigh(found)
        root = vectors * values.clamp(min=0).sqrt()  # a matrix of this Gramian
        solver = NashMTL(len(found), self.max_norm, 1, self.iterations)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "You are solving a parameterized problem")  # of cvxpy: it may be slow
            return solver.weighting(root)


class GreatestNorm:
    """Weights that give every gradient the norm of the greatest: DB-MTL's, with gradients of this batch alone.

    Source: Lin et al., Dual-Balancing for Multi-Task Learning, 2023, with forgetting rate 0.
    """

    def __call__(self, found: Tensor) -> Tensor:
        """Return the weights for a Gramian."""
        norms = found.diagonal().sqrt()
        return norms.max() / norms


@contextmanager
def watched(encoder: nn.Module) -> Iterator[list[Tensor]]:
    """Collect the maps that an encoder returns meanwhile."""
    maps: list[Tensor] = []
    hook = encoder.register_forward_hook(lambda module, inputs, outputs: maps.extend(outputs))
    try:
        yield maps
    finally:
        hook.remove()
