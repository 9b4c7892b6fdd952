"""Which weights autocast rounds before every use, and so may be held rounded where nothing is trained."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from torch import nn

from mtmamba.models.attention import WindowAttention
from mtmamba.models.decoders.mtmamba.blocks import MFE, LinearGate
from mtmamba.models.decoders.mtmamba.heads import Project
from mtmamba.models.encoders.swin_blocks import Linear, LinearGELU
from mtmamba.models.layers import SkipFuse, TaskConv2d, TaskLinear
from mtmamba.models.ss2d import SS2D

ROUNDED: Mapping[type[nn.Module], tuple[str, ...]] = MappingProxyType(
    {
        **dict.fromkeys((nn.Linear, nn.Conv2d, Linear, LinearGELU, Project), ("weight", "bias")),
        **dict.fromkeys((TaskLinear, LinearGate, SkipFuse, TaskConv2d), ("weight", "bias")),
        SS2D: ("x_proj", "dt_weight"),
        WindowAttention: ("position_bias",),
    }
)
"""By a module's very type: a subclass may use its weights otherwise, as `NormProject` does."""


def rounded_parameters(model: nn.Module) -> Iterator[nn.Parameter]:
    """Yield the parameters that bfloat16 autocast rounds before every use, whichever the device and the scan's backend.

    Left out are those read in float32 on some device: of norms, decay rates, skip connections, time steps' biases,
    and of what one operator does with others, depthwise convolutions and MTMamba's projections to logits.
    """
    depthwise = {module.conv for module in model.modules() if isinstance(module, MFE)}
    for module in model.modules():
        if module not in depthwise:
            for name in ROUNDED.get(type(module), ()):
                if (parameter := getattr(module, name)) is not None:
                    yield parameter
