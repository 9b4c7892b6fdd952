"""MTMamba: multi-task dense scene understanding with Mamba-based decoders (Lin et al., ECCV 2024).

The names below are imported when first used, so that ``import mtmamba.scan`` needs PyTorch alone.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

__all__ = ["build_datamodule", "build_decoder", "build_model", "load_config", "load_model"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("mtmamba.build"), name)
    raise AttributeError(f"module 'mtmamba' has no attribute {name!r}")
