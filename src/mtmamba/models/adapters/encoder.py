"""The encoder's names in released checkpoints: mmsegmentation's Swin."""

import math
import re

import torch
from torch import Tensor, nn

from mtmamba.models.adapters.views import ReleasedError, State, Views, load_strictly, strip_prefix

NAMES = (  # ours → released
    (r"^patch_embed\.proj\.", "patch_embed.projection."),
    (r"^layers\.(\d+)\.blocks\.(\d+)\.attn\.", r"stages.\1.blocks.\2.attn.w_msa."),
    (r"^layers\.(\d+)\.blocks\.(\d+)\.mlp\.fc1\.", r"stages.\1.blocks.\2.ffn.layers.0.0."),
    (r"^layers\.(\d+)\.blocks\.(\d+)\.mlp\.fc2\.", r"stages.\1.blocks.\2.ffn.layers.1."),
    (r"^layers\.(\d+)\.blocks\.", r"stages.\1.blocks."),
    (r"^norms\.", "norm"),
)
TABLE, INDEX = "relative_position_bias_table", "relative_position_index"


def encoder_views(state: State) -> Views:
    """Return where each released encoder tensor (mmsegmentation's Swin) lies in ours.

    Patch merging lists the four merged pixels' channels as (channel, row, column) there, as (column, row, channel) in
    timm's.

    Args:
        state: our encoder's tensors by name: its ``state_dict()``, or gradients under the same names.

    Raises:
        ReleasedError: these are no `SwinEncoder`'s tensors.
    """
    if f"layers.0.blocks.0.attn.{TABLE}" not in state:
        raise ReleasedError("Expected a Swin encoder, the only one with released names: choose encoder=swin_large.")
    views: Views = {}
    for name, x in state.items():
        released = name
        for pattern, replacement in NAMES:
            released = re.sub(pattern, replacement, released)
        shape = tuple(x.shape)
        if merge := re.match(r"layers\.(\d+)\.downsample\.(.+)", name):
            released = f"stages.{int(merge[1]) - 1}.downsample.{merge[2]}"
            x = x.unflatten(-1, (2, 2, -1)).transpose(-1, -3)
        views[released] = ([x], shape)
    return views


def position_indices(views: Views) -> dict[str, Tensor]:
    """Return the buffers that released files hold beside the parameters, by released name.

    For each block, which row of the table of relative position biases belongs to a pair of a window's pixels.

    Args:
        views: from `encoder_views`.

    Shape: ``{name: (window^2, window^2)}``, int64.
    """
    indices = {}
    for name, (_, shape) in views.items():
        if name.endswith(TABLE):
            span = math.isqrt(shape[0])  # 2 window - 1 differences per axis
            rows, columns = torch.meshgrid(*[torch.arange((span + 1) // 2)] * 2, indexing="ij")
            flat = (rows * span + columns).flatten()
            indices[name.removesuffix(TABLE) + INDEX] = flat[:, None] - flat + flat[-1]
    return indices


def encoder_part(state: State) -> dict[str, Tensor]:
    """Return the encoder's tensors without prefix: those under ``backbone.`` if there are any, else all."""
    state = strip_prefix(state, "module.")
    if any(name.startswith("backbone.") for name in state):
        return {k.removeprefix("backbone."): v for k, v in state.items() if k.startswith("backbone.")}
    return state


def load_released_encoder(encoder: nn.Module, state: State) -> None:
    """Load a Swin encoder with mmsegmentation's names, strictly.

    Args:
        encoder: a `SwinEncoder`.
        state: released names, with the prefix ``backbone.`` (then only those are read) or without; ``module.`` before
            it is accepted. Position indices may be absent: they follow from the window's size.

    Raises:
        ReleasedError: the encoder is no Swin; a tensor is missing, unknown, or of another shape; position indices are
            not those of the window.
    """
    state = encoder_part(state)
    views = encoder_views(encoder.state_dict())
    indices = {name: x for name, x in position_indices(views).items() if name in state}
    given = {name: state.pop(name) for name in indices}
    if wrong := [name for name, x in indices.items() if not torch.equal(x, given[name])]:
        raise ReleasedError(
            f"Expected the position indices of this encoder's windows, got others in {wrong[0]}: choose the encoder "
            "(and encoder.window) of the checkpoint."
        )
    load_strictly(views, state, "encoder")
