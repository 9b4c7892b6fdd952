"""What stands in streets and fields, each on the ground at the origin and looking to +y (z up, metres)."""

import numpy as np

from mtmamba.data.synthetic.geometry import Material, Primitive, ball, box, placed, tube
from mtmamba.data.synthetic.palette import CHROME, DARK, RUBBER, WHITE, colour, paint, shades, wood

Solids = list[Primitive]
_GLASS = Material(((0.1, 0.13, 0.17), (0.25, 0.32, 0.4)), "speckle", 2.0, gloss=0.9)
_METAL = Material(((0.3, 0.32, 0.33),), gloss=0.3)


def _wheel(kind: str, x: float, y: float, radius: float, width: float) -> Solids:
    """Tyre and hub, the axle along x."""
    return [
        tube(kind, RUBBER, (x - width / 2, y, radius), (x + width / 2, y, radius), radius),
        tube(kind, CHROME, (x - width / 2 - 0.01, y, radius), (x + width / 2 + 0.01, y, radius), radius * 0.55),
    ]


def car(rng: np.random.Generator) -> Solids:
    """Body, tapered cabin with dark windows, wheels, lights, plates."""
    w, length, h = rng.uniform(1.65, 1.85) / 2, rng.uniform(3.7, 4.6) / 2, rng.uniform(1.4, 1.6)
    body = paint(rng, (0, 1), (0.0, 0.95), (0.2, 0.95), gloss=0.9, spread=0.03)
    belt, front, back = h * 0.58, length * rng.uniform(0.25, 0.45), -length * rng.uniform(0.7, 0.92)
    lamp, rear = Material(((1.0, 0.97, 0.85),), gloss=0.9, glow=0.5), Material(((0.75, 0.05, 0.05),), gloss=0.6, glow=0.3)
    middle, reach = (front + back) / 2, (front - back) / 2 + 0.3
    solids = [
        box("car", body, (-w, -length, 0.32), (w, length, belt), (0.96, 0.97)),
        box("car", Material(shades(DARK)), (-w + 0.02, -length + 0.05, 0.2), (w - 0.02, length - 0.05, 0.34)),
        box("car", _GLASS, (-w + 0.03, middle - reach, belt), (w - 0.03, middle + reach, h - 0.04), (0.8, 0.68)),
        box("car", body, (-w * 0.8, middle - reach * 0.7, h - 0.06), (w * 0.8, middle + reach * 0.7, h), (0.9, 0.94)),
        box("car", body, (-w * 0.93, middle - 0.06, belt - 0.02), (w * 0.93, middle + 0.06, h - 0.03), (0.9, 1)),
    ]
    for x in (-w * 0.68, w * 0.68):
        solids += [ball("car", lamp, (x, length - 0.03, 0.62), (0.17, 0.07, 0.1)), ball("car", rear, (x, -length + 0.02, 0.66), (0.16, 0.05, 0.09))]
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
        solids += [box(kind, _GLASS, (x - 0.02, a + 0.08, 1.5), (x + 0.02, b - 0.08, 2.5)) for a, b in zip(edges, edges[1:], strict=False)]
        for y in (-half * 0.65, half * 0.65):
            solids += _wheel(kind, x - np.sign(x) * 0.15, y, 0.48, 0.3)
    lamp = Material(((1.0, 0.97, 0.85),), glow=0.6)
    return solids + [ball(kind, lamp, (x, half, 0.7), 0.13) for x in (-0.9, 0.9)]


def train(rng: np.random.Generator) -> Solids:
    """A locomotive-like carriage on its rails."""
    rails = [box("train", _METAL, (x - 0.05, -14, 0), (x + 0.05, 14, 0.12)) for x in (-0.75, 0.75)]
    return rails + bus(rng, "train", 22.0)


def _spoked(kind: str, y: float, radius: float, thick: float) -> Solids:
    """Bicycle wheel as a ring of short bars, and spokes."""
    angles = np.linspace(0, 2 * np.pi, 15)
    rim = np.stack([np.zeros(15), y + radius * np.cos(angles), radius + radius * np.sin(angles)], 1)
    solids = [tube(kind, RUBBER, a, b, thick) for a, b in zip(rim, rim[1:], strict=False)]
    return solids + [tube(kind, CHROME, rim[i], rim[i + 7], 0.006) for i in range(0, 7, 2)]


