"""Padding around the centre, and its removal: images keep their size, whatever the grid that a batch needs.

Where a side's padding is odd, the larger half lies below or to the right. Where images are resized for the network, its
maps are brought to the targets' grid.
"""

from collections.abc import Sequence

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor


def centre(full: Sequence[int], inner: Sequence[int]) -> tuple[slice, slice]:
    """Return where a map of height and width ``inner`` lies in one of ``full``."""
    top, left = ((large - small) // 2 for large, small in zip(full, inner, strict=True))
    return slice(top, top + inner[0]), slice(left, left + inner[1])


def pad(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Pad maps with 0 to a size: ``(..., h, w)`` → ``(..., H, W)``."""
    rows, columns = centre(size, maps.shape[-2:])
    return F.pad(maps, (columns.start, size[1] - columns.stop, rows.start, size[0] - rows.stop))


def crop(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Cut the padding of maps off: ``(..., H, W)`` → ``(..., h, w)``, a view."""
    return maps[..., *centre(maps.shape[-2:], size)]


def resized(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Bring maps to another grid, bilinearly: ``(B, n, h, w)`` → ``(B, n, H, W)`` float32; as they are if on it."""
    if maps.shape[-2:] == tuple(size):
        return maps
    return F.interpolate(maps.float(), tuple(size), mode="bilinear", align_corners=False)


def resize_image(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize RGB ``(h, w, 3)`` to a height and width, bilinearly as Pillow does it: over all pixels that one covers.

    This is what a network of ``data.resize`` sees in training, evaluation and prediction.
    """
    return np.array(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))
