"""The selective scan of Mamba behind one interface, and SS2D, its four-direction form on maps."""

from importlib import import_module
from pkgutil import iter_modules

from mtmamba.scan import backends
from mtmamba.scan.interface import selective_scan
from mtmamba.scan.order import DIRECTIONS
from mtmamba.scan.registry import Backend, available_backends, register
from mtmamba.scan.ss2d import ss2d

for _module in iter_modules(backends.__path__, f"{backends.__name__}."):
    import_module(_module.name)  # which registers itself

__all__ = ["DIRECTIONS", "Backend", "available_backends", "register", "selective_scan", "ss2d"]
