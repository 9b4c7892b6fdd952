"""Procedural patterns: a mixing weight for every surface point."""

from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from mtmamba.data.synthetic.geometry import Array, Material

_CELLS = 1024  # side of the noise table; it repeats


@cache
def noise_table() -> Array:
    """``(1024, 1024)`` smooth periodic noise in [0, 1] with details of 8 to 256 cells, its values spread evenly."""
    rng = np.random.default_rng(20241003)
    total = np.zeros((_CELLS, _CELLS), np.float32)
    for period in (8, 16, 32, 64, 128, 256):
        side = _CELLS // period
        lattice = np.pad(rng.random((side, side), np.float32), 2, mode="wrap")
        fine = cv2.resize(lattice, None, fx=period, fy=period, interpolation=cv2.INTER_CUBIC)
        total += fine[2 * period : -2 * period, 2 * period : -2 * period] * period**0.3
    ranks = np.empty(_CELLS * _CELLS, np.float32)
    ranks[np.argsort(total, axis=None, kind="stable")] = np.linspace(0, 1, _CELLS * _CELLS, dtype=np.float32)
    return ranks.reshape(_CELLS, _CELLS)


def noise(u: Array, v: Array, size: float) -> Array:
    """Noise at surface coordinates ``u, v`` (metres) whose finest details are about ``size`` metres."""
    table, x, y = noise_table(), v * (8 / size), u * (8 / size)
    left, top = np.floor(x), np.floor(y)
    x, y = x - left, y - top
    column, row = left.astype(np.int32) & (_CELLS - 1), top.astype(np.int32) & (_CELLS - 1)
    right, below = (column + 1) & (_CELLS - 1), (row + 1) & (_CELLS - 1)
    upper = table[row, column] * (1 - x) + table[row, right] * x
    lower = table[below, column] * (1 - x) + table[below, right] * x
    return upper * (1 - y) + lower * y


def _hash(i: Array, j: Array | float = 0.0) -> Array:
    """Number in [0, 1) that looks random, from whole numbers."""
    return np.modf(np.abs(np.sin(i * 12.9898 + j * 78.233 + 1.7) * 437.585))[0].astype(np.float32)


def _near_line(x: Array, width: float) -> NDArray[np.bool_]:
    """True within ``width`` of a whole number's place."""
    return np.abs(x - np.rint(x)) < width


def weight(pattern: str, u: Array, v: Array, scale: float, colours: int) -> Array:
    """Place of every point ``(N,)`` on the list of ``colours`` colours: 0 is the first, colours - 1 the last."""
    a, b = u / scale, v / scale
    if pattern == "plain":
        mix = 0.5 + 0.5 * (noise(u, v, scale) - 0.5)
    elif pattern == "speckle":
        mix = noise(u, v, scale / 4)
    elif pattern == "wood":
        mix = noise(u, v * 0.08, scale / 3)
    elif pattern == "planks":
        board = np.floor(a)
        grain = noise(u + 7 * board, v * 0.08, scale / 4)
        shade = 0.6 * _hash(board, np.floor(b / 8 + _hash(board))) + 0.4 * grain
        mix = np.where(_near_line(a, 0.03), 1.0, 0.85 * shade)
    elif pattern == "tiles":
        mix = np.where(_near_line(a, 0.05) | _near_line(b, 0.05), 1.0, 0.25 * _hash(np.floor(a), np.floor(b)))
    elif pattern == "checker":
        mix = (np.floor(a) + np.floor(b)) % 2
    elif pattern == "bricks":
        row = np.floor(b)
        along = a / 2.2 + 0.5 * (row % 2)
        mix = np.where(_near_line(along, 0.035) | _near_line(b, 0.08), 1.0, 0.5 * _hash(np.floor(along), row))
    elif pattern == "stripes":
        mix = 0.5 + 0.5 * np.sin(2 * np.pi * a)
    elif pattern == "slats":
        mix = np.modf(np.abs(b))[0]
    elif pattern == "spots":
        mix = np.where(noise(u, v, scale / 2) > 0.5, 1.0, 0.0)
    elif pattern == "spines":
        mix = _hash(np.floor(a + 0.3 * _hash(np.floor(a)))) * (1 - 1e-6)
        return np.floor(mix * colours)
    elif pattern == "art":
        return np.floor(noise(u, v, scale / 3) * (colours - 1e-4))
    else:
        raise ValueError(f"Expected a known pattern, got {pattern!r}: see weight() for the list.")
    return mix * (colours - 1)


def albedo(material: Material, metres: Array, local_normal: Array, footprint: Array) -> Array:
    """Linear colour ``(3, N)`` of surface points.

    Args:
        material: colours and pattern.
        metres: ``(3, N)`` local coordinates.
        local_normal: ``(3, N)`` normals in the same axes; the pattern is laid on along the axis nearest to them.
        footprint: ``(N,)`` width of a pixel on the surface in metres; patterns finer than it fade to their mean.
    """
    axis = np.argmax(np.abs(local_normal), axis=0)
    u = np.where(axis == 0, metres[1], metres[0])
    v = np.where(axis == 2, metres[1], metres[2])
    palette = np.array(material.colours, np.float32) ** 2.2
    place = weight(material.pattern, u, v, material.scale, len(palette)).astype(np.float32)
    low = np.minimum(place.astype(np.int32), len(palette) - 1)
    high = np.minimum(low + 1, len(palette) - 1)
    part = (place - low)[:, None]
    colour = palette[low] * (1 - part) + palette[high] * part
    seen = (1 / (1 + (1.5 * footprint / material.scale) ** 2))[:, None]
    mean = colour.mean(0) if len(colour) else 0
    return (colour * seen + mean * (1 - seen)).T
