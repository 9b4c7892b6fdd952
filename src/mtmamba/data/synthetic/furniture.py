"""Furniture. Each piece stands at the origin with its back at y = 0 and looks to +y (z up, metres)."""

from itertools import pairwise

import numpy as np

from mtmamba.data.synthetic.geometry import Material, Solids, ball, box, placed, tilted, tube
from mtmamba.data.synthetic.palette import CHROME, cloth, paint, shades, wood
from mtmamba.data.synthetic.things import (
    METAL,
    bottle,
    carton,
    on_top,
    paper,
    plant,
    small_books,
    spines,
    table_lamp,
    television,
)


def bed(rng: np.random.Generator) -> Solids:
    """Frame, mattress, blanket, headboard, pillows."""
    w, d, h = rng.uniform(1.2, 1.9), rng.uniform(1.9, 2.1), rng.uniform(0.42, 0.58)
    frame, sheet, cover = wood(rng), paint(rng, (0, 1), (0, 0.15), (0.8, 0.95)), cloth(rng)
    solids = [
        box("bed", frame, (-w / 2, 0, 0.08), (w / 2, d, h - 0.2)),
        box("bed", frame, (-w / 2 - 0.03, 0, 0), (w / 2 + 0.03, 0.07, h + rng.uniform(0.35, 0.6))),
        box("bed", sheet, (-w / 2 + 0.03, 0.07, h - 0.2), (w / 2 - 0.03, d - 0.02, h)),
        box("bed", cover, (-w / 2 - 0.02, d * 0.36, h - 0.24), (w / 2 + 0.02, d + 0.02, h + 0.03)),
    ]
    cushion = cloth(rng, (0.7, 0.95))
    for x in (-w / 4, w / 4) if w > 1.4 else (0.0,):
        solids.append(tilted(ball("pillow", cushion, (x, 0.34, h + 0.1), (0.31, 0.2, 0.1)), -0.35))
    return solids


def sofa(rng: np.random.Generator) -> Solids:
    """Seat, back, arms and a cushion or two."""
    w, d = rng.uniform(1.5, 2.3), rng.uniform(0.85, 0.95)
    fabric = paint(rng, (0, 1), (0.15, 0.7), (0.25, 0.75), pattern="speckle", scale=0.05)
    seat = Material(shades(fabric.colours[1], 0.1), "speckle", 0.05)
    solids = [
        box("sofa", fabric, (-w / 2, 0, 0.06), (w / 2, d, 0.3)),
        box("sofa", fabric, (-w / 2, 0, 0.3), (w / 2, 0.24, 0.85), (1, 0.7)),
    ]
    solids += [box("sofa", fabric, (x - 0.1, 0, 0.06), (x + 0.1, d, 0.62)) for x in (-w / 2 + 0.1, w / 2 - 0.1)]
    edges = np.linspace(-w / 2 + 0.2, w / 2 - 0.2, 3 if w < 1.9 else 4)
    solids += [box("sofa", seat, (a + 0.01, 0.22, 0.3), (b - 0.01, d + 0.02, 0.45)) for a, b in pairwise(edges)]
    for x in rng.choice((-0.32, 0.0, 0.32), int(rng.integers(0, 3)), replace=False):
        solids.append(tilted(ball("pillow", cloth(rng), (x * w, 0.33, 0.62), (0.21, 0.08, 0.2)), 0.3))
    return solids


def chair(rng: np.random.Generator) -> Solids:
    """Seat on four legs with a back."""
    material = wood(rng, (0.25, 0.6)) if rng.random() < 0.6 else paint(rng, (0, 1), (0.4, 0.9), (0.3, 0.9), gloss=0.3)
    w = rng.uniform(0.42, 0.5)
    solids = _legs("chair", material, w, w, 0.45, 0.03, 0.02)
    solids.append(box("chair", material, (-w / 2, 0, 0.43), (w / 2, w, 0.48)))
    solids += [tube("chair", material, (x, 0.02, 0.45), (x, -0.04, 0.92), 0.018) for x in (-w / 2 + 0.03, w / 2 - 0.03)]
    solids.append(box("chair", material, (-w / 2 + 0.02, -0.045, 0.66), (w / 2 - 0.02, -0.015, 0.94)))
    return solids


def stool(rng: np.random.Generator) -> Solids:
    """Round stool."""
    material = wood(rng)
    return [
        *_legs("stool", material, 0.32, 0.32, 0.45, 0.05, 0.018),
        tube("stool", material, (0, 0.16, 0.43), (0, 0.16, 0.48), 0.18),
    ]


