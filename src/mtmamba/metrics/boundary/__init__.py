"""The boundary benchmark (odsF), without MATLAB."""

from mtmamba.metrics.boundary.curve import plot_curve
from mtmamba.metrics.boundary.evaluate import evaluate_boundaries
from mtmamba.metrics.boundary.protocols import (
    THRESHOLDS,
    BoundaryProtocol,
    boundary_truth,
    protocol,
    read_bsds,
    segmentation_boundaries,
)
from mtmamba.metrics.boundary.scores import BoundaryScores, pool

__all__ = [
    "THRESHOLDS",
    "BoundaryProtocol",
    "BoundaryScores",
    "boundary_truth",
    "evaluate_boundaries",
    "plot_curve",
    "pool",
    "protocol",
    "read_bsds",
    "segmentation_boundaries",
]
