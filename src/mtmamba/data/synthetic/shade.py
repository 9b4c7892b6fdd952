"""The photograph of a scene: textures, lamps, shadows, sky, haze and the camera's noise."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mtmamba.data.synthetic.geometry import Array, Colour, Solids, corners, intersect, surface, turned
from mtmamba.data.synthetic.raycast import members, rays, trace
from mtmamba.data.synthetic.scene import Light, Scene
from mtmamba.data.synthetic.texture import albedo, noise

_OFFSETS = np.array([(-0.25, -0.25), (0.25, -0.25), (-0.25, 0.25), (0.25, 0.25)], np.float32)  # 2x2 samples a pixel
_SPOTS = 2  # points of a lamp, each lighting half of the samples
_HAZE = 350.0  # metres after which 63 % of the colour is the horizon's
_CONTACT = 0.3  # metres over which corners darken


@dataclass(frozen=True)
class Hits:
    """The surface point of every sample, ``N = S H W`` of them; 0 where the sky is."""

    solid: NDArray[np.bool_]  # (S, H, W): something other than the sky
    views: Array  # (3, N) unit vectors from the camera
    points: Array  # (3, N)
    normals: Array  # (3, N)


def photograph(scene: Scene, size: tuple[int, int], rng: np.random.Generator) -> NDArray[np.uint8]:
    """``(H, W, 3)`` RGB image, four samples a pixel."""
    directions = rays(scene.camera, size, _OFFSETS)
    depth, index = trace(scene, directions)
    flat, t = directions.reshape(3, -1), depth.ravel()
    colour, hits = _surfaces(scene, flat, t, index)
    light = np.array(scene.ambient, np.float32)[:, None] * _openness(scene, hits.points) * _fill(hits.normals)
    highlight = np.zeros_like(t)
    for lamp in scene.lights:
        diffuse, shine = _lamp(scene, lamp, hits, rng)
        light += np.array(lamp.colour, np.float32)[:, None] * diffuse
        highlight += shine
    glow, gloss = _per_solid(scene, index)
    image = colour * (glow + (1 - glow) * light) + gloss * highlight
    if scene.sky:
        solid = hits.solid.ravel()
        haze = np.where(solid, 1 - np.exp(-np.where(solid, t, 0) / _HAZE), np.float32(1))
        image += haze * (_sky(*scene.sky, hits.views, solid) - image)
    linear = image.reshape(3, len(_OFFSETS), *size).mean(1).transpose(1, 2, 0)
    return _develop(linear * scene.exposure, rng)


def _surfaces(scene: Scene, flat: Array, t: Array, index: NDArray[np.int16]) -> tuple[Array, Hits]:
    """Linear colours ``(3, N)`` and where the rays ended."""
    colour, points, normals = (np.zeros((3, t.size), np.float32) for _ in range(3))
    views = flat / np.sqrt(np.einsum("ij,ij->j", flat, flat))
    pixel = 1 / (scene.camera.focal * index.shape[2])
    for i, where in members(index):
        if i < 0:
            continue
        solid = scene.solids[i]
        points[:, where] = at = scene.camera.position[:, None] + t[where] * flat.take(where, 1)
        metres, normal = surface(solid, at)
        normals[:, where] = normal
        slant = np.abs(np.einsum("ij,ij->j", normal, views.take(where, 1)))
        footprint = t[where] * pixel / np.maximum(slant, 0.05)
        colour[:, where] = albedo(solid.material, metres, turned(solid.rotation.T, normal), footprint)
    return colour, Hits(index >= 0, views, points, normals)


def _fill(normals: Array) -> Array:
    """Surrounding light by orientation: most from above and from one side, so that corners show."""
    x, y, z = normals
    return 0.78 + 0.12 * x + 0.04 * y + 0.16 * z


def _per_solid(scene: Scene, index: NDArray[np.int16]) -> tuple[Array, Array]:
    """Glow and gloss of every sample."""
    table = np.array([*((p.material.glow, p.material.gloss) for p in scene.solids), (0, 0)], np.float32)
    glow, gloss = table[index.ravel()].T
    return glow, gloss


def _openness(scene: Scene, points: Array) -> Array:
    """How much of the surrounding light arrives: less near the borders of the room."""
    low, high = scene.room
    result = np.ones(points.shape[1], np.float32)
    for axis in range(3):
        for gap in (points[axis] - low[axis], high[axis] - points[axis]):
            result *= 1 - 0.35 * np.exp(-np.maximum(gap, 0) / _CONTACT)
    return result


def _lamp(scene: Scene, lamp: Light, hits: Hits, rng: np.random.Generator) -> tuple[Array, Array]:
    """Diffuse light and highlight ``(N,)`` that one lamp gives."""
    diffuse, shine = np.zeros_like(hits.points[0]), np.zeros_like(hits.points[0])
    tiles = np.tile(_tiles(*hits.solid.shape[1:]), len(hits.solid) // _SPOTS)
    for first in range(0, diffuse.size, tiles.size):
        spot = lamp.position + lamp.radius * rng.uniform(-1, 1, 3).astype(np.float32)
        here = slice(first, first + tiles.size)
        away = hits.points[:, here] - spot[:, None]
        distance = np.sqrt(np.einsum("ij,ij->j", away, away))
        facing = -np.einsum("ij,ij->j", away, hits.normals[:, here]) / distance
        lit = np.flatnonzero(hits.solid.ravel()[here] & (facing > 0))
        lit = lit[~shadowed(scene, spot, away.take(lit, 1), distance[lit], tiles[lit])]
        where, view = first + lit, hits.views.take(first + lit, 1)
        fall = 2 * lamp.reach**2 / (lamp.reach**2 + distance[lit] ** 2)
        diffuse[where] = facing[lit] * fall
        half = away.take(lit, 1) / distance[lit] + view
        cosine = -np.einsum("ij,ij->j", half, hits.normals.take(where, 1)) / np.sqrt(np.einsum("ij,ij->j", half, half))
        shine[where] = np.maximum(cosine, 0) ** 40 * fall
    return diffuse, shine


def _tiles(height: int, width: int) -> NDArray[np.int64]:
    """Number of the tile that each pixel is in, ``(H * W,)``; 24 tiles are as wide as the image."""
    side = max(width // 24, 4)
    rows, columns = np.arange(height) // side, np.arange(width) // side
    return (rows[:, None] * (columns[-1] + 1) + columns).ravel()


def shadowed(scene: Scene, spot: Array, away: Array, distance: Array, tiles: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether something stands between a lamp's ``spot`` and each point.

    Each tile of points is first tried as a cone seen from the lamp, so that a solid meets only the tiles it may darken.

    Args:
        scene: its solids.
        spot: ``(3,)``.
        away: ``(3, N)`` from the spot to the points.
        distance: ``(N,)`` lengths of ``away``.
        tiles: ``(N,)`` any numbering that puts neighbours together.
    """
    dark = np.zeros(away.shape[1], bool)
    casters = _casters(scene)
    if not dark.size or not casters:
        return dark
    order = np.argsort(tiles, kind="stable")
    _, starts = np.unique(tiles[order], return_index=True)
    unit = (away / distance).take(order, 1)
    axes = np.add.reduceat(unit, starts, axis=1)
    axes /= np.sqrt(np.einsum("ij,ij->j", axes, axes))
    sizes = np.diff([*starts, len(order)])
    angles = np.arccos(
        np.minimum(np.minimum.reduceat(np.einsum("ij,ij->j", unit, np.repeat(axes, sizes, 1)), starts), 1)
    )
    farthest = np.maximum.reduceat(distance[order], starts)
    around = corners(casters)
    centres = around.mean(1) - spot
    radii, ranges = np.linalg.norm(around[:, 0] - around.mean(1), axis=1), np.linalg.norm(centres, axis=1)
    between = np.arccos(np.clip((centres / ranges[:, None]) @ axes, -1, 1))
    close = between < np.arcsin(np.minimum(radii / ranges, 1))[:, None] + angles + 1e-3
    close &= (farthest > (ranges - radii)[:, None]) & (ranges > radii)[
        :, None
    ]  # a lamp inside a solid is not darkened by it
    groups = np.split(order, starts[1:])
    for solid, near in zip(casters, close, strict=True):
        if near.any():
            where = np.concatenate([groups[i] for i in np.flatnonzero(near)])
            dark[where] |= intersect(solid, spot, away.take(where, 1)) < 1 - 0.01 / distance[where]
    return dark


