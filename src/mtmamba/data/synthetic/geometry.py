"""Boxes, ellipsoids and tapered cylinders: how they are described, made, moved and met by rays.

The world is in metres: x right, y forward, z up. Every shape is a unit shape (|x|, |y|, |z| <= 1) scaled by ``half``,
turned by ``rotation`` and moved to ``centre``.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float32]
Colour = tuple[float, float, float]
_SIGNS = np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], np.float32)


@dataclass(frozen=True)
class Material:
    """How a surface looks: sRGB ``colours`` in [0, 1] mixed by ``pattern``, whose period is ``scale`` metres.

    ``gloss`` is the strength of the highlight, ``glow`` the share of the colour that needs no light.
    """

    colours: tuple[Colour, ...]
    pattern: str = "plain"
    scale: float = 0.1
    gloss: float = 0.0
    glow: float = 0.0


@dataclass(frozen=True)
class Primitive:
    """One convex solid. ``taper`` scales the top face (z = +1) in x and y; a cylinder, around z, takes the first."""

    shape: Literal["box", "sphere", "cylinder"]
    centre: Array  # (3,)
    half: Array  # (3,)
    rotation: Array  # (3, 3), the columns are the local axes
    kind: str
    material: Material
    part: str = ""
    taper: tuple[float, float] = (1.0, 1.0)
    casts: bool = True
    group: int = 0


Solids = list[Primitive]
Builder = Callable[[np.random.Generator], Solids]


def box(
    kind: str,
    material: Material,
    low: ArrayLike,
    high: ArrayLike,
    taper: tuple[float, float] = (1, 1),
    casts: bool = True,
) -> Primitive:
    """Axis-parallel box between two corners."""
    low, high = np.asarray(low, np.float32), np.asarray(high, np.float32)
    eye = np.eye(3, dtype=np.float32)
    return Primitive("box", (low + high) / 2, (high - low) / 2, eye, kind, material, taper=taper, casts=casts)


def ball(kind: str, material: Material, centre: ArrayLike, radii: ArrayLike, part: str = "") -> Primitive:
    """Ellipsoid with axis-parallel radii; one number makes a sphere."""
    half = np.broadcast_to(np.asarray(radii, np.float32), 3)
    eye = np.eye(3, dtype=np.float32)
    return Primitive("sphere", np.asarray(centre, np.float32), half, eye, kind, material, part)


def tube(
    kind: str,
    material: Material,
    start: ArrayLike,
    end: ArrayLike,
    radius: float,
    end_radius: float | None = None,
    part: str = "",
) -> Primitive:
    """Round bar from ``start`` to ``end`` (3-vectors), as thick as ``radius`` there and ``end_radius`` here."""
    a, b = np.asarray(start, np.float32), np.asarray(end, np.float32)
    length = float(np.linalg.norm(b - a))
    axis = (b - a) / length
    side = np.cross(axis, (0, 1, 0) if abs(axis[1]) < 0.9 else (1, 0, 0))
    side /= np.linalg.norm(side)
    rotation = np.stack([side, np.cross(axis, side), axis], 1).astype(np.float32)
    half = np.array([radius, radius, length / 2], np.float32)
    taper = 1.0 if end_radius is None else end_radius / radius
    return Primitive("cylinder", ((a + b) / 2).astype(np.float32), half, rotation, kind, material, part, (taper, taper))


def placed(solids: Iterable[Primitive], position: ArrayLike, angle: float = 0.0) -> Solids:
    """Turn by ``angle`` about the vertical through the origin, then move the origin to ``position``."""
    turn, shift = about_vertical(angle), np.asarray(position, np.float32)
    return [replace(p, centre=turn @ p.centre + shift, rotation=turn @ p.rotation) for p in solids]


def about_vertical(angle: float) -> Array:
    """``(3, 3)`` rotation that turns x towards y."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]], np.float32)


def shadowless(solids: Iterable[Primitive]) -> Solids:
    """The same, casting no shadow: for lamps and for what hardly stands out."""
    return [replace(p, casts=False) for p in solids]


def tilted(solid: Primitive, angle: float) -> Primitive:
    """Turn one solid by ``angle`` about its own local x axis."""
    c, s = np.cos(angle), np.sin(angle)
    turn = np.array([[1, 0, 0], [0, c, -s], [0, s, c]], np.float32)
    return replace(solid, rotation=solid.rotation @ turn)


def corners(solids: Sequence[Primitive]) -> Array:
    """``(N, 8, 3)`` corners of the boxes around each."""
    half = np.array([p.half * (max(1.0, p.taper[0]), max(1.0, *p.taper), 1.0) for p in solids], np.float32)
    centre, rotation = np.array([p.centre for p in solids]), np.array([p.rotation for p in solids])
    return centre[:, None] + (_SIGNS * half[:, None]) @ rotation.transpose(0, 2, 1)


def squashed(bar: Primitive, axis: int, factor: float) -> Primitive:
    """The same bar, ``factor`` times as thick in that direction across it that is nearest to world axis ``axis``."""
    half = bar.half.copy()
    half[np.argmax(np.abs(bar.rotation[axis, :2]))] *= factor
    return replace(bar, half=half)


def bounds(solids: Sequence[Primitive]) -> tuple[Array, Array]:
    """Lowest and highest corner of the axis-parallel box around all."""
    points = corners(solids).reshape(-1, 3)
    return points.min(0), points.max(0)


