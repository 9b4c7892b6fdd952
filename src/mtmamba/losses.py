"""The tasks' losses, one number per image, and the two ways to combine them into the loss that is trained.

Every task loss is ``(logits (B, n, H, W), target) -> (B,)``: a sum over an image's valid pixels, divided by their
number. An image without a valid pixel has loss 0 and sends no gradient. Half precision is widened to float32 first.
Source: the released training program, whose one image per device makes every loss, and the logarithm, per image.
"""

import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from mtmamba.types import IGNORE

EDGE_POSITIVE_WEIGHT = 0.95
"""Weight of a boundary pixel, unless told otherwise; every other pixel weighs 1 minus this."""

DEPTH_BINS = (0.7, 10.0)
"""Between which depths, in metres, depth has classes."""

LOG_OFFSET = 1e-8
"""Added to a loss before its logarithm, so that a loss of 0 has one."""

UNIT_EPS = 1e-6
"""Length below which a predicted normal is divided by this instead: bounds the gradient at the zero vector."""


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Cross entropy per image.

    Shape: logits ``(B, n, H, W)``, target ``(B, H, W)`` classes ``0..n-1`` or 255 → ``(B,)``.
    """
    losses = F.cross_entropy(_widened(logits), target.long(), ignore_index=IGNORE, reduction="none")
    return _mean_over_valid(losses, target != IGNORE)


def balanced_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Two-class cross entropy, each class weighted by the other's share of the image's valid pixels.

    The sum of weighted losses is divided by the number of valid pixels, not by the sum of weights.
    Shape: logits ``(B, 2, H, W)``, target ``(B, H, W)`` 0, 1 or 255 → ``(B,)``.
    """
    valid = target != IGNORE
    losses = F.cross_entropy(_widened(logits), target.long(), ignore_index=IGNORE, reduction="none")
    negatives = _mean_over_valid((target == 0).to(losses), valid)[:, None, None]
    return _mean_over_valid(losses * torch.where(target == 1, negatives, 1 - negatives), valid)


def edge_cross_entropy(logits: Tensor, target: Tensor, positive_weight: float = EDGE_POSITIVE_WEIGHT) -> Tensor:
    """Binary cross entropy, weighted 0.95 on boundary pixels and 0.05 elsewhere, or as told.

    Shape: logits ``(B, 1, H, W)``, target ``(B, H, W)`` 0, 1 or 255 → ``(B,)``.
    """
    logits = _widened(logits).squeeze(1)
    _require_same_shape(logits, target)
    positive = (target == 1).to(logits)
    losses = F.binary_cross_entropy_with_logits(logits, positive, reduction="none")
    return _mean_over_valid(losses * edge_weights(positive, positive_weight), target != IGNORE)


def edge_weights(positive: Tensor, positive_weight: float = EDGE_POSITIVE_WEIGHT) -> Tensor:
    """Weights of pixels given as 1.0 (boundary) and 0.0, in the same shape and precision."""
    return positive_weight * positive + (1 - positive_weight) * (1 - positive)


def depth_l1(logits: Tensor, target: Tensor) -> Tensor:
    """Absolute error of the raw output in metres.

    Shape: logits ``(B, 1, H, W)``, target ``(B, H, W)`` metres or 255 → ``(B,)``.
    """
    logits = _widened(logits).squeeze(1)
    _require_same_shape(logits, target)
    return _mean_over_valid((logits - target).abs(), target != IGNORE)


def normals_l1(logits: Tensor, target: Tensor) -> Tensor:
    """Absolute error of the normalised output, summed over the three components.

    Shape: logits ``(B, 3, H, W)``, target ``(B, 3, H, W)`` unit vectors or 255 in all components → ``(B,)``.
    """
    _require_same_shape(logits, target)
    errors = (F.normalize(_widened(logits), dim=1, eps=UNIT_EPS) - target).abs().sum(1)
    return _mean_over_valid(errors, target[:, 0] != IGNORE)


def two_class_edge_cross_entropy(
    logits: Tensor, target: Tensor, positive_weight: float = EDGE_POSITIVE_WEIGHT
) -> Tensor:
    """Cross entropy of boundaries as the second of two classes, weighted as in `edge_cross_entropy`.

    Shape: logits ``(B, 2, H, W)``, target ``(B, H, W)`` 0, 1 or 255 → ``(B,)``.
    """
    losses = F.cross_entropy(_widened(logits), target.long(), ignore_index=IGNORE, reduction="none")
    return _mean_over_valid(losses * edge_weights((target == 1).to(losses), positive_weight), target != IGNORE)


