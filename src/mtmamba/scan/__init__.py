"""The selective scan of Mamba behind one interface, and SS2D, its four-direction form on maps."""

from mtmamba.scan.interface import available_backends, selective_scan
from mtmamba.scan.ss2d import ss2d

__all__ = ["available_backends", "selective_scan", "ss2d"]
