"""Houses, trees and what else stands beside roads, on the ground at the origin and looking to +y (z up, metres)."""

import numpy as np

from mtmamba.data.synthetic.geometry import Material, Solids, ball, box, shadowless, tube
from mtmamba.data.synthetic.palette import STEEL, WHITE, colour, paint, shades, wood


def tree(rng: np.random.Generator) -> Solids:
    """Leafy tree or fir."""
    h = rng.uniform(4, 8)
    bark = paint(rng, (0.05, 0.09), (0.3, 0.5), (0.2, 0.4), pattern="wood", scale=0.2)
    leaf = paint(rng, (0.22, 0.36), (0.45, 0.8), (0.22, 0.5), pattern="speckle", scale=0.5, spread=0.55)
    solids = [tube("tree", bark, (0, 0, 0), (0, 0, h * 0.6), 0.035 * h, 0.02 * h)]
    if rng.random() < 0.3:
        levels = ((0.2, 0.26), (0.42, 0.21), (0.64, 0.15))
        return solids + [tube("tree", leaf, (0, 0, h * z), (0, 0, h * (z + 0.36)), h * r, 0.02) for z, r in levels]
    for _ in range(7):
        x, y = rng.uniform(-0.17, 0.17, 2) * h
        solids.append(ball("tree", leaf, (x, y, h * rng.uniform(0.55, 0.85)), h * rng.uniform(0.11, 0.19, 3)))
    return solids


def street_lamp(rng: np.random.Generator) -> Solids:
    """Pole with an arm over the road (towards +y)."""
    h = rng.uniform(4.5, 6)
    return [
        tube("pole", STEEL, (0, 0, 0), (0, 0, h), 0.08, 0.05),
        tube("pole", STEEL, (0, 0, h), (0, 1.2, h + 0.15), 0.045),
        ball("lamp", Material(((1, 0.97, 0.85),), glow=0.6), (0, 1.3, h + 0.1), (0.14, 0.3, 0.09)),
    ]


def road_sign(rng: np.random.Generator) -> Solids:
    """Round or square sign on a post."""
    face = Material(((0.95, 0.95, 0.93),))
    rim = paint(rng, (0.97, 1.02) if rng.random() < 0.6 else (0.58, 0.63), (0.8, 0.95), (0.6, 0.85))
    solids = [tube("pole", STEEL, (0, 0, 0), (0, 0, 2.5), 0.04)]
    if rng.random() < 0.6:
        return [
            *solids,
            tube("sign", rim, (0, 0.04, 2.4), (0, 0.07, 2.4), 0.34),
            tube("sign", face, (0, 0.05, 2.4), (0, 0.08, 2.4), 0.24),
        ]
    return [
        *solids,
        box("sign", rim, (-0.36, 0.04, 2.1), (0.36, 0.07, 2.7)),
        box("sign", face, (-0.2, 0.05, 2.3), (0.2, 0.08, 2.5)),
    ]


def bench(rng: np.random.Generator) -> Solids:
    """Park bench."""
    plank = wood(rng)
    solids = [box("bench", plank, (-0.8, 0.05 + 0.14 * i, 0.42), (0.8, 0.16 + 0.14 * i, 0.46)) for i in range(3)]
    solids += [box("bench", plank, (-0.8, -0.02, z), (0.8, 0.02, z + 0.11)) for z in (0.56, 0.72)]
    return (
        solids
        + [box("bench", STEEL, (x - 0.03, 0, 0), (x + 0.03, 0.45, 0.42)) for x in (-0.65, 0.65)]
        + [box("bench", STEEL, (x - 0.03, -0.02, 0.4), (x + 0.03, 0.0, 0.85)) for x in (-0.65, 0.65)]
    )


def fence(rng: np.random.Generator, length: float) -> Solids:
    """Posts and two rails along x."""
    plank = wood(rng, (0.45, 0.8))
    half = length / 2
    posts = [
        box("fence", plank, (x - 0.06, -0.06, 0), (x + 0.06, 0.06, 1.15)) for x in np.arange(-half, half + 0.1, 2.0)
    ]
    return posts + [box("fence", plank, (-half, 0.03, z), (half, 0.07, z + 0.14)) for z in (0.45, 0.85)]


