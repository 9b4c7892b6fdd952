"""What stands or hangs in a room. Each builder stands at the origin, its back at y = 0, and looks to +y (z up, metres)."""

from collections.abc import Callable, Sequence

import numpy as np

from mtmamba.data.synthetic.geometry import Colour, Material, Primitive, ball, box, placed, tilted, tube
from mtmamba.data.synthetic.palette import CHROME, DARK, WHITE, cloth, colour, paint, shades, wood

Solids = list[Primitive]
Builder = Callable[[np.random.Generator], Solids]
_METAL = Material(((0.3, 0.3, 0.32),), gloss=0.5)
_IVORY = Material((WHITE, (1.0, 1.0, 0.98)), scale=0.5, gloss=0.3)


def _legs(kind: str, material: Material, width: float, depth: float, height: float, inset: float = 0.05, radius: float = 0.025) -> Solids:
    spots = [(x, y) for x in (-width / 2 + inset, width / 2 - inset) for y in (inset, depth - inset)]
    return [tube(kind, material, (x, y, 0), (x, y, height), radius) for x, y in spots]


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
    solids += [box("sofa", seat, (a + 0.01, 0.22, 0.3), (b - 0.01, d + 0.02, 0.45)) for a, b in zip(edges, edges[1:], strict=False)]
    for x in rng.choice((-0.32, 0.0, 0.32), rng.integers(0, 3), replace=False):
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


def table(rng: np.random.Generator) -> Solids:
    """Dining table with something on it."""
    w, d, h = rng.uniform(0.9, 1.6), rng.uniform(0.7, 0.95), rng.uniform(0.7, 0.78)
    material = wood(rng, (0.45, 0.8))
    solids = [*_legs("table", material, w, d, h), box("table", material, (-w / 2, 0, h - 0.05), (w / 2, d, h))]
    return solids + on_top(rng, (bottle, paper, small_books, plant, carton), w * 0.7, d / 2, h, rng.integers(1, 4))


def coffee_table(rng: np.random.Generator) -> Solids:
    """Low table."""
    w, d, h = rng.uniform(0.8, 1.1), rng.uniform(0.5, 0.6), rng.uniform(0.38, 0.46)
    material = wood(rng)
    solids = [*_legs("table", material, w, d, h), box("table", material, (-w / 2, 0, h - 0.05), (w / 2, d, h))]
    return solids + on_top(rng, (bottle, paper, small_books), w * 0.7, d / 2, h, rng.integers(0, 3))


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


def _drawers(kind: str, material: Material, across: tuple[float, float], depth: float, up: tuple[float, float], count: int) -> Solids:
    """Body with ``count`` drawer fronts and knobs."""
    front = Material(shades(material.colours[-1], 0.08), material.pattern, material.scale, material.gloss)
    solids = [box(kind, material, (across[0], 0, up[0]), (across[1], depth, up[1]))]
    edges = np.linspace(up[0] + 0.04, up[1] - 0.03, count + 1)
    middle = (across[0] + across[1]) / 2
    for a, b in zip(edges, edges[1:], strict=False):
        solids.append(box(kind, front, (across[0] + 0.03, depth, a + 0.012), (across[1] - 0.03, depth + 0.02, b - 0.012), casts=False))
        solids.append(ball(kind, CHROME, (middle, depth + 0.03, (a + b) / 2), 0.018))
    return solids


def dresser(rng: np.random.Generator) -> Solids:
    """Chest of drawers."""
    w, d, h = rng.uniform(0.8, 1.2), rng.uniform(0.42, 0.5), rng.uniform(0.8, 1.1)
    solids = _drawers("dresser", wood(rng, (0.5, 0.8)), (-w / 2, w / 2), d, (0.03, h), int(rng.integers(3, 5)))
    return solids + on_top(rng, (table_lamp, small_books, plant, carton), w * 0.8, d / 2, h, rng.integers(0, 3))


def night_stand(rng: np.random.Generator) -> Solids:
    """Small drawers with a lamp."""
    w, d, h = rng.uniform(0.4, 0.5), 0.4, rng.uniform(0.48, 0.6)
    return [*_drawers("night_stand", wood(rng), (-w / 2, w / 2), d, (0.03, h), 2), *placed(table_lamp(rng), (0, d / 2, h))]


