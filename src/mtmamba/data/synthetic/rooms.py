"""Indoor scenes: a room of some sort, furnished so that nothing overlaps."""

from collections.abc import Iterator

import numpy as np

from mtmamba.data.synthetic import fixtures, furniture, things
from mtmamba.data.synthetic.figures import animal, person
from mtmamba.data.synthetic.geometry import (
    Array,
    Builder,
    Material,
    Solids,
    ball,
    bounds,
    box,
    placed,
    shadowless,
    tube,
)
from mtmamba.data.synthetic.palette import WHITE, colour, paint, shades, wood
from mtmamba.data.synthetic.scene import Camera, Light, Place, Scene, Stage

_FURNITURE: dict[str, tuple[Builder, ...]] = {
    "bedroom": (
        furniture.bed,
        furniture.night_stand,
        furniture.dresser,
        furniture.cabinet,
        furniture.night_stand,
        things.floor_lamp,
        fixtures.radiator,
        furniture.desk,
        furniture.chair,
    ),
    "living room": (
        furniture.sofa,
        furniture.media,
        furniture.bookshelf,
        things.big_plant,
        fixtures.radiator,
        things.floor_lamp,
        furniture.sofa,
        furniture.cabinet,
    ),
    "office": (
        furniture.desk,
        furniture.bookshelf,
        furniture.cabinet,
        fixtures.radiator,
        furniture.desk,
        furniture.chair,
        things.big_plant,
        things.big_carton,
    ),
    "kitchen": (
        furniture.counter,
        furniture.refrigerator,
        furniture.cabinet,
        furniture.counter,
        furniture.stool,
        things.big_plant,
    ),
    "bathroom": (fixtures.bathtub, fixtures.wash_basin, fixtures.toilet, furniture.cabinet, furniture.stool),
}
_ON_WALLS: dict[str, tuple[Builder, ...]] = {
    "bedroom": (fixtures.picture, fixtures.wall_mirror, fixtures.clothes, fixtures.picture),
    "living room": (fixtures.picture, fixtures.picture, fixtures.shelves, fixtures.picture),
    "office": (fixtures.whiteboard, fixtures.picture, fixtures.shelves, fixtures.clothes),
    "kitchen": (fixtures.picture, fixtures.shelves, fixtures.picture),
    "bathroom": (fixtures.picture, fixtures.clothes, fixtures.wall_mirror),
}
_LYING_ABOUT: tuple[Builder, ...] = (things.big_carton, things.bag, things.toy_ball, furniture.stool)

_LOWEST, _HIGHEST = np.array([-0.5, 0, 0], np.float32), np.array([0.5, 1, 1], np.float32)  # corners in room sizes


def room(rng: np.random.Generator, *, subjects: int) -> Scene:
    """A furnished room with at most ``subjects`` people and pets."""
    sort = str(rng.choice(list(_FURNITURE)))
    small = sort == "bathroom"
    widths, lengths = ((2.6, 3.4), (3.2, 4.6)) if small else ((3.4, 5.2), (4.2, 6.5))
    width, length = rng.uniform(*widths), rng.uniform(*lengths)
    height = rng.uniform(2.4, 2.8)
    size = np.array([width, length, height], np.float32)
    camera = _camera(rng, size)
    stage = Stage()
    stage.add(_shell(rng, size, tiled=sort in ("kitchen", "bathroom")))
    eye = camera.position
    stage.reserve(eye - np.array((0.9, 0.6, 9)), eye + np.array((0.9, 1.2, 9)))
    first, *others = _FURNITURE[sort]
    _against_wall(rng, stage, size, first(rng))
    _openings(rng, stage, size)
    for builder in others:
        _against_wall(rng, stage, size, builder(rng))
    if not small and sort != "bedroom":
        _seating(rng, stage, size, furniture.coffee_table if sort == "living room" else furniture.table)
    for _ in range(subjects):
        who = person(rng) if rng.random() < 0.7 else animal(rng, str(rng.choice(("cat", "dog"))))
        _free_standing(rng, stage, size, who)
    for builder in (*_ON_WALLS[sort], *_ON_WALLS[sort]):
        _against_wall(rng, stage, size, builder(rng), margin=0.12)
    for which in rng.permutation(len(_LYING_ABOUT))[: rng.integers(1, 4)]:
        _free_standing(rng, stage, size, _LYING_ABOUT[which](rng))
    if rng.random() < 0.6:
        middle = (rng.uniform(-0.15, 0.15) * width, length * rng.uniform(0.35, 0.55), 0)
        stage.add(placed(things.floor_mat(rng), middle, rng.uniform(-0.3, 0.3)))
    lamp, light = _ceiling_lamp(rng, size)
    stage.add(lamp)
    warm = rng.uniform(0.85, 1.0)
    return Scene(
        solids=stage.solids,
        camera=camera,
        lights=(light,),
        ambient=(0.4, 0.4, 0.4 * warm),
        room=(size * _LOWEST, size * _HIGHEST),
        exposure=rng.uniform(0.85, 1.2),
    )


