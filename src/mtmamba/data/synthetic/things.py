"""Things that lie, stand or hang about in a room, each on the ground at the origin (z up, metres)."""

from collections.abc import Sequence

import numpy as np

from mtmamba.data.synthetic.geometry import Builder, Colour, Material, Solids, ball, box, placed, tube
from mtmamba.data.synthetic.palette import CHROME, DARK, WHITE, colour, paint, shades

METAL = Material(((0.3, 0.3, 0.32),), gloss=0.5)
IVORY = Material((WHITE, (1.0, 1.0, 0.98)), scale=0.5, gloss=0.3)


def small_books(rng: np.random.Generator) -> Solids:
    """A pile of books."""
    solids, z = [], 0.0
    for _ in range(rng.integers(2, 5)):
        thick, w, d = rng.uniform(0.02, 0.045), rng.uniform(0.1, 0.13), rng.uniform(0.13, 0.17)
        cover = paint(rng, (0, 1), (0.3, 0.85), (0.25, 0.9), gloss=0.2)
        solids += placed([box("books", cover, (-w, -d, z), (w, d, z + thick))], (0, 0, 0), rng.uniform(-0.2, 0.2))
        z += thick
    return solids


def spines(rng: np.random.Generator) -> Material:
    """A row of books seen from their backs."""
    return Material(
        tuple(colour(rng, (0, 1), (0.2, 0.85), (0.25, 0.9)) for _ in range(8)), "spines", rng.uniform(0.03, 0.045)
    )


def paper(rng: np.random.Generator) -> Solids:
    """A sheet."""
    sheet = Material((WHITE, (0.75, 0.75, 0.75)), "slats", 0.04)
    return placed(
        [box("paper", sheet, (-0.105, -0.15, 0), (0.105, 0.15, 0.004), casts=False)], (0, 0, 0), rng.uniform(-1, 1)
    )


def bottle(rng: np.random.Generator) -> Solids:
    """Wine bottle."""
    glass = paint(rng, (0.2, 0.42), (0.5, 0.9), (0.15, 0.5), gloss=0.9)
    return [
        tube("bottle", glass, (0, 0, 0), (0, 0, 0.2), 0.04),
        tube("bottle", glass, (0, 0, 0.2), (0, 0, 0.25), 0.04, 0.014),
        tube("bottle", glass, (0, 0, 0.25), (0, 0, 0.32), 0.014),
        tube("bottle", IVORY, (0, 0, 0.06), (0, 0, 0.14), 0.041),
    ]


def plant(rng: np.random.Generator, size: float = 0.35) -> Solids:
    """Green leaves in a pot."""
    pot = paint(rng, (0.02, 0.07), (0.5, 0.75), (0.5, 0.8))
    leaf = paint(rng, (0.24, 0.38), (0.5, 0.85), (0.25, 0.55), pattern="speckle", scale=0.05, spread=0.5)
    solids = [
        tube("pottedplant", pot, (0, 0, 0), (0, 0, size * 0.4), size * 0.2, size * 0.28),
        tube("pottedplant", leaf, (0, 0, size * 0.4), (0, 0, size * 0.8), size * 0.06),
    ]
    for _ in range(7):
        x, y = rng.uniform(-0.22, 0.22, 2) * size
        solids.append(
            ball("pottedplant", leaf, (x, y, size * rng.uniform(0.6, 1.0)), rng.uniform(0.13, 0.24, 3) * size)
        )
    return solids


def big_plant(rng: np.random.Generator) -> Solids:
    """Plant that stands on the floor."""
    size = rng.uniform(0.8, 1.2)
    return placed(plant(rng, size), (0, size * 0.4, 0))


def carton(rng: np.random.Generator) -> Solids:
    """Cardboard box for a table."""
    w, d, h = rng.uniform(0.08, 0.16, 3)
    card = paint(rng, (0.07, 0.1), (0.35, 0.5), (0.55, 0.75), spread=0.08)
    tape = Material(((0.8, 0.72, 0.5),))
    return [
        box("box", card, (-w, -d, 0), (w, d, 2 * h)),
        box("box", tape, (-0.02, -d - 0.002, 0), (0.02, d + 0.002, 2 * h + 0.002), casts=False),
    ]


def big_carton(rng: np.random.Generator) -> Solids:
    """Cardboard box for the floor."""
    return [*placed(carton(rng), (0, 0.3, 0)), *placed(carton(rng), (0.35, 0.3, 0), 0.4)]


def table_lamp(rng: np.random.Generator) -> Solids:
    """Foot, stem, glowing shade."""
    shade = paint(rng, (0.09, 0.14), (0.2, 0.5), (0.95, 1.0), glow=0.9, spread=0.05)
    return [
        tube("lamp", METAL, (0, 0, 0), (0, 0, 0.02), 0.08),
        tube("lamp", METAL, (0, 0, 0), (0, 0, 0.28), 0.012),
        tube("lamp", shade, (0, 0, 0.24), (0, 0, 0.44), 0.15, 0.09),
    ]


