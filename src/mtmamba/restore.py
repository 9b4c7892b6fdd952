"""A model's description, and the way back: from a checkpoint to its configuration and its network."""

import copy
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from mtmamba.build import build_model
from mtmamba.checkpoints import CheckpointError, network_weights, require_weights_of
from mtmamba.config import compose
from mtmamba.config.checks import ConfigError, check_config
from mtmamba.config.decisive import UPDATES, differences
from mtmamba.config.settings import check_settings
from mtmamba.extensions import load_extensions
from mtmamba.models.encoders.lora import merge_lora
from mtmamba.models.multitask import MultiTaskModel
from mtmamba.sharing import read_model
from mtmamba.shipped import config_dir

ONLY_TRAINING = ("loss", "optimizer", "balancing")
"""Those of them that a network at work does not need."""
NETWORKS = ("encoder", "decoder", "ablation", "tasks", "data.num_outputs")
"""What the settings begin with that decide which weights a network has."""
OF_TRAINING = ("drop_path", "freeze", "lr_scale", "layer_decay")
"""What those end with that say how it is trained instead."""


def config_of(
    description: Mapping[str, Any],
    overrides: Mapping[str, Any] | None = None,
    own_configs: str | Path | None = None,
) -> DictConfig:
    """Compose the configuration that a checkpoint describes: our YAML for its choices, its plain values on top.

    Nothing is fetched for it: its encoder is not pretrained, since its weights are in the checkpoint.

    Args:
        description: from `mtmamba.config.compose.describe`.
        overrides: values of this call by dotted key, which win.
        own_configs: a folder of YAML of the user's, which choices may name.
    """
    _require_plain(description)
    stated, values = {"balancing": "none"} | description["choices"], description["values"]  # older ones have no choice
    if missing := [group for group in UPDATES if not isinstance(stated.get(group), str)]:
        raise ConfigError(
            f"Expected the checkpoint to name its {', '.join(missing)}, got none: use another checkpoint."
        )
    choices = [f"{group}={stated[group]}" for group in UPDATES]
    if wrong := [choice for choice in choices if not re.fullmatch(r"\w+=\w+", choice)]:
        raise ConfigError(
            f"Expected names of configuration files in the checkpoint, got {wrong}: do not trust this file."
        )
    if not re.fullmatch(r"[\w/+-]*", experiment := str(stated.get("experiment"))):
        raise ConfigError(f"Expected an experiment's name in the checkpoint, got {experiment}: do not trust this file.")
    own = [group for group in ONLY_TRAINING if not (config_dir() / group / f"{stated[group]}.yaml").is_file()]
    cfg = compose.compose(
        [choice for choice in choices if choice.partition("=")[0] not in own], own_configs=own_configs
    )
    for group in own:  # somebody's own file, which only training needs
        cfg[group], cfg.choices[group] = {}, stated[group]
    cfg.choices.experiment = experiment
    _update(cfg, _without_places(values))
    fetch_nothing(cfg)
    for key, value in (overrides or {}).items():
        OmegaConf.update(cfg, key, value)
    check_settings(cfg)
    check_config(cfg)
    return cfg


def fetch_nothing(cfg: DictConfig) -> None:
    """Ask for random weights, where an encoder or a decoder can have others."""
    for group in (cfg.encoder, cfg.decoder):
        for key, value in {"pretrained": False, "weights": None}.items():
            if key in group:
                group[key] = value


def load_model(
    source: str | Path, *, extensions: Sequence[str | Path] = (), config_dir: str | Path | None = None
) -> MultiTaskModel:
    """Build the network that a checkpoint describes and load its weights, ready for evaluation.

    Args:
        source: a checkpoint, a run's folder (its best checkpoint, else its last), a folder of `save_pretrained`, the
            name of a released model, or ``hf://owner/name[@revision]``.
        extensions: Python files of yours that the model needs.
        config_dir: a folder of YAML of yours that it was built from.

    Raises:
        FileNotFoundError: there is none.
        CheckpointError: the file is no checkpoint of this program.
    """
    load_extensions(extensions)
    checkpoint, path = read_model(source)
    return restore_model(config_of(checkpoint["mtmamba"], own_configs=config_dir), checkpoint, path)


