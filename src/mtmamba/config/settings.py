"""Settings checked by type and range before anything is read or imported: a sentence for each that cannot work."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError

from mtmamba.config.groups import check_entries, check_groups
from mtmamba.config.trainer_arguments import refusal, unknown_choice
from mtmamba.rules import (
    DEVICES,
    GROUP,
    INPUT_SIZE,
    NOT_NEGATIVE,
    POSITIVE,
    SCALES,
    SHARE,
    SIZE,
    SWITCH,
    TASKS,
    TEXT,
    ConfigError,
    Rule,
    is_by_name,
    is_number,
    is_whole,
    or_null,
    pair,
    shown,
    whole,
)


@contextmanager
def settings_of(group: str) -> Iterator[None]:
    """Say in a sentence what a class finds wrong with the settings that it is built from.

    Args:
        group: of the configuration, where the settings stand.

    Raises:
        ConfigError: the class has no such argument, or refuses a value without a sentence of ours.
    """
    try:
        yield
    except (TypeError, ValueError) as error:
        if str(error).startswith("Expected "):
            raise
        raise ConfigError(
            f"Expected settings of {group} that its class takes, got {error}: correct {group}."
        ) from error


KINDS = ("raw", "picture", "sheet")
"""What is written of a prediction."""

PARTS = ("scan", "loader", "predict", "ops", "blocks", "model")
"""What a benchmark measures."""

PLACE = TEXT._replace(words="a folder", example="./FOLDER")


RULES: Mapping[str, Rule] = {
    "resume": or_null(TEXT._replace(words="a run's folder, a checkpoint, or auto", example="RUN")),
    "data.scenes": or_null(GROUP._replace(example="{train:480,val:64}")),
    "data.scenes.train": whole(0, 480),
    "data.scenes.val": whole(0, 64),
    "data.scenes.size": SIZE,
    "data.scenes.seed": whole(0, 0),
    "data.root": PLACE._replace(holds=or_null(PLACE).holds),  # null in models that are shared
    "data.num_outputs": Rule("numbers of outputs by task", lambda v: is_by_name(v, lambda _: True), "{TASK:1}"),
    "data.delta_m_base": Rule(
        "scores by task and metric, none of them 0",
        lambda v: is_by_name(v, lambda scores: is_by_name(scores, lambda x: is_number(x) and x != 0)),
        "{TASK:{METRIC:1.0}}",
    ),
    "init": or_null(TEXT._replace(words="a run, a checkpoint or the name of a model", example="nyud_lite")),
    "label": or_null(
        Rule("a name that can be printed", lambda v: is_number(v) or (TEXT.holds(v) and v.isprintable()), "NAME")
    ),
    "extensions": or_null(
        Rule("Python files", lambda v: TEXT.holds(v) or (isinstance(v, list) and all(map(TEXT.holds, v))), "[FILE.py]")
    ),
    **dict.fromkeys(
        ("seed", "data.seed"),
        Rule("a whole number from 0 to 4294967295", lambda v: is_whole(v) and 0 <= v < 2**32, "0"),
    ),
    "tasks": TASKS,
    "compile": SWITCH,
    "baseline": SWITCH,
    "pictures": whole(0, 4),
    "retries": whole(0, 1),
    "monitor": Rule(
        "auto, val/loss, val/delta_m, or val/TASK/SCORE",
        lambda v: re.fullmatch("auto|val/(loss|delta_m|[^/]+/[^/]+)", str(v)) is not None,
        "auto",
    ),
    "ema_decay": or_null(Rule("a number above 0 and below 1", lambda v: is_number(v) and 0 < v < 1, "0.999")),
    "log_dir": PLACE._replace(example="logs"),
    **dict.fromkeys(("cache_dir", "data.cache_dir"), PLACE._replace(example="CACHE")),
    "data.crop_size": SIZE,
    "data.batch_size": whole(1, 8),
    "data.device_batch_size": or_null(whole(1, 4)),
    "data.val_batch_size": whole(1, 4),
    "data.num_workers": or_null(whole(0, 2)),
    "data.scale": pair(
        "the least and the greatest factor, 0 < least <= greatest",
        lambda v: all(map(is_number, v)) and 0 < v[0] <= v[1],
        "[0.5,2.0]",
    ),
    "data.resize": SWITCH,
    "data.invalid": Rule("ignored or as_released", lambda v: v in ("ignored", "as_released"), "ignored"),
    "data.partial": Rule(
        "false, true, one_label or random:SHARE, a share above 0 and up to 1",
        lambda v: (
            isinstance(v, bool) or re.fullmatch(r"one_label|random:(1(\.0*)?|0?\.\d*[1-9]\d*)", str(v)) is not None
        ),
        "random:0.5",
    ),
    "data.check": Rule("samples or all", lambda v: v in ("samples", "all"), "all"),
    "encoder.freeze": or_null(
        Rule(
            "all, norms or a whole number of at least 1",
            lambda v: v in ("all", "norms") or (is_whole(v) and v >= 1),
            "norms",
        )
    ),
    "encoder.lr_scale": NOT_NEGATIVE._replace(example="0.1"),
    "encoder.layer_decay": Rule("a number above 0 and up to 1", lambda v: is_number(v) and 0 < v <= 1, "0.75"),
    "encoder.lora": or_null(GROUP._replace(example="{rank:8}")),
    "encoder.lora.rank": or_null(whole(1, 8)),
    "encoder.lora.alpha": or_null(whole(1, 16)),
    "drop_path": SHARE,
    "encoder.drop_path": SHARE,
    "decoder.drop_path": SHARE,
    "loss.weights": Rule("numbers by task", lambda v: is_by_name(v, is_number), "{TASK:1.0}"),
    "optimizer.schedule": or_null(GROUP._replace(example="{_target_:CLASS}")),
    "optimizer.lr": POSITIVE._replace(example="0.0001"),
    "optimizer.weight_decay": NOT_NEGATIVE,
    "optimizer.betas": pair("two numbers from 0 to below 1", lambda v: all(map(SHARE.holds, v)), "[0.9,0.999]"),
    "optimizer.power": NOT_NEGATIVE,
    "trainer.devices": DEVICES,
    "trainer.num_nodes": whole(1, 1),
    "trainer.max_steps": whole(1, 1000),
    "trainer.val_check_interval": whole(1, 500)._replace(words="optimiser steps, a whole number of at least 1"),
    "trainer.log_every_n_steps": whole(1, 50),
    "trainer.num_sanity_val_steps": whole(0, 0),
    "logger.keep_checkpoint": SWITCH,
    **dict.fromkeys(("logger.project", "entity"), or_null(TEXT)),
    "project": TEXT,
    "callbacks.checkpoint_every": whole(1, 500),
    "callbacks.progress_refresh": whole(0, 10),
    "boundary_workers": or_null(whole(1, 2)),
    "bootstrap.resamples": whole(0, 1000),
    "bootstrap.seed": whole(0, 0),
    "worst": whole(0, 8),
    "runs": Rule(
        "folders of runs, or a list of them",
        lambda v: TEXT.holds(v) or (isinstance(v, list) and bool(v) and all(map(TEXT.holds, v))),
        "logs",
    ),
    "out": PLACE,
    "pred": PLACE,
    "ckpt": TEXT._replace(words="a run's folder, a checkpoint or the name of a model", example="./RUN"),
    **dict.fromkeys(("ids", "boundary_ids"), or_null(TEXT._replace(words="a file of ids", example="./FILE"))),
    **dict.fromkeys(("save_dir", "output", "export"), or_null(PLACE)),
    "split": Rule("train or val", lambda value: value in ("train", "val"), "val"),
    "save_predictions": SWITCH,
    "source": Rule(
        "what to read, or a list of it",
        lambda v: v is None or (isinstance(v, list) and bool(v)) or (is_whole(v) and v >= 0) or TEXT.holds(v),
        "PATH",
    ),
    "save": Rule(
        "picture, raw, sheet, or a list of some of them",
        lambda v: v in KINDS or (isinstance(v, list) and bool(v) and all(kind in KINDS for kind in v)),
        "[picture,raw,sheet]",
    ),
    "overwrite": SWITCH,
    "show": SWITCH,
    "check": SWITCH,
    "private": SWITCH,
    "half": SWITCH,
    "repo": TEXT._replace(words="owner/name", example="OWNER/NAME"),
    "notes": Rule("a paragraph", lambda v: isinstance(v, str), "TEXT"),
    "tta.flip": SWITCH,
    "tta.scales": SCALES,
    "image_size": SIZE,
    "size": INPUT_SIZE,
    "device": TEXT._replace(words="a device", example="cpu"),
    "precision": Rule("auto, bf16 or 32", lambda value: value in ("auto", "bf16", "32", 32), "auto"),
    "batch_size": whole(1, 1),
    "repeats": whole(1, 5),
    "min_repeats": whole(1, 3),
    "seconds": POSITIVE,
    "measure": SWITCH,
    "loader.samples": whole(1, 200),
    "loader.batch_size": whole(1, 4),
    "picture_width": whole(1, 1400),
    "max_megabytes": NOT_NEGATIVE,
    "format": Rule("onnx or torch_export", lambda value: value in ("onnx", "torch_export"), "onnx"),
    "dynamic": SWITCH,
    "normalise": SWITCH,
    "opset": or_null(whole(18, 18)),
    "host": TEXT._replace(words="an address of this machine", example="127.0.0.1"),
    "port": or_null(Rule("a port, 1 to 65535", lambda v: is_whole(v) and 0 < v < 2**16, "7860")),
    "examples": or_null(TEXT._replace(words="a folder of images", example="./FOLDER")),
    "seeds": Rule("a list of seeds", lambda v: isinstance(v, list) and bool(v) and all(map(is_whole, v)), "[0]"),
    "devices": Rule("auto or a number of at least 1", lambda v: v == "auto" or (is_whole(v) and v > 0), "auto"),
    "num_workers": whole(0, 12),
    "data_root": PLACE,
    "results": PLACE,
    **dict.fromkeys(("pack", "gather"), or_null(PLACE)),
    "convention": Rule("paper, exact or macs", lambda value: value in ("paper", "exact", "macs"), "paper"),
    "model.checkpointing": Rule("none, heads or blocks", lambda v: v in ("none", "heads", "blocks"), "blocks"),
    "cuda_graph": Rule("auto, true or false", lambda v: v == "auto" or isinstance(v, bool), "auto"),
    "what": Rule(
        "all or some of " + ", ".join(PARTS),
        lambda v: v == "all" or v in PARTS or (isinstance(v, list) and all(part in PARTS for part in v)),
        "all",
    ),
    "only": or_null(TEXT._replace(words="a regular expression", example="NAME")),
    "predict.model": or_null(TEXT._replace(words="a run's folder, a checkpoint or the name of a model")),
    "predict.size": SIZE,
    "protocol.name": TEXT,
    **dict.fromkeys(
        ("protocol.train", "protocol.eval"),
        Rule("a list of KEY=VALUE", lambda v: isinstance(v, list) and all(map(TEXT.holds, v)), "[KEY=VALUE]"),
    ),
    "protocol.rows": Rule("KEY=VALUE by row", lambda v: is_by_name(v, TEXT.holds), "{ROW:KEY=VALUE}"),
    "derived": Rule(
        "lists of tasks by dataset",
        lambda v: is_by_name(v, lambda tasks: isinstance(tasks, list) and all(map(TEXT.holds, tasks))),
        "{DATASET:[TASK]}",
    ),
    "minutes": or_null(POSITIVE._replace(example="30")),
}
"""What each setting may be, by dotted key. Settings of one's own modules are theirs to check."""

