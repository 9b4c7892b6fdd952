"""Metrics over a whole set; beside each, how its task's logits are read and what the best constant prediction is."""

from mtmamba.metrics.delta_m import delta_m
from mtmamba.metrics.depth import DepthError
from mtmamba.metrics.edge import EdgeLoss
from mtmamba.metrics.normals import NormalsError
from mtmamba.metrics.saliency import SaliencyFMeasure
from mtmamba.metrics.segmentation import MeanIoU, PartsMeanIoU

__all__ = ["DepthError", "EdgeLoss", "MeanIoU", "NormalsError", "PartsMeanIoU", "SaliencyFMeasure", "delta_m"]
