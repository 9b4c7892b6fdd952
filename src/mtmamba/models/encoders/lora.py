"""Low-rank adaptation of a pretrained encoder, by the library peft."""

import re
from importlib.util import find_spec
from typing import Any

from torch import Tensor, nn

from mtmamba.models.encoders.encoder import pretrained_parameters
from mtmamba.models.encoders.swin_blocks import Linear

ADAPTER = "default"
"""peft's name of the only adapter."""


def add_lora(encoder: nn.Module, rank: int, alpha: int | None = None) -> None:
    """Let an encoder's pretrained linear layers, and nothing else that is pretrained, learn an update of low rank.

    ``W`` becomes ``W + alpha / rank B A``, B of zeros at first. Layers fused with an activation are left out. Where
    there is no linear layer, 1x1 convolutions are taken. What always starts at random, as a neck, is trained whole.

    Args:
        encoder: with its pretrained weights in place.
        rank: of the updates.
        alpha: see above; twice the rank by default.

    Raises:
        ImportError: peft is not installed.
        ValueError: no such layer is pretrained.

    Source: Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, ICLR 2022.
    """
    if find_spec("peft") is None:
        raise ImportError("Expected peft for encoder.lora.rank, got none: pip install 'mtmamba[lora]'.")
    from peft import LoraConfig, inject_adapter_in_model  # of an extra, and seconds to import
    from peft.tuners.lora import LoraLayer

    pretrained = {id(p) for p in pretrained_parameters(encoder)}
    fresh = [p for p in encoder.parameters() if id(p) not in pretrained]
    own = {name: m for name, m in encoder.named_modules() if id(getattr(m, "weight", None)) in pretrained}
    targets = [name for name, module in own.items() if type(module) in (nn.Linear, Linear)]
    targets = targets or [name for name, module in own.items() if is_pointwise(module)]
    if not targets:
        raise ValueError(
            "Expected linear layers in the encoder for encoder.lora, got none: set encoder.lora.rank=null."
        )
    scale = 2 * rank if alpha is None else alpha
    names = "|".join(re.escape(name) for name in targets)  # peft takes names in a list for endings
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=scale, target_modules=names), encoder, ADAPTER)
    for parameter in fresh:
        parameter.requires_grad_(True)
    for module in encoder.modules():
        if isinstance(module, LoraLayer):
            adapted = {"weight": property(adapted_weight)}
            module.__class__ = type(f"Adapted{type(module).__name__}", (type(module),), adapted)


def is_pointwise(module: nn.Module) -> bool:
    """Return whether a module is a 1x1 convolution of all channels."""
    return type(module) is nn.Conv2d and module.kernel_size == (1, 1) and module.groups == 1


def adapted_weight(layer: Any) -> Tensor:
    """Return the weight with its update, for operators that read a layer's weight and do not call the layer."""
    weight: Tensor = layer.base_layer.weight
    return weight if layer.merged else weight + layer.get_delta_weight(ADAPTER)


def merge_lora(model: nn.Module) -> None:
    """Add the updates to the weights and take peft's layers out: the same network, without LoRA."""
    for name, module in list(model.named_modules()):
        if hasattr(module, "lora_A") and hasattr(module, "base_layer"):
            module.merge(safe_merge=True)
            model.set_submodule(name, module.base_layer)
