"""Living things: jointed people and four-legged animals, birds."""

from dataclasses import dataclass

import numpy as np

from mtmamba.data.synthetic.geometry import Array, Material, Solids, ball, bounds, placed, squashed, tube
from mtmamba.data.synthetic.palette import DARK, Range, cloth, colour, paint, shades


@dataclass(frozen=True)
class Pose:
    """Joint angles in radians, a pair (left, right) each.

    0 hangs straight down; hips, shoulders and elbows swing forward, knees back.
    """

    hips: Range
    knees: Range
    shoulders: Range
    elbows: Range
    spread: Range  # how far each arm is lifted sideways
    lean: float


def random_pose(rng: np.random.Generator, sitting: bool = False) -> Pose:
    """Standing, walking, waving (drawn at random) or sitting."""
    arms = rng.uniform(0.1, 0.35), rng.uniform(0.1, 0.35)
    if sitting:
        hips, knees = (rng.uniform(1.4, 1.6), rng.uniform(1.4, 1.6)), (rng.uniform(1.3, 1.6), rng.uniform(1.3, 1.6))
        return Pose(
            hips,
            knees,
            (rng.uniform(0.2, 0.8), rng.uniform(0.2, 0.8)),
            (rng.uniform(0.5, 1.3), rng.uniform(0.5, 1.3)),
            arms,
            0,
        )
    stride = rng.uniform(0.05, 0.6) * rng.choice((-1, 1))
    hips = stride, -stride
    knees = rng.uniform(0, 0.2) + max(-stride, 0), rng.uniform(0, 0.2) + max(stride, 0)
    shoulders = (-stride * rng.uniform(0.6, 1.2), stride * rng.uniform(0.6, 1.2))
    elbows = rng.uniform(0.1, 1.0), rng.uniform(0.1, 1.0)
    if rng.random() < 0.35:  # one arm up: pointing, waving, holding something
        shoulders, elbows, arms = (
            (shoulders[0], rng.uniform(0.8, 2.4)),
            (elbows[0], rng.uniform(0.2, 1.4)),
            (arms[0], rng.uniform(0.1, 0.9)),
        )
    return Pose(hips, knees, shoulders, elbows, arms, rng.uniform(-0.05, 0.12))


def _down(forward: float, sideways: float = 0.0) -> Array:
    """Direction of a limb that swings ``forward`` and is lifted ``sideways`` (to +x)."""
    out = np.sin(sideways)
    return np.array([out, np.sin(forward) * np.cos(sideways), -np.cos(forward) * np.cos(sideways)], np.float32)


def _limb(kind: str, material: Material, a: Array, b: Array, radius: float, end: float, part: str = "") -> Solids:
    """Bar with round ends."""
    return [
        tube(kind, material, a, b, radius, end, part),
        ball(kind, material, a, radius, part),
        ball(kind, material, b, end, part),
    ]


def person(rng: np.random.Generator, sitting: bool = False) -> Solids:
    """Somebody 1.15 to 1.9 m tall, looking to +y; on the ground, or sitting with the hips above the origin at z = 0."""
    tall = float(rng.choice((rng.uniform(1.55, 1.9), rng.uniform(1.15, 1.5)), p=(0.85, 0.15)))
    pose, build = random_pose(rng, sitting), rng.uniform(0.9, 1.2)
    skin = Material(shades(colour(rng, (0.03, 0.08), (0.3, 0.6), (0.4, 0.95)), 0.05), scale=0.3)
    shirt, shoes = cloth(rng, (0.4, 0.95)), paint(rng, (0, 1), (0, 0.5), (0.08, 0.5))
    trousers = paint(rng, (0.55, 0.7), (0.1, 0.6), (0.12, 0.5), pattern="speckle", scale=0.08)
    hair = paint(rng, (0.03, 0.12), (0.3, 0.7), (0.05, 0.6), pattern="speckle", scale=0.05)
    sleeve = skin if rng.random() < 0.5 else shirt
    shin = skin if rng.random() < 0.25 else trousers
    body = _trunk(tall, build, pose.lean, skin, shirt, trousers, hair)
    up = np.array([0, np.sin(pose.lean), np.cos(pose.lean)], np.float32)
    for i, (name, side) in enumerate((("l", -1), ("r", 1))):
        shoulder = up * 0.27 * tall + np.array([side * 0.108 * tall * build, 0, 0], np.float32)
        elbow = shoulder + 0.17 * tall * _down(pose.shoulders[i], side * pose.spread[i])
        wrist = elbow + 0.15 * tall * _down(pose.shoulders[i] + pose.elbows[i], side * pose.spread[i] * 0.5)
        body += _limb("person", shirt, shoulder, elbow, 0.03 * tall * build, 0.025 * tall, f"{name}uarm")
        body += _limb("person", sleeve, elbow, wrist, 0.024 * tall, 0.018 * tall, f"{name}larm")
        body.append(ball("person", skin, wrist + (wrist - elbow) * 0.22, 0.027 * tall, f"{name}hand"))
        hip = np.array([side * 0.05 * tall, 0, 0], np.float32)
        knee = hip + 0.245 * tall * _down(pose.hips[i])
        ankle = knee + 0.235 * tall * _down(pose.hips[i] - pose.knees[i])
        body += _limb("person", trousers, hip, knee, 0.048 * tall * build, 0.034 * tall, f"{name}uleg")
        body += _limb("person", shin, knee, ankle, 0.033 * tall, 0.022 * tall, f"{name}lleg")
        body.append(
            ball(
                "person",
                shoes,
                ankle + np.array([0, 0.03, -0.012], np.float32) * tall,
                np.array([0.028, 0.07, 0.024]) * tall,
                f"{name}foot",
            )
        )
    return body if sitting else grounded(body)


