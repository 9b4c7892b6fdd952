"""MTMamba: multi-task dense scene understanding with Mamba-based decoders (Lin et al., ECCV 2024).

The names below are imported when first used, so that ``import mtmamba.scan`` needs PyTorch alone.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

PUBLIC = {
    "build_datamodule": "build",
    "build_decoder": "build",
    "build_model": "build",
    "load_config": "config.compose",
    "load_model": "restore",
    "Predictor": "inference.predictor",
    "save_pretrained": "sharing",
}
"""The module of each public name."""

__all__ = list(PUBLIC)


def __getattr__(name: str) -> Any:
    if name in PUBLIC:
        return getattr(import_module(f"mtmamba.{PUBLIC[name]}"), name)
    raise AttributeError(f"module 'mtmamba' has no attribute {name!r}")
