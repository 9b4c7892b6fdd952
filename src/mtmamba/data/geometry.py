"""Surface normals of a depth map."""

import cv2
import numpy as np
from numpy.typing import NDArray

_STEP = 3
"""Pixels to each side of a difference: at one pixel, depth's rounding is larger than a surface's slope."""


def normals_from_depth(
    depth: NDArray[np.float32], focal: tuple[float, float], centre: tuple[float, float]
) -> NDArray[np.float32]:
    """Return unit normals of a depth map seen by a pinhole camera, towards the camera; 0 where there is no depth.

    Depth is smoothed along surfaces first (bilateral filter), then differenced centrally.

    Args:
        depth: metres, 0 where nothing was measured.
        focal: focal lengths in pixels, x and y.
        centre: of the image on the camera's axis, x and y.

    Shape: ``(H, W)`` → ``(H, W, 3)``: x right, y down, z forward, so that a wall that faces the camera has z = -1.
    """
    smooth = cv2.bilateralFilter(depth.astype(np.float32), 15, 0.1, 7)
    padded = cv2.copyMakeBorder(smooth, _STEP, _STEP, _STEP, _STEP, cv2.BORDER_REPLICATE)
    rows, columns = np.mgrid[: padded.shape[0], : padded.shape[1]].astype(np.float32) - _STEP
    points = np.stack(
        [(columns - centre[0]) * padded / focal[0], (rows - centre[1]) * padded / focal[1], padded], -1
    )  # (H + 2 steps, W + 2 steps, 3)
    inner = slice(_STEP, -_STEP)
    across = points[inner, 2 * _STEP :] - points[inner, : -2 * _STEP]
    down = points[2 * _STEP :, inner] - points[: -2 * _STEP, inner]
    normals = np.cross(down, across)
    known = cv2.erode((padded > 0).astype(np.uint8), np.ones((2 * _STEP + 1,) * 2))[inner, inner]
    normals *= (known / np.maximum(np.linalg.norm(normals, axis=-1), 1e-12))[..., None]
    return normals.astype(np.float32)