def cabinet(rng: np.random.Generator) -> Solids:
    """Tall wardrobe with two doors."""
    w, d, h = rng.uniform(0.9, 1.3), rng.uniform(0.5, 0.6), rng.uniform(1.8, 2.15)
    material = wood(rng, (0.3, 0.6))
    leaf = Material(shades(material.colours[1], 0.15), "wood", 0.1, 0.15)
    solids = [box("cabinet", material, (-w / 2, 0, 0), (w / 2, d, h))]
    for side in (-1, 1):
        a, b = sorted((side * 0.008, side * (w / 2 - 0.02)))
        solids.append(box("cabinet", leaf, (a, d, 0.08), (b, d + 0.02, h - 0.03), casts=False))
        solids.append(tube("cabinet", CHROME, (side * 0.05, d + 0.04, h * 0.45), (side * 0.05, d + 0.04, h * 0.55), 0.012))
    return solids


def bookshelf(rng: np.random.Generator) -> Solids:
    """Open shelves full of books."""
    w, d, h = rng.uniform(0.8, 1.2), 0.3, rng.uniform(1.6, 2.1)
    material = wood(rng)
    solids = [box("bookshelf", material, (x - 0.015, 0, 0), (x + 0.015, d, h)) for x in (-w / 2, w / 2)]
    solids.append(box("bookshelf", material, (-w / 2, 0, 0), (w / 2, 0.02, h)))
    levels = np.linspace(0.06, h - 0.02, int(rng.integers(5, 7)))
    solids += [box("bookshelf", material, (-w / 2, 0, z - 0.02), (w / 2, d, z)) for z in levels]
    for z, above in zip(levels, levels[1:], strict=False):
        end = rng.uniform(0.0, w / 2 - 0.02)
        tall = (above - z - 0.02) * rng.uniform(0.7, 0.92)
        solids.append(box("books", spines(rng), (-w / 2 + 0.02, 0.03, z), (end, d - rng.uniform(0.03, 0.08), z + tall), casts=False))
    return solids


def spines(rng: np.random.Generator) -> Material:
    """A row of books seen from their backs."""
    return Material(tuple(colour(rng, (0, 1), (0.2, 0.85), (0.25, 0.9)) for _ in range(8)), "spines", rng.uniform(0.03, 0.045))


def small_books(rng: np.random.Generator) -> Solids:
    """A pile of books."""
    solids, z = [], 0.0
    for _ in range(rng.integers(2, 5)):
        thick, w, d = rng.uniform(0.02, 0.045), rng.uniform(0.1, 0.13), rng.uniform(0.13, 0.17)
        cover = paint(rng, (0, 1), (0.3, 0.85), (0.25, 0.9), gloss=0.2)
        solids += placed([box("books", cover, (-w, -d, z), (w, d, z + thick))], (0, 0, 0), rng.uniform(-0.2, 0.2))
        z += thick
    return solids


def paper(rng: np.random.Generator) -> Solids:
    """A sheet."""
    sheet = Material((WHITE, (0.75, 0.75, 0.75)), "slats", 0.04)
    return placed([box("paper", sheet, (-0.105, -0.15, 0), (0.105, 0.15, 0.004), casts=False)], (0, 0, 0), rng.uniform(-1, 1))


def bottle(rng: np.random.Generator) -> Solids:
    """Wine bottle."""
    glass = paint(rng, (0.2, 0.42), (0.5, 0.9), (0.15, 0.5), gloss=0.9)
    return [
        tube("bottle", glass, (0, 0, 0), (0, 0, 0.2), 0.04),
        tube("bottle", glass, (0, 0, 0.2), (0, 0, 0.25), 0.04, 0.014),
        tube("bottle", glass, (0, 0, 0.25), (0, 0, 0.32), 0.014),
        tube("bottle", _IVORY, (0, 0, 0.06), (0, 0, 0.14), 0.041),
    ]


def plant(rng: np.random.Generator, size: float = 0.35) -> Solids:
    """Green leaves in a pot."""
    pot = paint(rng, (0.02, 0.07), (0.5, 0.75), (0.5, 0.8))
    leaf = paint(rng, (0.24, 0.38), (0.5, 0.85), (0.25, 0.55), pattern="speckle", scale=0.05, spread=0.5)
    solids = [tube("pottedplant", pot, (0, 0, 0), (0, 0, size * 0.4), size * 0.2, size * 0.28)]
    for _ in range(7):
        x, y = rng.uniform(-0.28, 0.28, 2) * size
        solids.append(ball("pottedplant", leaf, (x, y, size * rng.uniform(0.6, 1.0)), rng.uniform(0.1, 0.22, 3) * size))
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
    return [box("box", card, (-w, -d, 0), (w, d, 2 * h)), box("box", tape, (-0.02, -d - 0.002, 0), (0.02, d + 0.002, 2 * h + 0.002), casts=False)]