def restore_model(cfg: DictConfig, checkpoint: Mapping[str, Any], path: Path) -> MultiTaskModel:
    """Build a network and give it a checkpoint's weights, ready for evaluation; low-rank updates are merged.

    Args:
        cfg: the checkpoint's, from `config_of`.
        checkpoint: from `mtmamba.checkpoints.read_checkpoint`.
        path: of the checkpoint, for errors.

    Raises:
        CheckpointError: the weights are another network's, or the settings none's.
    """
    try:
        model = build_model(cfg)
    except Exception as error:
        if str(error).startswith("Expected "):
            raise
        raise CheckpointError(
            f"Expected settings of a network in the checkpoint {path}, got some that none can be built of ({error!r}): "
            "use another checkpoint."
        ) from error
    load_weights(model, checkpoint, path)
    model.description = copy.deepcopy(dict(checkpoint["mtmamba"]))
    if OmegaConf.select(cfg, "encoder.lora.rank") is not None:
        merge_lora(model)
        model.description["values"]["encoder"]["lora"]["rank"] = None
    return model.eval()


def load_weights(model: MultiTaskModel, checkpoint: Mapping[str, Any], path: Path) -> None:
    """Give a network the weights that `mtmamba.sharing.read_model` has read.

    Raises:
        CheckpointError: the weights are another network's; what was chosen otherwise is named.
    """
    weights = network_weights(checkpoint)
    try:
        require_weights_of(weights, model, path)
    except CheckpointError as error:
        others = differences(model.description, checkpoint["mtmamba"]) if model.description else {}
        found = [text for key, text in others.items() if key.startswith(NETWORKS) and not key.endswith(OF_TRAINING)]
        if not found:
            raise
        raise CheckpointError(f"Expected the network of {path}, got {', '.join(found)}: choose as there.") from error
    model.load_state_dict(weights)


def _without_places(values: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out the folders that this program writes to: caches, and scenes that it generates."""
    wrong = [group for group in UPDATES if group in values and not isinstance(values[group], Mapping)]
    wrong += [key for key in ("tasks", "data") if key not in values]
    if wrong:
        raise ConfigError(f"Expected settings of the checkpoint by name, got other values for {', '.join(wrong)}.")
    data = {key: value for key, value in values["data"].items() if key != "cache_dir"}
    if data.get("scenes"):
        data.pop("root", None)
        numbers = [x for value in data["scenes"].values() for x in (value if isinstance(value, list) else [value])]
        if not all(isinstance(number, int) for number in numbers):
            raise ConfigError(
                f"Expected numbers in data.scenes of the checkpoint, got {numbers}: do not trust this file."
            )
    return {**values, "data": data}


def _require_plain(value: Any) -> None:
    """Refuse what Hydra or OmegaConf would act on: keys such as ``_target_``, and interpolations."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            _require_plain(item)
            if str(key).startswith("_"):
                raise ConfigError(f"Expected plain values in the checkpoint, got a key {key}: do not trust this file.")
    elif isinstance(value, list | tuple):
        for item in value:
            _require_plain(item)
    elif "${" in str(value):
        raise ConfigError(f"Expected plain values in the checkpoint, got {value}: do not trust this file.")


def _update(cfg: DictConfig, values: Mapping[str, Any]) -> None:
    """Set plain values in a configuration; what is instantiated stays as our YAML says."""
    for key, value in values.items():
        if isinstance(value, Mapping) and isinstance(cfg.get(key), DictConfig):
            _update(cfg[key], value)
        else:
            with open_dict(cfg):
                cfg[key] = value
