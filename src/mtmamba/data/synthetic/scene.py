"""A scene: solids, a camera that looks at them and the light they stand in."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import ArrayLike

from mtmamba.data.synthetic.geometry import Array, Colour, Primitive, Solids, about_vertical, corners, placed


@dataclass(frozen=True)
class Camera:
    """Pinhole camera, turned left by ``yaw`` and down by ``pitch`` (radians); its ``focal`` length in image widths."""

    position: Array
    yaw: float
    pitch: float
    focal: float

    def axes(self) -> Array:
        """``(3, 3)``, rows: the camera's right, down and forward in the world."""
        cy, sy, cp, sp = np.cos(self.yaw), np.sin(self.yaw), np.cos(self.pitch), np.sin(self.pitch)
        right, forward = (cy, sy, 0), (-sy * cp, cy * cp, -sp)
        return np.array([right, np.cross(forward, right), forward], np.float32)

    def intrinsics(self, size: tuple[int, int]) -> Array:
        """``(3, 3)`` matrix from camera coordinates to pixels; a pixel's centre has whole coordinates."""
        height, width = size
        f = self.focal * width
        return np.array([[f, 0, (width - 1) / 2], [0, f, (height - 1) / 2], [0, 0, 1]], np.float32)


@dataclass(frozen=True)
class Light:
    """A lamp: its linear ``colour`` at ``reach`` metres, up to twice that nearer. ``radius`` softens the shadows."""

    position: Array
    colour: Colour
    reach: float
    radius: float


@dataclass(frozen=True)
class Scene:
    """All that is seen; ``sky`` holds the linear colours of zenith and horizon (absent indoors).

    ``room``: lowest and highest corner of the space whose borders darken what is near them.
    """

    solids: Sequence[Primitive]
    camera: Camera
    lights: Sequence[Light]
    ambient: Colour
    room: tuple[Array, Array]
    sky: tuple[Colour, Colour] | None = None
    exposure: float = 1.0


Place = tuple[Sequence[float], float]
"""Position ``(x, y, z)`` and angle about the vertical."""


@dataclass
class Stage:
    """Collects groups of solids (a chair, a car), each with its own number, and keeps them apart."""

    solids: Solids = field(default_factory=list)
    taken: list[tuple[Array, Array]] = field(default_factory=list)
    groups: int = 0

    def add(self, solids: Iterable[Primitive]) -> None:
        """Put a group in, wherever it is."""
        self.groups += 1
        self.solids += [replace(p, group=self.groups) for p in solids]

    def reserve(self, low: ArrayLike, high: ArrayLike) -> None:
        """Keep an axis-parallel box free of whatever ``fit`` adds later."""
        self.taken.append((np.asarray(low, np.float32), np.asarray(high, np.float32)))

    def fit(self, solids: Sequence[Primitive], places: Iterable[Place], margin: float = 0.03) -> bool:
        """Put a group at the first of the ``places`` where nothing is in its way; returns whether there was one."""
        outline = corners(solids).reshape(-1, 3)
        for position, angle in places:
            points = outline @ about_vertical(angle).T + position
            low, high = points.min(0), points.max(0)
            if not any(np.all(low - margin < top) and np.all(high + margin > bottom) for bottom, top in self.taken):
                self.reserve(low, high)
                self.add(placed(solids, position, angle))
                return True
        return False
