"""What the training script does. Evaluation and benchmarks have packages of their own."""

import functools
import logging
import time
from pathlib import Path
from typing import Any

from lightning import Trainer, seed_everything
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import LambdaCallback
from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig
from torch import nn

from mtmamba import build
from mtmamba.checkpoints import read_checkpoint
from mtmamba.config import compose
from mtmamba.config.checks import ConfigError, demo_settings, frozen_at_random, on_gpu, settle_auto
from mtmamba.data.datamodule import DenseDataModule
from mtmamba.evaluation.constant import constant_scores
from mtmamba.files import remove_partial, write_json
from mtmamba.memory import keep_memory
from mtmamba.places import find_checkpoint
from mtmamba.restore import fetch_nothing, load_weights
from mtmamba.runs.folder import begin, locked, remove_empty, require_new, speak
from mtmamba.runs.names import SCORES
from mtmamba.runs.record import Scores, model_record, score_record, written
from mtmamba.runs.table import score_table, show
from mtmamba.sharing import read_model
from mtmamba.tasks import select_tasks
from mtmamba.training.batch_norm import SyncBatchNorms
from mtmamba.training.callbacks import BEST, START, name_pictures
from mtmamba.training.checkpoint_io import AtomicCheckpointIO
from mtmamba.training.checkpointing import Checkpointing, log_validation
from mtmamba.training.fitting import require_fitting
from mtmamba.training.lit_module import MultiTaskModule
from mtmamba.training.loggers import CSVLogger
from mtmamba.training.resume import Resumed, find_resumed, restore_record, validate_due
from mtmamba.training.step_check import StepCheck
from mtmamba.training.threads import settle_threads, threads_of_its_own
from mtmamba.training.validations import Validations, choose_monitor
from mtmamba.training.wandb_run import WandbRun
from mtmamba.training.watched_losses import NonFiniteLossError

log = logging.getLogger(__name__)


def train(cfg: DictConfig, run_dir: Path) -> dict[str, Any]:
    """Train, evaluate the best checkpoint, and leave everything in the run's folder.

    Args:
        cfg: from the training script's configuration, with choices.
        run_dir: the run's folder; a resumed run goes on in its own and this one is removed.

    Returns:
        What ``metrics.json`` holds.

    Raises:
        ConfigError: choices that do not go together, or not with the run to resume; nothing was written.
        NonFiniteLossError: a loss became NaN or infinite; ``nonfinite_batch.json`` names the images.
    """
    start = time.perf_counter()
    speak()
    settle_auto(cfg)
    if cfg.data.root is None:
        raise ConfigError("Expected data.root=FOLDER, got null: name the dataset's folder.")
    cfg.data.root = str(Path(cfg.data.root).expanduser().absolute())  # as its checkpoints shall find it
    validations = Validations(
        *choose_monitor(cfg.monitor, select_tasks(cfg.tasks), compose.plain(cfg.data.delta_m_base))
    )
    resumed = find_resumed(cfg)
    if resumed is not None:
        restore_record(validations, resumed)
        remove_empty(run_dir)
        run_dir = resumed.run_dir
    else:
        require_new(run_dir)
    with locked(run_dir), threads_of_its_own():
        return _train(cfg, run_dir, validations, resumed, start)


def _train(
    cfg: DictConfig, run_dir: Path, validations: Validations, resumed: Resumed | None, start: float
) -> dict[str, Any]:
    begin_once = functools.cache(lambda: begin(cfg, run_dir))
    if resumed is None:
        begin_once()
        for said in filter(None, (demo_settings(cfg), frozen_at_random(cfg))):
            rank_zero_only(log.warning)(said)
    initial = None if cfg.init is None else read_model(cfg.init)  # a wrong one is known before scenes are made
    seed_everything(cfg.seed, verbose=False)
    data = build.build_datamodule(cfg)
    rank_zero_only(data.prepare_data)()  # a dataset that is not what it should be stops us before weights are fetched
    if initial is not None:
        fetch_nothing(cfg)
    module = build.build_module(cfg)
    if initial is not None:
        load_weights(module.model, *initial)
        initial = None  # nobody else holds these weights
    if resumed is not None:
        require_fitting(resumed.content, module, resumed.path, averaged=cfg.ema_decay is not None)
        rank_zero_only(remove_partial)(run_dir)
    checkpointing = Checkpointing(cfg.callbacks.checkpoint_every, validations)
    starting = LambdaCallback(on_train_start=lambda *_: begin_once())  # a refused resume writes nothing
    loggers = build.build_loggers(cfg, run_dir)
    pages = [logger for logger in loggers if isinstance(logger, WandbRun)]
    try:
        for page in pages:
            page.define(module.tasks)
        trainer = _trainer(
            cfg,
            run_dir,
            data,
            module,
            [starting, checkpointing, StepCheck(), *build.build_callbacks(cfg)],
            loggers,
            resumed,
        )
        settle_threads(trainer.num_devices, None if resumed is None else resumed.content)
        if not on_gpu(cfg):
            keep_memory()
        sizes = [(p.numel(), p.requires_grad) for p in module.model.parameters()]
        trained, every = sum(n for n, is_trained in sizes if is_trained) / 1e6, sum(n for n, _ in sizes) / 1e6
        log.info("Parameters: %.2f of %.2f million are trained, %.1f %%", trained, every, 100 * trained / every)
        log.info("Precision: %s; CUDA graphs: %s", cfg.trainer.precision, "yes" if cfg.cuda_graph else "no")
        if cfg.compile:
            module.model.compile_blocks()
        if cfg.cuda_graph:
            module.use_cuda_graphs()
        start_scores = None if cfg.init is None else _validate(trainer, module, data, START)
        if resumed is not None:
            for logger in loggers:
                if isinstance(logger, CSVLogger):
                    logger.resume(resumed.step)
            validate_due(trainer, module, data, checkpointing, resumed)
        trainer.fit(module, data, ckpt_path=None if resumed is None else resumed.path)
        begin_once()
        record = _score(cfg, run_dir, trainer, module, data, start_scores, start)
        for page in pages:
            page.log_row(record, Path(record["checkpoint"]))
        return record
    except NonFiniteLossError as error:
        found = {"step": error.step, "tasks": error.tasks, "images": error.ids}
        write_json(run_dir / "nonfinite_batch.json", found)
        raise
    finally:
        _close(loggers)


