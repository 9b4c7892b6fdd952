"""What ends all processes of a training before an optimiser step, in the same sentence."""

from typing import TypeVar

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from mtmamba.config.checks import ConfigError
from mtmamba.training.lit_module import MultiTaskModule
from mtmamba.training.watched_losses import NonFiniteLossError, WatchedLosses

FIND_UNUSED = "ddp_find_unused_parameters_true"
"""Lightning's name of what finds parameters without a part in a loss, and leaves them as one process would."""

Found = TypeVar("Found")


class StepCheck(Callback):
    """Stop all processes before an optimiser step that one of them cannot make, which they ask one another once a step.

    That is one whose micro-batches had losses that are not finite; or one where plain DDP has no gradient of a
    parameter from a process. PyTorch would say so there at the next step, while the others wait in their backward
    passes for what never comes.
    """

    def __init__(self) -> None:
        self._losses: list[WatchedLosses] = []  # of the micro-batches; none is waited for before the last
        self._gradients: dict[str, int | None] | None = None  # before the pass that plain DDP's processes share
        self._unused: list[str] = []

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Note the gradients of earlier micro-batches where DDP is about to wait for those of all parameters."""
        parallel = trainer.strategy.model
        waits = (
            isinstance(parallel, DistributedDataParallel)
            and not parallel.find_unused_parameters
            and parallel.require_backward_grad_sync
        )
        self._gradients = {name: _version(p) for name, p in pl_module.named_parameters()} if waits else None

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the losses, and parameters that the pass has left out, whose gradients the others wait for."""
        assert isinstance(pl_module, MultiTaskModule)
        assert pl_module.watched is not None
        self._losses.append(pl_module.watched)
        if self._gradients is None:
            return
        parameters = {name: p for name, p in pl_module.named_parameters() if p.requires_grad}
        self._unused = [name for name, p in parameters.items() if _version(p) == self._gradients[name]]
        if unused := [parameters[name] for name in self._unused]:
            torch.autograd.backward(unused, [torch.zeros_like(p) for p in unused])

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Raise ConfigError or NonFiniteLossError in every process if one of them has found something."""
        wrong = [pair for losses in self._losses for pair in losses.not_finite()]
        self._losses = []
        found = found_by_any(trainer, [(wrong, self._unused)] if wrong or self._unused else [])
        step = trainer.global_step
        if names := sorted({name for _, unused in found for name in unused}):
            raise ConfigError(
                f"Expected every parameter to have a part in the loss with trainer.strategy=ddp, got {len(names)} "
                f"without one at step {step}, such as {names[0]}: set trainer.strategy={FIND_UNUSED}."
            )
        if pairs := [pair for wrong, _ in found for pair in wrong]:
            tasks, ids = (list(dict.fromkeys(names)) for names in zip(*pairs, strict=True))
            raise NonFiniteLossError(tasks, ids, step)


def found_by_any(trainer: Trainer, found: list[Found]) -> list[Found]:
    """Return what the processes have found, those of lower rank first; every process must call.

    One that raised an error alone would leave the others waiting for its gradients.
    """
    if not trainer.strategy.reduce_boolean_decision(bool(found), all=False):
        return []
    if trainer.world_size == 1:
        return found
    every: list[list[Found]] = [[]] * trainer.world_size
    torch.distributed.all_gather_object(every, found)
    return [x for own in every for x in own]


def _version(parameter: Tensor) -> int | None:
    """Return what grows with every change of a parameter's gradient, None where it has none."""
    return None if parameter.grad is None else parameter.grad._version