def _trunk(
    tall: float, build: float, lean: float, skin: Material, shirt: Material, trousers: Material, hair: Material
) -> Solids:
    up = np.array([0, np.sin(lean), np.cos(lean)], np.float32)
    neck, head = up * 0.335 * tall, up * 0.415 * tall
    width = np.array([0.085, 0.058, 0.07], np.float32) * tall * build
    chest = tube(
        "person", shirt, up * -0.01 * tall, up * 0.26 * tall, 0.075 * tall * build, 0.098 * tall * build, "torso"
    )
    chest = squashed(chest, 1, 0.68)
    shoulders = ball("person", shirt, up * 0.258 * tall, np.array([0.115, 0.062, 0.045]) * tall * build, "torso")
    pelvis = ball("person", trousers, (0, 0, 0), width * np.array([1, 1, 0.8]), "torso")
    throat = tube("person", skin, up * 0.27 * tall, neck + up * 0.03 * tall, 0.032 * tall, part="neck")
    face = ball("person", skin, head, np.array([0.05, 0.057, 0.072]) * tall, "head")
    scalp = ball(
        "person", hair, head + np.array([0, -0.012, 0.023]) * tall, np.array([0.056, 0.058, 0.064]) * tall, "hair"
    )
    eye = Material((DARK,), gloss=0.5)
    eyes = [
        ball("person", eye, head + np.array([s * 0.02, 0.051, 0.006]) * tall, 0.008 * tall, f"{n}eye")
        for n, s in (("l", -1), ("r", 1))
    ]
    return [chest, shoulders, pelvis, throat, face, scalp, *eyes]


def grounded(solids: Solids) -> Solids:
    """The same, lifted or lowered until the lowest point is at z = 0."""
    return placed(solids, (0, 0, -bounds(solids)[0][2]))


@dataclass(frozen=True)
class _Breed:
    """An animal's build, all in metres: shoulder height, body length and radius, head radius, neck and snout."""

    height: float
    length: float
    girth: float
    head: float
    neck: float
    snout: float
    hue: Range
    saturation: Range
    value: Range
    pattern: str


_BREEDS = {
    "dog": _Breed(0.55, 0.62, 0.13, 0.1, 0.2, 0.12, (0.06, 0.1), (0.3, 0.7), (0.2, 0.75), "speckle"),
    "cat": _Breed(0.28, 0.4, 0.085, 0.075, 0.08, 0.03, (0.05, 0.1), (0.2, 0.75), (0.2, 0.8), "stripes"),
    "horse": _Breed(1.45, 1.5, 0.3, 0.17, 0.75, 0.32, (0.03, 0.08), (0.5, 0.75), (0.2, 0.55), "speckle"),
    "cow": _Breed(1.3, 1.6, 0.38, 0.2, 0.35, 0.25, (0.02, 0.1), (0, 0.2), (0.8, 0.95), "spots"),
    "sheep": _Breed(0.75, 0.85, 0.28, 0.12, 0.2, 0.12, (0.1, 0.14), (0.05, 0.15), (0.8, 0.95), "speckle"),
}