def _camera(rng: np.random.Generator, size: Array) -> Camera:
    x = rng.uniform(-0.3, 0.3) * size[0]
    position = np.array([x, rng.uniform(0.25, 0.5), rng.uniform(1.15, 1.65)], np.float32)
    aim = np.arctan2(x - rng.uniform(-0.35, 0.35) * size[0], size[1] * 0.75)  # looks across the room
    return Camera(position, float(aim), float(rng.uniform(0.08, 0.32)), float(rng.uniform(0.68, 0.92)))


def _shell(rng: np.random.Generator, size: Array, tiled: bool) -> Solids:
    """Walls, floor, ceiling and skirting."""
    (w, length, h), t = size, 0.2
    wall = paint(rng, (0, 1), (0.03, 0.32), (0.72, 0.95), spread=0.04, scale=0.4)
    accent = paint(rng, (0, 1), (0.15, 0.5), (0.5, 0.85), spread=0.06, scale=0.4)
    if tiled:
        square, slab = rng.uniform(0.15, 0.25), rng.uniform(0.3, 0.45)
        accent = paint(rng, (0.4, 0.65), (0.05, 0.35), (0.75, 0.95), pattern="tiles", scale=square, gloss=0.3)
        floor = paint(rng, (0.05, 0.6), (0.05, 0.25), (0.4, 0.75), pattern="tiles", scale=slab, gloss=0.3, spread=0.25)
    elif rng.random() < 0.65:
        board = rng.uniform(0.12, 0.2)
        floor = paint(
            rng, (0.05, 0.09), (0.4, 0.65), (0.4, 0.75), pattern="planks", scale=board, gloss=0.2, spread=0.35
        )
    else:
        floor = paint(rng, (0, 1), (0.1, 0.4), (0.35, 0.65), pattern="speckle", scale=0.06, spread=0.2)
    top = Material(shades(WHITE, 0.03), scale=0.5)
    skirting = Material((WHITE,)) if rng.random() < 0.7 else wood(rng)
    back = accent if tiled or rng.random() < 0.4 else wall
    solids = [
        box("floor", floor, (-w / 2 - t, -t, -t), (w / 2 + t, length + t, 0)),
        box("ceiling", top, (-w / 2 - t, -t, h), (w / 2 + t, length + t, h + t)),
        box("wall", back, (-w / 2 - t, length, 0), (w / 2 + t, length + t, h)),
        box("wall", wall, (-w / 2 - t, -t, 0), (w / 2 + t, 0, h)),
        box("wall", accent if tiled else wall, (-w / 2 - t, 0, 0), (-w / 2, length, h)),
        box("wall", accent if tiled else wall, (w / 2, 0, 0), (w / 2 + t, length, h)),
        box("wall", skirting, (-w / 2, length - 0.015, 0), (w / 2, length, 0.09)),
        box("wall", skirting, (-w / 2, 0, 0), (-w / 2 + 0.015, length, 0.09)),
        box("wall", skirting, (w / 2 - 0.015, 0, 0), (w / 2, length, 0.09)),
    ]
    return shadowless(solids)


