"""Datasets, augmentation, validation and loading. Importing this package loads neither torch nor OpenCV."""

from importlib import import_module
from typing import Any

_HOMES = {
    "DatasetError": "layouts",
    "DenseDataset": "dense",
    "DenseDataModule": "datamodule",
    "GlobalBatchSampler": "sampler",
    "validate": "validation",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
