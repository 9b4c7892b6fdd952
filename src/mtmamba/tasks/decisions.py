"""What a task's logits mean, what is decided from them, and the best constant prediction of its targets."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mtmamba.losses import edge_weights
from mtmamba.types import IGNORE


def class_probabilities(logits: Tensor) -> Tensor:
    """Probability of each class: ``(B, n, H, W)`` → float32 ``(B, n, H, W)``."""
    return logits.float().softmax(1)


def likeliest_class(scores: Tensor) -> Tensor:
    """The class of the highest logit or probability: ``(B, n, H, W)`` → uint8 ``(B, H, W)``."""
    return scores.argmax(1).to(torch.uint8)


def class_counts(target: Tensor) -> Tensor:
    """Valid pixels of each class 0..254: ``(B, H, W)`` → float64 ``(255,)``."""
    return torch.bincount(target[target != IGNORE].long(), minlength=IGNORE).double()


def majority_class(counts: Tensor) -> Tensor:
    """The commonest class of `class_counts`, the constant with the best mIoU: uint8 scalar."""
    return counts.argmax().to(torch.uint8)


def depth_metres(logits: Tensor) -> Tensor:
    """Metres, never negative: ``(B, 1, H, W)`` → float32 ``(B, 1, H, W)``."""
    return logits.float().clamp(min=0)


def depth_sums(target: Tensor) -> Tensor:
    """Sum of the valid depths and their number: ``(B, H, W)`` → float64 ``(2,)``."""
    depths = target[target != IGNORE].double()
    return torch.stack((depths.sum(), depths.new_tensor(depths.numel())))


def mean_depth(sums: Tensor) -> Tensor:
    """The mean of `depth_sums`, the constant with the least RMSE: float32 scalar, metres."""
    return (sums[0] / sums[1]).float()


def unit_normals(vectors: Tensor) -> Tensor:
    """Vectors of length 1: ``(B, 3, H, W)`` → float32 ``(B, 3, H, W)``."""
    return F.normalize(vectors.float(), dim=1)


def normal_sums(target: Tensor) -> Tensor:
    """Sum of the valid normals and their number: ``(B, 3, H, W)`` → float64 ``(4,)``."""
    normals = target.movedim(1, -1)[target[:, 0] != IGNORE].double()
    return torch.cat((normals.sum(0), normals.new_tensor([len(normals)])))


def mean_normal(sums: Tensor) -> Tensor:
    """The direction of the mean of `normal_sums`: float32 unit vector ``(3, 1, 1)``."""
    return F.normalize(sums[:3], dim=0).float()[:, None, None]


def edge_probability(logits: Tensor) -> Tensor:
    """Probability of a boundary: ``(B, 1, H, W)`` → float32 ``(B, 1, H, W)``."""
    return logits.float().sigmoid()


def edge_base_rate(counts: Tensor) -> Tensor:
    """The constant with the least weighted loss, the boundaries' share of the weight: float32 scalar.

    Args:
        counts: pixels without and with a boundary, first in a vector such as `class_counts`.
    """
    weights = counts[:2] * edge_weights(torch.tensor([0.0, 1.0], dtype=counts.dtype, device=counts.device))
    return (weights[1] / weights.sum()).float()


def saliency_probability(logits: Tensor) -> Tensor:
    """Probability of class 1: ``(B, 2, H, W)`` → float32 ``(B, 1, H, W)``."""
    return logits.float().softmax(1)[:, 1:]


def all_foreground(counts: Tensor) -> Tensor:
    """The constant with the best maxF, whatever was counted: float32 scalar 1."""
    return torch.ones((), device=counts.device)