STATED_LATER = {
    "tasks", "data.tasks", "data.crop_size", "data.num_outputs", "data.delta_m_base", "data.val_batch_size",
    "data.check",
}  # fmt: skip
"""Settings that a checkpoint has, or the description of a folder: null means its own."""


def check_settings(cfg: DictConfig) -> None:
    """Refuse settings of a wrong type or range, and Lightning's arguments that would not be carried out.

    A task that stands alone, ``tasks=semseg``, becomes a list.

    Args:
        cfg: any script's configuration. One that reads a checkpoint takes null for the checkpoint's own setting,
            and one of a folder whose description has not been read yet for what that will say.

    Raises:
        ConfigError: the message names the setting, what it may be, and the right form.
    """
    if isinstance(cfg.get("tasks"), str):
        cfg.tasks = cfg.tasks.split(",")
    from_checkpoint = "ckpt" in list(cfg)  # also while it has no value
    stated_later = from_checkpoint or OmegaConf.select(cfg, "data.description", default="") is None
    later = STATED_LATER | ({"size", "repeats"} if "format" in cfg else set())  # of a file that is exported
    check_groups(cfg, from_checkpoint)
    check_entries(cfg, RULES)
    for key, rule in RULES.items():
        parent = OmegaConf.select(cfg, key.rpartition(".")[0]) if "." in key else cfg
        if not isinstance(parent, DictConfig) or key.rpartition(".")[2] not in parent:
            continue
        try:
            value = OmegaConf.select(cfg, key)
        except InterpolationKeyError:  # it follows from a setting that this script has not, nor needs
            continue
        value = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
        if value is None and key in later and (stated_later or (key == "tasks" and "pred" in list(cfg))):
            continue
        if not rule.holds(value):
            raise ConfigError(f"Expected {key} to be {rule.words}, got {shown(value)}: write {key}={rule.example}.")
    if isinstance(cfg.get("trainer"), DictConfig):
        for name, value in cfg.trainer.items():
            reason = refusal(str(name), value, evaluation=from_checkpoint)
            if reason is None and not cfg.get("extensions"):  # which may bring others
                reason = unknown_choice(str(name), value)
            if reason:
                raise ConfigError(reason)


def check_given(cfg: DictConfig) -> None:
    """Refuse a configuration that lacks what has no default.

    Raises:
        ConfigError: the message names the settings.
    """
    if missing := [f"{key!s}=…" for key in cfg if OmegaConf.is_missing(cfg, key)]:
        raise ConfigError(f"Expected {' and '.join(missing)}, got none: give it.")
