"""Vehicles, each on the ground at the origin and driving to +y (z up, metres)."""

from itertools import pairwise

import numpy as np

from mtmamba.data.synthetic.geometry import Material, Solids, ball, box, squashed, tube
from mtmamba.data.synthetic.palette import CHROME, DARK, RUBBER, STEEL, WHITE, paint, shades, wood

_GLASS = Material(((0.1, 0.13, 0.17), (0.25, 0.32, 0.4)), "speckle", 2.0, gloss=0.9)


def car(rng: np.random.Generator) -> Solids:
    """Body, tapered cabin with dark windows, wheels, lights, plates."""
    w, length, h = rng.uniform(1.65, 1.85) / 2, rng.uniform(3.7, 4.6) / 2, rng.uniform(1.4, 1.6)
    body = paint(rng, (0, 1), (0.0, 0.95), (0.2, 0.95), gloss=0.9, spread=0.03)
    belt, front, back = h * 0.58, length * rng.uniform(0.25, 0.45), -length * rng.uniform(0.7, 0.92)
    lamp = Material(((1.0, 0.97, 0.85),), gloss=0.9, glow=0.5)
    rear = Material(((0.75, 0.05, 0.05),), gloss=0.6, glow=0.3)
    middle, reach = (front + back) / 2, (front - back) / 2 + 0.3
    solids = [
        box("car", body, (-w, -length, 0.32), (w, length, belt), (0.96, 0.97)),
        box("car", Material(shades(DARK)), (-w + 0.02, -length + 0.05, 0.2), (w - 0.02, length - 0.05, 0.34)),
        box("car", _GLASS, (-w + 0.03, middle - reach, belt), (w - 0.03, middle + reach, h - 0.04), (0.8, 0.68)),
        box("car", body, (-w * 0.8, middle - reach * 0.7, h - 0.06), (w * 0.8, middle + reach * 0.7, h), (0.9, 0.94)),
        box("car", body, (-w * 0.93, middle - 0.06, belt - 0.02), (w * 0.93, middle + 0.06, h - 0.03), (0.9, 1)),
    ]
    for x in (-w * 0.68, w * 0.68):
        solids += [
            ball("car", lamp, (x, length - 0.03, 0.62), (0.17, 0.07, 0.1)),
            ball("car", rear, (x, -length + 0.02, 0.66), (0.16, 0.05, 0.09)),
        ]
    plate = Material(((0.92, 0.9, 0.8),))
    solids += [box("car", plate, (-0.25, y - 0.02, 0.42), (0.25, y + 0.02, 0.53)) for y in (-length, length)]
    for x in (-w + 0.1, w - 0.1):
        for y in (-length * 0.62, length * 0.62):
            solids += _wheel("car", x, y, 0.32, 0.22)
    return solids


def bus(rng: np.random.Generator, kind: str = "bus", length: float | None = None) -> Solids:
    """Bus, or a railway carriage: long box with a band of windows."""
    half = (length or rng.uniform(8, 10)) / 2
    body = paint(rng, (0, 1), (0.5, 0.95), (0.4, 0.9), gloss=0.5, spread=0.04)
    stripe = paint(rng, (0, 1), (0, 0.5), (0.6, 0.95), gloss=0.5)
    w, h = 1.25, 3.0
    solids = [
        box(kind, body, (-w, -half, 0.35), (w, half, h), (0.95, 0.99)),
        box(kind, stripe, (-w - 0.015, -half - 0.015, 0.9), (w + 0.015, half + 0.015, 1.15)),
        box(kind, _GLASS, (-w * 0.88, -half - 0.02, 1.5), (w * 0.88, half + 0.02, 2.55)),
        box(kind, Material(((0.98, 0.8, 0.3),), glow=0.7), (-w * 0.5, half, 2.65), (w * 0.5, half + 0.03, 2.9)),
    ]
    edges = np.linspace(-half + 0.3, half - 0.3, 8)
    for x in (-w, w):
        solids += [box(kind, _GLASS, (x - 0.02, a + 0.08, 1.5), (x + 0.02, b - 0.08, 2.5)) for a, b in pairwise(edges)]
        for y in (-half * 0.65, half * 0.65):
            solids += _wheel(kind, x - np.sign(x) * 0.15, y, 0.48, 0.3)
    lamp = Material(((1.0, 0.97, 0.85),), glow=0.6)
    return solids + [ball(kind, lamp, (x, half, 0.7), 0.13) for x in (-0.9, 0.9)]


def train(rng: np.random.Generator) -> Solids:
    """A locomotive-like carriage on its rails."""
    rails = [box("train", STEEL, (x - 0.05, -14, 0), (x + 0.05, 14, 0.12)) for x in (-0.75, 0.75)]
    return rails + bus(rng, "train", 22.0)


def bicycle(rng: np.random.Generator) -> Solids:
    """Diamond frame, saddle, handlebars."""
    frame = paint(rng, (0, 1), (0.6, 0.95), (0.4, 0.9), gloss=0.6)
    saddle, crank, head = (0, -0.2, 0.85), (0, -0.08, 0.3), (0, 0.36, 0.85)
    rear, front = (0, -0.5, 0.34), (0, 0.54, 0.34)
    bars = [(crank, saddle), (crank, head), (saddle, head), (rear, crank), (rear, saddle), (head, front)]
    solids = (
        [tube("bicycle", frame, a, b, 0.025) for a, b in bars]
        + _spoked("bicycle", -0.5, 0.32, 0.028)
        + _spoked("bicycle", 0.54, 0.32, 0.028)
    )
    return [
        *solids,
        tube("bicycle", frame, head, (0, 0.33, 1.0), 0.022),
        tube("bicycle", CHROME, (-0.26, 0.28, 1.02), (0.26, 0.28, 1.02), 0.02),
        ball("bicycle", RUBBER, (0, -0.23, 0.9), (0.08, 0.14, 0.05)),
        tube("bicycle", CHROME, crank, (0.0, 0.02, 0.17), 0.02),
    ]