def big_carton(rng: np.random.Generator) -> Solids:
    """Cardboard box for the floor."""
    return [p for p in placed(carton(rng), (0, 0.3, 0))] + placed(carton(rng), (0.35, 0.3, 0), 0.4)


def table_lamp(rng: np.random.Generator) -> Solids:
    """Foot, stem, glowing shade."""
    shade = paint(rng, (0.09, 0.14), (0.2, 0.5), (0.95, 1.0), glow=0.9, spread=0.05)
    return [
        tube("lamp", _METAL, (0, 0, 0), (0, 0, 0.02), 0.08),
        tube("lamp", _METAL, (0, 0, 0), (0, 0, 0.28), 0.012),
        tube("lamp", shade, (0, 0, 0.24), (0, 0, 0.44), 0.15, 0.09),
    ]


def floor_lamp(rng: np.random.Generator) -> Solids:
    """Standing lamp."""
    shade = paint(rng, (0.09, 0.14), (0.2, 0.5), (0.95, 1.0), glow=0.9, spread=0.05)
    h = rng.uniform(1.4, 1.7)
    return [
        tube("lamp", _METAL, (0, 0.25, 0), (0, 0.25, 0.03), 0.15),
        tube("lamp", _METAL, (0, 0.25, 0), (0, 0.25, h), 0.015),
        tube("lamp", shade, (0, 0.25, h - 0.1), (0, 0.25, h + 0.2), 0.22, 0.13),
    ]


def television(rng: np.random.Generator, w: float = 1.0) -> Solids:
    """Flat screen on a foot, on or off."""
    case = Material((DARK,), gloss=0.3)
    on = rng.random() < 0.6
    colours: tuple[Colour, ...] = tuple(colour(rng, (0.5, 1.1), (0.3, 0.8), (0.3, 0.9)) for _ in range(4)) if on else (DARK, (0.03, 0.03, 0.04))
    screen = Material(colours, "art", w * 0.3, gloss=0.4, glow=0.8 if on else 0.0)
    h = w * 0.56
    return [
        box("television", case, (-w * 0.2, -0.08, 0), (w * 0.2, 0.08, 0.02)),
        box("television", case, (-0.03, -0.02, 0), (0.03, 0.0, 0.1)),
        box("television", case, (-w / 2, -0.02, 0.07), (w / 2, 0.02, 0.07 + h)),
        box("television", screen, (-w / 2 + 0.02, 0, 0.09), (w / 2 - 0.02, 0.023, 0.05 + h), casts=False),
    ]


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
        solids.append(tube("refrigerator", CHROME, (-w / 2 + 0.08, d + 0.07, middle - 0.15), (-w / 2 + 0.08, d + 0.07, middle + 0.15), 0.014))
    return solids


def counter(rng: np.random.Generator) -> Solids:
    """Kitchen counter: cupboards, worktop, a sink with its tap, shelves above."""
    w, d, h = rng.uniform(1.6, 2.4), 0.6, 0.9
    front = paint(rng, (0, 1), (0.05, 0.4), (0.5, 0.95), spread=0.05, gloss=0.2)
    stone = paint(rng, (0.05, 0.6), (0, 0.15), (0.2, 0.6), pattern="speckle", scale=0.05, spread=0.4, gloss=0.5)
    solids = [box("counter", stone, (-w / 2, 0, h - 0.04), (w / 2, d + 0.02, h)), box("cabinet", front, (-w / 2, 0, 0), (w / 2, d - 0.05, h - 0.04))]
    edges = np.linspace(-w / 2, w / 2, 5)
    for a, b in zip(edges, edges[1:], strict=False):
        solids.append(box("cabinet", front, (a + 0.012, d - 0.05, 0.1), (b - 0.012, d - 0.03, h - 0.06), casts=False))
        solids.append(ball("cabinet", CHROME, (b - 0.06, d - 0.02, h - 0.14), 0.018))
    at = rng.uniform(-w / 4, w / 4)
    solids.append(box("sink", CHROME, (at - 0.28, 0.1, h), (at + 0.28, 0.5, h + 0.012)))
    solids.append(box("sink", _METAL, (at - 0.25, 0.13, h + 0.004), (at + 0.25, 0.47, h + 0.014), casts=False))
    solids += [tube("sink", CHROME, (at, 0.06, h), (at, 0.06, h + 0.24), 0.014), tube("sink", CHROME, (at, 0.06, h + 0.24), (at, 0.24, h + 0.22), 0.014)]
    solids += placed(bottle(rng), (at - 0.42, 0.2, h))
    for a, b in zip(edges, edges[1:], strict=False):
        solids.append(box("cabinet", front, (a + 0.006, 0, 1.5), (b - 0.006, 0.33, 2.1)))
    return solids


