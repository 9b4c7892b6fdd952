"""Synthetic scenes: rooms, streets and fields, ray-cast and written like the real datasets, every label exact."""

from mtmamba.data.synthetic.build import generate
from mtmamba.data.synthetic.render import make_scene, render

__all__ = ["generate", "make_scene", "render"]