def bicycle(rng: np.random.Generator) -> Solids:
    """Diamond frame, saddle, handlebars."""
    frame = paint(rng, (0, 1), (0.6, 0.95), (0.4, 0.9), gloss=0.6)
    saddle, crank, head, rear, front = (0, -0.2, 0.85), (0, -0.08, 0.3), (0, 0.36, 0.85), (0, -0.5, 0.34), (0, 0.54, 0.34)
    bars = [(crank, saddle), (crank, head), (saddle, head), (rear, crank), (rear, saddle), (head, front)]
    solids = [tube("bicycle", frame, a, b, 0.025) for a, b in bars] + _spoked("bicycle", -0.5, 0.32, 0.028) + _spoked("bicycle", 0.54, 0.32, 0.028)
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
    body, tint = paint(rng, (0.55, 0.65), (0, 0.08), (0.85, 0.97), gloss=0.6, spread=0.04), paint(rng, (0, 1), (0.6, 0.9), (0.4, 0.9))
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
        for part in (wing, tail):
            part.half[0 if abs(part.rotation[2, 0]) > abs(part.rotation[2, 1]) else 1] *= 0.22
        solids += [wing, tail, tube("aeroplane", tint, (side * 2.8, -1.2, 0.3), (side * 2.8, 0.9, 0.3), 0.4)]
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
        tube("pole", _METAL, (0, 0, 0), (0, 0, h), 0.08, 0.05),
        tube("pole", _METAL, (0, 0, h), (0, 1.2, h + 0.15), 0.045),
        ball("lamp", Material(((1, 0.97, 0.85),), glow=0.6), (0, 1.3, h + 0.1), (0.14, 0.3, 0.09)),
    ]


def road_sign(rng: np.random.Generator) -> Solids:
    """Round or square sign on a post."""
    face, rim = Material(((0.95, 0.95, 0.93),)), paint(rng, (0.97, 1.02) if rng.random() < 0.6 else (0.58, 0.63), (0.8, 0.95), (0.6, 0.85))
    solids = [tube("pole", _METAL, (0, 0, 0), (0, 0, 2.5), 0.04)]
    if rng.random() < 0.6:
        return [*solids, tube("sign", rim, (0, 0.04, 2.4), (0, 0.07, 2.4), 0.34), tube("sign", face, (0, 0.05, 2.4), (0, 0.08, 2.4), 0.24)]
    return [*solids, box("sign", rim, (-0.36, 0.04, 2.1), (0.36, 0.07, 2.7)), box("sign", face, (-0.2, 0.05, 2.3), (0.2, 0.08, 2.5))]


def bench(rng: np.random.Generator) -> Solids:
    """Park bench."""
    plank = wood(rng)
    solids = [box("bench", plank, (-0.8, 0.05 + 0.14 * i, 0.42), (0.8, 0.16 + 0.14 * i, 0.46)) for i in range(3)]
    solids += [box("bench", plank, (-0.8, -0.02, z), (0.8, 0.02, z + 0.11)) for z in (0.56, 0.72)]
    return solids + [box("bench", _METAL, (x - 0.03, 0, 0), (x + 0.03, 0.45, 0.42)) for x in (-0.65, 0.65)] + [box("bench", _METAL, (x - 0.03, -0.02, 0.4), (x + 0.03, 0.0, 0.85)) for x in (-0.65, 0.65)]


def fence(rng: np.random.Generator, length: float) -> Solids:
    """Posts and two rails along x."""
    plank = wood(rng, (0.45, 0.8))
    half = length / 2
    posts = [box("fence", plank, (x - 0.06, -0.06, 0), (x + 0.06, 0.06, 1.15)) for x in np.arange(-half, half + 0.1, 2.0)]
    return posts + [box("fence", plank, (-half, 0.03, z), (half, 0.07, z + 0.14)) for z in (0.45, 0.85)]


