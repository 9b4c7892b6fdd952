"""Which weights autocast rounds before every use, and so may be held rounded where nothing is trained."""

from collections.abc import Iterator

from torch import nn

PLAIN = (nn.Linear, nn.Conv2d)
"""PyTorch's layers whose weights and biases autocast rounds. A subclass may use them otherwise."""


def rounded_parameters(model: nn.Module) -> Iterator[nn.Parameter]:
    """Yield the parameters that bfloat16 autocast rounds before every use, whichever the device and the scan's backend.

    Each of our modules names its own in an attribute ``rounded``. Left out are those read in float32 on some device: of
    norms, decay rates, skip connections, time steps' biases, and of what one operator does with others.
    """
    for module in model.modules():
        names = ("weight", "bias") if type(module) in PLAIN else getattr(module, "rounded", ())
        yield from (parameter for name in names if (parameter := getattr(module, name)) is not None)