def motorbike(rng: np.random.Generator) -> Solids:
    """Fat wheels, tank, seat, engine, fork."""
    body = paint(rng, (0, 1), (0.6, 0.95), (0.3, 0.85), gloss=0.9, spread=0.05)
    solids = [*_wheel("motorbike", 0, -0.7, 0.32, 0.16), *_wheel("motorbike", 0, 0.75, 0.32, 0.13)]
    return [
        *solids,
        ball("motorbike", body, (0, 0.16, 0.82), (0.17, 0.34, 0.16)),
        ball("motorbike", RUBBER, (0, -0.36, 0.8), (0.15, 0.38, 0.1)),
        ball("motorbike", body, (0, -0.74, 0.82), (0.12, 0.22, 0.09)),
        box("motorbike", CHROME, (-0.16, -0.22, 0.3), (0.16, 0.26, 0.66), (0.8, 0.8)),
        tube("motorbike", CHROME, (0.16, 0.1, 0.34), (0.19, -0.85, 0.4), 0.05, 0.07),
        tube("motorbike", CHROME, (0, 0.75, 0.32), (0, 0.42, 1.02), 0.05),
        tube("motorbike", RUBBER, (-0.36, 0.36, 1.08), (0.36, 0.36, 1.08), 0.025),
        ball("motorbike", Material(((1, 0.97, 0.85),), gloss=0.8, glow=0.4), (0, 0.58, 0.9), 0.11),
        ball("motorbike", body, (0, 0.75, 0.62), (0.1, 0.26, 0.06)),
    ]


def aeroplane(rng: np.random.Generator) -> Solids:
    """Airliner of some 14 m, its belly at z = 0."""
    body = paint(rng, (0.55, 0.65), (0, 0.08), (0.85, 0.97), gloss=0.6, spread=0.04)
    tint = paint(rng, (0, 1), (0.6, 0.9), (0.4, 0.9))
    solids = [
        tube("aeroplane", body, (0, -5, 1), (0, 5, 1), 1.0),
        ball("aeroplane", body, (0, 5, 1), (1, 2, 1)),
        tube("aeroplane", body, (0, -5, 1), (0, -8.5, 1.5), 1.0, 0.2),
        box("aeroplane", tint, (-0.1, -8.5, 1.5), (0.1, -6.5, 4.2), (1, 0.5)),
        ball("aeroplane", _GLASS, (0, 6.2, 1.35), (0.55, 0.6, 0.3)),
    ]
    for side in (-1, 1):
        wing = tube("aeroplane", body, (side * 0.7, 0.8, 0.7), (side * 7.5, -2.4, 1.3), 0.9, 0.35)
        tail = tube("aeroplane", tint, (side * 0.3, -7.3, 1.5), (side * 2.8, -8.4, 1.7), 0.5, 0.2)
        solids += [
            squashed(wing, 2, 0.22),
            squashed(tail, 2, 0.22),
            tube("aeroplane", tint, (side * 2.8, -1.2, 0.3), (side * 2.8, 0.9, 0.3), 0.4),
        ]
    return solids


def boat(rng: np.random.Generator) -> Solids:
    """Sailing boat."""
    hull = paint(rng, (0, 1), (0.4, 0.9), (0.35, 0.9), gloss=0.4)
    sail = paint(rng, (0, 1), (0, 0.25), (0.85, 0.98))
    return [
        box("boat", hull, (-0.7, -2, -0.1), (0.7, 2, 0.7), (1.25, 1.2)),
        box("boat", wood(rng), (-0.75, -2.1, 0.68), (0.75, 2.1, 0.75)),
        box("boat", Material((WHITE,)), (-0.5, -0.7, 0.7), (0.5, 0.8, 1.15), (0.8, 0.8)),
        tube("boat", wood(rng), (0, 0.3, 0.7), (0, 0.3, 5.2), 0.06, 0.04),
        box("boat", sail, (-0.03, -1.9, 1.5), (0.03, 0.25, 5.0), (1, 0.05)),
    ]


def _wheel(kind: str, x: float, y: float, radius: float, width: float) -> Solids:
    """Tyre and hub, the axle along x."""
    return [
        tube(kind, RUBBER, (x - width / 2, y, radius), (x + width / 2, y, radius), radius),
        tube(kind, CHROME, (x - width / 2 - 0.01, y, radius), (x + width / 2 + 0.01, y, radius), radius * 0.55),
    ]


def _spoked(kind: str, y: float, radius: float, thick: float) -> Solids:
    """Bicycle wheel as a ring of short bars, and spokes."""
    angles = np.linspace(0, 2 * np.pi, 15)
    rim = np.stack([np.zeros(15), y + radius * np.cos(angles), radius + radius * np.sin(angles)], 1)
    solids = [tube(kind, RUBBER, a, b, thick) for a, b in pairwise(rim)]
    return solids + [tube(kind, CHROME, rim[i], rim[i + 7], 0.006) for i in range(0, 7, 2)]