def building(rng: np.random.Generator, width: float) -> Solids:
    """House whose front is at y = 0: storeys of windows, a door, a flat or pitched roof."""
    storeys = int(rng.integers(2, 6))
    h, half = storeys * 3.0 + 0.6, width / 2
    front = paint(rng, (0.0, 0.13), (0.15, 0.6), (0.5, 0.9), **({"pattern": "bricks", "scale": 0.16, "spread": 0.3} if rng.random() < 0.45 else {"scale": 1.5, "spread": 0.06}))
    trim = Material(shades(WHITE, 0.05))
    solids = [
        box("building", front, (-half, -8, 0), (half, 0, h)),
        box("building", trim, (-half - 0.1, -8.1, h - 0.3), (half + 0.1, 0.2, h)),
    ]
    if rng.random() < 0.5:
        roof = paint(rng, (0.0, 0.06), (0.3, 0.6), (0.25, 0.5), pattern="slats", scale=0.4, spread=0.2)
        solids.append(box("building", roof, (-half - 0.2, -8.3, h), (half + 0.2, 0.4, h + 3), (0.98, 0.02)))
    pane = Material(((0.16, 0.21, 0.27), (0.42, 0.52, 0.6)), "speckle", 1.5, gloss=0.9)
    columns = max(2, int(width / 2.4))
    entrance = int(rng.integers(columns))
    for column in range(columns):
        x = (column + 0.5) * width / columns - half
        for storey in range(storeys):
            z = storey * 3.0 + 1.1
            if storey == 0 and column == entrance:
                leaf = paint(rng, (0, 1), (0.3, 0.8), (0.25, 0.6), gloss=0.3)
                solids += [box("door", trim, (x - 0.7, 0, 0), (x + 0.7, 0.04, 2.5)), box("door", leaf, (x - 0.55, 0, 0), (x + 0.55, 0.08, 2.35))]
                continue
            solids += [box("window", trim, (x - 0.6, 0, z - 0.1), (x + 0.6, 0.06, z + 1.5)), box("window", pane, (x - 0.5, 0, z), (x + 0.5, 0.08, z + 1.4))]
    return [p if p.kind == "building" else _flat(p) for p in solids]


def _flat(solid: Primitive) -> Primitive:
    """The same without a shadow, for what hardly stands out."""
    from dataclasses import replace

    return replace(solid, casts=False)


def garden_wall(rng: np.random.Generator, width: float) -> Solids:
    """Brick wall with its front at y = 0."""
    bricks = paint(rng, (0.0, 0.06), (0.4, 0.65), (0.4, 0.65), pattern="bricks", scale=0.14, spread=0.35)
    return [box("wall", bricks, (-width / 2, -0.4, 0), (width / 2, 0, 2.2)), box("wall", Material(shades(WHITE)), (-width / 2, -0.45, 2.2), (width / 2, 0.05, 2.32))]


def flowers(rng: np.random.Generator) -> Solids:
    """Planted pot of a street corner."""
    blossom = paint(rng, (0.85, 1.15), (0.6, 0.95), (0.7, 0.95))
    leaf = paint(rng, (0.24, 0.36), (0.5, 0.8), (0.25, 0.5), pattern="speckle", scale=0.06, spread=0.5)
    pot = paint(rng, (0.02, 0.08), (0.3, 0.7), (0.4, 0.8))
    solids = [tube("pottedplant", pot, (0, 0, 0), (0, 0, 0.45), 0.26, 0.36), ball("pottedplant", leaf, (0, 0, 0.6), (0.38, 0.38, 0.28))]
    for _ in range(9):
        turn, rise = rng.uniform(0, 2 * np.pi), rng.uniform(0.1, 1.2)
        solids.append(ball("pottedplant", blossom, (0.37 * np.cos(turn) * np.cos(rise), 0.37 * np.sin(turn) * np.cos(rise), 0.6 + 0.28 * np.sin(rise)), 0.06))
    return solids


def markings(rng: np.random.Generator, length: float) -> Solids:
    """Dashes in the middle of a road along y."""
    white = Material((colour(rng, (0.1, 0.15), (0, 0.2), (0.85, 0.95)),))
    return [_flat(box("road", white, (-0.08, y, 0), (0.08, y + 1.8, 0.006))) for y in np.arange(2, length, 4.5)]


def ridden(mount: Solids, rider: Solids, height: float, y: float) -> Solids:
    """Somebody sitting on something."""
    return mount + placed(rider, (0, y, height))
