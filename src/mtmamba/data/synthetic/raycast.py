"""What a camera sees of a scene: the nearest solid for each ray, and exact label maps."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mtmamba.data.synthetic.geometry import Array, Primitive, corners, intersect, surface, turned
from mtmamba.data.synthetic.kinds import KINDS, Kind, part_class
from mtmamba.data.synthetic.scene import Camera, Scene

_NEAR = 0.05  # metres; nothing stands nearer to a camera


@dataclass(frozen=True)
class Maps:
    """Everything known about each pixel's centre, all ``(H, W)`` but for ``normals``.

    ``solid``: index into ``scene.solids``, -1 for the sky. ``depth``: metres along the optical axis, 0 for the sky.
    ``normals``: ``(H, W, 3)`` unit vectors in camera coordinates (x right, y down, z forward), 0 for the sky.
    """

    scene: Scene
    solid: NDArray[np.int16]
    depth: Array
    normals: Array

    def lookup(self, values: list[int], sky: int = 0) -> NDArray[np.int32]:
        """Map of a number that each solid has."""
        return np.array([*values, sky], np.int32)[self.solid]

    def classes(self, dataset: str) -> NDArray[np.int32]:
        """Class numbers of ``"nyud"``, ``"voc"``, ``"context"`` or ``"cityscapes"``."""
        column = Kind._fields.index(dataset)
        return self.lookup([KINDS[p.kind][column] for p in self.scene.solids], KINDS["sky"][column])

    def groups(self) -> NDArray[np.int32]:
        """Number of the group (a chair, a person) seen, 0 for the sky."""
        return self.lookup([p.group for p in self.scene.solids])

    def parts(self) -> NDArray[np.int32]:
        """Body parts 1..6, 0 elsewhere."""
        return self.lookup([part_class(p.part) for p in self.scene.solids])


def rays(camera: Camera, size: tuple[int, int], offsets: Array) -> Array:
    """``(3, S, H, W)`` directions, 1 long along the optical axis, for ``offsets`` ``(S, 2)`` from pixel centres."""
    height, width = size
    k = camera.intrinsics(size)
    x = (np.arange(width, dtype=np.float32) + offsets[:, :1] - k[0, 2]) / k[0, 0]
    y = (np.arange(height, dtype=np.float32) + offsets[:, 1:] - k[1, 2]) / k[1, 1]
    right, down, forward = camera.axes()[:, :, None, None, None]
    return right * x[:, None, :] + down * y[:, :, None] + forward


def windows(solids: Sequence[Primitive], camera: Camera, size: tuple[int, int]) -> NDArray[np.int64]:
    """Rows and columns that can see each solid, ``(N, 4)``: top, bottom, left, right, the ends exclusive."""
    seen = (corners(solids) - camera.position) @ camera.axes().T
    ends = np.array([(a, b) for a in range(8) for b in (a ^ 1, a ^ 2, a ^ 4) if a < b])
    start, stop = seen[:, ends[:, 0]], seen[:, ends[:, 1]]
    crossing = (start[..., 2] < _NEAR) != (stop[..., 2] < _NEAR)
    rise = np.where(crossing, stop[..., 2] - start[..., 2], 1)
    cut = start + (stop - start) * ((_NEAR - start[..., 2]) / rise)[..., None]
    points = np.concatenate([seen, cut], 1)
    counts = np.concatenate([seen[..., 2] >= _NEAR, crossing], 1)[..., None]
    flat = points / np.where(counts, points[..., 2:], 1)
    pixels = (flat @ camera.intrinsics(size).T)[..., :2]
    limit = size[::-1]
    low = np.clip(np.floor(np.where(counts, pixels, np.inf).min(1)) - 1, 0, limit)
    high = np.clip(np.ceil(np.where(counts, pixels, -np.inf).max(1)) + 2, 0, limit)
    return np.stack([low[:, 1], high[:, 1], low[:, 0], high[:, 0]], 1).astype(np.int64)


def trace(scene: Scene, directions: Array) -> tuple[Array, NDArray[np.int16]]:
    """Depth and number of the nearest solid for ``directions`` ``(3, S, H, W)``, both ``(S, H, W)``.

    The sky's depth is infinite, its number -1.
    """
    shape = directions.shape[1:]
    depth, index = np.full(shape, np.inf, np.float32), np.full(shape, -1, np.int16)
    for i, (top, bottom, left, right) in enumerate(windows(scene.solids, scene.camera, (shape[1], shape[2]))):
        if top >= bottom or left >= right:
            continue
        region = np.s_[:, top:bottom, left:right]
        nearest = depth[region]
        rays_there = directions[:, *region].reshape(3, -1)
        t = intersect(scene.solids[i], scene.camera.position, rays_there).reshape(nearest.shape)
        nearer = t < nearest
        nearest[nearer] = t[nearer]
        index[region][nearer] = i
    return depth, index


def members(index: NDArray[np.int16]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Each solid's number that occurs in ``index`` with the flat places where it does, the sky (-1) first."""
    order = np.argsort(index, axis=None, kind="stable")
    numbers, starts = np.unique(index.ravel()[order], return_index=True)
    return zip(numbers.tolist(), np.split(order, starts[1:]), strict=True)


def label_maps(scene: Scene, size: tuple[int, int]) -> Maps:
    """Exact maps at the pixels' centres, ``size`` = (height, width)."""
    directions = rays(scene.camera, size, np.zeros((1, 2), np.float32))
    depth, index = trace(scene, directions)
    flat, t = directions.reshape(3, -1), depth.ravel()
    normals = np.zeros((3, t.size), np.float32)
    for i, where in members(index):
        if i >= 0:
            points = scene.camera.position[:, None] + t[where] * flat.take(where, 1)
            normals[:, where] = turned(scene.camera.axes(), surface(scene.solids[i], points)[1])
    return Maps(scene, index[0], np.where(np.isfinite(depth[0]), depth[0], 0), normals.T.reshape(*size, 3))