def table(rng: np.random.Generator) -> Solids:
    """Dining table with something on it."""
    w, d, h = rng.uniform(0.9, 1.6), rng.uniform(0.7, 0.95), rng.uniform(0.7, 0.78)
    material = wood(rng, (0.45, 0.8))
    solids = [*_legs("table", material, w, d, h), box("table", material, (-w / 2, 0, h - 0.05), (w / 2, d, h))]
    return solids + on_top(rng, (bottle, paper, small_books, plant, carton), w * 0.7, d / 2, h, int(rng.integers(1, 4)))


def coffee_table(rng: np.random.Generator) -> Solids:
    """Low table."""
    w, d, h = rng.uniform(0.8, 1.1), rng.uniform(0.5, 0.6), rng.uniform(0.38, 0.46)
    material = wood(rng)
    solids = [*_legs("table", material, w, d, h), box("table", material, (-w / 2, 0, h - 0.05), (w / 2, d, h))]
    return solids + on_top(rng, (bottle, paper, small_books), w * 0.7, d / 2, h, int(rng.integers(0, 3)))


def desk(rng: np.random.Generator) -> Solids:
    """Desk with drawers on one side, and what lies on it."""
    w, d, h = rng.uniform(1.1, 1.5), rng.uniform(0.6, 0.7), 0.74
    material = paint(rng, (0.06, 0.11), (0.1, 0.35), (0.75, 0.95), pattern="wood", gloss=0.1)
    solids = [
        box("desk", material, (-w / 2, 0, h - 0.04), (w / 2, d, h)),
        box("desk", material, (-w / 2, 0.02, 0), (-w / 2 + 0.04, d - 0.02, h - 0.04)),
        *_drawers("desk", material, (w / 2 - 0.42, w / 2), d - 0.02, (0, h - 0.04), 3),
    ]
    solids += placed(television(rng, 0.55), (-w * 0.12, 0.15, h))
    return solids + on_top(rng, (table_lamp, small_books, paper, bottle), w * 0.8, d * 0.6, h, 2)


def dresser(rng: np.random.Generator) -> Solids:
    """Chest of drawers."""
    w, d, h = rng.uniform(0.8, 1.2), rng.uniform(0.42, 0.5), rng.uniform(0.8, 1.1)
    solids = _drawers("dresser", wood(rng, (0.5, 0.8)), (-w / 2, w / 2), d, (0.03, h), int(rng.integers(3, 5)))
    return solids + on_top(rng, (table_lamp, small_books, plant, carton), w * 0.8, d / 2, h, int(rng.integers(0, 3)))


def night_stand(rng: np.random.Generator) -> Solids:
    """Small drawers with a lamp."""
    w, d, h = rng.uniform(0.4, 0.5), 0.4, rng.uniform(0.48, 0.6)
    return [
        *_drawers("night_stand", wood(rng), (-w / 2, w / 2), d, (0.03, h), 2),
        *placed(table_lamp(rng), (0, d / 2, h)),
    ]


def cabinet(rng: np.random.Generator) -> Solids:
    """Tall wardrobe with two doors."""
    w, d, h = rng.uniform(0.9, 1.3), rng.uniform(0.5, 0.6), rng.uniform(1.8, 2.15)
    material = wood(rng, (0.3, 0.6))
    leaf = Material(shades(material.colours[1], 0.15), "wood", 0.1, 0.15)
    solids = [box("cabinet", material, (-w / 2, 0, 0), (w / 2, d, h))]
    for side in (-1, 1):
        a, b = sorted((side * 0.008, side * (w / 2 - 0.02)))
        solids.append(box("cabinet", leaf, (a, d, 0.08), (b, d + 0.02, h - 0.03), casts=False))
        solids.append(
            tube("cabinet", CHROME, (side * 0.05, d + 0.04, h * 0.45), (side * 0.05, d + 0.04, h * 0.55), 0.012)
        )
    return solids


def bookshelf(rng: np.random.Generator) -> Solids:
    """Open shelves full of books."""
    w, d, h = rng.uniform(0.8, 1.2), 0.3, rng.uniform(1.6, 2.1)
    material = wood(rng)
    solids = [box("bookshelf", material, (x - 0.015, 0, 0), (x + 0.015, d, h)) for x in (-w / 2, w / 2)]
    solids.append(box("bookshelf", material, (-w / 2, 0, 0), (w / 2, 0.02, h)))
    levels = np.linspace(0.06, h - 0.02, int(rng.integers(5, 7)))
    solids += [box("bookshelf", material, (-w / 2, 0, z - 0.02), (w / 2, d, z)) for z in levels]
    for z, above in pairwise(levels):
        end = rng.uniform(0.0, w / 2 - 0.02)
        tall = (above - z - 0.02) * rng.uniform(0.7, 0.92)
        solids.append(
            box(
                "books",
                spines(rng),
                (-w / 2 + 0.02, 0.03, z),
                (end, d - rng.uniform(0.03, 0.08), z + tall),
                casts=False,
            )
        )
    return solids


