"""The training program: network, losses, metrics and optimiser as a LightningModule."""

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer

from mtmamba.config.settings import settings_of
from mtmamba.metrics.pooled import PooledMetric
from mtmamba.models.cuda_graphs import GraphedModel
from mtmamba.models.drop_path import seed_drop_path
from mtmamba.models.encoders import by_depth
from mtmamba.models.multitask import MultiTaskModel
from mtmamba.padding import resized
from mtmamba.tasks import Task, relative_gain, select_tasks
from mtmamba.training.watched_losses import WatchedLosses, labelled_mean, logged_means
from mtmamba.types import Batch, Logits

log = logging.getLogger(__name__)


class MultiTaskModule(LightningModule):
    """Train and evaluate a multi-task network.

    Args:
        model: images ``(B, 3, H, W)`` → ``{task: (B, n, H, W)}``. A task's loss in training holds those of its
            decoder's auxiliary logits.
        num_outputs: n by task.
        total: combines ``{task: (B,)}`` into the loss; where labels are partial, with a batch's ``labels``.
        optimizer: makes the optimiser of the parameters, given those.
        schedule: makes the learning rate's schedule by optimiser step, given the optimiser; None for a constant rate.
        encoder_lr_scale: what the rate of the encoder's pretrained parameters is multiplied by.
        encoder_layer_decay: what it is multiplied by once more for each block that follows (`by_depth`).
        delta_m_base: single-task scores, ``{task: {metric: value}}``; empty for no Delta_m.
        description: plain values that checkpoints carry.
        adapt: changes a task's record to the dataset's protocol (`DatasetRecord.adapt`).

    Attributes:
        watched: the last micro-batch's losses, which `StepCheck` looks at.

    Source: section 4.1; losses and their combination as in the authors' program.
    """

    def __init__(
        self,
        model: MultiTaskModel,
        num_outputs: Mapping[str, int],
        total: Callable[..., Tensor],
        *,
        optimizer: Callable[..., Optimizer],
        schedule: Callable[[Optimizer], Any] | None,
        encoder_lr_scale: float = 1.0,
        encoder_layer_decay: float = 1.0,
        delta_m_base: Mapping[str, Mapping[str, float]],
        description: Mapping[str, Any],
        adapt: Callable[[Task], Task] = lambda task: task,
    ) -> None:
        super().__init__()
        self.model = model
        self.tasks = [adapt(task) for task in select_tasks(num_outputs)]
        self.total = total
        self.losses = {task.name: task.loss for task in self.tasks} | getattr(total, "losses", {})
        self.optimizer, self.schedule = optimizer, schedule
        self.encoder_lr_scale, self.encoder_layer_decay = encoder_lr_scale, encoder_layer_decay
        self.delta_m_base = delta_m_base
        self.description = description
        self.metrics: Mapping[str, PooledMetric] = nn.ModuleDict(  # type: ignore[assignment]
            {task.name: task.metric(num_outputs[task.name]) for task in self.tasks}
        )
        self.scores: dict[str, dict[str, float]] = {}
        self.watched: WatchedLosses | None = None
        self._graphed: GraphedModel | None = None

    def use_cuda_graphs(self) -> None:
        """Replay the network's forward and backward passes from CUDA graphs from now on; see `GraphedModel`."""
        self._graphed = GraphedModel(self.model, self.model.with_auxiliary)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return the optimiser, and its schedule by optimiser step.

        Raises:
            ValueError: the schedule waits for a score, or settings are none of the classes'.
        """
        optimizer = self.new_optimizer(self.parameter_groups())
        if self.schedule is None:
            return {"optimizer": optimizer}
        with settings_of("optimizer.schedule"):
            schedule = self.schedule(optimizer)
        if isinstance(schedule, torch.optim.lr_scheduler.ReduceLROnPlateau):
            raise ValueError(
                "Expected a schedule by optimiser step, got ReduceLROnPlateau, which goes by a score: choose another "
                "optimizer.schedule."
            )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def new_optimizer(self, groups: list[dict[str, Any]]) -> Optimizer:
        """Return an optimiser of parameters in groups like those of `parameter_groups`."""
        with settings_of("optimizer"):
            optimizer = self.optimizer(groups)
        for group in optimizer.param_groups:
            group["lr"] *= group.pop("lr_scale", 1.0)
        return optimizer

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Set the rate of the step to come, in PyTorch's way or in timm's."""
        if hasattr(scheduler, "step_update"):
            scheduler.step_update(self.trainer.global_step)
        else:
            super().lr_scheduler_step(scheduler, metric)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return what is trained, and settings of the optimiser that hold for a part of it.

        The encoder's pretrained parameters are groups of their own if their rate is scaled, and so are those of a
        module with ``optimizer_settings``. A group's ``lr_scale`` multiplies its learning rate.
        """
        trained = {id(p): p for p in self.parameters() if p.requires_grad}

        def group(parameters: Iterable[nn.Parameter], **settings: Any) -> dict[str, Any]:
            return {"params": [trained.pop(id(p)) for p in parameters if id(p) in trained], **settings}

        special = [
            group(module.parameters(), **module.optimizer_settings)  # type: ignore[arg-type]
            for module in self.modules()
            if hasattr(module, "optimizer_settings")
        ]
        if self.encoder_lr_scale != 1 or self.encoder_layer_decay != 1:
            depths = by_depth(self.model.encoder, self.encoder_layer_decay)
            special[:0] = [group(own, lr_scale=self.encoder_lr_scale * scale) for scale, own in depths.items()]
        return [{"params": list(trained.values())}, *special]

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the mean loss of a micro-batch's images."""
        return self.note(self.training_losses(batch), batch)

    def training_losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return each task's losses ``(B,)`` in training, with those of auxiliary logits."""
        seed_drop_path(self.model, batch["key"].tolist(), self.device)
        logits, auxiliary = self.outputs(batch["image"])
        losses = self.task_losses(self.on_targets(logits, batch), batch)
        self._add_auxiliary(losses, auxiliary, batch)
        return losses

    def note(self, losses: dict[str, Tensor], batch: Batch) -> Tensor:
        """Log a micro-batch's losses, keep them to be checked, and return their combination."""
        labels = batch.get("labels")
        total = self.combine(losses, labels)
        self.watched = WatchedLosses(losses, labels, batch["id"])
        self.log_dict({"train/loss": total.detach(), **logged_means(losses, labels)}, batch_size=len(batch["id"]))
        return total

    def latest_losses(self) -> dict[str, float]:
        """Return the last micro-batch's losses by the names that they are logged under, once its forward pass is over.

        Empty before the first one.
        """
        if self.watched is None:
            return {}
        losses, labels = self.watched.losses(), self.watched.labels
        means = {name: float(value) for name, value in logged_means(losses, labels).items()}
        return {"train/loss": self.combine(losses, labels).item(), **means}

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Update the metrics; return each task's prediction."""
        logits = self.on_targets(self.outputs(batch["image"])[0], batch)
        losses = self.task_losses(logits, batch)
        labels = batch.get("labels")
        values = {"val/loss": (self.combine(losses, labels), len(batch["id"]))}  # with the images that it is a mean of
        for task in self.tasks:
            if "loss" not in task.units:
                weights = None if labels is None else labels[task.name]
                values[f"val/{task.name}/loss"] = labelled_mean(losses[task.name], weights)
        for name, (value, images) in values.items():
            share = float(images)  # or Lightning would round the processes' mean of it to a whole number
            self.log(name, value, batch_size=share, on_epoch=True, sync_dist=True, logger=False)  # type: ignore[arg-type]
        predictions = {task.name: task.predict(logits[task.name]) for task in self.tasks}
        for name, metric in self.metrics.items():
            metric.update(predictions[name], batch[name])  # type: ignore[literal-required]
        return predictions

    def on_validation_epoch_end(self) -> None:
        """Note every metric, and Delta_m over the tasks that have both a metric and a base, for who logs validations.

        What cannot be scored, for want of a valid pixel in all validation labels, is left out and named.
        """
        self.scores = compute_scores(self.metrics)
        flat = {f"val/{task}/{name}": value for task, scores in self.scores.items() for name, value in scores.items()}
        if unscored := [name for name, value in flat.items() if math.isnan(value)]:
            log.warning("No valid pixel in the validation labels for %s: left out of Delta_m.", ", ".join(unscored))
        if (gain := self.delta_m(self.scores)) is not None:
            flat["val/delta_m"] = gain
        self.log_dict(flat, sync_dist=True, logger=False)

    def delta_m(self, scores: Mapping[str, Mapping[str, float]]) -> float | None:
        """Return Delta_m in percent over the tasks that have both a metric and a base; None where there is none."""
        return relative_gain(self.tasks, scores, self.delta_m_base, partly=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what is needed to build the network again."""
        checkpoint["mtmamba"] = dict(self.description)

    def outputs(self, images: Tensor) -> tuple[Logits, dict[str, Logits]]:
        """Return the network's logits and, in training, its decoder's auxiliary ones."""
        return (self._graphed or self.model.with_auxiliary)(images)

    def on_targets(self, logits: Logits, batch: Batch) -> Logits:
        """Return logits on the targets' grid, which is larger than the image's where images are resized."""
        return {name: resized(x, batch[name].shape[-2:]) for name, x in logits.items()}  # type: ignore[literal-required]

    def task_losses(self, logits: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """Return each task's losses ``(B,)``."""
        return {task.name: self.losses[task.name](logits[task.name], batch[task.name]) for task in self.tasks}  # type: ignore[literal-required]

    def combine(self, losses: Mapping[str, Tensor], labels: Mapping[str, Tensor] | None) -> Tensor:
        """Return the loss to train; ``labels`` as in a `Batch`, None where every image has every label."""
        return self.total(losses) if labels is None else self.total(losses, labels)

    def _add_auxiliary(self, losses: dict[str, Tensor], auxiliary: Mapping[str, Logits], batch: Batch) -> None:
        """Add to each task's loss those of the decoder's intermediate logits, times its ``aux_weight``."""
        decoder = self.model.decoder
        special, weight = getattr(decoder, "auxiliary_losses", {}), getattr(decoder, "aux_weight", 1.0)
        for name, logits in auxiliary.items():
            logits = self.on_targets(logits, batch)
            for task in (task for task in self.tasks if task.name in logits):
                loss = special.get(name, {}).get(task.name, self.losses[task.name])
                target = batch[task.name]  # type: ignore[literal-required]
                losses[task.name] = losses[task.name] + weight * loss(logits[task.name], target)


def compute_scores(metrics: Mapping[str, PooledMetric]) -> dict[str, dict[str, float]]:
    """Compute and reset each task's metrics: ``{task: {metric: value}}``."""
    scores = {task: {name: float(x) for name, x in metric.compute().items()} for task, metric in metrics.items()}
    for metric in metrics.values():
        metric.reset()
    return scores
