"""Parameters without a part in a step's loss, which processes that share their gradients wait for."""

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from mtmamba.config_checks import ConfigError

STRATEGY = "ddp_find_unused_parameters_true"
"""Lightning's name of what finds such parameters at each step, and updates them as one process would: not at all."""


class RefuseUnused(Callback):
    """Stop before the step where plain DDP was given a parameter that has no gradient.

    PyTorch would say so at the next step, after one whose gradients the processes have not shared.
    """

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Raise ConfigError for such a parameter."""
        parallel = trainer.strategy.model
        if not isinstance(parallel, DistributedDataParallel) or parallel.find_unused_parameters:
            return
        unused = [name for name, p in pl_module.named_parameters() if p.requires_grad and p.grad is None]
        if unused:
            raise ConfigError(
                f"Expected every parameter to have a part in the loss with trainer.strategy=ddp, got {len(unused)} "
                f"without one at step {trainer.global_step}, such as {unused[0]}: set trainer.strategy={STRATEGY}."
            )
