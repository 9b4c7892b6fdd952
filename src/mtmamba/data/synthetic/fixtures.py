"""What belongs to a wall: doors, windows, pictures, bathroom fittings. Each has its back at y = 0 and looks to +y."""

import numpy as np

from mtmamba.data.synthetic.geometry import Material, Solids, ball, box, placed, tube
from mtmamba.data.synthetic.palette import CHROME, WHITE, cloth, colour, paint, shades, wood
from mtmamba.data.synthetic.things import IVORY, METAL, bottle, mirror, plant, spines


def door(rng: np.random.Generator) -> Solids:
    """Closed door in its frame."""
    w, h = rng.uniform(0.8, 0.95), rng.uniform(1.98, 2.08)
    leaf = wood(rng, (0.45, 0.8)) if rng.random() < 0.6 else paint(rng, (0.05, 0.6), (0, 0.3), (0.75, 0.95))
    panel = Material(shades(leaf.colours[0], 0.08), leaf.pattern, leaf.scale)
    solids = [
        box("door", IVORY, (-w / 2 - 0.08, 0, 0), (w / 2 + 0.08, 0.03, h + 0.08)),
        box("door", leaf, (-w / 2, 0, 0), (w / 2, 0.05, h)),
    ]
    solids += [
        box("door", panel, (-w / 2 + 0.14, 0, a * h), (w / 2 - 0.14, 0.06, b * h), casts=False)
        for a, b in ((0.1, 0.45), (0.55, 0.92))
    ]
    return [
        *solids,
        ball("door", CHROME, (w / 2 - 0.08, 0.1, 1.0), 0.032),
        tube("door", CHROME, (w / 2 - 0.08, 0.04, 1.0), (w / 2 - 0.08, 0.1, 1.0), 0.014),
    ]


def window(rng: np.random.Generator) -> Solids:
    """Bright panes behind bars, with curtains, blinds or neither."""
    w, low, high = rng.uniform(1.0, 1.7), rng.uniform(0.85, 1.0), rng.uniform(2.0, 2.2)
    outside = Material(((0.62, 0.8, 0.62), (0.8, 0.92, 1.0), (0.9, 0.96, 1.0)), "speckle", 2.5, glow=1.0)
    solids = [
        box("window", IVORY, (-w / 2 - 0.07, 0, low - 0.07), (w / 2 + 0.07, 0.04, high + 0.07)),
        box("window", outside, (-w / 2, 0, low), (w / 2, 0.045, high), casts=False),
    ]
    solids += [box("window", IVORY, (x - 0.02, 0, low), (x + 0.02, 0.065, high), casts=False) for x in (-w / 6, w / 6)]
    bar = low * 0.35 + high * 0.65
    solids.append(box("window", IVORY, (-w / 2, 0, bar - 0.02), (w / 2, 0.065, bar + 0.02), casts=False))
    solids.append(box("window", IVORY, (-w / 2 - 0.1, 0, low - 0.1), (w / 2 + 0.1, 0.14, low - 0.06)))
    choice = rng.random()
    if choice < 0.45:
        fabric = cloth(rng, (0.5, 0.95))
        for side in (-1, 1):
            solids += _drape("curtain", fabric, rng.uniform(0.25, 0.4), 0.15, high + 0.15, (side * (w / 2 + 0.1), 0.13))
        solids.append(
            tube("curtain", METAL, (-w / 2 - 0.4, 0.13, high + 0.16), (w / 2 + 0.4, 0.13, high + 0.16), 0.015)
        )
    elif choice < 0.75:
        slats = Material(((0.55, 0.54, 0.5), WHITE), "slats", 0.06)
        solids.append(
            box("blinds", slats, (-w / 2, 0.07, rng.uniform(low, (low + high) / 2)), (w / 2, 0.1, high + 0.03))
        )
    return solids


def _drape(kind: str, material: Material, width: float, low: float, high: float, at: tuple[float, float]) -> Solids:
    """Folds of cloth side by side."""
    count = max(3, round(width / 0.09))
    places = at[0] + (np.arange(count) - (count - 1) / 2) * width / count
    return [tube(kind, material, (x, at[1], low), (x, at[1], high), width / count * 0.62) for x in places]


def picture(rng: np.random.Generator) -> Solids:
    """Painting in a frame."""
    w, h = rng.uniform(0.25, 0.5), rng.uniform(0.22, 0.4)
    art = Material(tuple(colour(rng, (0, 1), (0.2, 0.8), (0.3, 0.95)) for _ in range(5)), "art", rng.uniform(0.3, 0.6))
    z = rng.uniform(1.5, 1.65)
    frame = wood(rng, (0.2, 0.6))
    return [
        box("picture", frame, (-w, 0, z - h), (w, 0.03, z + h)),
        box("picture", IVORY, (-w + 0.04, 0, z - h + 0.04), (w - 0.04, 0.033, z + h - 0.04), casts=False),
        box("picture", art, (-w + 0.09, 0, z - h + 0.09), (w - 0.09, 0.036, z + h - 0.09), casts=False),
    ]


