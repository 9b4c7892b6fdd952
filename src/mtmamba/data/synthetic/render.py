"""Scenes by number: what is in scene ``index`` of a split, its photograph and its labels."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mtmamba.data.synthetic.raycast import Maps, label_maps
from mtmamba.data.synthetic.rooms import room
from mtmamba.data.synthetic.scene import Scene
from mtmamba.data.synthetic.shade import photograph
from mtmamba.data.synthetic.streets import country, street

Layout = Literal["nyud", "pascal", "cityscapes"]
Split = Literal["train", "val"]
SPLITS: tuple[Split, Split] = ("train", "val")


def make_scene(layout: Layout, *, seed: int, split: Split, index: int) -> Scene:
    """Scene ``index`` of a split, by its arguments alone.

    A room for ``"nyud"``, mostly open air for ``"pascal"``, a street for ``"cityscapes"``.
    """
    rng = _generator(seed, split, index, 0)
    if layout == "nyud":
        return room(rng, subjects=int(rng.integers(0, 3)))
    if layout == "cityscapes":
        return street(rng)
    where = rng.random()
    if where < 0.2:
        return room(rng, subjects=int(rng.integers(1, 4)))
    return street(rng) if where < 0.65 else country(rng)


def render(
    layout: Layout, size: tuple[int, int], *, seed: int, split: Split, index: int
) -> tuple[NDArray[np.uint8], Maps]:
    """Photograph ``(H, W, 3)`` RGB and label maps of a scene; ``maps.scene.camera`` took it."""
    scene = make_scene(layout, seed=seed, split=split, index=index)
    return photograph(scene, size, _generator(seed, split, index, 1)), label_maps(scene, size)


def _generator(seed: int, split: Split, index: int, purpose: int) -> np.random.Generator:
    return np.random.default_rng([seed, SPLITS.index(split), index, purpose])
