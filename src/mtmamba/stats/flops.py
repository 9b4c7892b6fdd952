"""Parameters and FLOPs of a model by part and operator, counted over a forward pass on meta tensors, without data."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import flop_registry

from mtmamba.models.multitask import MultiTaskModel
from mtmamba.models.ss2d import SS2D
from mtmamba.scan import DIRECTIONS
from mtmamba.stats.watcher import ForwardWatcher

aten = torch.ops.aten

PRODUCTS = MappingProxyType({**flop_registry, aten.baddbmm_: flop_registry[aten.baddbmm]})
"""Operators whose cost is PyTorch's formula."""

PER_ELEMENT = MappingProxyType(
    {
        aten.native_layer_norm: ("layer_norm", 5),
        aten.native_batch_norm: ("batch_norm", 2),
        aten.upsample_bilinear2d: ("resize", 4),
    }
)
"""Operators whose cost is a number for each element that they give."""


class Operation(NamedTuple):
    """Something that a forward pass executes."""

    part: str
    operator: str
    flops: int
    """A multiply-add counts as one."""


def exact(operation: Operation) -> int:
    """Return the cost as counted."""
    return operation.flops


def published(operation: Operation) -> int:
    """Return the cost as the paper's tool has it, which reads an einsum's from a text of four digits.

    >>> published(Operation("STM", "einsum", 297_271_296))  # twice this is 5.945e+08
    297250000
    """
    if operation.operator != "einsum":
        return operation.flops
    return math.floor(float(f"{2 * operation.flops:.3e}") / 2)


def multiply_adds(operation: Operation) -> int:
    """Return the cost of linear layers, convolutions and other products; norms, resizes and scans are free."""
    return operation.flops if operation.operator in ("linear", "einsum", "matmul", "conv") else 0


CONVENTIONS: Mapping[str, Callable[[Operation], int]] = MappingProxyType(
    {"paper": published, "exact": exact, "macs": multiply_adds}
)
"""Ways to count. A multiply-add is 1. An element costs 5 in a layer norm, 2 in a batch norm, 4 in a bilinear resize; a
selective scan of L steps, D channels and N states costs 9 L D N + L D. All else is free; padded windows are not."""


@dataclass(frozen=True)
class ModelStats:
    """Parameters of a model, and its FLOPs for one image."""

    parameters: Mapping[str, int]
    """Their number by part of the network."""
    flops: Mapping[tuple[str, str], int]
    """Their number by part and operator."""

    @property
    def total_parameters(self) -> int:
        """Parameters of the whole model."""
        return sum(self.parameters.values())

    @property
    def total_flops(self) -> int:
        """FLOPs of the whole model."""
        return sum(self.flops.values())

    def part_flops(self) -> Counter[str]:
        """FLOPs by part."""
        return self._flops_by(0)

    def operator_flops(self) -> Counter[str]:
        """FLOPs by operator."""
        return self._flops_by(1)

    def _flops_by(self, axis: int) -> Counter[str]:
        sums: Counter[str] = Counter()
        for key, flops in self.flops.items():
            sums[key[axis]] += flops
        return sums


def model_stats(model: MultiTaskModel, image_size: Sequence[int], convention: str = "paper") -> ModelStats:
    """Count the parameters of a model and its FLOPs for one image.

    Args:
        model: built under ``torch.device("meta")``; put in evaluation mode.
        image_size: height and width, pixels.
        convention: ``paper`` (as published), ``exact`` (the same without the published rounding of einsums) or ``macs``
            (the multiply-adds of linear layers, convolutions and other products alone).

    Raises:
        ValueError: another convention, or no image size.
    """
    if convention not in CONVENTIONS:
        raise ValueError(f"Expected convention to be one of {', '.join(CONVENTIONS)}, got {convention}.")
    if len(image_size) != 2 or min(image_size) < 1:
        raise ValueError(f"Expected image_size to be a height and a width, got {list(image_size)}: try [448,576].")
    parts = parts_of(model)
    parameters: Counter[str] = Counter()
    for module, part in parts.items():
        parameters[part] += sum(p.numel() for p in module.parameters(recurse=False))
    flops: Counter[tuple[str, str]] = Counter()
    for operation in _Tracer(parts).trace(model, image_size):
        flops[operation.part, operation.operator] += CONVENTIONS[convention](operation)
    used = {part for part, _ in +flops}
    return ModelStats({part: n for part, n in parameters.items() if n or part in used}, +flops)


def parts_of(model: MultiTaskModel) -> dict[nn.Module, str]:
    """Name the part of the model that each module belongs to.

    Parts are ``encoder``, what the decoder tells apart, and ``decoder`` for the rest of it.
    """
    roots = [("encoder", model.encoder), ("decoder", model.decoder), *model.decoder.parts()]
    return {module: part for part, root in roots for module in root.modules()}


class _Tracer(ForwardWatcher):
    """Write down what a forward pass executes, and where.

    A module may say what the published program has in its place: ``counted_as``, the operator of its product, and
    ``counted_resize``, whether a resize of the logits follows it.
    """

    def __init__(self, parts: Mapping[nn.Module, str]) -> None:
        super().__init__()
        self.parts = parts
        parameters = (p for module in parts for p in module.parameters(recurse=False))
        self.weights = {p.untyped_storage()._cdata for p in parameters}
        self.running: list[nn.Module] = []  # the modules whose forward has begun, innermost last
        self.operations: list[Operation] = []
        self.maps = 0  # that the SS2D which is running scans

    def trace(self, model: MultiTaskModel, image_size: Sequence[int]) -> list[Operation]:
        """Return what the forward pass of one image executes."""
        logits = self.watch(model, torch.empty(1, 3, *image_size, device="meta"))
        for module in model.decoder.modules():
            if getattr(module, "counted_resize", False):
                resized = sum(x.numel() for x in logits.values())
                self.operations.append(Operation(self.parts[module], "resize", 4 * resized))
        return self.operations

    def enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self.running.append(module)
        if isinstance(module, SS2D):
            self.maps = len(args[0])

    def leave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if isinstance(module, SS2D):  # its scans are made of operators that cost nothing by themselves
            d_state = module.A_log.shape[-1]
            self.add("scan", DIRECTIONS * args[0].numel() * (9 * d_state + 1))
        self.running.pop()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        packet = func.overloadpacket
        if packet in PRODUCTS:  # which holds twice the multiply-adds
            weighted = any(isinstance(x, Tensor) and x.untyped_storage()._cdata in self.weights for x in args)
            self.product(packet, PRODUCTS[packet](*args, **kwargs, out_val=out) // 2, weighted)
        elif packet in PER_ELEMENT:
            operator, cost = PER_ELEMENT[packet]
            self.add(operator, cost * (out if isinstance(out, Tensor) else out[0]).numel())
        return out

    def product(self, packet: Any, flops: int, weighted: bool) -> None:
        """Add a product, with a layer's weights or not, under the operator that the published program has there."""
        module = self.running[-1]
        if isinstance(module, SS2D):  # an einsum for each task
            for _ in range(self.maps):
                self.add("einsum", flops // self.maps)
        elif packet == aten.convolution:
            self.add("conv", flops)
        else:
            self.add(getattr(module, "counted_as", "linear" if weighted else "matmul"), flops)

    def add(self, operator: str, flops: int) -> None:
        self.operations.append(Operation(self.parts[self.running[-1]], operator, flops))
