"""A network as a program of ``torch.export``: any batch, height and width, or one of each."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch._dynamo import config
from torch.export import Dim, ExportedProgram

from mtmamba.types import IMAGENET_MEAN, IMAGENET_STD, Logits

Runner = Callable[[Tensor], Logits]
"""What a written file is to who runs it: images → logits by task."""

INPUT = "images"
EXAMPLE = (5, 417, 545)
"""Batch, height and width that dynamic programs are traced at, without computing: no side divides another, and at every
stride a map is cut into several windows and padded."""


uncached = config.patch(fake_tensor_cache_enabled=False)
"""Decorates functions that work on programs: where sizes are symbols, the cache takes longer than the work."""


class ExportError(ValueError):
    """A network or a file that cannot be exported; the message says why."""


class Deployed(nn.Module):
    """A network that may begin with the normalisation of its images.

    Args:
        model: images ``(B, 3, H, W)``, ImageNet-normalised → logits by task.
        normalise: take RGB values of 0 to 255 instead.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, normalise: bool) -> None:
        super().__init__()
        self.model, self.normalise = model, normalise
        self.register_buffer("mean", 255 * torch.tensor(IMAGENET_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", 255 * torch.tensor(IMAGENET_STD)[:, None, None], persistent=False)

    def forward(self, images: Tensor) -> Logits:
        """Predict every task."""
        return self.model((images - self.mean) / self.std if self.normalise else images)


@uncached
def trace(network: nn.Module, size: Sequence[int], dynamic: bool) -> ExportedProgram:
    """Write down what a network computes.

    Args:
        network: images ``(B, 3, H, W)`` → logits by task; in evaluation, on the CPU.
        size: height and width, of one image, where they are fixed.
        dynamic: let batch, height and width be any.

    Raises:
        ExportError: something in the network cannot be written down.
    """
    batch, height, width = EXAMPLE if dynamic else (1, *size)
    axes = dict.fromkeys((0, 2, 3), Dim.DYNAMIC) if dynamic else None
    images = torch.zeros(batch, 3, height, width)
    try:
        with torch.no_grad():
            program = torch.export.export(network, (images,), dynamic_shapes={INPUT: axes})
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise ExportError(
            f"Expected a network whose every step torch.export can write down, got {type(error).__name__}: {reason}: "
            "choose another encoder or decoder, or dynamic=false."
        ) from error
    # They would refuse sizes whose maps have other memory layouts than the example's; results do not depend on that.
    program._guards_code = []
    return program


@uncached
def save(program: ExportedProgram, path: Path, opset: int | None = None) -> None:
    """Write a program for ``torch.export.load``; who loads it imports `mtmamba.scan` first, for the scan."""
    if opset is not None:
        raise ExportError(f"Expected opset with format=onnx alone, got opset={opset} for torch_export: leave it out.")
    torch.export.save(program, path)


@uncached
def load(path: Path) -> Runner:
    """Read such a file."""
    return torch.export.load(path).module()