def toilet(rng: np.random.Generator) -> Solids:
    """Bowl, seat, cistern."""
    lid = paint(rng, (0, 1), (0, 0.1), (0.85, 0.95))
    return [
        box("toilet", _IVORY, (-0.2, 0, 0.38), (0.2, 0.18, 0.8)),
        tube("toilet", _IVORY, (0, 0.4, 0), (0, 0.4, 0.38), 0.13, 0.2),
        tube("toilet", lid, (0, 0.4, 0.38), (0, 0.4, 0.42), 0.22),
    ]


def wash_basin(rng: np.random.Generator) -> Solids:
    """Basin on a pedestal, a mirror above, a towel beside it."""
    towel = cloth(rng, (0.6, 0.95))
    return [
        tube("sink", _IVORY, (0, 0.2, 0), (0, 0.2, 0.7), 0.09),
        tube("sink", _IVORY, (0, 0.24, 0.7), (0, 0.24, 0.86), 0.16, 0.27),
        tube("sink", CHROME, (0, 0.06, 0.86), (0, 0.06, 1.0), 0.014),
        tube("sink", CHROME, (0, 0.06, 1.0), (0, 0.2, 0.98), 0.014),
        *placed(mirror(rng), (0, 0, 1.2)),
        box("towel", towel, (0.4, 0.01, 0.75), (0.72, 0.06, 1.35)),
    ]


def bathtub(rng: np.random.Generator) -> Solids:
    """Tub with a curtain at one end."""
    w, d = 1.6, 0.75
    rim = [((-w / 2, 0), (w / 2, 0.07)), ((-w / 2, d - 0.07), (w / 2, d)), ((-w / 2, 0), (-w / 2 + 0.07, d)), ((w / 2 - 0.07, 0), (w / 2, d))]
    solids = [box("bathtub", _IVORY, (*a, 0), (*b, 0.56)) for a, b in rim]
    solids.append(box("bathtub", _IVORY, (-w / 2, 0, 0), (w / 2, d, 0.2)))
    return solids + _drape("shower_curtain", cloth(rng, (0.6, 0.95)), rng.uniform(0.4, 0.7), 0.25, 2.0, (-w / 2 + 0.25, d))


def _drape(kind: str, material: Material, width: float, low: float, high: float, at: tuple[float, float]) -> Solids:
    """Folds of cloth side by side."""
    count = max(3, round(width / 0.09))
    places = at[0] + (np.arange(count) - (count - 1) / 2) * width / count
    return [tube(kind, material, (x, at[1], low), (x, at[1], high), width / count * 0.62) for x in places]


def stool(rng: np.random.Generator) -> Solids:
    """Round stool."""
    material = wood(rng)
    return [*_legs("stool", material, 0.32, 0.32, 0.45, 0.05, 0.018), tube("stool", material, (0, 0.16, 0.43), (0, 0.16, 0.48), 0.18)]


def bag(rng: np.random.Generator) -> Solids:
    """Bag with a handle."""
    leather = paint(rng, (0, 1), (0.4, 0.9), (0.15, 0.6), gloss=0.2)
    w = rng.uniform(0.16, 0.24)
    handle = [tube("bag", leather, (x, 0.12, 0.3), (x * 0.5, 0.12, 0.46), 0.012) for x in (-w * 0.7, w * 0.7)]
    return [box("bag", leather, (-w, 0.03, 0), (w, 0.22, 0.32), (0.85, 0.5)), *handle, tube("bag", leather, (-w * 0.35, 0.12, 0.46), (w * 0.35, 0.12, 0.46), 0.012)]


