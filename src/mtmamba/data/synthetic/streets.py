"""Outdoor scenes: a street between houses, and open country."""

from collections.abc import Iterator

import numpy as np

from mtmamba.data.synthetic import outdoors, vehicles
from mtmamba.data.synthetic.figures import animal, bird, person
from mtmamba.data.synthetic.geometry import Builder, Colour, Solids, ball, bounds, box, placed
from mtmamba.data.synthetic.palette import colour, paint
from mtmamba.data.synthetic.scene import Camera, Light, Place, Scene, Stage
from mtmamba.data.synthetic.things import bag

_FAR = 400.0


def _beast(kind: str) -> Builder:
    return lambda rng: animal(rng, kind)


def _rider(rng: np.random.Generator) -> Solids:
    return animal(rng, "horse") + placed(person(rng, sitting=True), (0, 0.0, 1.52))


_STREET: dict[Builder, float] = {
    person: 7,
    vehicles.car: 2.5,
    vehicles.bicycle: 1.2,
    vehicles.motorbike: 1.2,
    vehicles.bus: 1,
    _beast("dog"): 1.2,
    _beast("cat"): 0.8,
    outdoors.flowers: 0.6,
}
_COUNTRY: dict[Builder, float] = {
    person: 5,
    _beast("horse"): 1.5,
    _rider: 0.8,
    _beast("cow"): 1.8,
    _beast("sheep"): 1.8,
    _beast("dog"): 1,
    vehicles.car: 0.6,
    vehicles.bicycle: 0.6,
}
"""What the camera may be pointed at, and how often."""


def street(rng: np.random.Generator) -> Scene:
    """A road between pavements and houses, with traffic, and one to three subjects before the camera."""
    stage, road, pavement = Stage(), rng.uniform(3.2, 4.2), rng.uniform(2.4, 3.4)
    camera = Camera(
        np.array([rng.uniform(-0.8, 0.8) * road, 0, rng.uniform(1.3, 1.8)], np.float32),
        rng.uniform(-0.22, 0.22),
        rng.uniform(0.02, 0.16),
        rng.uniform(0.75, 1.1),
    )
    stage.add(_ground(rng, road, pavement))
    _keep_clear(stage, camera)
    edge = road + pavement
    for side in (-1, 1):
        _row_of_houses(rng, stage, side * edge, side * np.pi / 2)
    _subjects(rng, stage, camera, _STREET, road)
    for side in (-1, 1):
        _traffic(rng, stage, road, side)
        _pavement_life(rng, stage, road, edge, side)
    _horizon(rng, stage)
    return _daylight(rng, stage, camera)


def country(rng: np.random.Generator) -> Scene:
    """Grass with animals, trees, a fence, hills; now and then a train, a lake with boats, an aeroplane."""
    stage = Stage()
    camera = Camera(
        np.array([0, 0, rng.uniform(1.2, 1.8)], np.float32),
        rng.uniform(-0.2, 0.2),
        rng.uniform(0.0, 0.13),
        rng.uniform(0.75, 1.1),
    )
    grass = paint(rng, (0.19, 0.3), (0.45, 0.75), (0.35, 0.62), pattern="speckle", scale=0.5, spread=0.35)
    stage.add([box("grass", grass, (-_FAR, -20, -1), (_FAR, _FAR, 0), casts=False)])
    _keep_clear(stage, camera)
    _subjects(rng, stage, camera, _COUNTRY, 6.0)
    extra = rng.random()
    if extra < 0.2:
        stage.fit(vehicles.train(rng), [((rng.uniform(-8, 8), rng.uniform(14, 24), 0), np.pi / 2)])
    elif extra < 0.6:
        _lake(rng, stage)
    else:
        stage.fit(outdoors.fence(rng, 40.0), [((0, rng.uniform(13, 22), 0), rng.uniform(-0.15, 0.15))])
    if rng.random() < 0.35:
        stage.fit(
            vehicles.aeroplane(rng),
            [((rng.uniform(-14, 14), rng.uniform(28, 45), rng.uniform(9, 16)), rng.uniform(0, 6.3))],
        )
    for _ in range(rng.integers(0, 4)):
        stage.fit(bird(rng), [((rng.uniform(-4, 4), rng.uniform(5, 12), rng.uniform(2.6, 5)), rng.uniform(0, 6.3))])
    herd = _beast(str(rng.choice(("cow", "sheep", "horse"))))
    for x, y in zip(rng.uniform(-14, 14, 5), rng.uniform(8, 26, 5), strict=True):
        stage.fit(herd(rng), [((x, y, 0), rng.uniform(0, 6.3))], 0.3)
    for x, y in zip(rng.uniform(-40, 40, 16), rng.uniform(16, 70, 16), strict=True):
        stage.fit(outdoors.tree(rng), [((x, y, 0), 0.0)])
    _horizon(rng, stage)
    return _daylight(rng, stage, camera)