def animal(rng: np.random.Generator, kind: str) -> Solids:
    """A dog, cat, horse, cow or sheep on its feet, looking to +y."""
    b = _BREEDS[kind]
    base = colour(rng, b.hue, b.saturation, b.value)
    dark = shades(base, 0.75)[0]
    coat = Material(
        (base, dark) if b.pattern in ("spots", "stripes") else shades(base, 0.15),
        b.pattern,
        b.girth if b.pattern == "spots" else 0.08,
    )
    plain = Material(shades(dark if kind == "sheep" else base, 0.1))
    half, mid = b.length / 2, b.height - b.girth
    solids = [
        ball(kind, coat, (0, half * 0.45, mid), (b.girth, half * 0.62, b.girth)),
        ball(kind, coat, (0, -half * 0.45, mid), (b.girth * 0.95, half * 0.62, b.girth)),
        tube(kind, coat, (0, -half * 0.5, mid), (0, half * 0.5, mid), b.girth * 0.95),
    ]
    for x in (-1, 1):
        for y in (-1, 1):
            swing = rng.uniform(-0.35, 0.35)
            hip = np.array([x * b.girth * 0.55, y * half * 0.75, mid - b.girth * 0.3], np.float32)
            knee = hip + np.array([0, np.sin(swing), -np.cos(swing)], np.float32) * hip[2] * 0.5
            foot = np.array([knee[0], knee[1] + np.sin(swing * 0.4) * knee[2] * 0.4, b.girth * 0.1], np.float32)
            solids += _limb(kind, plain, hip, knee, b.girth * 0.36, b.girth * 0.22)
            solids += _limb(kind, plain, knee, foot, b.girth * 0.21, b.girth * 0.14)
    raise_ = rng.uniform(0.3, 1.1) if kind != "cow" else rng.uniform(-0.4, 0.4)
    turn = rng.uniform(-0.5, 0.5)
    root = np.array([0, half * 0.85, mid + b.girth * 0.35], np.float32)
    face = np.array([np.sin(turn), np.cos(turn), 0], np.float32)
    head = (
        root
        + b.neck * np.array([face[0] * np.cos(raise_) * 0.5, np.cos(raise_), np.sin(raise_)], np.float32)
        + face * b.head * 0.6
    )
    nose = head + face * (b.head * 0.6 + b.snout) + np.array([0, 0, -b.snout * 0.45], np.float32)
    solids += _limb(kind, coat if kind != "sheep" else plain, root, head, b.girth * 0.5, b.head * 0.72)
    solids += _limb(kind, plain, head, nose, b.head * 0.75, b.head * 0.42)
    solids.append(ball(kind, Material((DARK,), gloss=0.4), nose + face * b.head * 0.3, b.head * 0.2))
    side = np.array([face[1], -face[0], 0], np.float32)
    for x in (-1, 1):
        ear = head + side * x * b.head * 0.6
        solids.append(
            tube(
                kind,
                plain,
                ear,
                ear + np.array([0, 0, b.head * 1.2], np.float32) + side * x * b.head * 0.3,
                b.head * 0.3,
                b.head * 0.05,
            )
        )
        solids.append(
            ball(
                kind,
                Material((DARK,), gloss=0.8),
                head + side * x * b.head * 0.55 + face * b.head * 0.5 + np.array([0, 0, 0.25 * b.head]),
                b.head * 0.16,
            )
        )
    tail = np.array([0, -half * 1.05, mid + b.girth * 0.5], np.float32)
    solids += _limb(
        kind,
        plain,
        tail,
        tail + np.array([0, -0.3, -0.3 if b.height > 0.7 else 0.35], np.float32) * b.length * 0.55,
        b.girth * 0.14,
        b.girth * 0.08,
    )
    return grounded(solids)


def bird(rng: np.random.Generator) -> Solids:
    """A bird of half a metre flying to +y with its wings out."""
    feathers = paint(rng, (0.5, 1.1), (0, 0.6), (0.2, 0.9))
    beak = paint(rng, (0.08, 0.14), (0.7, 0.9), (0.7, 0.9))
    lift = rng.uniform(-0.2, 0.5)
    solids = [
        ball("bird", feathers, (0, 0, 0), (0.1, 0.24, 0.1)),
        ball("bird", feathers, (0, 0.23, 0.06), 0.075),
        tube("bird", beak, (0, 0.28, 0.06), (0, 0.38, 0.05), 0.025, 0.003),
        tube("bird", feathers, (0, -0.15, 0), (0, -0.45, 0.02), 0.04, 0.1),
    ]
    for side in (-1, 1):
        wing = tube("bird", feathers, (0, 0.02, 0.05), (side * 0.6, -0.1, 0.05 + lift), 0.13, 0.03)
        solids.append(wing)
    return solids
