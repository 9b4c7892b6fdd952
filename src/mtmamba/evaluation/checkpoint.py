"""Evaluate a checkpoint on any split, in one process or several."""

import contextlib
import logging
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import hydra
import torch
from lightning import Trainer
from lightning.pytorch import LightningModule
from omegaconf import DictConfig, open_dict
from torch import Tensor

from mtmamba import build
from mtmamba.checkpoints import find_checkpoint, read_checkpoint
from mtmamba.config_checks import ConfigError, settle_auto
from mtmamba.data.layouts import get_layout, read_ids
from mtmamba.evaluation.boundaries import choose_protocol, read_id_list
from mtmamba.evaluation.formats import save_prediction
from mtmamba.evaluation.outcome import Evaluated, conclude, show
from mtmamba.evaluation.statistics import ImageStatistics, image_statistics
from mtmamba.evaluation.views import Views
from mtmamba.metrics.pooled import PooledMetric
from mtmamba.models.multitask import MultiTaskModel
from mtmamba.runs import record as results
from mtmamba.runs.folder import begin
from mtmamba.tasks import select_tasks
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
        predictions = self.views(batch["image"])
        self.collected.add(batch["id"], image_statistics(self.metrics, predictions, batch))
        for task in self.saved:
            for index, image in enumerate(batch["id"]):
                cut = without_padding(predictions[task][index], batch["size"][index].tolist())
                save_prediction(self.folder, task, image, cut)

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
    if cfg.choices.data is not None:
        raise ConfigError(
            f"Expected the checkpoint's own dataset, got data={cfg.choices.data}: leave it out; data.root=FOLDER says "
            "where the dataset is."
        )
    settle_auto(cfg)
    path = find_checkpoint(Path(cfg.ckpt))
    checkpoint = read_checkpoint(path)
    settings = {f"data.{key}": value for key, value in cfg.data.items() if value is not None}
    settings |= {key: cfg[key] for key in ("backend", "cache_dir", "baseline", "cuda_graph")}
    full = build.config_of(checkpoint["mtmamba"], [f"{key}={value}" for key, value in settings.items()])
    with open_dict(full):
        full.evaluation = {key: cfg[key] for key in OPTIONS}
        full.trainer = cfg.trainer
    layout = get_layout(full.data.dataset)
    chosen = choose_protocol(cfg.boundaries, layout.name)
    begin(full, run_dir)

    data = build.build_datamodule(full)
    data.prepare_data()
    known = read_ids(data.root, layout, cfg.split)
    ids = read_id_list(cfg.ids, known)
    data.choose_test(cfg.split, ids)
    module = build.build_module(full)
    module.load_state_dict(checkpoint["state_dict"])
    tasks = select_tasks(module.metrics)
    augmentation = {"flip": cfg.tta.flip, "scales": list(cfg.tta.scales)}
    views = Views(module.model, tasks, **augmentation, cuda_graph=cfg.cuda_graph)
    saved = [task.name for task in tasks if cfg.save_predictions or (task.name == "edge" and chosen is not None)]
    evaluator = Evaluator(views, module.metrics, ids, run_dir / PREDICTIONS, saved)
    trainer = hydra.utils.instantiate(
        cfg.trainer,
        logger=False,
        enable_checkpointing=False,
        use_distributed_sampler=False,
        enable_model_summary=False,
        _convert_="all",
    )
    if trainer.precision == "bf16-mixed":
        cast(MultiTaskModel, module.model).weights_to_bfloat16()
    trainer.test(evaluator, data, verbose=False)
    if evaluator.statistics is None:
        return {}
    found = Evaluated(
        tasks=tasks,
        dataset=data.dataset_of("test"),
        metrics=dict(module.metrics.items()),
        statistics=evaluator.statistics,
        folder=evaluator.folder,
        predict=_again(trainer, evaluator),
        base=module.delta_m_base,
    )
    about = results.model_record(full, module.model, path, checkpoint["global_step"])
    about["tta"] = {"flip": views.flip, "scales": list(views.scales)}
    with _removed_unless(cfg.save_predictions, evaluator.folder):
        record = conclude(full, full.evaluation, run_dir, found, about, start)
    columns = {}
    if cfg.baseline:
        log.info("Scoring the best constant prediction.")
        loaders = data.plain_dataloader("train"), data.plain_dataloader("test")
        columns["Best constant"] = record["constant"] = results.constant_scores(
            tasks, build.num_outputs(full), *loaders, trainer.strategy.root_device
        )
        results.write_json(run_dir / "metrics.json", record)
    show(record, tasks, run_dir, columns)
    if cfg.save_predictions:
        log.info("Predictions: %s", evaluator.folder)
    return record


def without_padding(prediction: Tensor, size: Sequence[int]) -> Tensor:
    """The centre of a map, as `mtmamba.tasks.pictures.without_padding`: ``(..., H, W)`` → ``(..., h, w)``."""
    top, left = ((full - inner) // 2 for full, inner in zip(prediction.shape[-2:], size, strict=True))
    return prediction[..., top : top + size[0], left : left + size[1]]


def _again(trainer: Trainer, evaluator: Evaluator) -> Any:
    """Return what predicts one sample once more, on the device and in the precision of the evaluation."""
    device, precision = trainer.strategy.root_device, trainer.precision_plugin

    def predict(sample: Mapping[str, Any]) -> dict[str, Tensor]:
        evaluator.to(device).eval()
        with torch.no_grad(), precision.forward_context():
            images = precision.convert_input(sample["image"][None].to(device))
            return {name: values[0].cpu() for name, values in evaluator.views(images).items()}

    return predict


@contextlib.contextmanager
def _removed_unless(kept: bool, folder: Path) -> Iterator[None]:
    """Remove the boundary maps that only the benchmark needed."""
    try:
        yield
    finally:
        if not kept:
            shutil.rmtree(folder, ignore_errors=True)
