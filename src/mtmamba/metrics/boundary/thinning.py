"""Morphological thinning of binary maps, by table look-up."""

import numpy as np
from numba import njit
from numpy.typing import NDArray


def _deletable() -> NDArray[np.bool_]:
    """Return which neighbourhoods lose their centre in the first and in the second half of an iteration: ``(2, 256)``.

    A pixel's neighbours x1..x8 run counter-clockwise from the east; bit k - 1 of the code says whether x_k is set.
    """
    x = [(np.arange(256) >> k) & 1 == 1 for k in range(8)]
    pairs = [(x[k], x[(k + 1) % 8], x[(k + 2) % 8]) for k in range(0, 8, 2)]
    crossings = sum((~a & (b | c)).astype(int) for a, b, c in pairs)
    first = sum((a | b).astype(int) for a, b, _ in pairs)
    second = sum((b | c).astype(int) for _, b, c in pairs)
    thinnable = (crossings == 1) & (np.minimum(first, second) >= 2) & (np.minimum(first, second) <= 3)
    north_east = ~((x[1] | x[2] | ~x[7]) & x[0])
    south_west = ~((x[5] | x[6] | ~x[3]) & x[4])
    return np.stack((thinnable & north_east, thinnable & south_west))


_DELETABLE = _deletable()


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
    padded = np.pad(mask.astype(np.uint8), 1)
    _thin(padded.ravel(), padded.shape[1], np.flatnonzero(padded), _DELETABLE)
    return padded[1:-1, 1:-1].astype(bool)


@njit(cache=True)
def _thin(image, width, pixels, deletable):  # type: ignore[no-untyped-def]
    """Thin a flat image in place; ``pixels`` says where it is set, and is overwritten."""
    east, north, west, south = 1, -width, -1, width
    doomed = np.empty_like(pixels)
    count, changed = len(pixels), True
    while changed:
        changed = False
        for table in deletable:
            kept = lost = 0
            for pixel in pixels[:count]:
                code = (
                    image[pixel + east]
                    | image[pixel + north + east] << 1
                    | image[pixel + north] << 2
                    | image[pixel + north + west] << 3
                    | image[pixel + west] << 4
                    | image[pixel + south + west] << 5
                    | image[pixel + south] << 6
                    | image[pixel + south + east] << 7
                )
                if table[code]:
                    doomed[lost] = pixel
                    lost += 1
                else:
                    pixels[kept] = pixel
                    kept += 1
            image[doomed[:lost]] = 0  # at once: all codes are of the same image
            count, changed = kept, changed or lost > 0