def toy_ball(rng: np.random.Generator) -> Solids:
    """Ball on the floor."""
    r = rng.uniform(0.1, 0.16)
    return [ball("ball", paint(rng, (0, 1), (0.7, 0.95), (0.6, 0.95), pattern="stripes", scale=0.1, gloss=0.5, spread=0.4), (0, r, r), r)]


def clothes(rng: np.random.Generator) -> Solids:
    """Coats on pegs."""
    places = (np.arange(3) - 1) * 0.24
    solids = [box("clothes", cloth(rng), (x - 0.14, 0.02, 0.95), (x + 0.14, 0.14, 1.72), (0.45, 0.6)) for x in places]
    return [*solids, box("clothes", wood(rng), (-0.45, 0, 1.68), (0.45, 0.04, 1.76))]


def floor_mat(rng: np.random.Generator) -> Solids:
    """Rug."""
    w, d = rng.uniform(1.2, 2.0), rng.uniform(0.9, 1.4)
    pattern = str(rng.choice(("checker", "stripes", "art")))
    a, b = colour(rng, (0, 1), (0.4, 0.8), (0.35, 0.75)), colour(rng, (0, 1), (0.2, 0.6), (0.5, 0.85))
    border = Material(shades(a, 0.1))
    return [
        box("floor_mat", border, (-w / 2, 0, 0), (w / 2, d, 0.012), casts=False),
        box("floor_mat", Material((a, b), pattern, rng.uniform(0.14, 0.3)), (-w / 2 + 0.08, 0.08, 0), (w / 2 - 0.08, d - 0.08, 0.016), casts=False),
    ]


def door(rng: np.random.Generator) -> Solids:
    """Closed door in its frame."""
    w, h = rng.uniform(0.8, 0.95), rng.uniform(1.98, 2.08)
    leaf = wood(rng, (0.45, 0.8)) if rng.random() < 0.6 else paint(rng, (0.05, 0.6), (0, 0.3), (0.75, 0.95))
    panel = Material(shades(leaf.colours[0], 0.08), leaf.pattern, leaf.scale)
    solids = [box("door", _IVORY, (-w / 2 - 0.08, 0, 0), (w / 2 + 0.08, 0.03, h + 0.08)), box("door", leaf, (-w / 2, 0, 0), (w / 2, 0.05, h))]
    solids += [box("door", panel, (-w / 2 + 0.14, 0, a * h), (w / 2 - 0.14, 0.06, b * h), casts=False) for a, b in ((0.1, 0.45), (0.55, 0.92))]
    return [*solids, ball("door", CHROME, (w / 2 - 0.08, 0.1, 1.0), 0.032), tube("door", CHROME, (w / 2 - 0.08, 0.04, 1.0), (w / 2 - 0.08, 0.1, 1.0), 0.014)]


def window(rng: np.random.Generator) -> Solids:
    """Bright panes behind bars, with curtains, blinds or neither."""
    w, low, high = rng.uniform(1.0, 1.7), rng.uniform(0.85, 1.0), rng.uniform(2.0, 2.2)
    outside = Material(((0.62, 0.8, 0.62), (0.8, 0.92, 1.0), (0.9, 0.96, 1.0)), "speckle", 2.5, glow=1.0)
    frame = _IVORY
    solids = [box("window", frame, (-w / 2 - 0.07, 0, low - 0.07), (w / 2 + 0.07, 0.04, high + 0.07)), box("window", outside, (-w / 2, 0, low), (w / 2, 0.045, high), casts=False)]
    solids += [box("window", frame, (x - 0.02, 0, low), (x + 0.02, 0.065, high), casts=False) for x in (-w / 6, w / 6)]
    solids.append(box("window", frame, (-w / 2, 0, low * 0.35 + high * 0.65 - 0.02), (w / 2, 0.065, low * 0.35 + high * 0.65 + 0.02), casts=False))
    solids.append(box("window", frame, (-w / 2 - 0.1, 0, low - 0.1), (w / 2 + 0.1, 0.14, low - 0.06)))
    choice = rng.random()
    if choice < 0.45:
        fabric = cloth(rng, (0.5, 0.95))
        for side in (-1, 1):
            solids += _drape("curtain", fabric, rng.uniform(0.25, 0.4), 0.15, high + 0.15, (side * (w / 2 + 0.1), 0.13))
        solids.append(tube("curtain", _METAL, (-w / 2 - 0.4, 0.13, high + 0.16), (w / 2 + 0.4, 0.13, high + 0.16), 0.015))
    elif choice < 0.75:
        slats = Material(((0.55, 0.54, 0.5), WHITE), "slats", 0.06)
        solids.append(box("blinds", slats, (-w / 2, 0.07, rng.uniform(low, (low + high) / 2)), (w / 2, 0.1, high + 0.03)))
    return solids


