"""Groups of settings: what each is to be built of, and what stands in its place."""

import re
from collections.abc import Collection, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mtmamba.rules import SWITCH, ConfigError, shown

GROUPS = (
    "data", "encoder", "decoder", "model", "model.encoder", "model.decoder", "loss", "optimizer", "trainer",
    "callbacks", "logger", "tta", "bootstrap",
)  # fmt: skip
"""Settings that are mappings of settings."""

BUILT = {"data", "encoder", "decoder", "model.encoder", "model.decoder", "trainer"}
"""Groups that must name the class to be built."""

ENTRIES = ("callbacks", "logger")
"""Groups whose entries are objects to be built, each with its ``_target_``."""

HYDRAS: Mapping[str, tuple[type, str]] = {
    "_target_": (str, "the name of a class or a function"),
    "_partial_": (bool, SWITCH.words),
}
"""Keys that Hydra builds by: a value's type, and what it is in words."""


def check_groups(cfg: DictConfig, from_checkpoint: bool) -> None:
    """Refuse a value in the place of a group of settings, and a group that no longer says what is to be built of it.

    Raises:
        ConfigError: the message names the group.
    """
    _check_targets("", OmegaConf.to_container(cfg, resolve=False))
    for key in GROUPS:
        *parents, name = key.split(".")
        parent = cfg.get(parents[0]) if parents else cfg
        if not isinstance(parent, DictConfig) or name not in parent or OmegaConf.is_missing(parent, name):
            continue
        group = parent[name]
        if not isinstance(group, DictConfig) or (
            key in BUILT and not from_checkpoint and not isinstance(group.get("_target_"), str)
        ):
            found = "none of its class" if isinstance(group, DictConfig) else shown(group)
            raise ConfigError(
                f"Expected {key} to be a group of settings with its _target_, got {found}: choose one of its files, "
                "or leave it as it is."
            )


def _check_targets(prefix: str, node: Any) -> None:
    for key, value in node.items():
        kind, words = HYDRAS.get(key, (object, ""))
        if not isinstance(value, kind):
            raise ConfigError(f"Expected {prefix}{key} to be {words}, got {shown(value)}: correct it.")
        if isinstance(value, dict):
            _check_targets(f"{prefix}{key}.", value)


def check_entries(cfg: DictConfig, known: Collection[str]) -> None:
    """Refuse what stands among callbacks or loggers and is none, nor a setting of one; null is one that is left out.

    Args:
        cfg: any script's configuration.
        known: settings that the package reads itself.

    Raises:
        ConfigError: the message names it.
    """
    for group in ENTRIES:
        entries: Any = OmegaConf.to_container(cfg[group], resolve=False) if group in cfg else {}
        for name, value in entries.items():
            is_entry = value is None or (isinstance(value, dict) and isinstance(value.get("_target_"), str))
            if not is_entry and (key := f"{group}.{name}") not in known and not is_referred_to(key, cfg):
                raise ConfigError(
                    f"Expected {key} to say with its _target_ what is to be built, got {shown(value)}: write "
                    f"{key}={{_target_:CLASS}}, or leave it out."
                )


def is_referred_to(key: str, cfg: DictConfig) -> bool:
    """Return whether a setting's value is taken for another one, ``${KEY}``."""
    parent, _, name = key.rpartition(".")
    before = rf"(\.+|{re.escape(parent)}\.)" if parent else ""
    written: Any = OmegaConf.to_container(cfg, resolve=False)
    return re.search(rf"\$\{{{before}{name}\b", str(written)) is not None