def _traffic(rng: np.random.Generator, stage: Stage, road: float, side: int) -> None:
    """Cars and buses in one lane, driving on the right."""
    for y in rng.uniform(6, 36, 3):
        what = vehicles.car if rng.random() < 0.75 else vehicles.bus
        stage.fit(what(rng), [((side * road * 0.5, y, 0), np.pi if side < 0 else 0.0)], 0.4)


def _pavement_life(rng: np.random.Generator, stage: Stage, road: float, edge: float, side: int) -> None:
    """Lamps, trees and signs along the kerb, people, a bench or flowers before the houses."""
    for y in np.arange(rng.uniform(4, 9), 50, rng.uniform(9, 14)):
        what = (outdoors.street_lamp, outdoors.tree, outdoors.road_sign)[rng.integers(3)]
        angle = np.pi if what is outdoors.road_sign else side * np.pi / 2
        stage.fit(what(rng), [((side * (road + 0.5), y, 0.12), angle)])
    for y in rng.uniform(4, 25, 3):
        x = side * rng.uniform(road + 0.6, edge - 0.4)
        stage.fit(person(rng), [((x, y, 0.12), rng.choice((0, np.pi)) + rng.uniform(-0.4, 0.4))])
    what = (outdoors.bench, outdoors.flowers, bag)[rng.integers(3)]
    stage.fit(what(rng), [((side * (edge - 0.6), rng.uniform(4, 14), 0.12), side * np.pi / 2)])


def _keep_clear(stage: Stage, camera: Camera) -> None:
    """Let nothing stand where the camera does or close before it."""
    stage.reserve(camera.position - np.array((0.8, 3, 9)), camera.position + np.array((0.8, 1.5, 9)))


def _ground(rng: np.random.Generator, road: float, pavement: float) -> Solids:
    """Road, kerbed pavements, ground beyond."""
    tar = paint(rng, (0.55, 0.7), (0.0, 0.08), (0.3, 0.46), pattern="speckle", scale=0.15, spread=0.2)
    slabs = paint(
        rng, (0.06, 0.12), (0.05, 0.2), (0.55, 0.75), pattern="tiles", scale=rng.uniform(0.5, 0.9), spread=0.12
    )
    earth = paint(rng, (0.1, 0.25), (0.25, 0.5), (0.35, 0.55), pattern="speckle", scale=0.6, spread=0.3)
    edge = road + pavement
    solids = [box("road", tar, (-road, -20, -1), (road, 130, 0), casts=False)]
    for side in (-1, 1):
        a, b = sorted((side * road, side * edge))
        solids.append(box("sidewalk", slabs, (a, -20, -1), (b, 130, 0.12), casts=False))
        a, b = sorted((side * edge, side * _FAR))
        solids.append(box("ground", earth, (a, -20, -1), (b, _FAR, 0.1), casts=False))
    return [
        *solids,
        box("ground", earth, (-edge, 130, -1), (edge, _FAR, 0.1), casts=False),
        *outdoors.markings(rng, 100),
    ]


def _row_of_houses(rng: np.random.Generator, stage: Stage, x: float, angle: float) -> None:
    """Houses, walls and gaps with trees along one side; their fronts stand at ``x``."""
    y = rng.uniform(-6, -2)
    while y < 50:
        width = rng.uniform(6, 12)
        place = (x, y + width / 2, 0.1)
        what = rng.random()
        if what < 0.72:
            stage.fit(outdoors.building(rng, width), [(place, angle)], 0.0)
        elif what < 0.86:
            stage.fit(outdoors.garden_wall(rng, width), [(place, angle)], 0.0)
        else:
            stage.fit(outdoors.tree(rng), [((x + np.sign(x) * 4, y + width / 2, 0.1), 0.0)])
        y += width + rng.uniform(0.3, 1.5)


