"""Metrics over a whole set.

Importing this package loads no torch, which the boundary benchmark's processes have no use for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mtmamba.metrics.delta_m import delta_m

if TYPE_CHECKING:
    from mtmamba.metrics.depth import DepthError
    from mtmamba.metrics.edge import EdgeLoss
    from mtmamba.metrics.normals import NormalsError
    from mtmamba.metrics.saliency import SaliencyFMeasure, SaliencyScores, evaluate_saliency
    from mtmamba.metrics.segmentation import MeanIoU, PartsMeanIoU

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

__all__ = [
    "DepthError",
    "EdgeLoss",
    "MeanIoU",
    "NormalsError",
    "PartsMeanIoU",
    "SaliencyFMeasure",
    "SaliencyScores",
    "delta_m",
    "evaluate_saliency",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
