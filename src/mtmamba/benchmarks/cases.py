"""What a benchmark measures: a case is one call at one size and precision."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import product
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from mtmamba import build, restore
from mtmamba.benchmarks.roofline import Work, count_work
from mtmamba.benchmarks.timing import PRECISIONS, autocast
from mtmamba.config import compose
from mtmamba.config.checks import ConfigError
from mtmamba.models.decoders.mtmamba.extractors import EXPANSION
from mtmamba.models.layers import DepthwiseConv2d, TaskLayerNorm, TaskLinear
from mtmamba.models.multitask import MultiTaskModel
from mtmamba.models.skeleton import skeleton
from mtmamba.models.ss2d import SS2D

PASSES = ("forward", "backward")
"""What operators and blocks are timed in: the forward pass without gradients, or forward and backward together."""


@dataclass(frozen=True, kw_only=True)
class Case(ABC):
    """One call to measure."""

    name: str
    group: str
    """Part of the benchmark: ``ops``, ``blocks`` or ``model``."""
    release_name: str
    """Name without what only our program can choose."""
    precision: str
    batch_size: int
    backend: str
    """The selective scan's implementation."""
    backward: bool
    """Whether a backward pass belongs to it."""
    optimizer: bool = False
    """Whether a step of AdamW belongs to it."""
    cuda_graph: bool = False
    """Whether it is replayed from CUDA graphs."""

    @property
    def captured_whole(self) -> bool:
        """Whether the call is one graph; otherwise it holds its own, if any."""
        return self.cuda_graph

    @abstractmethod
    def prepare(self, device: torch.device) -> Callable[[], object]:
        """Build everything on a device and return what to measure."""

    @abstractmethod
    def work(self) -> Work:
        """Count a forward pass."""


@dataclass(frozen=True, kw_only=True)
class MapCase(Case):
    """A module over random maps ``(T, B, H, W, C)``, an operator or a block of the decoder."""

    build: Callable[[str], nn.Module]
    """Builds the module for a backend of the scan."""
    shape: tuple[int, ...]

    def prepare(self, device: torch.device) -> Callable[[], object]:
        """Build module and map; in ``bf16`` the map is what autocast makes of it inside a network."""
        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float32
        with torch.device(device):
            module = self.build(self.backend)
        x = torch.randn(self.shape, device=device).to(dtype).requires_grad_(self.backward)

        def forward() -> Tensor:
            with autocast(device, self.precision):
                y: Tensor = module(x)
            return y

        if not self.backward:
            module.eval()
            return torch.no_grad()(forward)
        inputs = [x, *module.parameters()]
        dy = torch.randn_like(forward())
        return lambda: torch.autograd.grad(forward(), inputs, dy)

    def work(self) -> Work:
        """Count a forward pass."""
        with skeleton():
            return count_work(self.build("auto"), [torch.empty(self.shape)])


def operator_cases(cfg: DictConfig, backend: str) -> Iterator[Case]:
    """Yield the cases of single operators.

    Args:
        cfg: ``maps`` (operator, tasks, channels and size of each), ``batch_sizes``, ``precisions``, ``passes`` and
            ``cuda_graph``.
        backend: the selective scan's.
    """
    _require_settings(cfg)
    for settings in cfg.maps:
        require("op", [settings.op], OPERATORS)
        tasks, dim, (height, width) = settings.tasks, settings.dim, settings.size
        name = f"{settings.op}_t{tasks}_{dim}_{height}x{width}"
        build = partial(OPERATORS[settings.op], tasks, dim)
        yield from _map_cases("ops", name, build, (tasks, height, width, dim), cfg, backend)


def block_cases(cfg: DictConfig, networks: Mapping[str, str], backend: str) -> Iterator[Case]:
    """Yield the cases of each kind of block that takes one map ``(T, B, H, W, C)``, at each size that it has.

    Args:
        cfg: ``networks`` (names), ``batch_sizes``, ``precisions``, ``passes`` and ``cuda_graph``.
        networks: overrides of the training configuration, by name.
        backend: the selective scan's.
    """
    _require_settings(cfg)
    require("blocks.networks", cfg.networks, networks)
    for network in cfg.networks:
        for (kind, shape), index in _kinds(networks[network]).items():
            tasks, height, width, dim = shape
            name = f"{kind.lower()}_{network}_t{tasks}_{dim}_{height}x{width}"
            build = partial(_block, networks[network], index)
            yield from _map_cases("blocks", name, build, shape, cfg, backend)


