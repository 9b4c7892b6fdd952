"""Lightning's arguments of Trainer: which work as ``trainer.NAME=…``, and what is ours in place of the others."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from mtmamba.markdown import table_lines


class Argument(NamedTuple):
    """What becomes of an argument: it works in training, in evaluation too, or ``instead`` says what to use."""

    text: str
    training: bool = False
    evaluation: bool = False


def _works(text: str) -> Argument:
    return Argument(text, training=True)


def _everywhere(text: str) -> Argument:
    return Argument(text, training=True, evaluation=True)


ARGUMENTS: Mapping[str, Argument] = {
    "accelerator": _everywhere("`auto`, `cpu`, `gpu`, …"),
    "strategy": _everywhere("`auto`, `ddp`, …"),
    "devices": _everywhere("how many, which, or `auto`; the batch is shared out, the updates stay the same"),
    "num_nodes": _everywhere("machines"),
    "precision": _everywhere("`auto`, `32-true`, `bf16-mixed`, `16-mixed`, …"),
    "logger": Argument("choose logger=wandb or logger=csv"),
    "callbacks": Argument("set callbacks.NAME"),
    "fast_dev_run": Argument("set trainer.max_steps=2 trainer.val_check_interval=2"),
    "max_epochs": Argument("set trainer.max_steps, which is also the length of the learning rate's decay"),
    "min_epochs": Argument("set trainer.max_steps: a run takes that many"),
    "max_steps": _works("optimiser steps, and the length of the learning rate's decay"),
    "min_steps": Argument("set trainer.max_steps: a run takes that many"),
    "max_time": _works("`DD:HH:MM:SS`; the run then ends, with its weights and scores"),
    "limit_train_batches": Argument("set trainer.max_steps for a short run"),
    "limit_val_batches": Argument("set trainer.val_check_interval to validate less often: scores are of all images"),
    "limit_test_batches": Argument("give ids=FILE to src/eval.py"),
    "limit_predict_batches": Argument("give ids=FILE to src/eval.py"),
    "overfit_batches": Argument("choose data=synthetic data.scenes.train=8 to see a network overfit"),
    "val_check_interval": _works("optimiser steps between validations"),
    "check_val_every_n_epoch": Argument("set trainer.val_check_interval, in optimiser steps"),
    "num_sanity_val_steps": _works("validation batches to try before the first step"),
    "log_every_n_steps": _works("optimiser steps between rows of metrics.csv"),
    "enable_checkpointing": Argument("set callbacks.checkpoint_every: a run always keeps its weights"),
    "enable_progress_bar": Argument("set callbacks.progress_refresh=0", evaluation=True),
    "enable_model_summary": Argument("call src/model_stats.py"),
    "accumulate_grad_batches": Argument("set data.device_batch_size: what is missing to data.batch_size accumulates"),
    "gradient_clip_val": _works("the gradient's greatest norm, or value"),
    "gradient_clip_algorithm": _works("`norm` or `value`"),
    "deterministic": _everywhere("`true`, `warn`"),
    "benchmark": _everywhere("cuDNN's"),
    "inference_mode": _everywhere("`false`: validation under `no_grad`"),
    "use_distributed_sampler": Argument("set trainer.devices: the sampler of ours shares out the images"),
    "profiler": _everywhere("`simple`, `advanced`, `pytorch`"),
    "detect_anomaly": _works("stops where a gradient is NaN; without CUDA graphs"),
    "barebones": Argument("call src/benchmark.py to measure speed"),
    "plugins": Argument("set trainer.precision, trainer.strategy or trainer.num_nodes"),
    "sync_batchnorm": Argument("set trainer.devices: batch norms of several devices always share their statistics"),
    "reload_dataloaders_every_n_epochs": Argument("set seed: images are a function of seed, epoch and index"),
    "default_root_dir": Argument("set log_dir"),
    "enable_autolog_hparams": Argument("choose logger=wandb: config.yaml and W&B hold every setting"),
    "model_registry": Argument("keep the run's folder: its checkpoints are load_model's"),
}
"""What is known of each argument, in the order of Lightning's signature."""

_DDP = [f"ddp{start}{unused}" for unused in ("", "_find_unused_parameters_false", "_find_unused_parameters_true")
        for start in ("", "_spawn", "_fork", "_notebook")]  # fmt: skip
_DEEPSPEED = [f"deepspeed{stage}" for stage in (
    "", "_stage_1", "_stage_2", "_stage_2_offload", "_stage_3", "_stage_3_offload", "_stage_3_offload_nvme",
)]  # fmt: skip

CHOICES: Mapping[str, tuple[str, ...]] = {
    "accelerator": ("auto", "cpu", "gpu", "cuda", "mps", "tpu"),
    "strategy": ("auto", *_DDP, "fsdp", "fsdp_cpu_offload", *_DEEPSPEED, "single_device",
                 "xla", "xla_debug", "single_xla", "single_tpu"),
    "precision": ("auto", "32-true", "16-mixed", "bf16-mixed", "16-true", "bf16-true", "64-true", "transformer-engine",
                  "transformer-engine-float16", "64", "32", "16", "bf16"),
}  # fmt: skip
"""What Lightning takes by name, told before it is imported."""


def unknown_choice(name: str, value: Any) -> str | None:
    """Return why a value is none of those that Lightning takes by name, or None."""
    choices = CHOICES.get(name)
    if choices is None or value is None or str(value) in choices:
        return None
    return f"Expected trainer.{name} to be one of {', '.join(choices)}, got {value}: choose one of those, or auto."


def refusal(name: str, value: Any, *, evaluation: bool = False) -> str | None:
    """Return why an argument is refused, or None.

    Args:
        name: of Trainer's argument, or of any other key below ``trainer``.
        value: an argument that is null is left at Lightning's default, and not refused.
        evaluation: for an evaluation rather than a training.
    """
    if name.startswith("_") or value is None:
        return None
    argument = ARGUMENTS.get(name)
    if argument is None:
        return f"Expected an argument of Lightning's Trainer, got trainer.{name}: see docs/training.md for those."
    if evaluation and argument.evaluation:
        return None
    if evaluation and argument.training:
        return f"Expected trainer.{name} in a training, got it in an evaluation, which has no steps: leave it out."
    if not argument.training:
        return f"Expected no trainer.{name}, which would not be carried out here: {argument.text}."
    return None


def table() -> str:
    """Return the arguments as a Markdown table."""
    marks = {True: "works", False: "refused"}
    rows = [
        [f"`{name}`", marks[a.training], marks[a.evaluation], f"{'' if a.training else 'instead: '}{a.text}"]
        for name, a in ARGUMENTS.items()
    ]
    return "\n".join(table_lines(["`trainer.…`", "training", "evaluation", ""], rows)) + "\n"
