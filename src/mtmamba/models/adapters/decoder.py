"""The decoder's names in released checkpoints: MTMamba's and MTMamba++'s, and where other decoders add theirs."""

import re
from functools import singledispatch

from torch import nn

from mtmamba.models.adapters.views import ReleasedError, State, Views, load_strictly, strip_prefix
from mtmamba.models.decoders.mtmamba.blocks import CTM, SCTM, STM
from mtmamba.models.decoders.mtmamba.decoder import MTMambaDecoder
from mtmamba.models.decoders.mtmamba.extractors import MFE, LinearGate
from mtmamba.models.decoders.mtmamba.heads import ConvHead
from mtmamba.models.decoders.mtmamba.stages import Stage


def _affine(released: str, ours: str) -> dict[str, str]:
    return {f"{released}.{leaf}": f"{ours}.{leaf}" for leaf in ("weight", "bias")}


# Released name → ours. {t} is the task, {s} the stage; two of ours are joined in the order given.
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
CONV_HEAD = _affine("final_expand.{t}.0", "head.conv")


@singledispatch
def decoder_views(decoder: nn.Module, state: State) -> Views:
    """Return where each released decoder tensor lies in ours; each kind of decoder registers its own.

    Args:
        decoder: says which architecture it is.
        state: its tensors by name: its ``state_dict()``, or gradients under the same names.

    Raises:
        ReleasedError: the decoder is none that the authors have released weights of.
    """
    raise ReleasedError(
        f"Expected a decoder that weights were released of, got {type(decoder).__name__}: choose decoder=mtmamba or "
        "decoder=mtmamba_plus."
    )


@decoder_views.register
def _(decoder: MTMambaDecoder, state: State) -> Views:
    views: Views = {}
    plus = isinstance(decoder.head, ConvHead)

    def add(released: str, ours: str, index: int | None = None) -> None:
        pieces = [state[name] if index is None else state[name][index] for name in ours.split()]
        shape = (sum(piece.shape[0] for piece in pieces), *pieces[0].shape[1:])
        if released.endswith(("A_logs", "Ds")):
            shape = (shape[0] * shape[1], *shape[2:])
        elif re.match(r"final_project\..*weight", released) or (plus and re.match(r"concat.*weight", released)):
            shape = (*shape, 1, 1)
        views[released] = (pieces, shape)

    def add_tasks(table: dict[str, str], prefix: str, ours: str, stage: int | None = None) -> None:
        for released, names in table.items():
            for t, task in enumerate(decoder.tasks):
                add((prefix + released).format(t=task, s=stage), " ".join(ours + name for name in names.split()), t)

    def add_shared(table: dict[str, str], norm: str, prefix: str, ours: str) -> None:
        for released, name in table.items():
            add(prefix + released, ours + name, 0)
        for released, name in _affine("norm_share", norm).items():
            add(prefix + released, ours + name)

    for s, stage in enumerate(decoder.stages):
        assert isinstance(stage, Stage)
        add_tasks(STAGE, "", f"stages.{s}.", s)
        for k, block in enumerate(stage.blocks):
            ours = f"stages.{s}.blocks.{k}."
            if isinstance(block, STM) and isinstance(block.mfe, MFE) and isinstance(block.gate, LinearGate):
                add_tasks(SELF_BLOCK, f"block_stm.{{t}}_{s}.{k}." if plus else f"block_{k + 1}.{{t}}_{s}.", ours)
            elif isinstance(block, CTM) and isinstance(block.own, MFE) and isinstance(block.gate, LinearGate):
                add_tasks(CTM_BLOCK, f"block_3.{s}.", ours)
                add_shared(CTM_SHARED, "shared.norm", f"block_3.{s}.", ours)
            elif isinstance(block, SCTM):
                add_tasks(SCTM_BLOCK, f"block_ctm.{s}.0.", ours)
                add_shared(SCTM_SHARED, "norm_shared", f"block_ctm.{s}.0.", ours)
            else:
                raise ReleasedError(
                    f"Expected the decoder of MTMamba or MTMamba++, got one with a {type(block).__name__} block: no "
                    "weights were released for it. Choose decoder=mtmamba or decoder=mtmamba_plus, ablation=none."
                )

    add_tasks(CONV_HEAD if plus else EXPAND_HEAD, "", "")
    for leaf in ("weight", "bias", "running_mean", "running_var"):
        if (norm := state.get(f"head.norm.{leaf}")) is not None:  # gradients have no running statistics
            for task, piece in zip(decoder.tasks, norm.chunk(len(decoder.tasks)), strict=True):
                views[f"final_expand.{task}.1.{leaf}"] = ([piece], tuple(piece.shape))
    for task in decoder.tasks:
        if (count := state.get("head.norm.num_batches_tracked")) is not None:
            views[f"final_expand.{task}.1.num_batches_tracked"] = ([count], ())
        for released, name in _affine(f"final_project.{task}", f"head.project.{task}").items():
            add(released, name)
    return views


def load_released_decoder(decoder: nn.Module, state: State) -> None:
    """Load the decoder's part of a released state dict, strictly.

    Args:
        decoder: one that `decoder_views` knows.
        state: released names, with or without a ``module.`` prefix; the encoder's tensors (``backbone.``) are left out.

    Raises:
        ReleasedError: a tensor is missing, unknown, or of another shape.
    """
    views = decoder_views(decoder, decoder.state_dict())  # of which a decoder's fusing layer may be called a backbone's
    state = {k: v for k, v in strip_prefix(state, "module.").items() if k in views or not k.startswith("backbone.")}
    load_strictly(views, state, "decoder")
