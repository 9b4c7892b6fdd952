"""Metrics over a whole set.

Importing this package loads no torch, which the boundary benchmark's processes have no use for.
"""

from importlib import import_module
from typing import Any

from mtmamba.metrics.delta_m import delta_m

_HOMES = {
    "DepthError": "mtmamba.metrics.depth",
    "EdgeLoss": "mtmamba.metrics.edge",
    "MeanIoU": "mtmamba.metrics.segmentation",
    "NormalsError": "mtmamba.metrics.normals",
    "PartsMeanIoU": "mtmamba.metrics.segmentation",
    "SaliencyFMeasure": "mtmamba.metrics.saliency",
    "SaliencyScores": "mtmamba.metrics.saliency",
    "evaluate_saliency": "mtmamba.metrics.saliency",
}

__all__ = ["delta_m", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
