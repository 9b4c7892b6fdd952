"""An encoder for every task, whose results meet after each stage."""

from collections.abc import Callable, Iterator
from copy import deepcopy

import torch
from torch import Tensor, nn

from mtmamba.models.encoders.encoder import Encoder, StagedEncoder


class Units(nn.ModuleList):
    """What lets the tasks' results meet, after each stage: ``(T, B, h, w, c) → (T, B, h, w, c)``.

    Attributes:
        optimizer_settings: their learning rate's factor, and no weight decay, which would pull them to 0.
    """

    def __init__(self, units: Iterator[nn.Module], lr_scale: float) -> None:
        super().__init__(units)
        self.optimizer_settings = {"lr_scale": lr_scale, "weight_decay": 0.0}


class StitchedEncoder(Encoder):
    """T copies of an encoder, all on the same image; after every stage their results meet in a unit.

    What a unit gives is read by the next stage of each copy and by its output. The copies share nothing, start alike,
    and draw their stochastic depth independently. All this costs T encoders, in parameters and in time.

    Args:
        encoder: to copy, with its weights.
        tasks: T.
        unit: makes a unit for results of some channels.
        lr_scale: what the units' learning rate is multiplied by.

    Shape: images ``(B, 3, H, W)`` → four maps ``(T, B, h, w, c)``.

    Raises:
        ValueError: the encoder does not run stage by stage.
    """

    def __init__(
        self, encoder: Encoder, tasks: int, unit: Callable[[int], nn.Module], *, lr_scale: float = 1.0
    ) -> None:
        super().__init__()
        if not hasattr(encoder, "stage"):
            raise ValueError(
                f"Expected an encoder that runs stage by stage for a decoder whose tasks meet there, got "
                f"{type(encoder).__name__}: choose encoder=swin_… or efficientnet_lite…, or decoder=concat_head."
            )
        staged: StagedEncoder = encoder  # type: ignore[assignment]
        self.channels = encoder.channels
        self.copies = nn.ModuleList([staged, *(deepcopy(staged) for _ in range(tasks - 1))])
        self.units = Units((unit(c) for c in staged.streams), lr_scale)
        self.fresh = ("units", *(f"copies.{t}.{name}" for t in range(tasks) for name in staged.fresh))

    def blocks(self) -> Iterator[nn.Module]:
        """Yield the blocks of the copies, one copy after the other."""
        for copy in self.copies:
            yield from copy.blocks()  # type: ignore[operator]

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the four maps of every task."""
        results, maps = [images] * len(self.copies), []
        for s, unit in enumerate(self.units):
            results = unit(torch.stack([copy.stage(s, x) for copy, x in zip(self.copies, results, strict=True)]))  # type: ignore[operator]
            maps.append(torch.stack([copy.output(s, x) for copy, x in zip(self.copies, results, strict=True)]))  # type: ignore[operator]
        return maps