def _subjects(
    rng: np.random.Generator, stage: Stage, camera: Camera, choices: dict[Builder, float], limit: float
) -> None:
    """One to three things near enough to fill a good part of the view, within ``limit`` metres of x = 0."""
    builders, weights = list(choices), np.array(list(choices.values()))
    for _ in range(rng.integers(1, 4)):
        solids = builders[rng.choice(len(builders), p=weights / weights.sum())](rng)
        low, high = bounds(solids)
        size = float(max(high[2], 0.6 * np.linalg.norm((high - low)[:2])))
        stage.fit(solids, _in_view(rng, camera, max(size * camera.focal, 1.6), limit), 0.1)


def _in_view(rng: np.random.Generator, camera: Camera, size: float, limit: float) -> Iterator[Place]:
    """Places on the ground before the camera where something ``size`` image widths high at 1 m looks large."""
    for _ in range(30):
        distance = size * rng.uniform(1.15, 2.2)
        bearing = camera.yaw + rng.uniform(-0.36, 0.36) / camera.focal
        x, y = camera.position[0] - distance * np.sin(bearing), distance * np.cos(bearing)
        if abs(x) < limit:
            yield (x, y, 0.0), rng.uniform(0, 2 * np.pi)


def _lake(rng: np.random.Generator, stage: Stage) -> None:
    """Water with one to three boats."""
    near = rng.uniform(11, 16)
    water = paint(rng, (0.52, 0.6), (0.4, 0.65), (0.35, 0.6), pattern="speckle", scale=0.8, gloss=0.6)
    stage.add([box("water", water, (-_FAR, near, -0.5), (_FAR, near + 60, 0.02), casts=False)])
    for x, y in zip(rng.uniform(-9, 9, 3), rng.uniform(near + 3, near + 14, 3), strict=True):
        stage.fit(vehicles.boat(rng), [((x, y, 0), rng.uniform(0, 6.3))], 0.3)
    stage.reserve((-_FAR, near, -1), (_FAR, near + 60, 3))


def _horizon(rng: np.random.Generator, stage: Stage) -> None:
    """Distant hills."""
    rock = paint(rng, (0.2, 0.6), (0.15, 0.45), (0.3, 0.5), pattern="speckle", scale=12.0, spread=0.3)
    for x in rng.uniform(-160, 160, 5):
        stage.add(
            [ball("mountain", rock, (x, rng.uniform(180, 260), -5), (rng.uniform(40, 90), 40, rng.uniform(14, 45)))]
        )


def _daylight(rng: np.random.Generator, stage: Stage, camera: Camera) -> Scene:
    """Sun somewhere behind or beside the camera, blue or pale sky."""
    turn, rise = rng.uniform(-1.9, 1.9) + np.pi, rng.uniform(0.5, 1.1)
    sun = 150 * np.array([-np.sin(turn) * np.cos(rise), np.cos(turn) * np.cos(rise), np.sin(rise)], np.float32)
    warm = rng.uniform(0.75, 1.0)
    strength = rng.uniform(0.8, 1.3)
    zenith: Colour = colour(rng, (0.57, 0.62), (0.6, 0.85), (0.55, 0.8))
    horizon: Colour = colour(rng, (0.54, 0.6), (0.08, 0.25), (0.8, 0.92))
    shade: Colour = (0.26, 0.3, 0.38)
    return Scene(
        solids=stage.solids,
        camera=camera,
        lights=(Light(sun, (strength, strength * (0.5 + 0.5 * warm), strength * warm), 150.0, 1.2),),
        ambient=shade,
        room=(np.array([-_FAR, -_FAR, 0], np.float32), np.full(3, _FAR, np.float32)),
        sky=(zenith, horizon),
        exposure=rng.uniform(0.9, 1.2),
    )
