"""Evaluate a checkpoint on any split, in one process or several."""

import contextlib
import logging
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch import LightningModule
from omegaconf import DictConfig, open_dict
from torch import Tensor

from mtmamba import build, restore
from mtmamba.config import compose
from mtmamba.config.checks import ConfigError, settle_auto
from mtmamba.data.datamodule import DenseDataModule
from mtmamba.evaluation.boundaries import choose_protocol, read_id_list
from mtmamba.evaluation.constant import constant_scores
from mtmamba.evaluation.formats import save_prediction
from mtmamba.evaluation.outcome import Evaluated, conclude, require_bootstrap
from mtmamba.evaluation.statistics import ImageStatistics, image_statistics
from mtmamba.evaluation.views import Views
from mtmamba.memory import give_back_memory
from mtmamba.metrics.pooled import PooledMetric
from mtmamba.padding import crop
from mtmamba.runs.folder import begin
from mtmamba.runs.record import Scores, model_record
from mtmamba.sharing import read_model
from mtmamba.tasks import Task, select_tasks, target_grid
from mtmamba.types import Batch

log = logging.getLogger(__name__)

PREDICTIONS = "predictions"
OPTIONS = (
    "split", "ids", "boundaries", "boundary_ids", "boundary_workers", "bootstrap", "worst", "pictures", "tta",
    "save_predictions",
)  # fmt: skip


class Evaluator(LightningModule):
    """Predict every image, keep its statistics, and write the predictions of some tasks.

    Args:
        views: the model with its test-time augmentation.
        metrics: by task.
        order: every image's id.
        folder: for predictions.
        saved: the tasks whose predictions to write.
    """

    def __init__(
        self,
        views: Views,
        metrics: Mapping[str, PooledMetric],
        order: Sequence[str],
        folder: Path,
        saved: Sequence[str],
    ) -> None:
        super().__init__()
        self.model, self.views = views.model, views
        self.order, self.folder, self.saved = order, folder, saved
        self.metrics = metrics
        self.collected = ImageStatistics(metrics)
        self.statistics: dict[str, dict[str, Tensor]] | None = None

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Predict a batch."""
        predictions = self.views(batch["image"], target_grid(batch, self.views.tasks))
        self.collected.add(batch["id"], image_statistics(self.metrics, predictions, batch))
        for task in self.saved:
            for index, image in enumerate(batch["id"]):
                cut = crop(predictions[task][index], batch["size"][index].tolist())
                save_prediction(self.folder, task, image, cut)
        give_back_memory()

    def on_test_epoch_end(self) -> None:
        """Bring the images of all processes together in the first."""
        self.statistics = self.collected.gather(self.order)


def evaluate(cfg: DictConfig, run_dir: Path) -> dict[str, Any]:
    """Evaluate a checkpoint: scores with intervals, by class, worst images, and predictions on request.

    Args:
        cfg: from the evaluation script's configuration.
        run_dir: where to leave ``metrics.json``, ``pictures`` and ``predictions``.

    Returns:
        What ``metrics.json`` holds; empty in all processes but the first.

    Raises:
        ConfigError: ``data`` was chosen; a CUDA graph where there can be none.
        FileNotFoundError: there is no checkpoint.
        DatasetError: the dataset is not what it should be, or the list of ids names other images.
    """
    start = time.perf_counter()
    settle_auto(cfg)
    checkpoint, path = read_model(cfg.ckpt)
    full = evaluated_config(cfg, checkpoint["mtmamba"])
    require_bootstrap(full.evaluation)
    chosen = choose_protocol(cfg.boundaries, compose.dataset_record(full))
    begin(full, run_dir)

    data = build.build_datamodule(full)
    data.prepare_data()
    ids = read_id_list(cfg.ids, data.record.read_ids(data.root, cfg.split))
    data.choose_test(cfg.split, ids)
    model = restore.restore_model(full, checkpoint, path)
    outputs = compose.num_outputs(full)
    tasks = [data.record.adapt(task) for task in select_tasks(outputs)]
    metrics = {task.name: task.metric(outputs[task.name]) for task in tasks}
    saved = [task.name for task in tasks if cfg.save_predictions or (task.boundaries and chosen is not None)]
    views = Views(model, tasks, flip=cfg.tta.flip, scales=list(cfg.tta.scales), cuda_graph=cfg.cuda_graph)
    evaluator = Evaluator(views, metrics, ids, run_dir / PREDICTIONS, saved)
    trainer = build.build_trainer(cfg, logger=False, enable_checkpointing=False)
    if trainer.precision == "bf16-mixed":
        model.weights_to_bfloat16()
    trainer.test(evaluator, data, verbose=False)
    if evaluator.statistics is None:
        return {}

    base = compose.plain(full.data.delta_m_base)
    dataset, predict = data.dataset_of("test"), _again(trainer, evaluator)
    found = Evaluated(tasks, dataset, metrics, evaluator.statistics, evaluator.folder, predict, base)
    about = model_record(full, model, path, checkpoint["global_step"])
    about["tta"] = {"flip": views.flip, "scales": list(views.scales)}
    constant = (lambda: _constant(tasks, outputs, data, trainer)) if cfg.baseline else None
    with _removed_unless(cfg.save_predictions, evaluator.folder):
        record = conclude(full, full.evaluation, run_dir, found, about, start, constant)
    if cfg.save_predictions:
        log.info("Predictions: %s", evaluator.folder)
    return record


def evaluated_config(cfg: DictConfig, description: Mapping[str, Any]) -> DictConfig:
    """Return the configuration of a checkpoint, with the settings of this evaluation.

    Args:
        cfg: from the evaluation script's configuration.
        description: the checkpoint's.

    Raises:
        ConfigError: ``data`` was chosen.
    """
    if cfg.choices.data is not None:
        raise ConfigError(
            f"Expected the checkpoint's own dataset, got data={cfg.choices.data}: leave it out; data.root=FOLDER says "
            "where the dataset is."
        )
    settings = {f"data.{key}": value for key, value in cfg.data.items() if value is not None}
    settings |= {key: cfg[key] for key in ("backend", "cache_dir", "baseline", "cuda_graph")}
    full = restore.config_of(description, settings)
    with open_dict(full):
        full.evaluation = {key: cfg[key] for key in OPTIONS}
        full.trainer = cfg.trainer
        full.optimizer.schedule = None  # nothing is trained, and trainer has no max_steps here
    return full


def _constant(tasks: Sequence[Task], outputs: Mapping[str, int], data: DenseDataModule, trainer: Trainer) -> Scores:
    loaders = data.plain_dataloader("train"), data.plain_dataloader("test")
    return constant_scores(tasks, outputs, *loaders, trainer.strategy.root_device)


def _again(trainer: Trainer, evaluator: Evaluator) -> Any:
    """Return what predicts one sample once more, on the device and in the precision of the evaluation."""
    device, precision = trainer.strategy.root_device, trainer.precision_plugin

    def predict(sample: Mapping[str, Any]) -> dict[str, Tensor]:
        evaluator.to(device).eval()
        with torch.no_grad(), precision.forward_context():
            images = precision.convert_input(sample["image"][None].to(device))
            grid = target_grid(sample, evaluator.views.tasks)
            return {name: values[0].cpu() for name, values in evaluator.views(images, grid).items()}

    return predict


@contextlib.contextmanager
def _removed_unless(kept: bool, folder: Path) -> Iterator[None]:
    """Remove the boundary maps that only the benchmark needed."""
    try:
        yield
    finally:
        if not kept:
            shutil.rmtree(folder, ignore_errors=True)