def media(rng: np.random.Generator) -> Solids:
    """Low cabinet with a television."""
    w = rng.uniform(1.3, 1.7)
    low = _drawers("cabinet", wood(rng, (0.2, 0.45)), (-w / 2, w / 2), 0.42, (0.03, 0.48), 1)
    return [*low, *placed(television(rng, w * 0.72), (0, 0.22, 0.48))]


def refrigerator(rng: np.random.Generator) -> Solids:
    """Two doors with handles."""
    w, d, h = rng.uniform(0.62, 0.75), 0.65, rng.uniform(1.65, 1.9)
    body = paint(rng, (0.55, 0.6), (0, 0.06), (0.7, 0.92), gloss=0.6, spread=0.03)
    solids = [box("refrigerator", body, (-w / 2, 0, 0.02), (w / 2, d, h))]
    for low, high in ((0.05, h * 0.62), (h * 0.64, h - 0.02)):
        solids.append(box("refrigerator", body, (-w / 2 + 0.01, d, low), (w / 2 - 0.01, d + 0.04, high)))
        middle = low + (high - low) * 0.75 if low < 0.1 else low + (high - low) * 0.3
        solids.append(
            tube(
                "refrigerator",
                CHROME,
                (-w / 2 + 0.08, d + 0.07, middle - 0.15),
                (-w / 2 + 0.08, d + 0.07, middle + 0.15),
                0.014,
            )
        )
    return solids


def counter(rng: np.random.Generator) -> Solids:
    """Kitchen counter: cupboards, worktop, a sink with its tap, shelves above."""
    w, d, h = rng.uniform(1.6, 2.4), 0.6, 0.9
    front = paint(rng, (0, 1), (0.05, 0.4), (0.5, 0.95), spread=0.05, gloss=0.2)
    stone = paint(rng, (0.05, 0.6), (0, 0.15), (0.2, 0.6), pattern="speckle", scale=0.05, spread=0.4, gloss=0.5)
    solids = [
        box("counter", stone, (-w / 2, 0, h - 0.04), (w / 2, d + 0.02, h)),
        box("cabinet", front, (-w / 2, 0, 0), (w / 2, d - 0.05, h - 0.04)),
    ]
    edges = np.linspace(-w / 2, w / 2, 5)
    for a, b in pairwise(edges):
        solids.append(box("cabinet", front, (a + 0.012, d - 0.05, 0.1), (b - 0.012, d - 0.03, h - 0.06), casts=False))
        solids.append(ball("cabinet", CHROME, (b - 0.06, d - 0.02, h - 0.14), 0.018))
    at = rng.uniform(-w / 4, w / 4)
    solids.append(box("sink", CHROME, (at - 0.28, 0.1, h), (at + 0.28, 0.5, h + 0.012)))
    solids.append(box("sink", METAL, (at - 0.25, 0.13, h + 0.004), (at + 0.25, 0.47, h + 0.014), casts=False))
    solids += [
        tube("sink", CHROME, (at, 0.06, h), (at, 0.06, h + 0.24), 0.014),
        tube("sink", CHROME, (at, 0.06, h + 0.24), (at, 0.24, h + 0.22), 0.014),
    ]
    solids += placed(bottle(rng), (at - 0.42, 0.2, h))
    for a, b in pairwise(edges):
        solids.append(box("cabinet", front, (a + 0.006, 0, 1.5), (b - 0.006, 0.33, 2.1)))
    return solids


def _drawers(
    kind: str, material: Material, across: tuple[float, float], depth: float, up: tuple[float, float], count: int
) -> Solids:
    """Body with ``count`` drawer fronts and knobs."""
    front = Material(shades(material.colours[-1], 0.08), material.pattern, material.scale, material.gloss)
    solids = [box(kind, material, (across[0], 0, up[0]), (across[1], depth, up[1]))]
    edges = np.linspace(up[0] + 0.04, up[1] - 0.03, count + 1)
    middle = (across[0] + across[1]) / 2
    for a, b in pairwise(edges):
        solids.append(
            box(
                kind,
                front,
                (across[0] + 0.03, depth, a + 0.012),
                (across[1] - 0.03, depth + 0.02, b - 0.012),
                casts=False,
            )
        )
        solids.append(ball(kind, CHROME, (middle, depth + 0.03, (a + b) / 2), 0.018))
    return solids


def _legs(
    kind: str, material: Material, width: float, depth: float, height: float, inset: float = 0.05, radius: float = 0.025
) -> Solids:
    spots = [(x, y) for x in (-width / 2 + inset, width / 2 - inset) for y in (inset, depth - inset)]
    return [tube(kind, material, (x, y, 0), (x, y, height), radius) for x, y in spots]
