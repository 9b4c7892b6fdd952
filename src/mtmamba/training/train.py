"""What the training script does. Evaluation and benchmarks have packages of their own."""

import logging
import time
from pathlib import Path
from typing import Any

from lightning import Trainer, seed_everything
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn
from omegaconf import DictConfig
from torch import nn

from mtmamba import build
from mtmamba.checkpoints import BEST, FOLDER, AtomicCheckpointIO, LastCheckpoint, read_checkpoint
from mtmamba.config_checks import ConfigError, check_resumed, settle_auto
from mtmamba.data.datamodule import DenseDataModule
from mtmamba.evaluation.constant import constant_scores
from mtmamba.files import remove_partial, write_json
from mtmamba.runs.folder import begin, remove_empty, resumed_checkpoint
from mtmamba.runs.record import model_record, score_record, written
from mtmamba.runs.table import score_table, show
from mtmamba.training.callbacks import PicturePanel, ProgressBar, Throughput
from mtmamba.training.lit_module import MultiTaskModule, NonFiniteLossError
from mtmamba.training.loggers import CSVLogger, wandb_logger

log = logging.getLogger(__name__)


def train(cfg: DictConfig, run_dir: Path) -> dict[str, Any]:
    """Train, evaluate the best checkpoint, and leave everything in the run's folder.

    Args:
        cfg: from the training script's configuration, with choices.
        run_dir: the run's folder; a resumed run goes on in its own and this one is removed.

    Returns:
        What ``metrics.json`` holds.

    Raises:
        ConfigError: choices that do not go together.
        NonFiniteLossError: a loss became NaN or infinite; ``nonfinite_batch.json`` names the images.
    """
    start = time.perf_counter()
    settle_auto(cfg)
    resume = resumed_checkpoint(cfg)
    if resume is not None:
        check_resumed(build.describe(cfg), read_checkpoint(resume)["mtmamba"])
        remove_empty(run_dir)
        run_dir = resume.parents[1]
        rank_zero_only(remove_partial)(run_dir)
    begin(cfg, run_dir)
    log.info("Precision: %s; CUDA graphs: %s", cfg.trainer.precision, "yes" if cfg.cuda_graph else "no")

    seed_everything(cfg.seed, verbose=False)
    data = build.build_datamodule(cfg)
    rank_zero_only(data.prepare_data)()  # a dataset that is not what it should be stops us before weights are fetched
    module = build.build_module(cfg)
    pictures = PicturePanel(run_dir / "pictures", cfg.pictures)
    best = _best_checkpoint(run_dir, *_monitor(cfg.monitor, module))
    last = LastCheckpoint(run_dir / FOLDER, cfg.callbacks.checkpoint_every)
    progress = ProgressBar(refresh_rate=cfg.callbacks.progress_refresh)
    callbacks = [last, best, pictures, Throughput(), progress]
    if cfg.ema_decay is not None:
        callbacks.append(EMAWeightAveraging(decay=cfg.ema_decay))
    loggers = _loggers(cfg, run_dir, resume)
    trainer = _trainer(cfg, data, module, callbacks, loggers)
    if cfg.compile:
        module.model.compile_blocks()
    if cfg.cuda_graph:
        module.use_cuda_graphs()
    try:
        trainer.fit(module, data, ckpt_path=resume)
        pictures.name = "best"
        return _score(cfg, run_dir, trainer, module, data, run_dir / FOLDER / BEST, start)
    except NonFiniteLossError as error:
        found = {"step": error.step, "tasks": error.tasks, "images": error.ids}
        write_json(run_dir / "nonfinite_batch.json", found)
        raise
    finally:
        _close(loggers)


