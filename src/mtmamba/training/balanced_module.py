"""Training whose tasks are balanced: their losses or their gradients are weighed anew for each batch."""

import itertools
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from mtmamba.losses import WeightedTotal
from mtmamba.models.cuda_graphs import unchanged_buffers
from mtmamba.training.balancing import FAMO, LossWeighting, Moment
from mtmamba.training.checkpointing import epoch_of
from mtmamba.training.gradient_balancing import GradientBalancing, watched
from mtmamba.training.lit_module import MultiTaskModule
from mtmamba.types import Batch


class BalancedModule(MultiTaskModule):
    """A `MultiTaskModule` that trains what ``balancing`` makes of the terms of its ``total``, the tasks' mean losses.

    It logs the weights of every batch, and where it balances gradients their norms and cosines.

    Args:
        model: as there; so are the others.
        balancing: weighs losses or gradients.

    Attributes:
        whole_batch: whether a process must see its share of the global batch at once, without accumulation.
    """

    total: WeightedTotal

    def __init__(self, *arguments: Any, balancing: LossWeighting | GradientBalancing, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.balancing = balancing
        self.whole_batch = balancing.whole_batch

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return what leaves the balanced gradients."""
        if isinstance(self.balancing, LossWeighting):
            losses = self.training_losses(batch)
            self.note(losses, batch)
            total = self.balancing(*self._terms(losses, batch), self._moment())
        else:
            with watched(self.model.encoder) as maps:
                losses = self.training_losses(batch)
            self.note(losses, batch)
            total = self.balancing(*self._terms(losses, batch), self._moment(), self.model.encoder, maps)
        if not self._on_parameters():
            self._log_weights()
        return total

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Leave the balanced gradient where it is one of parameters."""
        if isinstance(self.balancing, GradientBalancing) and self._on_parameters():
            self.balancing.finish(self.model.encoder, self.trainer.accumulate_grad_batches, self._moment())
            self._log_weights()

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Run the batch once more where the balancing learns from what the step has done to its losses."""
        if isinstance(self.balancing, FAMO):
            with torch.no_grad(), self.trainer.precision_plugin.train_step_context(), unchanged_buffers(self.model):
                terms, _ = self._terms(self.training_losses(batch), batch)
            self.balancing.look_back(self._moment().reduce(terms))

    def _terms(self, losses: dict[str, Tensor], batch: Batch) -> tuple[Tensor, Tensor]:
        """Return what each task adds to the loss, and its labels' mean weight, 1 where all are there: ``(T,)``."""
        labels = batch.get("labels")
        terms = torch.stack([term.mean() for term in self.total.terms(losses, labels).values()])
        if labels is None:
            return terms, torch.ones_like(terms)
        return terms, torch.stack([labels[name].mean() for name in losses]).to(terms, non_blocking=True)

    def _moment(self) -> Moment:
        trainer, step = self.trainer, self.trainer.global_step
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        return Moment(
            step,
            step > 0 and epoch_of(trainer, step) > epoch_of(trainer, step - 1),
            lambda x: trainer.strategy.reduce(x.clone(), reduce_op="mean"),
            trainer.world_size,
            1.0 if scaler is None else scaler.get_scale(),
        )

    def _on_parameters(self) -> bool:
        return isinstance(self.balancing, GradientBalancing) and self.balancing.at == "parameters"

    def _log_weights(self) -> None:
        names = [task.name for task in self.tasks]
        values = {f"balancing/{name}/weight": x for name, x in zip(names, self.balancing.latest, strict=True)}
        if isinstance(self.balancing, GradientBalancing):
            norms, cosines = self.balancing.gramian.diagonal().sqrt(), self.balancing.cosines()
            values |= {f"balancing/{name}/norm": x for name, x in zip(names, norms, strict=True)}
            pairs = itertools.combinations(range(len(names)), 2)
            values |= {f"balancing/{names[i]}_{names[j]}/cosine": cosines[i, j] for i, j in pairs}
        self.log_dict({name: value.float() for name, value in values.items()})
