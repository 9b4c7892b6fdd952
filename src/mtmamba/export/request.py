"""What ``export.py`` is asked for, checked before PyTorch is imported."""

from pathlib import Path
from typing import NamedTuple

from omegaconf import DictConfig

from mtmamba.config.settings import ConfigError
from mtmamba.rules import SIZE


class Format(NamedTuple):
    """A kind of file."""

    module: str
    """The module that saves and loads it."""
    suffix: str


FORMATS = {"onnx": Format("mtmamba.export.onnx", ".onnx"), "torch_export": Format("mtmamba.export.program", ".pt2")}


def check_request(cfg: DictConfig) -> None:
    """Refuse an output of another kind, and a size that is none.

    Args:
        cfg: from the export script's configuration.

    Raises:
        ConfigError: the message names the setting.
    """
    suffix = FORMATS[cfg.format].suffix
    if cfg.output is not None and Path(cfg.output).suffix != suffix:
        raise ConfigError(f"Expected output to end in {suffix} for format={cfg.format}, got {cfg.output}: rename it.")
    if cfg.size is not None and (isinstance(cfg.size, str) or not SIZE.holds(list(cfg.size))):
        raise ConfigError(f"Expected size to be {SIZE.words}, got {cfg.size}: write size={SIZE.example}.")