def _casters(scene: Scene) -> Solids:
    """Solids whose shadow matters: those that look larger than 1/250 of the image's width."""
    sizes = np.array([p.half.max() for p in scene.solids])
    ranges = np.linalg.norm([p.centre - scene.camera.position for p in scene.solids], axis=1)
    seen = 2 * sizes * scene.camera.focal > 0.004 * ranges
    return [p for p, large in zip(scene.solids, seen, strict=True) if large and p.casts]


def _sky(zenith: Colour, horizon: Colour, views: Array, solid: NDArray[np.bool_]) -> Array:
    """Linear colour ``(3, N)``: gradient and clouds where the sky is seen, elsewhere the plain horizon for the haze."""
    top, low = (np.array(c, np.float32)[:, None] for c in (zenith, horizon))
    rise = np.where(solid, 0, np.maximum(views[2], 0))
    result = low + (top - low) * np.sqrt(rise)
    plane = np.maximum(views[2], 0.02)
    cloud = np.clip(noise(views[0] / plane, views[1] / plane, 0.35) * 2.2 - 1.1, 0, 1) * np.minimum(rise * 5, 1)
    return result + cloud * (np.float32(0.95) - result)


def _develop(linear: Array, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Soft shoulder, sRGB-like curve, sensor noise."""
    curved = (1 - np.exp(-1.6 * linear)) / (1 - np.exp(-1.6))
    image = np.clip(curved, 0, 1) ** (1 / 2.2) + rng.normal(0, 0.008, linear.shape)
    return np.clip(image * 255 + 0.5, 0, 255).astype(np.uint8)