def picture(rng: np.random.Generator) -> Solids:
    """Painting in a frame."""
    w, h = rng.uniform(0.25, 0.5), rng.uniform(0.22, 0.4)
    art = Material(tuple(colour(rng, (0, 1), (0.2, 0.8), (0.3, 0.95)) for _ in range(5)), "art", rng.uniform(0.3, 0.6))
    z = rng.uniform(1.5, 1.65)
    frame = wood(rng, (0.2, 0.6))
    return [
        box("picture", frame, (-w, 0, z - h), (w, 0.03, z + h)),
        box("picture", _IVORY, (-w + 0.04, 0, z - h + 0.04), (w - 0.04, 0.033, z + h - 0.04), casts=False),
        box("picture", art, (-w + 0.09, 0, z - h + 0.09), (w - 0.09, 0.036, z + h - 0.09), casts=False),
    ]


def mirror(rng: np.random.Generator) -> Solids:
    """Silvery glass in a thin frame, its lower edge at z = 0."""
    w, h = rng.uniform(0.25, 0.4), rng.uniform(0.6, 0.9)
    glass = Material(((0.5, 0.58, 0.62), (0.78, 0.84, 0.88)), "speckle", 3.0, gloss=0.9, glow=0.25)
    return [box("mirror", CHROME, (-w, 0, 0), (w, 0.025, h)), box("mirror", glass, (-w + 0.03, 0, 0.03), (w - 0.03, 0.03, h - 0.03), casts=False)]


def wall_mirror(rng: np.random.Generator) -> Solids:
    """Mirror at the height of a face."""
    return placed(mirror(rng), (0, 0, 1.1))


def whiteboard(rng: np.random.Generator) -> Solids:
    """Board with scribbles."""
    w = rng.uniform(0.7, 1.1)
    board = Material(((0.97, 0.97, 0.97), (0.99, 0.99, 1.0)), gloss=0.5, glow=0.1)
    ink = paint(rng, (0.55, 1.0), (0.7, 0.9), (0.4, 0.8))
    solids = [box("whiteboard", CHROME, (-w, 0, 1.0), (w, 0.02, 1.95)), box("whiteboard", board, (-w + 0.03, 0, 1.03), (w - 0.03, 0.025, 1.92), casts=False)]
    for z in np.arange(1.2, 1.8, 0.12):
        start = -w + 0.15
        solids.append(box("whiteboard", ink, (start, 0, z), (start + rng.uniform(0.3, 1.2) * w, 0.027, z + 0.025), casts=False))
    return solids


def shelves(rng: np.random.Generator) -> Solids:
    """Two boards on the wall with things on them."""
    material, w, solids = wood(rng, (0.6, 0.9)), rng.uniform(0.4, 0.6), []
    for z in (1.35, 1.75):
        solids.append(box("shelves", material, (-w, 0, z), (w, 0.24, z + 0.03)))
        solids.append(box("books", spines(rng), (-w + 0.05, 0.03, z + 0.03), (rng.uniform(-0.1, 0.1), 0.2, z + 0.26)))
        solids += placed(plant(rng, 0.25) if rng.random() < 0.5 else bottle(rng), (w * 0.6, 0.12, z + 0.03))
    return solids


def on_top(rng: np.random.Generator, builders: Sequence[Builder], width: float, y: float, z: float, count: int) -> Solids:
    """``count`` different things side by side on a top of the given ``width`` at height ``z``."""
    solids: Solids = []
    chosen = rng.choice(len(builders), int(count), replace=False)
    for i, which in enumerate(chosen):
        x = ((i + 0.5) / len(chosen) - 0.5) * width
        solids += placed(builders[which](rng), (x, y, z), rng.uniform(-0.3, 0.3))
    return solids
