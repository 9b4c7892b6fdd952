"""The roofline: the time that a computation cannot undercut on a device, from its work and the device's measured rates.

Work is counted layer by layer over a forward pass on meta tensors. A layer is a product with weights, or an SS2D with
all that belongs to it; it reads its inputs and writes its outputs once. Norms, activations and sums are taken to be
fused into the layers around them, and attention counts its products alone. Layers follow one another, so the bound of a
network is the sum of its layers' bounds, and a layer's is the longest of three times: products, exponentials of the
scan, traffic.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor, nn

from mtmamba.benchmarks.device import Device
from mtmamba.models.ss2d import SS2D
from mtmamba.scan import DIRECTIONS
from mtmamba.stats.flops import PRODUCTS
from mtmamba.stats.watcher import ForwardWatcher

BACKWARD_PRODUCTS = 2
"""Products of a backward pass over a forward pass's: a gradient for each of the two factors."""
BACKWARD_STATES = 2.5
"""State updates of a backward pass over a forward pass's: the states again, their adjoints, and what joins the two."""
OPTIMIZER_BYTES = 28
"""Traffic of AdamW for each weight: reads it, its gradient and two moments, and writes it and the moments, float32."""


@dataclass
class Layer:
    """A layer's counts in a forward pass."""

    flops: float = 0
    """Operations of its products; a multiply-add is two."""
    updates: float = 0
    """State updates of its scans, each with one exponential: 4 directions x pixels x channels x states."""
    inputs: float = 0
    """Elements of the maps that it reads."""
    outputs: float = 0
    """Elements of the maps that it writes."""
    weights: float = 0
    """Elements of its weights."""


@dataclass
class Work:
    """Counts of a forward pass, by layer."""

    layers: list[Layer] = field(default_factory=list)
    parameters: int = 0
    """Parameters of the whole module, those of norms too."""

    def total(self, name: str) -> float:
        """Return the sum of one count over the layers."""
        return float(sum(getattr(layer, name) for layer in self.layers))


class Roofline(NamedTuple):
    """Milliseconds that a computation takes at least."""

    products_ms: float
    scan_ms: float
    traffic_ms: float
    total_ms: float
    """Sum over layers of the longest of the three."""


def count_work(module: nn.Module, inputs: Iterable[Tensor]) -> Work:
    """Count the work of a module's forward pass in evaluation mode.

    Args:
        module: built under ``torch.device("meta")``.
        inputs: on meta tensors too.
    """
    return _Counter(module).count(module, inputs)


def roofline(work: Work, device: Device, precision: str, backward: bool = False, optimizer: bool = False) -> Roofline:
    """Return the least time of a computation on a device.

    Activations have two bytes in ``bf16`` and four otherwise; weights and their gradients four. A backward pass reads
    a layer's input, weights and output's gradient, and writes the gradients of input and weights.

    Args:
        work: of a forward pass.
        device: whose rates count, with the precision among its products.
        precision: of products and maps.
        backward: with the backward pass.
        optimizer: with a step of AdamW on every weight.
    """
    element = 2 if precision == "bf16" else 4
    times = []
    for layer in work.layers:
        flops, updates = layer.flops, layer.updates
        traffic = element * (layer.inputs + layer.outputs) + 4 * layer.weights
        if backward:
            flops *= 1 + BACKWARD_PRODUCTS
            updates *= 1 + BACKWARD_STATES
            traffic += element * (2 * layer.inputs + layer.outputs) + 8 * layer.weights
        times.append((flops / device.flops[precision], updates / device.exponentials, traffic / device.copy_bytes))
    if optimizer:
        times.append((0.0, 0.0, OPTIMIZER_BYTES * work.parameters / device.copy_bytes))
    products, scan, traffic = (1e3 * sum(column) for column in zip(*times, strict=True))
    return Roofline(products, scan, traffic, 1e3 * sum(max(layer) for layer in times))


class _Counter(ForwardWatcher):
    """Count what a forward pass does."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.weights = {p.untyped_storage()._cdata for p in module.parameters()}
        self.work = Work(parameters=sum(p.numel() for p in module.parameters()))
        self.scan: Layer | None = None  # the SS2D that is running, whose products belong to it

    def count(self, module: nn.Module, inputs: Iterable[Tensor]) -> Work:
        self.watch(module, *inputs)
        return self.work

    def enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if isinstance(module, SS2D):
            x = args[0]
            maps = sum(_elements(arg) for arg in args if isinstance(arg, Tensor))
            updates = DIRECTIONS * x.numel() * module.A_log.shape[-1]
            scanning = [module, *(arg for arg in args if isinstance(arg, SS2D))]
            weights = sum(p.numel() for one in scanning for p in one.parameters())
            self.scan = Layer(updates=updates, inputs=maps, outputs=x.numel(), weights=weights)
            self.work.layers.append(self.scan)

    def leave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if isinstance(module, SS2D):
            self.scan = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if func.overloadpacket in PRODUCTS:  # which count a multiply-add as 2
            flops = PRODUCTS[func.overloadpacket](*args, **kwargs, out_val=out)
            if self.scan is not None:
                self.scan.flops += flops
            else:
                self.work.layers.append(self.layer(flops, args, out))
        return out

    def layer(self, flops: int, args: Iterable[Any], out: Tensor) -> Layer:
        tensors = [arg for arg in args if isinstance(arg, Tensor)]
        weights = sum(_elements(x) for x in tensors if self.is_weight(x))
        if not weights:  # attention
            return Layer(flops)
        return Layer(flops, 0, sum(_elements(x) for x in tensors if not self.is_weight(x)), out.numel(), weights)

    def is_weight(self, x: Tensor) -> bool:
        return x.untyped_storage()._cdata in self.weights


def _elements(x: Tensor) -> int:
    """Count what a tensor holds in memory, its expanded axes once."""
    return math.prod(size for size, stride in zip(x.shape, x.stride(), strict=True) if stride)