def _against_wall(rng: np.random.Generator, stage: Stage, size: Array, solids: Solids, margin: float = 0.03) -> bool:
    """Stand something with its back to the left, right or far wall, wherever there is room."""
    low, high = bounds(solids)
    return bool(high[2] < size[2]) and stage.fit(solids, _along_walls(rng, size, low[0], high[0]), margin)


def _along_walls(rng: np.random.Generator, size: Array, left: float, right: float) -> Iterator[Place]:
    """Random places along the walls for something that reaches from ``left`` to ``right`` of its origin."""
    width, length, _ = size.tolist()
    gap = 0.02
    for wall in rng.choice(("left", "right", "far", "far"), 30):
        span = width if wall == "far" else length
        if span - (right - left) < 0.1:
            continue
        along = rng.uniform(-left + 0.05, span - right - 0.05)
        if wall == "far":
            yield (width / 2 - along, length - gap, 0), np.pi
        elif wall == "left":
            yield (-width / 2 + gap, length - along, 0), -np.pi / 2
        else:
            yield (width / 2 - gap, along, 0), np.pi / 2


def _openings(rng: np.random.Generator, stage: Stage, size: Array) -> None:
    """A door and a window or two, with free space before the door."""
    for builder in (fixtures.door, fixtures.window, fixtures.window)[: rng.integers(2, 4)]:
        if _against_wall(rng, stage, size, builder(rng), 0.1) and builder is fixtures.door:
            low, high = stage.taken[-1]
            before = np.array((0.25, 0.25, 0))
            stage.reserve(low - before, high + before)


def _free_standing(rng: np.random.Generator, stage: Stage, size: Array, solids: Solids) -> bool:
    """Stand something on the open floor, looking roughly towards the camera's end."""
    low, high = bounds(solids)
    reach = float(np.linalg.norm(np.maximum(np.abs(low), np.abs(high))[:2]))
    room = np.maximum(size[0] / 2 - reach, 0.1)
    near, far = 0.32 * size[1], max(size[1] - reach, 0.4 * size[1])
    places = (
        ((rng.uniform(-room, room), rng.uniform(near, far), 0), np.pi + rng.uniform(-1.2, 1.2)) for _ in range(15)
    )
    return stage.fit(solids, places)


def _seating(rng: np.random.Generator, stage: Stage, size: Array, builder: Builder) -> None:
    """A table with chairs around it, somebody on one of them now and then."""
    if not _free_standing(rng, stage, size, builder(rng)) or builder is furniture.coffee_table:
        return
    low, high = stage.taken[-1]
    middle, look = (low + high) / 2, furniture.chair(rng)
    for side in range(4):
        angle = side * np.pi / 2
        inward = np.array([-np.sin(angle), np.cos(angle), 0], np.float32)
        seat = middle * (1, 1, 0) - inward * ((high - low)[0 if side % 2 else 1] / 2 + 0.56)
        if rng.random() < 0.8 and stage.fit(look, [(seat, angle)], 0.0) and rng.random() < 0.35:
            stage.add(placed(person(rng, sitting=True), seat + (0, 0, 0.55) + 0.2 * inward, angle))


def _ceiling_lamp(rng: np.random.Generator, size: Array) -> tuple[Solids, Light]:
    """A glowing globe on a cord and the light it gives."""
    place = np.array(
        [rng.uniform(-0.2, 0.2) * size[0], rng.uniform(0.4, 0.65) * size[1], size[2] - rng.uniform(0.25, 0.45)],
        np.float32,
    )
    tint = colour(rng, (0.08, 0.13), (0.05, 0.22), (1, 1))
    globe = ball("lamp", Material((tint,), glow=1.0), place, rng.uniform(0.1, 0.16))
    cord = tube("lamp", Material(((0.3, 0.3, 0.3),)), place, (place[0], place[1], size[2]), 0.01)
    strength = rng.uniform(0.65, 0.95)
    return shadowless([globe, cord]), Light(
        place, (tint[0] * strength, tint[1] * strength, tint[2] * strength), 3.0, 0.12
    )