def binned_depth_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Cross entropy of depth in n classes, whose borders are spaced by their logarithms between 0.7 m and 10 m.

    Shape: logits ``(B, n, H, W)``, target ``(B, H, W)`` metres or 255 → ``(B,)``.
    Source: Bruggemann et al., ATRC, ICCV 2021, as in the authors' program, with n = 40.
    """
    near, far = DEPTH_BINS
    share = (target.clamp(near, far) / near).log() / math.log(far / near)
    classes = (share * logits.shape[1]).long().clamp(max=logits.shape[1] - 1)
    losses = F.cross_entropy(_widened(logits), classes, reduction="none")
    return _mean_over_valid(losses, target != IGNORE)


def binned_normals_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Cross entropy of normals in n classes, the nearest of n axes spread evenly over the half-sphere.

    A normal and its opposite are one class: surfaces face the camera, whichever way a dataset's axes point.
    Shape: logits ``(B, n, H, W)``, target ``(B, 3, H, W)`` unit vectors or 255 in all components → ``(B,)``.
    Source: Bruggemann et al., ATRC, ICCV 2021, with n = 40; there the classes are clusters of a dataset's normals.
    """
    with torch.autocast(logits.device.type, enabled=False):  # rounding would move normals to other classes
        axes = half_sphere(logits.shape[1], target)
        classes = torch.einsum("nc,bchw->bnhw", axes, target).abs().argmax(1)
    losses = F.cross_entropy(_widened(logits), classes, reduction="none")
    return _mean_over_valid(losses, target[:, 0] != IGNORE)


def half_sphere(n: int, like: Tensor) -> Tensor:
    """Return n unit vectors ``(n, 3)`` spread evenly over the half-sphere z > 0, by a Fibonacci spiral.

    Their precision and device are those of ``like``.
    """
    index = torch.arange(n, dtype=like.dtype, device=like.device)
    z, turn = (index + 0.5) / n, index * math.pi * (3 - 5**0.5)
    radius = (1 - z * z).sqrt()
    return torch.stack((radius * turn.cos(), radius * turn.sin(), z), 1)


class WeightedTotal:
    """Mean over images of the weighted sum of the tasks' losses: ``{task: (B,)} -> scalar``.

    Where labels are partial, a task's mean is over the images that have its label; see ``Batch.labels``.

    Args:
        weights: weight by task name, 1 for a task that is not named. Tasks that are not trained may be named.
        losses: by task name, losses in place of tasks' own: ``(logits (B, n, H, W), target) -> (B,)``.

    Raises:
        ValueError: a weight is no finite number >= 0.

    Example:
        >>> WeightedTotal({"shape": 1, "shade": 50})({"shape": torch.tensor([3.0]), "shade": torch.tensor([0.5])})
        tensor(28.)
    """

    def __init__(
        self,
        weights: Mapping[str, float] | None = None,
        losses: Mapping[str, Callable[[Tensor, Tensor], Tensor]] | None = None,
    ):
        self.weights, self.losses = dict(weights or {}), dict(losses or {})
        wrong = {name: weight for name, weight in self.weights.items() if not (0 <= weight < math.inf)}
        if wrong:
            raise ValueError(f"Expected finite loss weights >= 0, got {wrong}: correct the values.")

    def complete(self, defaults: Mapping[str, float]) -> None:
        """Give the tasks that are not named their own default weights."""
        self.weights = {**defaults, **self.weights}

    def __call__(self, losses: Mapping[str, Tensor], labels: Mapping[str, Tensor] | None = None) -> Tensor:
        """Combine each task's losses ``(B,)``; where labels are partial, these weigh ``labels``, ``(B,)`` each."""
        return torch.stack(list(self.terms(losses, labels).values())).sum(0).mean()

    def terms(self, losses: Mapping[str, Tensor], labels: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Return what each task adds per image, ``{task: (B,)}``."""
        terms = {name: self.weights.get(name, 1.0) * self.term(loss) for name, loss in losses.items()}
        if labels is not None:
            return {name: labels[name].to(term, non_blocking=True) * term for name, term in terms.items()}
        return terms

    def term(self, loss: Tensor) -> Tensor:
        """What one task adds before its weight, per image ``(B,)``."""
        return loss


class LogTotal(WeightedTotal):
    """Mean over images of the weighted sum of ``log(loss + 1e-8)``: the released program's, with unit weights.

    An image that has a label, but no valid pixel, contributes a constant and no gradient, and counts in the mean.
    """

    def complete(self, defaults: Mapping[str, float]) -> None:
        """Leave the weights of tasks that are not named at 1: a logarithm makes up for a task's scale."""

    def term(self, loss: Tensor) -> Tensor:
        """The logarithm of one task's loss, per image ``(B,)``."""
        return torch.log(loss + LOG_OFFSET)


def _mean_over_valid(values: Tensor, valid: Tensor) -> Tensor:
    """Sum of an image's valid values over their number, or 0 where there are none: ``(B, H, W) -> (B,)``."""
    return values.masked_fill(~valid, 0).sum((1, 2)) / valid.sum((1, 2)).clamp(min=1)


def _widened(logits: Tensor) -> Tensor:
    """Half precision as float32; float32 and float64 as they are."""
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def _require_same_shape(logits: Tensor, target: Tensor) -> None:
    if logits.shape != target.shape:
        raise ValueError(
            f"Expected logits in the target's shape {tuple(target.shape)}, got {tuple(logits.shape)}: "
            "check the task's number of outputs and the padding."
        )
