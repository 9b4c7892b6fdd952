"""Settings of a script that have no rule of their own: each is of the kind of the value that stands in its YAML."""

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mtmamba.config.settings import RULES, ConfigError
from mtmamba.rules import like, shown
from mtmamba.shipped import config_dir

OF_SEVERAL_KINDS = ("trainer", "table")
"""What a script's YAML holds and `check_kinds` leaves alone: a class's arguments, and names that may be numbers."""


def check_kinds(cfg: DictConfig, script: str) -> None:
    """Refuse what is of another kind than the value that it takes the place of in a script's own YAML.

    Settings that have a rule, and those of a class, are checked by these.

    Args:
        cfg: of the script.
        script: its name.

    Raises:
        ConfigError: the message names the setting, what it may be, and the right form.
    """

    def check(node: Any, defaults: Mapping[str, Any], above: str) -> None:
        for name, default in defaults.items():
            key = f"{above}{name}"
            rest = name not in node or key in RULES or key in OF_SEVERAL_KINDS  # Hydra keeps some for itself
            if rest or default in (None, "???", []) or "${" in str(default):
                continue
            value = node[name]
            if isinstance(default, dict) and isinstance(value, dict):
                check(value, default, f"{key}.")
            elif not (rule := like(default)).holds(value):
                raise ConfigError(f"Expected {key} to be {rule.words}, got {shown(value)}: write {key}={rule.example}.")

    defaults: Any = OmegaConf.to_container(OmegaConf.load(config_dir() / f"{script}.yaml"))
    check(OmegaConf.to_container(cfg), defaults, "")
