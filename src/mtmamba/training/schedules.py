"""Learning rates as functions of the optimiser step."""

from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


class PolynomialDecay(LambdaLR):
    """Multiply the initial rate by ``(1 - step / max_steps)^power``: to 0 at ``max_steps`` (section 4.1).

    With ``every`` the rate stays for so many steps, such as an epoch's, what it was at the first of them.

    A restored schedule has the rate of its own ``max_steps``, so that a run can be made longer.

    Args:
        optimizer: whose groups' rates to set.
        max_steps: optimiser steps of the decay.
        power: of the decay.
        every: steps between changes.

    Raises:
        ValueError: ``max_steps`` is below 1.
    """

    def __init__(self, optimizer: Optimizer, *, max_steps: int, power: float, every: int = 1) -> None:
        if max_steps < 1:
            raise ValueError(
                f"Expected trainer.max_steps of at least 1, the length of the learning rate's decay, got {max_steps}: "
                "give the number of optimiser steps."
            )
        super().__init__(optimizer, lambda step: max(0.0, 1 - step // every * every / max_steps) ** power)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the step, and set the rates that belong to it."""
        super().load_state_dict(state_dict)
        pairs = zip(self.base_lrs, self.lr_lambdas, strict=True)
        self._last_lr = [rate * factor(self.last_epoch) for rate, factor in pairs]
        for group, rate in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            group["lr"] = rate
