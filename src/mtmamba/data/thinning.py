"""Morphological thinning of binary maps, by table look-up."""

from functools import cache

import cv2
import numpy as np

# A pixel's neighbours x1..x8 run counter-clockwise from the east; bit k - 1 of the code says whether x_k is set.
_WEIGHTS = np.array([[8, 4, 2], [16, 0, 1], [32, 64, 128]], np.float32)


@cache
def _deletable() -> tuple[np.ndarray, np.ndarray]:
    """Return, for the first and the second half of an iteration, which of the 256 neighbourhoods lose their centre."""
    x = [(np.arange(256) >> k) & 1 == 1 for k in range(8)]
    pairs = [(x[k], x[(k + 1) % 8], x[(k + 2) % 8]) for k in range(0, 8, 2)]
    crossings = sum((~a & (b | c)).astype(int) for a, b, c in pairs)
    first = sum((a | b).astype(int) for a, b, _ in pairs)
    second = sum((b | c).astype(int) for _, b, c in pairs)
    thinnable = (crossings == 1) & (np.minimum(first, second) >= 2) & (np.minimum(first, second) <= 3)
    north_east = ~((x[1] | x[2] | ~x[7]) & x[0])
    south_west = ~((x[5] | x[6] | ~x[3]) & x[4])
    return thinnable & north_east, thinnable & south_west


def thin(mask: np.ndarray) -> np.ndarray:
    """Thin a binary map to lines one pixel wide, until nothing changes; connectedness and holes are kept.

    What lies outside the map counts as unset.

    Shape: ``(H, W)`` bool → ``(H, W)`` bool.
    Source: Guo and Hall, Parallel thinning with two-subiteration algorithms, Comm. ACM 1989, in the form of Lam, Lee
    and Suen, Thinning methodologies, PAMI 1992 (what MATLAB's ``bwmorph(…, "thin", Inf)`` does).

    >>> thin(np.ones((3, 5), bool)).astype(int)
    array([[0, 0, 0, 0, 0],
           [0, 1, 1, 1, 0],
           [0, 0, 0, 0, 0]])
    """
    image = mask.astype(np.uint8)
    while True:
        before = cv2.countNonZero(image)
        for table in _deletable():
            code = cv2.filter2D(image, cv2.CV_8U, _WEIGHTS, borderType=cv2.BORDER_CONSTANT)
            image[table[code]] = 0
        if cv2.countNonZero(image) == before:
            return image.astype(bool)