def _monitor(name: str, module: MultiTaskModule) -> tuple[str, str]:
    """Return the metric that "best" goes by, and whether its ``min`` or ``max`` is best."""
    if name == "auto":
        graded = any(module.delta_m_base.get(task.name, {}).keys() & task.units.keys() for task in module.tasks)
        name = "val/delta_m" if graded else "val/loss"
    known = {"val/loss": "min", "val/delta_m": "max"}
    for task in module.tasks:
        known |= {f"val/{task.name}/loss": "min"}
        for metric in task.units:
            known[f"val/{task.name}/{metric}"] = "min" if metric in task.lower_is_better else "max"
    if name not in known:
        raise ConfigError(f"Expected monitor to be auto or one of {', '.join(known)}, got {name}.")
    return name, known[name]


def _best_checkpoint(run_dir: Path, monitor: str, mode: str) -> Callback:
    return ModelCheckpoint(
        run_dir / FOLDER,
        filename=Path(BEST).stem,
        monitor=monitor,
        mode=mode,
        enable_version_counter=False,
        save_on_train_epoch_end=False,
    )


def _loggers(cfg: DictConfig, run_dir: Path, resume: Path | None) -> list[Logger]:
    csv = CSVLogger(run_dir / "metrics.csv")
    if resume is not None:
        csv.resume(read_checkpoint(resume)["global_step"])
    if not cfg.logger.wandb:
        return [csv]
    sweep = run_dir.parent.name if run_dir.parent.name.endswith("_sweep") else None
    group = f"{cfg.choices.experiment}/{sweep}" if sweep else cfg.choices.experiment
    name = "-".join(cfg.choices[g] for g in ("data", "encoder", "decoder", "ablation") if cfg.choices[g] != "none")
    return [csv, wandb_logger(run_dir, cfg.logger.project, cfg.label or name, group, build.plain(cfg))]


def _trainer(
    cfg: DictConfig, data: DenseDataModule, module: MultiTaskModule, callbacks: list[Callback], loggers: list[Logger]
) -> Trainer:
    trainer = build.build_trainer(
        cfg,
        callbacks=callbacks,
        logger=loggers,
        plugins=[AtomicCheckpointIO()],
        check_val_every_n_epoch=None,
        sync_batchnorm=True,
    )
    accumulate = data.accumulate_grad_batches(trainer.world_size)
    trainer.accumulate_grad_batches = accumulate
    if isinstance(trainer.val_check_interval, int):
        trainer.val_check_interval *= accumulate  # Lightning counts micro-batches
    if accumulate > 1 and any(isinstance(m, nn.BatchNorm2d) for m in module.modules()):
        rank_zero_warn(
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
    path: Path,
    start: float,
) -> dict[str, Any]:
    """Validate a checkpoint; write ``metrics.json``, print the table, and return the record."""
    checkpoint = read_checkpoint(path)
    module.load_state_dict(checkpoint["state_dict"])
    trainer.validate(module, data, verbose=False)
    scores = module.scores
    record = {
        **score_record(cfg, run_dir, module.tasks, scores, module.delta_m_base),
        **model_record(cfg, module.model, path, checkpoint["global_step"]),
        "split": "val",
        "images": len(data.dataset_of("val")),
        "seconds": round(time.perf_counter() - start, 1),
    }
    if not trainer.is_global_zero:
        return record
    with written(record, run_dir / "metrics.json"):
        if cfg.baseline:
            log.info("Scoring the best constant prediction.")
            loaders = data.plain_dataloader("train"), data.plain_dataloader("val")
            record["constant"] = constant_scores(
                module.tasks, build.num_outputs(cfg), *loaders, trainer.strategy.root_device
            )
    columns = {"Best constant": record["constant"]} if cfg.baseline else {}
    show(score_table(module.tasks, scores, columns, record["delta_m"]))
    log.info("Scores: %s", run_dir / "metrics.json")
    log.info("Pictures: %s", run_dir / "pictures")
    return record


def _close(loggers: list[Logger]) -> None:
    """Close W&B whatever happened, or the runs of a sweep would merge into one."""
    for logger in loggers:
        logger.finalize("finished")
        if type(logger).__name__ == "WandbLogger":
            import wandb

            wandb.finish()