def _trainer(
    cfg: DictConfig,
    run_dir: Path,
    data: DenseDataModule,
    module: MultiTaskModule,
    callbacks: list[Callback],
    loggers: list[Logger],
    resumed: Resumed | None,
) -> Trainer:
    checkpoint_io = AtomicCheckpointIO({} if resumed is None else {resumed.path: resumed.content})
    trainer = build.build_trainer(
        cfg,
        default_root_dir=run_dir,
        callbacks=callbacks,
        logger=loggers,
        plugins=[checkpoint_io, SyncBatchNorms(on_gpu(cfg))],
        check_val_every_n_epoch=None,
    )
    accumulate = data.accumulate_grad_batches(trainer.world_size)
    if accumulate > 1 and getattr(module, "whole_batch", False):
        raise ConfigError(
            f"Expected no accumulation with balancing={cfg.choices.balancing}, whose weights follow from the whole "
            f"batch, got {accumulate} micro-batches of data.device_batch_size={data.device_batch_size}: raise it, use "
            "more devices, or set balancing.at=parameters where the balancing is one of gradients, but not db_mtl."
        )
    trainer.accumulate_grad_batches = accumulate
    if isinstance(trainer.val_check_interval, int):
        trainer.val_check_interval *= accumulate  # Lightning counts micro-batches
    if accumulate > 1 and any(isinstance(m, nn.BatchNorm2d) for m in module.modules()):
        log.warning(
            f"This model has batch norm, whose statistics are those of micro-batches: accumulating {accumulate} of "
            "them is not equivalent to one batch. Raise data.device_batch_size or use more devices."
        )
    return trainer


def _score(
    cfg: DictConfig,
    run_dir: Path,
    trainer: Trainer,
    module: MultiTaskModule,
    data: DenseDataModule,
    start_scores: Scores | None,
    start: float,
) -> dict[str, Any]:
    """Validate the best checkpoint, or the last where no validation was run, on the whole validation set.

    Write ``metrics.json``, print the table, and return the record.
    """
    path = find_checkpoint(run_dir)
    checkpoint = read_checkpoint(path)
    module.load_state_dict(checkpoint["state_dict"])
    trainer.limit_val_batches = 1.0
    scores = _validate(trainer, module, data, BEST)
    log_validation(trainer, trainer.global_step)
    record = {
        **score_record(cfg, run_dir, module.tasks, scores, module.delta_m_base),
        **model_record(cfg, module.model, path, checkpoint["global_step"]),
        "split": "val",
        "images": len(data.dataset_of("val")),
        "seconds": round(time.perf_counter() - start, 1),
    }
    if not trainer.is_global_zero:
        return record
    columns: dict[str, Scores] = {}
    if start_scores is not None:
        columns["Before training"] = start_scores
        record["start"] = {"model": cfg.init, "tasks": start_scores}
    with written(record, run_dir / SCORES):
        if cfg.baseline:
            log.info("Scoring the best constant prediction.")
            loaders = data.plain_dataloader("train"), data.plain_dataloader("val")
            record["constant"] = columns["Best constant"] = constant_scores(
                module.tasks, compose.num_outputs(cfg), *loaders, trainer.strategy.root_device
            )
    show(score_table(module.tasks, scores, columns, record["delta_m"]))
    log.info("Scores: %s", run_dir / SCORES)
    log.info("Pictures: %s", run_dir / "pictures")
    return record


def _validate(trainer: Trainer, module: MultiTaskModule, data: DenseDataModule, pictures: str) -> Scores:
    """Score the weights at hand, and name the pictures of their predictions."""
    name_pictures(trainer, pictures)
    trainer.validate(module, data, verbose=False)
    name_pictures(trainer, None)
    return module.scores


def _close(loggers: list[Logger]) -> None:
    """Close W&B whatever happened, or the runs of a sweep would merge into one."""
    for logger in loggers:
        logger.finalize("finished")
        if isinstance(logger, WandbLogger):
            import wandb

            wandb.finish()