def turned(matrix: Array, vectors: Array) -> Array:
    """``matrix @ vectors`` for ``(K, 3)`` and ``(3, N)``, not by BLAS, whose rounding may depend on its threads."""
    return np.einsum("ij,jk->ik", matrix, vectors)


def box_planes(taper: tuple[float, float]) -> tuple[Array, Array]:
    """Outward normals ``(6, 3)`` and offsets ``(6,)`` of a tapered unit box: inside is normal . x <= offset."""
    kx, ky = taper
    slopes = [
        (1, 0, (1 - kx) / 2),
        (-1, 0, (1 - kx) / 2),
        (0, 1, (1 - ky) / 2),
        (0, -1, (1 - ky) / 2),
        (0, 0, 1),
        (0, 0, -1),
    ]
    offsets = [(1 + kx) / 2, (1 + kx) / 2, (1 + ky) / 2, (1 + ky) / 2, 1, 1]
    return np.array(slopes, np.float32), np.array(offsets, np.float32)


def intersect(solid: Primitive, origin: Array, directions: Array) -> Array:
    """Where rays from one point enter a solid.

    Args:
        solid: what to hit.
        origin: ``(3,)`` start of every ray, outside the solid.
        directions: ``(3, N)``, any length.

    Returns:
        ``(N,)`` the t of the entry point ``origin + t * direction``; infinite where the ray misses.
    """
    local_origin = turned(solid.rotation.T, (origin - solid.centre)[:, None])[:, 0] / solid.half
    local = turned(solid.rotation.T / solid.half[:, None], directions)
    with np.errstate(divide="ignore", invalid="ignore"):
        if solid.shape == "box":
            return _enter_box(solid.taper, local_origin, local)
        # Start again from the point nearest to the centre: far away the squares would cancel in float32.
        squared = np.einsum("ij,ij->j", local, local)
        nearest = -np.einsum("i,ij->j", local_origin, local) / squared
        start = local_origin[:, None] + nearest * local
        enter = (
            _enter_sphere(start, squared) if solid.shape == "sphere" else _enter_cylinder(solid.taper[0], start, local)
        )
        t = nearest + enter
    return np.where(t > 0, t, np.float32(np.inf))


def _enter_box(taper: tuple[float, float], origin: Array, d: Array) -> Array:
    enter, leave = np.full(d.shape[1], -np.inf, np.float32), np.full(d.shape[1], np.inf, np.float32)
    for normal, offset in zip(*box_planes(taper), strict=True):
        gap, speed = offset - normal @ origin, np.einsum("i,ij->j", normal, d)
        t = gap / speed
        if gap < 0:  # the origin is on the outer side: only an inward ray can pass this plane
            np.maximum(enter, np.where(speed < 0, t, np.float32(np.inf)), out=enter)
        else:
            np.minimum(leave, np.where(speed > 0, t, np.float32(np.inf)), out=leave)
    return np.where((enter < leave) & (enter > 0), enter, np.float32(np.inf))


def _enter_sphere(start: Array, squared: Array) -> Array:
    depth = (1 - np.einsum("ij,ij->j", start, start)) / squared
    return np.where(depth > 0, -np.sqrt(np.maximum(depth, 0)), np.float32(np.inf))


def _enter_cylinder(taper: float, start: Array, d: Array) -> Array:
    slope = np.float32((taper - 1) / 2)
    (x, y, z), (dx, dy, dz) = start, d
    radius, change = 1 + slope * (z + 1), slope * dz
    a, b, c = dx * dx + dy * dy - change * change, x * dx + y * dy - radius * change, x * x + y * y - radius * radius
    t = (-b - np.sqrt(np.maximum(b * b - a * c, 0))) / a
    side = np.where((b * b > a * c) & (np.abs(z + t * dz) <= 1), t, np.float32(np.inf))
    cap = (np.where(dz < 0, np.float32(1), np.float32(-1)) - z) / dz
    limit = np.where(dz < 0, np.float32(taper), np.float32(1))
    on_cap = (x + cap * dx) ** 2 + (y + cap * dy) ** 2 <= limit * limit
    return np.minimum(side, np.where(on_cap, cap, np.float32(np.inf)))


def surface(solid: Primitive, points: Array) -> tuple[Array, Array]:
    """Local coordinates in metres and unit normals in the world, both ``(3, N)``, of ``points`` ``(3, N)`` on it."""
    metres = turned(solid.rotation.T, points - solid.centre[:, None])
    unit = metres / solid.half[:, None]
    if solid.shape == "sphere":
        local = unit
    elif solid.shape == "box":
        normals, offsets = box_planes(solid.taper)
        # Distances in metres, so that the nearest face of a thin box is the one that was hit.
        steepness = np.linalg.norm(normals / solid.half, axis=1)
        face = np.argmax((turned(normals, unit) - offsets[:, None]) / steepness[:, None], axis=0)
        local = normals[face].T
    else:
        slope = np.float32((solid.taper[0] - 1) / 2)
        radius = 1 + slope * (unit[2] + 1)
        to_side, to_cap = np.abs(np.hypot(unit[0], unit[1]) - radius), np.abs(1 - np.abs(unit[2]))
        cap = to_cap * solid.half[2] < to_side * solid.half[0]
        local = np.stack([unit[0] * ~cap, unit[1] * ~cap, np.where(cap, np.sign(unit[2]), -slope * radius)])
    normal = turned(solid.rotation, local / solid.half[:, None])
    return metres, normal / np.linalg.norm(normal, axis=0)
