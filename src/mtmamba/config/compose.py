"""Configurations: composed as the scripts do, checked, and read."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

import mtmamba
from mtmamba.config.checks import ConfigError, check_config
from mtmamba.config.decisive import UPDATES
from mtmamba.config.overrides import check_choices, check_left_out, check_overrides
from mtmamba.config.settings import check_settings
from mtmamba.data.datasets import DatasetRecord, folder, get_dataset, open_dataset
from mtmamba.extensions import load_extensions
from mtmamba.shipped import config_dir
from mtmamba.tasks import select_tasks


def load_config(
    overrides: Sequence[str] = (), name: str = "train", *, config_dir: str | Path | None = None
) -> DictConfig:
    """Compose a configuration as the scripts do, from any working directory, and check it.

    Args:
        overrides: as on the command line, such as ``["experiment=nyud_mtmamba", "encoder=swin_tiny"]``.
        name: the script's configuration.
        config_dir: a folder of YAML of yours, as on the command line ``--config-dir``.

    Raises:
        ConfigError: the choices do not go together.
        DatasetError: a folder of one's own has no right dataset.yaml.
        hydra.errors.HydraException: an unknown key or choice.
    """
    return checked(compose(overrides, name, config_dir))


def compose(overrides: Sequence[str] = (), name: str = "train", own_configs: str | Path | None = None) -> DictConfig:
    """Compose a configuration and record its choices, as `load_config`, without a check of it."""
    check_left_out(overrides)
    check_choices(overrides)
    running = GlobalHydra.instance().hydra  # a script's, which would refuse a second composition
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(str(config_dir().resolve()), version_base="1.3"):
            cfg = hydra.compose(name, [*overrides, *_own_folders(own_configs)], return_hydra_config=True)
    finally:
        GlobalHydra.instance().hydra = running
    choices = cfg.hydra.runtime.choices
    with open_dict(cfg):
        del cfg["hydra"]
    record_choices(cfg, choices)
    check_overrides(overrides, cfg, choices)
    return cfg


def _own_folders(given: str | Path | None) -> list[str]:
    """Let a composition find a folder of somebody's own, and within a script what ``--config-dir`` added, too."""
    folders = [] if given is None else [str(Path(given).expanduser().resolve())]
    if HydraConfig.initialized():
        sources = HydraConfig.get().runtime.config_sources
        folders += [source.path for source in sources if source.provider == "command-line"]
    return [f"hydra.searchpath=[{','.join(f'file://{folder}' for folder in folders)}]"] if folders else []


def with_choices(cfg: DictConfig) -> DictConfig:
    """Record which file each group of the running Hydra main took under ``choices``, and check the configuration."""
    return checked(record_choices(cfg))


def record_choices(cfg: DictConfig, choices: Mapping[str, str] | None = None) -> DictConfig:
    """Record which file each group took under ``choices``; those of the running Hydra main by default."""
    choices = HydraConfig.get().runtime.choices if choices is None else choices
    with open_dict(cfg):
        cfg.choices = {group: choice for group, choice in choices.items() if "/" not in group and group != "hydra"}
    return cfg


def checked(cfg: DictConfig) -> DictConfig:
    """Import a configuration's extensions, let a dataset.yaml fill in what it leaves open, and check it.

    An older spelling of a dataset's name becomes its name.
    """
    load_extensions(cfg.get("extensions") or ())
    if OmegaConf.select(cfg, "data.description", default="") is None:
        for key, value in folder.settings(folder.read_description(cfg.data.root)).items():
            if cfg.data[key] is None:
                cfg.data[key] = value
    elif (name := OmegaConf.select(cfg, "data.dataset")) is not None and cfg.data.get("description") is None:
        cfg.data.dataset = get_dataset(name).name
    check_settings(cfg)
    if "decoder" in cfg.choices:
        check_config(cfg)
        _check_classes(cfg)
    return cfg


def _check_classes(cfg: DictConfig) -> None:
    """Refuse another number of outputs than a task's classes have names."""
    names = dataset_record(cfg).classes
    for task, outputs in num_outputs(cfg).items():
        if task in names and len(names[task]) != outputs:
            raise ConfigError(
                f"Expected data.num_outputs.{task} to be {len(names[task])}, the number of {task} classes in the "
                f"dataset's record, got {outputs}: correct it, or the record."
            )


def dataset_record(cfg: DictConfig) -> DatasetRecord:
    """Return the record of the configured dataset: names and colours of its classes, its boundary protocol, …"""
    description = cfg.data.get("description")
    return open_dataset(cfg.data.dataset, None if description is None else plain(description))


def num_outputs(cfg: DictConfig) -> dict[str, int]:
    """Return the selected tasks' numbers of outputs, in the canonical order."""
    return {task.name: cfg.data.num_outputs[task.name] for task in select_tasks(cfg.tasks)}


def plain(node: DictConfig) -> dict[str, Any]:
    """Return a configuration, or a part of one, as a dict with every interpolation resolved."""
    return cast(dict[str, Any], OmegaConf.to_container(node, resolve=True))


def describe(cfg: DictConfig) -> dict[str, Any]:
    """Return what a checkpoint says of its configuration: group choices and plain values, nothing to instantiate."""
    kept = ("tasks", "seed", "label", "init", "ema_decay", *UPDATES)  # an ablation's values are the decoder's
    return {
        "version": mtmamba.__version__,
        "choices": {group: cfg.choices[group] for group in (*UPDATES, "experiment")},
        "values": {key: _without_targets(value) for key, value in plain(cfg).items() if key in kept},
    }


def _without_targets(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_targets(v) for k, v in value.items() if not k.startswith("_")}
    return value
