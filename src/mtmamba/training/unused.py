"""Parameters without a part in a step's loss, which processes that share their gradients wait for."""

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from mtmamba.config_checks import ConfigError
from mtmamba.training.processes import found_by_any

STRATEGY = "ddp_find_unused_parameters_true"
"""Lightning's name of what finds such parameters at each step, and updates them as one process would: not at all."""


class RefuseUnused(Callback):
    """Stop all processes before the step where plain DDP has no gradient of a parameter from one of them.

    PyTorch would say so there at the next step, while the others wait in their backward passes for what never comes.
    """

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Note the gradients of earlier micro-batches."""
        self._before = {name: _version(p) for name, p in pl_module.named_parameters()}

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Raise ConfigError in every process if a backward pass has left out parameters in one of them."""
        parallel = trainer.strategy.model
        if not isinstance(parallel, DistributedDataParallel) or parallel.find_unused_parameters:
            return
        if not parallel.require_backward_grad_sync:  # a micro-batch before the last
            return
        unused = {n: p for n, p in pl_module.named_parameters() if p.requires_grad and _version(p) == self._before[n]}
        if unused:  # what the others wait for
            torch.autograd.backward(list(unused.values()), [torch.zeros_like(p) for p in unused.values()])
        if names := sorted(set(found_by_any(trainer, list(unused)))):
            raise ConfigError(
                f"Expected every parameter to have a part in the loss with trainer.strategy=ddp, got {len(names)} "
                f"without one at step {trainer.global_step}, such as {names[0]}: set trainer.strategy={STRATEGY}."
            )


def _version(parameter: Tensor) -> int | None:
    """Return what grows with every change of a parameter's gradient, None where it has none."""
    return None if parameter.grad is None else parameter.grad._version
