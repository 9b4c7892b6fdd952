"""Non-maximum suppression of boundary probabilities."""

import cv2
import numpy as np
from numpy.typing import NDArray

SMOOTHING_RADIUS = 4
"""Radius in pixels of the triangle filter that goes before the orientation."""

TOLERANCE = 1.01
"""A pixel goes only when a neighbour exceeds it times this."""

BORDER = 5
"""Pixels at each border that fade linearly to 0."""


def orientation(probability: NDArray[np.floating]) -> NDArray[np.float64]:
    """Direction across the boundary in [0, π), from x towards y: ``(H, W)`` → ``(H, W)``.

    From the second derivatives of the map under a triangle filter, ``atan(Oyy sign(-Oxy) / (Oxx + 1e-5)) mod π``.
    Derivatives are central differences, one-sided at the borders; the filter mirrors the map there. Where Oxy is
    exactly 0, the formula gives 0 for a horizontal line too: this is the benchmark's, kept as it is.
    """
    half = np.arange(1, SMOOTHING_RADIUS + 2)
    kernel = np.concatenate((half, half[-2::-1])) / (SMOOTHING_RADIUS + 1) ** 2
    smooth = cv2.sepFilter2D(probability.astype(np.float64), cv2.CV_64F, kernel, kernel, borderType=cv2.BORDER_REFLECT)
    in_y, in_x = np.gradient(smooth)
    xx = np.gradient(in_x, axis=1)
    yy, xy = np.gradient(in_y)
    return np.mod(np.arctan(yy * np.sign(-xy) / (xx + 1e-5)), np.pi)


def suppress_non_maxima(probability: NDArray[np.floating]) -> NDArray[np.float64]:
    """Set to 0 every pixel that a neighbour across the boundary exceeds by more than 1 %; fade the borders to 0.

    The two neighbours lie one pixel along the `orientation` to both sides, interpolated bilinearly. Shape: ``(H, W)`` →
    ``(H, W)``, both sides at least 2 long. Source: Dollár and Zitnick, Fast edge detection using structured forests,
    PAMI 2015, with the settings that the benchmark uses (radius 1, border 5, tolerance 1.01).
    """
    original = probability.astype(np.float64)
    angle = orientation(original)
    y, x = np.nonzero(original)
    values = original[y, x]
    step_x, step_y = np.cos(angle[y, x]), np.sin(angle[y, x])
    kept = np.ones(len(values), bool)
    for side in (-1, 1):
        kept &= values * TOLERANCE >= _bilinear(original, x + side * step_x, y + side * step_y)
    suppressed = np.zeros_like(original)
    suppressed[y[kept], x[kept]] = values[kept]
    for axis in (0, 1):
        suppressed *= np.expand_dims(_fade(suppressed.shape[axis], min(suppressed.shape)), 1 - axis)
    return suppressed


def _bilinear(image: NDArray[np.float64], x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """The map at points, which are first moved inside."""
    height, width = image.shape
    x, y = x.clip(0, width - 1.001), y.clip(0, height - 1.001)
    left, top = x.astype(np.intp), y.astype(np.intp)
    right, low = x - left, y - top
    upper = image[top, left] * (1 - right) + image[top, left + 1] * right
    lower = image[top + 1, left] * (1 - right) + image[top + 1, left + 1] * right
    return upper * (1 - low) + lower * low


def _fade(length: int, shorter: int) -> NDArray[np.float64]:
    """Factors 0, 1/s … 1 … 1/s, 0 along one side."""
    border = min(BORDER, shorter // 2)
    distance = np.minimum(np.arange(length), np.arange(length)[::-1])
    return np.minimum(distance / border, 1)