def wall_mirror(rng: np.random.Generator) -> Solids:
    """Mirror at the height of a face."""
    return placed(mirror(rng), (0, 0, 1.1))


def whiteboard(rng: np.random.Generator) -> Solids:
    """Board with scribbles."""
    w = rng.uniform(0.7, 1.1)
    board = Material(((0.97, 0.97, 0.97), (0.99, 0.99, 1.0)), gloss=0.5, glow=0.1)
    ink = paint(rng, (0.55, 1.0), (0.7, 0.9), (0.4, 0.8))
    solids = [
        box("whiteboard", CHROME, (-w, 0, 1.0), (w, 0.02, 1.95)),
        box("whiteboard", board, (-w + 0.03, 0, 1.03), (w - 0.03, 0.025, 1.92), casts=False),
    ]
    for z in np.arange(1.2, 1.8, 0.12):
        start = -w + 0.15
        solids.append(
            box("whiteboard", ink, (start, 0, z), (start + rng.uniform(0.3, 1.2) * w, 0.027, z + 0.025), casts=False)
        )
    return solids


def shelves(rng: np.random.Generator) -> Solids:
    """Two boards on the wall with things on them."""
    material, w, solids = wood(rng, (0.6, 0.9)), rng.uniform(0.4, 0.6), []
    for z in (1.35, 1.75):
        solids.append(box("shelves", material, (-w, 0, z), (w, 0.24, z + 0.03)))
        solids.append(box("books", spines(rng), (-w + 0.05, 0.03, z + 0.03), (rng.uniform(-0.1, 0.1), 0.2, z + 0.26)))
        solids += placed(plant(rng, 0.25) if rng.random() < 0.5 else bottle(rng), (w * 0.6, 0.12, z + 0.03))
    return solids


def clothes(rng: np.random.Generator) -> Solids:
    """Coats on pegs."""
    places = (np.arange(3) - 1) * 0.24
    solids = [box("clothes", cloth(rng), (x - 0.14, 0.02, 0.95), (x + 0.14, 0.14, 1.72), (0.45, 0.6)) for x in places]
    return [*solids, box("clothes", wood(rng), (-0.45, 0, 1.68), (0.45, 0.04, 1.76))]


def wash_basin(rng: np.random.Generator) -> Solids:
    """Basin on a pedestal, a mirror above, a towel beside it."""
    towel = cloth(rng, (0.6, 0.95))
    return [
        tube("sink", IVORY, (0, 0.2, 0), (0, 0.2, 0.7), 0.09),
        tube("sink", IVORY, (0, 0.24, 0.7), (0, 0.24, 0.86), 0.16, 0.27),
        tube("sink", CHROME, (0, 0.06, 0.86), (0, 0.06, 1.0), 0.014),
        tube("sink", CHROME, (0, 0.06, 1.0), (0, 0.2, 0.98), 0.014),
        *placed(mirror(rng), (0, 0, 1.2)),
        box("towel", towel, (0.4, 0.01, 0.75), (0.72, 0.06, 1.35)),
    ]


def bathtub(rng: np.random.Generator) -> Solids:
    """Tub with a curtain at one end."""
    w, d = 1.6, 0.75
    rim = [
        ((-w / 2, 0), (w / 2, 0.07)),
        ((-w / 2, d - 0.07), (w / 2, d)),
        ((-w / 2, 0), (-w / 2 + 0.07, d)),
        ((w / 2 - 0.07, 0), (w / 2, d)),
    ]
    solids = [box("bathtub", IVORY, (*a, 0), (*b, 0.56)) for a, b in rim]
    solids.append(box("bathtub", IVORY, (-w / 2, 0, 0), (w / 2, d, 0.2)))
    return solids + _drape(
        "shower_curtain", cloth(rng, (0.6, 0.95)), rng.uniform(0.4, 0.7), 0.25, 2.0, (-w / 2 + 0.25, d)
    )


def toilet(rng: np.random.Generator) -> Solids:
    """Bowl, seat, cistern."""
    lid = paint(rng, (0, 1), (0, 0.1), (0.85, 0.95))
    return [
        box("toilet", IVORY, (-0.2, 0, 0.38), (0.2, 0.18, 0.8)),
        tube("toilet", IVORY, (0, 0.4, 0), (0, 0.4, 0.38), 0.13, 0.2),
        tube("toilet", lid, (0, 0.4, 0.38), (0, 0.4, 0.42), 0.22),
    ]


def radiator(rng: np.random.Generator) -> Solids:
    """Ribs side by side."""
    count, high = int(rng.integers(8, 16)), rng.uniform(0.55, 0.75)
    places = (np.arange(count) - (count - 1) / 2) * 0.07
    ribs = [box("radiator", IVORY, (x - 0.025, 0.05, 0.12), (x + 0.025, 0.15, high)) for x in places]
    ends = (places[0] - 0.08, places[-1] + 0.08)
    return [*ribs, *(tube("radiator", IVORY, (ends[0], 0.1, z), (ends[1], 0.1, z), 0.02) for z in (0.18, high - 0.06))]
