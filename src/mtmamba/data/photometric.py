"""Photometric distortion of 8-bit RGB images: pure functions; the draws are made apart from their application.

The distortion of SSD (Liu et al., ECCV 2016, section 2.2) without its channel swap. Every step ends in uint8, clipped
to 0..255 and truncated: a function of one byte, so a table of 256 entries.
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

BRIGHTNESS = 32.0
"""Largest shift of the brightness, in grey levels."""
GAIN = (0.5, 1.5)
"""Range of the factors on contrast and saturation."""
HUE = 18
"""The hue shifts by the integers -HUE..HUE-1 of OpenCV's 180."""


@dataclass(frozen=True)
class Distortion:
    """One draw; the default of each field leaves its step out."""

    brightness: float = 0.0
    contrast: float = 1.0
    contrast_last: bool = False
    saturation: float | None = None
    hue: int | None = None


def draw_distortion(rng: np.random.Generator) -> Distortion:
    """Draw each step with probability 0.5, and the contrast's place before or after saturation and hue evenly."""
    brightness, contrast, contrast_last, saturation, hue = rng.random(5) < 0.5
    return Distortion(
        brightness=rng.uniform(-BRIGHTNESS, BRIGHTNESS) if brightness else 0.0,
        contrast=rng.uniform(*GAIN) if contrast else 1.0,
        contrast_last=bool(contrast_last),
        saturation=rng.uniform(*GAIN) if saturation else None,
        hue=int(rng.integers(-HUE, HUE)) if hue else None,
    )


def distort(image: Array, distortion: Distortion) -> Array:
    """Brightness, contrast, saturation, hue; or brightness, saturation, hue, contrast.

    Args:
        image: ``(h, w, 3)`` uint8 RGB, left as it is.
        distortion: what to do.

    Returns:
        A new ``(h, w, 3)`` uint8 RGB image.

    Example:
        >>> int(distort(np.full((1, 1, 3), 100, np.uint8), Distortion(brightness=10.5, contrast=1.5))[0, 0, 0])
        165
    """
    contrast = _linear_table(gain=distortion.contrast)
    first = _linear_table(shift=distortion.brightness)
    image = cv2.LUT(image, first if distortion.contrast_last else contrast[first])
    if distortion.saturation is not None:
        image = _map_hsv(image, channel=1, table=_linear_table(gain=distortion.saturation))
    if distortion.hue is not None:
        image = _map_hsv(image, channel=0, table=((np.arange(256) + distortion.hue) % 180).astype(np.uint8))
    if distortion.contrast_last:
        image = cv2.LUT(image, contrast)
    return image


def _linear_table(gain: float = 1.0, shift: float = 0.0) -> Array:
    return np.clip(np.arange(256, dtype=np.float32) * gain + shift, 0, 255).astype(np.uint8)


def _map_hsv(image: Array, channel: int, table: Array) -> Array:
    """Apply a table to one channel of the image in OpenCV's uint8 HSV (hue 0..179)."""
    tables = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)  # (1, 256, 3): identity
    tables[0, :, channel] = table
    hsv = cv2.LUT(cv2.cvtColor(image, cv2.COLOR_RGB2HSV), tables)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