@cache
def _kinds(overrides: str) -> dict[tuple[str, tuple[int, ...]], int]:
    """Return which of the decoder's blocks has a kind and a shape ``(T, H, W, C)`` of its map, the last of each."""
    cfg, model = network_on_meta(overrides)
    found: dict[tuple[str, tuple[int, ...]], int] = {}

    def note(index: int, block: nn.Module, inputs: tuple[Any, ...]) -> None:
        if len(inputs) == 1 and getattr(inputs[0], "ndim", 0) == 5:
            tasks, _, *rest = inputs[0].shape
            found[type(block).__name__, (tasks, *rest)] = index

    hooks = [block.register_forward_pre_hook(partial(note, i)) for i, block in enumerate(model.decoder.blocks())]
    with torch.device("meta"), torch.no_grad():
        model.eval()(torch.empty(1, 3, *cfg.data.crop_size))
    for hook in hooks:
        hook.remove()
    return found


@cache
def network_on_meta(overrides: str) -> tuple[DictConfig, MultiTaskModel]:
    """Compose a network's training configuration and build the network without storage."""
    cfg = network_config(overrides)
    with skeleton():
        return cfg, build.build_model(cfg)


def network_config(overrides: str, *more: str) -> DictConfig:
    """Compose the training configuration of a network with random weights.

    Args:
        overrides: as on the command line, parted by spaces.
        more: further overrides.
    """
    cfg = compose.load_config([*overrides.split(), *more])
    restore.fetch_nothing(cfg)
    return cfg


def require(key: str, values: Iterable[Any], choices: Iterable[Any]) -> None:
    """Raise ConfigError unless every value is one of the choices."""
    allowed = list(choices)
    if wrong := [value for value in values if value not in allowed]:
        raise ConfigError(f"Expected {key} among {', '.join(map(str, allowed))}, got {wrong}: correct it.")


def _require_settings(cfg: DictConfig) -> None:
    require("precisions", cfg.precisions, PRECISIONS)
    require("passes", cfg.passes, PASSES)
    require("cuda_graph", cfg.cuda_graph, (False, True))


def _map_cases(
    group: str, name: str, build: Callable[[str], nn.Module], shape: Sequence[int], cfg: DictConfig, backend: str
) -> Iterator[Case]:
    tasks, *rest = shape
    for batch, precision, passes, graph in product(cfg.batch_sizes, cfg.precisions, cfg.passes, cfg.cuda_graph):
        full_name = f"{name}_b{batch}_{precision}_{passes}"
        yield MapCase(
            name=f"{full_name}_graph" if graph else full_name,
            group=group,
            release_name=full_name,
            precision=precision,
            batch_size=batch,
            backend=backend,
            backward=passes == "backward",
            cuda_graph=graph,
            build=build,
            shape=(tasks, batch, *rest),
        )


def _block(overrides: str, index: int, backend: str) -> nn.Module:
    cfg = network_config(overrides, f"backend={backend}")
    _, model = network_on_meta(overrides)
    return list(build.build_decoder(cfg, model.encoder.channels).blocks())[index]


def _ss2d(tasks: int, dim: int, backend: str) -> nn.Module:
    scan = SS2D(tasks, dim, dt_rank=math.ceil(dim / EXPANSION / 16))
    scan.backend = backend
    return nn.Sequential(scan, TaskLayerNorm(tasks, dim))


def _conv(tasks: int, dim: int, backend: str) -> nn.Module:
    return DepthwiseConv2d(tasks, dim)


def _linear(tasks: int, dim: int, backend: str) -> nn.Module:
    return TaskLinear(tasks, dim, 4 * dim, bias=False)


OPERATORS: Mapping[str, Callable[[int, int, str], nn.Module]] = {"ss2d": _ss2d, "conv": _conv, "linear": _linear}
"""The SS2D core and the norm after it; the MFE's convolution and SiLU before it; a product to four times the width."""