def building(rng: np.random.Generator, width: float) -> Solids:
    """House whose front is at y = 0: storeys of windows, a door, a flat or pitched roof."""
    storeys = int(rng.integers(2, 6))
    h, half = storeys * 3.0 + 0.6, width / 2
    bricks, plaster = {"pattern": "bricks", "scale": 0.16, "spread": 0.3}, {"scale": 1.5, "spread": 0.06}
    front = paint(rng, (0.0, 0.13), (0.15, 0.6), (0.5, 0.9), **(bricks if rng.random() < 0.45 else plaster))
    trim = Material(shades(WHITE, 0.05))
    solids = [
        box("building", front, (-half, -8, 0), (half, 0, h)),
        box("building", trim, (-half - 0.1, -8.1, h - 0.3), (half + 0.1, 0.2, h)),
    ]
    if rng.random() < 0.5:
        roof = paint(rng, (0.0, 0.06), (0.3, 0.6), (0.25, 0.5), pattern="slats", scale=0.4, spread=0.2)
        solids.append(box("building", roof, (-half - 0.2, -8.3, h), (half + 0.2, 0.4, h + 3), (0.98, 0.02)))
    details: Solids = []
    pane = Material(((0.16, 0.21, 0.27), (0.42, 0.52, 0.6)), "speckle", 1.5, gloss=0.9)
    columns = max(2, int(width / 2.4))
    entrance = int(rng.integers(columns))
    for column in range(columns):
        x = (column + 0.5) * width / columns - half
        for storey in range(storeys):
            z = storey * 3.0 + 1.1
            if storey == 0 and column == entrance:
                leaf = paint(rng, (0, 1), (0.3, 0.8), (0.25, 0.6), gloss=0.3)
                details += [
                    box("door", trim, (x - 0.7, 0, 0), (x + 0.7, 0.04, 2.5)),
                    box("door", leaf, (x - 0.55, 0, 0), (x + 0.55, 0.08, 2.35)),
                ]
                continue
            details += [
                box("window", trim, (x - 0.6, 0, z - 0.1), (x + 0.6, 0.06, z + 1.5)),
                box("window", pane, (x - 0.5, 0, z), (x + 0.5, 0.08, z + 1.4)),
            ]
    return solids + shadowless(details)


def garden_wall(rng: np.random.Generator, width: float) -> Solids:
    """Brick wall with its front at y = 0."""
    bricks = paint(rng, (0.0, 0.06), (0.4, 0.65), (0.4, 0.65), pattern="bricks", scale=0.14, spread=0.35)
    return [
        box("wall", bricks, (-width / 2, -0.4, 0), (width / 2, 0, 2.2)),
        box("wall", Material(shades(WHITE)), (-width / 2, -0.45, 2.2), (width / 2, 0.05, 2.32)),
    ]


def flowers(rng: np.random.Generator) -> Solids:
    """Planted pot of a street corner."""
    blossom = paint(rng, (0.85, 1.15), (0.6, 0.95), (0.7, 0.95))
    leaf = paint(rng, (0.24, 0.36), (0.5, 0.8), (0.25, 0.5), pattern="speckle", scale=0.06, spread=0.5)
    pot = paint(rng, (0.02, 0.08), (0.3, 0.7), (0.4, 0.8))
    solids = [
        tube("pottedplant", pot, (0, 0, 0), (0, 0, 0.45), 0.26, 0.36),
        ball("pottedplant", leaf, (0, 0, 0.6), (0.38, 0.38, 0.28)),
    ]
    for _ in range(9):
        turn, rise = rng.uniform(0, 2 * np.pi), rng.uniform(0.1, 1.2)
        solids.append(
            ball(
                "pottedplant",
                blossom,
                (0.37 * np.cos(turn) * np.cos(rise), 0.37 * np.sin(turn) * np.cos(rise), 0.6 + 0.28 * np.sin(rise)),
                0.06,
            )
        )
    return solids


def markings(rng: np.random.Generator, length: float) -> Solids:
    """Dashes in the middle of a road along y."""
    white = Material((colour(rng, (0.1, 0.15), (0, 0.2), (0.85, 0.95)),))
    return shadowless(box("road", white, (-0.08, y, 0), (0.08, y + 1.8, 0.006)) for y in np.arange(2, length, 4.5))