def floor_lamp(rng: np.random.Generator) -> Solids:
    """Standing lamp."""
    shade = paint(rng, (0.09, 0.14), (0.2, 0.5), (0.95, 1.0), glow=0.9, spread=0.05)
    h = rng.uniform(1.4, 1.7)
    return [
        tube("lamp", METAL, (0, 0.25, 0), (0, 0.25, 0.03), 0.15),
        tube("lamp", METAL, (0, 0.25, 0), (0, 0.25, h), 0.015),
        tube("lamp", shade, (0, 0.25, h - 0.1), (0, 0.25, h + 0.2), 0.22, 0.13),
    ]


def television(rng: np.random.Generator, w: float = 1.0) -> Solids:
    """Flat screen on a foot, on or off."""
    case = Material((DARK,), gloss=0.3)
    on = rng.random() < 0.6
    colours: tuple[Colour, ...] = (
        tuple(colour(rng, (0.5, 1.1), (0.3, 0.8), (0.3, 0.9)) for _ in range(4)) if on else (DARK, (0.03, 0.03, 0.04))
    )
    screen = Material(colours, "art", w * 0.3, gloss=0.4, glow=0.8 if on else 0.0)
    h = w * 0.56
    return [
        box("television", case, (-w * 0.2, -0.08, 0), (w * 0.2, 0.08, 0.02)),
        box("television", case, (-0.03, -0.02, 0), (0.03, 0.0, 0.1)),
        box("television", case, (-w / 2, -0.02, 0.07), (w / 2, 0.02, 0.07 + h)),
        box("television", screen, (-w / 2 + 0.02, 0, 0.09), (w / 2 - 0.02, 0.023, 0.05 + h), casts=False),
    ]


def bag(rng: np.random.Generator) -> Solids:
    """Bag with a handle."""
    leather = paint(rng, (0, 1), (0.4, 0.9), (0.15, 0.6), gloss=0.2)
    w = rng.uniform(0.16, 0.24)
    handle = [tube("bag", leather, (x, 0.12, 0.3), (x * 0.5, 0.12, 0.46), 0.012) for x in (-w * 0.7, w * 0.7)]
    return [
        box("bag", leather, (-w, 0.03, 0), (w, 0.22, 0.32), (0.85, 0.5)),
        *handle,
        tube("bag", leather, (-w * 0.35, 0.12, 0.46), (w * 0.35, 0.12, 0.46), 0.012),
    ]


def toy_ball(rng: np.random.Generator) -> Solids:
    """Ball on the floor."""
    r = rng.uniform(0.1, 0.16)
    return [
        ball(
            "ball",
            paint(rng, (0, 1), (0.7, 0.95), (0.6, 0.95), pattern="stripes", scale=0.1, gloss=0.5, spread=0.4),
            (0, r, r),
            r,
        )
    ]


def floor_mat(rng: np.random.Generator) -> Solids:
    """Rug."""
    w, d = rng.uniform(1.2, 2.0), rng.uniform(0.9, 1.4)
    pattern = str(rng.choice(("checker", "stripes", "art")))
    a, b = colour(rng, (0, 1), (0.4, 0.8), (0.35, 0.75)), colour(rng, (0, 1), (0.2, 0.6), (0.5, 0.85))
    border = Material(shades(a, 0.1))
    return [
        box("floor_mat", border, (-w / 2, 0, 0), (w / 2, d, 0.012), casts=False),
        box(
            "floor_mat",
            Material((a, b), pattern, rng.uniform(0.14, 0.3)),
            (-w / 2 + 0.08, 0.08, 0),
            (w / 2 - 0.08, d - 0.08, 0.016),
            casts=False,
        ),
    ]


def mirror(rng: np.random.Generator) -> Solids:
    """Silvery glass in a thin frame, its lower edge at z = 0."""
    w, h = rng.uniform(0.25, 0.4), rng.uniform(0.6, 0.9)
    glass = Material(((0.5, 0.58, 0.62), (0.78, 0.84, 0.88)), "speckle", 3.0, gloss=0.9, glow=0.25)
    return [
        box("mirror", CHROME, (-w, 0, 0), (w, 0.025, h)),
        box("mirror", glass, (-w + 0.03, 0, 0.03), (w - 0.03, 0.03, h - 0.03), casts=False),
    ]


def on_top(
    rng: np.random.Generator, builders: Sequence[Builder], width: float, y: float, z: float, count: int
) -> Solids:
    """``count`` different things side by side on a top of the given ``width`` at height ``z``."""
    solids: Solids = []
    chosen = rng.choice(len(builders), count, replace=False)
    for i, which in enumerate(chosen):
        x = ((i + 0.5) / len(chosen) - 0.5) * width
        solids += placed(builders[which](rng), (x, y, z), rng.uniform(-0.3, 0.3))
    return solids
