"""Checkpoints in the authors' naming, and ours: a strict two-way map.

The map is a table of views: for every released tensor, the piece (or pieces) of our tensors that hold its numbers.
Importing copies into the views, exporting reads from them, and the same table over gradients compares gradients.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mtmamba.models.blocks import CTM, MFE, SCTM, STM, LinearGate
from mtmamba.models.decoders import ConvHead, Decoder
from mtmamba.models.encoders import SwinEncoder

State = Mapping[str, Tensor]
Views = dict[str, tuple[list[Tensor], tuple[int, ...]]]
"""Released name → our pieces, joined along their first axis, and the released shape."""


class CheckpointError(ValueError):
    """A checkpoint does not hold what was asked of it; the message says which tensors."""


def _affine(released: str, ours: str) -> dict[str, str]:
    return {f"{released}.{leaf}": f"{ours}.{leaf}" for leaf in ("weight", "bias")}


# Released name → ours. {t} is the task, {s} the stage, {k} the block; two of ours are joined in the order given.
SCAN = {  # an MFE but for its input layer
    "x_proj_weight": "ss2d.x_proj",
    "dt_projs_weight": "ss2d.dt_weight",
    "dt_projs_bias": "ss2d.dt_bias",
    "A_logs": "ss2d.A_log",
    "Ds": "ss2d.D",
    **_affine("conv2d", "conv"),
    **_affine("out_norm", "norm"),
}
STAGE = {
    "expand_layers.{t}_{s}.expand.weight": "expand.expand.weight",
    **_affine("expand_layers.{t}_{s}.norm", "expand.norm"),
    **_affine("concat_layers.{t}_{s}", "fuse"),
}
SELF_BLOCK = {
    **_affine("norm", "norm"),
    "op.in_proj.weight": "mfe.in_proj.weight gate.weight",
    **{f"op.{released}": f"mfe.{ours}" for released, ours in SCAN.items()},
    "op.out_proj.weight": "out_proj.weight",
}
CTM_BLOCK = {
    **_affine("norm.{t}", "norm"),
    "op.{t}.in_proj.weight": "own.in_proj.weight",
    **{f"op.{{t}}.{released}": f"own.{ours}" for released, ours in SCAN.items()},
    "in_proj.{t}.weight": "gate.weight",
    "out_proj.{t}.weight": "out_proj.weight",
}
CTM_SHARED = {
    "op_share.in_proj.weight": "shared.mfe.in_proj.weight",
    **{f"op_share.{released}": f"shared.mfe.{ours}" for released, ours in SCAN.items()},
}
SCTM_BLOCK = {
    **_affine("norm.{t}", "norm"),
    **{name.replace("op.", "op.{t}."): ours for name, ours in SELF_BLOCK.items() if name.startswith("op.")},
    "op.{t}.in_proj_cross.weight": "cross_proj.weight",
}
SCTM_SHARED = {**_affine("conv_share.0", "conv_shared.0"), **_affine("conv_share.1", "conv_shared.1")}
EXPAND_HEAD = {
    "final_expand.{t}.expand.weight": "head.expand.expand.weight",
    **_affine("final_expand.{t}.norm", "head.expand.norm"),
}

ENCODER_NAMES = (  # ours → released
    (r"^patch_embed\.proj\.", "patch_embed.projection."),
    (r"^layers\.(\d+)\.blocks\.(\d+)\.attn\.", r"stages.\1.blocks.\2.attn.w_msa."),
    (r"^layers\.(\d+)\.blocks\.(\d+)\.mlp\.fc1\.", r"stages.\1.blocks.\2.ffn.layers.0.0."),
    (r"^layers\.(\d+)\.blocks\.(\d+)\.mlp\.fc2\.", r"stages.\1.blocks.\2.ffn.layers.1."),
    (r"^layers\.(\d+)\.blocks\.", r"stages.\1.blocks."),
    (r"^norms\.", "norm"),
)


def decoder_views(decoder: Decoder, state: State) -> Views:
    """Return where each released decoder tensor lies in ours.

    Args:
        decoder: says which architecture it is.
        state: its tensors by name: its ``state_dict()``, or gradients under the same names.

    Raises:
        CheckpointError: the decoder is none that the authors have released weights of.
    """
    views: Views = {}
    plus = isinstance(decoder.head, ConvHead)

    def add(released: str, ours: str, index: int | None) -> None:
        pieces = [state[name] if index is None else state[name][index] for name in ours.split()]
        shape = (sum(piece.shape[0] for piece in pieces), *pieces[0].shape[1:])
        if released.endswith(("A_logs", "Ds")):
            shape = (shape[0] * shape[1], *shape[2:])
        elif re.match(r"final_project\..*weight", released) or (plus and re.match(r"concat.*weight", released)):
            shape = (*shape, 1, 1)
        views[released] = (pieces, shape)

    def add_all(table: dict[str, str], prefix: str, ours: str, **fields: object) -> None:
        for released, name in table.items():
            for t, task in enumerate(decoder.tasks):
                names = " ".join(ours + part for part in name.split())
                add((prefix + released).format(t=task, **fields), names, t)

    for s, stage in enumerate(decoder.stages):
        ours = f"stages.{s}."
        add_all(STAGE, "", ours, s=s)
        for k, block in enumerate(stage.blocks):
            part = f"{ours}blocks.{k}."
            if isinstance(block, STM) and isinstance(block.mfe, MFE) and isinstance(block.gate, LinearGate):
                add_all(
                    SELF_BLOCK, "block_stm.{t}_{s}.{k}." if plus else "block_{k1}.{t}_{s}.", part, s=s, k=k, k1=k + 1
                )
            elif isinstance(block, CTM) and isinstance(block.own, MFE) and isinstance(block.gate, LinearGate):
                add_all(CTM_BLOCK, f"block_3.{s}.", part)
                for released, name in CTM_SHARED.items():
                    add(f"block_3.{s}.{released}", part + name, 0)
                for released, name in _affine("norm_share", "shared.norm").items():
                    add(f"block_3.{s}.{released}", part + name, None)
            elif isinstance(block, SCTM):
                add_all(SCTM_BLOCK, f"block_ctm.{s}.0.", part)
                for released, name in SCTM_SHARED.items():
                    add(f"block_ctm.{s}.0.{released}", part + name, 0)
                for released, name in _affine("norm_share", "norm_shared").items():
                    add(f"block_ctm.{s}.0.{released}", part + name, None)
            else:
                raise CheckpointError(
                    f"Expected the decoder of MTMamba or MTMamba++, got one with a {type(block).__name__} block: no "
                    "weights were released for it. Choose decoder=mtmamba or decoder=mtmamba_plus, ablation=none."
                )
    if plus:
        add_all(_affine("final_expand.{t}.0", "conv"), "", "head.")
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            if f"head.norm.{leaf}" in state:  # gradients have no running statistics
                for task, piece in zip(
                    decoder.tasks, state[f"head.norm.{leaf}"].chunk(len(decoder.tasks)), strict=True
                ):
                    views[f"final_expand.{task}.1.{leaf}"] = ([piece], tuple(piece.shape))
        if "head.norm.num_batches_tracked" in state:
            for task in decoder.tasks:
                views[f"final_expand.{task}.1.num_batches_tracked"] = ([state["head.norm.num_batches_tracked"]], ())
    else:
        add_all(EXPAND_HEAD, "", "")
    for task in decoder.tasks:
        for released, name in _affine(f"final_project.{task}", f"head.project.{task}").items():
            add(released, name, None)
    return views


def encoder_views(state: State) -> Views:
    """Return where each released encoder tensor (mmsegmentation's Swin) lies in ours.

    Patch merging lists the four merged pixels' channels as (channel, row, column) there, as (column, row, channel) in
    timm's.

    Args:
        state: our encoder's tensors by name: its ``state_dict()``, or gradients under the same names.
    """
    views: Views = {}
    for name, x in state.items():
        released = name
        for pattern, replacement in ENCODER_NAMES:
            released = re.sub(pattern, replacement, released)
        shape = tuple(x.shape)
        if merge := re.match(r"layers\.(\d+)\.downsample\.(.+)", name):
            released = f"stages.{int(merge[1]) - 1}.downsample.{merge[2]}"
            x = x.unflatten(-1, (2, 2, -1)).transpose(-1, -3)
        views[released] = ([x], shape)
    return views


def export_views(views: Views) -> dict[str, Tensor]:
    """Return the tensors that a table of views stands for, under their released names."""
    return {
        name: torch.cat([p.reshape(p.shape) if p.ndim else p[None] for p in pieces]).reshape(shape).clone()
        for name, (pieces, shape) in views.items()
    }


def _load(views: Views, state: State, what: str) -> None:
    problems = [f"missing {name}" for name in views.keys() - state.keys()]
    problems += [f"unexpected {name}" for name in state.keys() - views.keys()]
    problems += [
        f"{name} has shape {tuple(state[name].shape)}, expected {shape}"
        for name, (_, shape) in views.items()
        if name in state and tuple(state[name].shape) != shape
    ]
    if problems:
        more = f"\n  ... and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise CheckpointError(
            f"Expected the {len(views)} tensors of a released {what} of this size and these tasks, got {len(state)} that "
            "do not fit: choose the experiment, encoder, decoder and tasks of the checkpoint.\n  "
            + "\n  ".join(sorted(problems)[:10])
            + more
        )
    with torch.no_grad():
        for name, (pieces, _) in views.items():
            source = state[name].reshape(-1)
            for piece, values in zip(pieces, source.split([p.numel() for p in pieces]), strict=True):
                piece.copy_(values.reshape(piece.shape))


def strip_prefix(state: State, prefix: str) -> dict[str, Tensor]:
    """Return a state dict without a prefix that names may carry."""
    return {name.removeprefix(prefix): x for name, x in state.items()}


def load_released_decoder(decoder: Decoder, state: State) -> None:
    """Load the decoder's part of a released state dict, strictly.

    Args:
        decoder: MTMamba's (with any number of STM blocks) or MTMamba++'s.
        state: released names, with or without a ``module.`` prefix; the encoder's tensors (``backbone.``) are left out.

    Raises:
        CheckpointError: a tensor is missing, unknown, or of another shape.
    """
    state = {k: v for k, v in strip_prefix(state, "module.").items() if not k.startswith("backbone.")}
    _load(decoder_views(decoder, decoder.state_dict()), state, "decoder")


def load_released_encoder(encoder: nn.Module, state: State) -> None:
    """Load a Swin encoder with mmsegmentation's names, strictly.

    Args:
        encoder: a `SwinEncoder`.
        state: released names, with the prefix ``backbone.`` (then only those are read) or without; ``module.`` before
            it is accepted.

    Raises:
        CheckpointError: the encoder is no Swin; a tensor is missing, unknown, or of another shape.
    """
    if not isinstance(encoder, SwinEncoder):
        raise CheckpointError(f"Expected a Swin encoder, got {type(encoder).__name__}: choose encoder=swin_large.")
    state = strip_prefix(state, "module.")
    if any(name.startswith("backbone.") for name in state):
        state = {k.removeprefix("backbone."): v for k, v in state.items() if k.startswith("backbone.")}
    derived = ("relative_position_index",)  # follows from the window's size
    _load(encoder_views(encoder.state_dict()), {k: v for k, v in state.items() if not k.endswith(derived)}, "encoder")
