"""What a call does to settings beyond giving values: it takes some out, adds some, refers from one to another."""

import itertools
import re
from collections.abc import Collection, Sequence

from omegaconf import DictConfig, OmegaConf

from mtmamba.config.groups import ENTRIES, is_referred_to
from mtmamba.config.settings import ConfigError
from mtmamba.shipped import config_dir

OPEN = (
    "callbacks.", "logger.", "optimizer.", "loss.", "encoder.", "decoder.", "data.num_outputs.", "data.delta_m_base.",
)  # fmt: skip
"""Below which settings may be taken out, so that a class's own defaults hold, or a task has none."""

RELIED_ON = {"callbacks.checkpoint_every"}
"""Settings among those that the package reads itself."""


def check_left_out(overrides: Sequence[str]) -> None:
    """Refuse to take out a setting, ``~KEY``, that something relies on.

    Raises:
        ConfigError: the message names it.
    """
    for override in overrides:
        found = re.fullmatch(r"~(\w[\w.]*)(=.*)?", override)
        if found and (not found[1].startswith(OPEN) or found[1] in RELIED_ON or "._" in found[1]):
            raise ConfigError(
                f"Expected {found[1]} to have a value, got {override}, which takes it out: leave it as it is, or write "
                f"{found[1]}=VALUE."
            )


def check_choices(overrides: Sequence[str]) -> None:
    """Refuse a list of choices, ``GROUP=[A,B]``, but of callbacks and loggers, which may be of several files.

    Raises:
        ConfigError: the message names the group.
    """
    for override in overrides:
        found = re.match(r"\+?(\w[\w/]*)=\[(.*)", override)
        if not found or not (config_dir() / found[1]).is_dir():
            continue
        named = re.fullmatch(r"(\s*(?!null|true|false|nan|inf)[a-zA-Z_][\w./-]*\s*[,\]])+", found[2], re.IGNORECASE)
        if found[1] not in ENTRIES or not named:
            raise ConfigError(f"Expected the name of a file as the choice of {found[1]}, got {override}: choose one.")


def check_overrides(overrides: Sequence[str], cfg: DictConfig, groups: Collection[str]) -> None:
    """Refuse settings that a call adds and nothing reads, and settings that it lets refer to what there is not.

    Args:
        overrides: as on the command line.
        cfg: composed of them.
        groups: those that have files to choose from.

    Raises:
        ConfigError: nothing reads a setting.
        omegaconf.errors.InterpolationResolutionError: one refers to what there is not.
    """
    for override in overrides:
        key, _, value = override.partition("=")
        if "${" in value and "${choices." not in value:  # which are recorded later
            node = OmegaConf.select(cfg, key.lstrip("+"))
            _ = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
        if not (found := re.fullmatch(r"\+(\w[\w.]*)", key)) or found[1] in groups or found[1].startswith(ENTRIES):
            continue
        above = [OmegaConf.select(cfg, name) for name in itertools.accumulate(found[1].split("."), "{}.{}".format)]
        built = any(isinstance(node, DictConfig) and "_target_" in node for node in above)  # its class takes it or not
        if not built and not is_referred_to(found[1], cfg):
            raise ConfigError(
                f"Expected a setting that something reads, got {key}: leave it out, or refer to it as ${{{found[1]}}}."
            )
