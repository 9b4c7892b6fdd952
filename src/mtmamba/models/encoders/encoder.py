"""The contract of encoders, and what building one needs."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from operator import attrgetter

import torch
from timm.layers import DropPath as TimmDropPath
from torch import Tensor, nn

from mtmamba.models.drop_path import DropPath
from mtmamba.types import IMAGENET_MEAN, IMAGENET_STD

STRIDES = (4, 8, 16, 32)
"""Strides of an encoder's maps, finest first."""
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class Encoder(nn.Module, ABC):
    """What the program asks of an encoder: any module that has these works, a subclass or not.

    Attributes:
        channels: of the four maps, finest first.
        fresh: names of modules in it that start at random even where the rest is pretrained: `freeze` leaves them out.

    Shape: images ``(B, 3, H, W)``, sides divisible by 32 → four maps ``(B, h, w, c)``.
    """

    channels: tuple[int, ...]
    fresh: tuple[str, ...] = ()

    @abstractmethod
    def blocks(self) -> Iterator[nn.Module]:
        """Yield the blocks whose activations may be recomputed, first to last."""


class StagedEncoder(Encoder):
    """An encoder that can be run stage by stage, as methods need whose tasks meet between stages.

    Its maps are ``output(s, x)`` of the stages' results x, which the next stage reads.

    Attributes:
        streams: channels of the four stages' results.
    """

    streams: tuple[int, ...]

    @abstractmethod
    def stage(self, s: int, x: Tensor) -> Tensor:
        """Run a stage: images ``(B, 3, H, W)``, or the previous stage's result, → ``(B, h, w, streams[s])``."""

    @abstractmethod
    def output(self, s: int, x: Tensor) -> Tensor:
        """Return the map of a stage's result: ``(B, h, w, streams[s]) → (B, h, w, channels[s])``."""


def pretrained_parameters(encoder: nn.Module) -> list[nn.Parameter]:
    """Return an encoder's parameters in the order of their modules, but for those that always start at random."""
    modules = (attrgetter(name)(encoder) for name in getattr(encoder, "fresh", ()))
    fresh = {id(p) for module in modules if module is not None for p in module.parameters()}
    return [p for p in encoder.parameters() if id(p) not in fresh]


def by_depth(encoder: nn.Module, decay: float) -> dict[float, list[nn.Parameter]]:
    """Return an encoder's pretrained parameters by what layer-wise decay multiplies their learning rate by.

    With n blocks, block k has ``decay^(n + 1 - k)``, and so has what lies between it and the next; what comes before
    the first has ``decay^(n + 1)``, and what comes after the last has 1.

    Args:
        encoder: with blocks in the order of their use, and of their parameters.
        decay: 1 for none.

    Source: Bao et al., BEiT, ICLR 2022, and the released program.

    Example:
        >>> by_depth(nn.Linear(2, 2), 1.0).keys()
        dict_keys([1.0])
    """
    found: dict[float, list[nn.Parameter]] = {}
    for own in getattr(encoder, "copies", (encoder,)):
        parameters = pretrained_parameters(own)
        blocks = list(own.blocks()) if decay != 1 else []  # type: ignore[operator]
        number = {id(p): k for k, block in enumerate(blocks, 1) for p in block.parameters()}
        last = max((i for i, p in enumerate(parameters) if id(p) in number), default=-1)
        depth = 0
        for i, parameter in enumerate(parameters):
            depth = number.get(id(parameter), depth)
            scale = decay ** (len(blocks) + 1 - depth) if i <= last else 1.0
            found.setdefault(scale, []).append(parameter)
    return found


def freeze(encoder: nn.Module, part: int | str) -> tuple[nn.Module, ...]:
    """Exclude an encoder's pretrained parameters from training, and those of each of its ``copies`` where it has them.

    Args:
        encoder: with blocks in the order of their use.
        part: ``all``; ``norms``, its batch norms alone; or how many blocks, the first ones, with what comes before the
            last of them.

    Returns:
        The modules without a trained parameter, to be kept in evaluation mode: batch norms and stochastic depth too.

    Raises:
        ValueError: none of these, a number of blocks that the encoder has not, or ``norms`` of one without batch norms.
    """
    for own in getattr(encoder, "copies", (encoder,)):
        for parameter in _first_parameters(own, part):
            parameter.requires_grad_(False)
    return tuple(module for module in encoder.modules() if is_frozen(module))


def is_frozen(module: nn.Module) -> bool:
    """Return whether a module has parameters, and none that is trained."""
    trained = [p.requires_grad for p in module.parameters()]
    return bool(trained) and not any(trained)


def _first_parameters(encoder: nn.Module, part: int | str) -> list[nn.Parameter]:
    parameters = pretrained_parameters(encoder)
    if part == "norms":
        norms = {id(p) for m in encoder.modules() if isinstance(m, BATCH_NORMS) for p in m.parameters()}
        parameters = [p for p in parameters if id(p) in norms]
        if not parameters:
            raise ValueError("Expected an encoder with batch norms for encoder.freeze=norms, got none: leave it out.")
    elif part != "all":
        blocks = list(encoder.blocks())  # type: ignore[operator]
        if not isinstance(part, int) or isinstance(part, bool) or not 1 <= part <= len(blocks):
            raise ValueError(
                f"Expected encoder.freeze to be all, norms, or a number of the encoder's blocks from 1 to "
                f"{len(blocks)}, got {part}: choose one of those, or null."
            )
        last = {id(p) for p in blocks[part - 1].parameters()}
        parameters = parameters[: 1 + max(i for i, p in enumerate(parameters) if id(p) in last)]
    return parameters


class Renormalise(nn.Module):
    """Turn images normalised as everywhere in this program into those that pretrained weights expect.

    Args:
        mean: of RGB in 0..1, subtracted before these weights' training.
        std: what images were divided by there.

    Shape: ``(B, 3, H, W) → (B, 3, H, W)``.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        scale = torch.tensor(IMAGENET_STD) / torch.tensor(std)
        shift = (torch.tensor(IMAGENET_MEAN) - torch.tensor(mean)) / torch.tensor(std)
        self.register_buffer("scale", scale[:, None, None], persistent=False)
        self.register_buffer("shift", shift[:, None, None], persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Scale and shift the channels."""
        return torch.addcmul(self.shift, images, self.scale)


def own_drop_path(model: nn.Module) -> None:
    """Put `DropPath` in the place of timm's, at the same rates: its draws can be set for each sample."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, TimmDropPath):
                setattr(parent, name, DropPath(child.drop_prob))


def on_meta() -> bool:
    """Whether tensors are being made without storage: then there is nothing to load weights into."""
    return torch.empty(0).device.type == "meta"
