"""The vocabulary shared by every part: the ignore mark, batches and logits. Imports nothing of ours, and no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias, TypedDict

if TYPE_CHECKING:
    from torch import Tensor

IGNORE = 255
"""Value of a target pixel that neither losses nor metrics look at, in integer and in float maps alike."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""Subtracted from RGB in 0..1; images are then divided by `IMAGENET_STD`."""

IMAGENET_STD = (0.229, 0.224, 0.225)
"""See `IMAGENET_MEAN`."""

Logits: TypeAlias = "dict[str, Tensor]"
"""Raw outputs by task name, each ``(B, n, H, W)``."""


class Images(TypedDict, total=False):
    """What a batch holds beside targets: names that no task may have."""

    image: Tensor  # (B, 3, H, W) float32, ImageNet-normalised, 0 on the padding
    id: list[str]  # the samples' names in the dataset's lists
    size: Tensor  # (B, 2) int64 height and width before the (centred) padding
    labels: dict[str, Tensor]  # where labels are partial: by task (B,) float32, 0 without one, else `loss_weights`
    key: Tensor  # (B,) int64 hash of (seed, epoch, index): what a sample's random draws derive from


class Batch(Images, total=False):
    """A batch of images with the targets of the selected tasks (the keys of the others are absent).

    Everything lies on one padded grid ``H, W``; a pixel without truth holds ``IGNORE`` (255). Where images are resized
    for the network (``data.resize``), targets and ``size`` keep the size of the files instead.
    """

    semseg: Tensor  # (B, H, W) uint8 class
    depth: Tensor  # (B, H, W) float32 metres
    human_parts: Tensor  # (B, H, W) uint8 class
    sal: Tensor  # (B, H, W) uint8 0/1
    normals: Tensor  # (B, 3, H, W) float32 unit vectors; all three components 255 where ignored
    edge: Tensor  # (B, H, W) uint8 0/1
