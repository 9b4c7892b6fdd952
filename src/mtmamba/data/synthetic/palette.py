"""Random colours and materials."""

import colorsys
from typing import Any

import numpy as np

from mtmamba.data.synthetic.geometry import Colour, Material

Range = tuple[float, float]
WHITE: Colour = (0.9, 0.9, 0.88)
DARK: Colour = (0.08, 0.08, 0.09)
CHROME = Material(((0.55, 0.56, 0.58),), gloss=0.8)
STEEL = Material(((0.3, 0.32, 0.33),), gloss=0.3)
RUBBER = Material((DARK, (0.14, 0.14, 0.14)), gloss=0.1)


def colour(rng: np.random.Generator, hue: Range, saturation: Range, value: Range) -> Colour:
    """sRGB colour drawn from ranges of hue (turns; may leave [0, 1]), saturation and value."""
    return colorsys.hsv_to_rgb(rng.uniform(*hue) % 1, rng.uniform(*saturation), rng.uniform(*value))


def shades(base: Colour, spread: float = 0.25, count: int = 2) -> tuple[Colour, ...]:
    """``count`` colours from darker to lighter around ``base``."""
    return tuple(
        (min(base[0] * f, 1.0), min(base[1] * f, 1.0), min(base[2] * f, 1.0))
        for f in np.linspace(1 - spread, 1 + spread, count)
    )


def paint(rng: np.random.Generator, hue: Range, saturation: Range, value: Range, **looks: Any) -> Material:
    """Nearly even material of a random colour; ``looks`` are Material's fields."""
    spread = looks.pop("spread", 0.12)
    return Material(shades(colour(rng, hue, saturation, value), spread), **looks)


def wood(rng: np.random.Generator, value: Range = (0.35, 0.75)) -> Material:
    """Brown wood with grain."""
    return paint(rng, (0.05, 0.1), (0.45, 0.7), value, pattern="wood", scale=0.12, gloss=0.1, spread=0.3)


def cloth(rng: np.random.Generator, value: Range = (0.3, 0.85)) -> Material:
    """Fabric of any hue, plain or striped."""
    look = (
        {"pattern": "stripes", "scale": rng.uniform(0.05, 0.16)}
        if rng.random() < 0.3
        else {"pattern": "speckle", "scale": 0.06}
    )
    return paint(rng, (0, 1), (0.25, 0.8), value, spread=0.2, **look)
