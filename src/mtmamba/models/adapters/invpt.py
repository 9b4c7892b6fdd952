"""InvPT's names in its authors' checkpoints, whose ViT has maps of other widths than a Swin's."""

from mtmamba.models.adapters.conv import ConvViews
from mtmamba.models.adapters.decoder import decoder_views
from mtmamba.models.adapters.views import State, Views
from mtmamba.models.decoders.invpt import InvPT


@decoder_views.register
def _(decoder: InvPT, state: State) -> Views:
    found, width = ConvViews(decoder.tasks, state, counted=True), decoder.width
    root = "multi_task_decoder"
    for t, task in enumerate(decoder.tasks):
        for i in (0, 1):
            released = f"{root}.preliminary_decoder.{task}.{i}"
            found.add(f"{released}.conv", f"preliminary.{i}.0", t)
            found.add(f"{released}.bn1", f"preliminary.{i}.1", t)
            found.add(f"{root}.invpt.mt_proj.{task}.{i}", f"head.{i}", t)
        found.add(f"{root}.intermediate_head.{task}", f"preliminary_predict.{task}")
        found.add(f"{root}.invpt.mix_proj.{task}.0", f"mix.{task}")
        found.add(f"heads.{task}.linear_pred", f"predict.{task}")
    attention = {"proj_q": "query", "proj_k": "key", "proj_v": "value", "proj": "proj"}
    for i in range(len(decoder.stages)):
        block, ours = f"{root}.invpt.invpt_stages.{i}.blocks.0", f"stages.{i}"
        for released, own in {"norm1": "norm1", "norm2": "norm2", "mlp.fc1": "mlp.0", "mlp.fc2": "mlp.2"}.items():
            found.add(f"{block}.{released}", f"{ours}.{own}")
        for released, own in attention.items():
            found.add(f"{block}.attn.{released}", f"{ours}.attention.{own}")
        found.add(f"{root}.invpt.norm_mts.{i}", f"outs.{i}.norm")
        for t in range(len(decoder.tasks)):
            found.add(f"{block}.attn.conv_proj_q.{t}.conv", f"{ours}.attention.conv", t)
            found.add(f"{block}.attn.conv_proj_q.{t}.bn", f"{ours}.attention.norm", t)
            if i:
                found.add(f"{root}.invpt.redu_chan.{i}.{t}", f"outs.{i}.reduce", t)
            else:
                found.add_unused(f"{root}.invpt.redu_chan.0.{t}", weight=(width, width, 1, 1), bias=(width,))
            for layer, own in {1: "0.0", 2: "0.1", 4: "1.0", 5: "1.1"}.items():
                embed = f"{root}.invpt.invpt_stages.{i}.patch_embed.{t}.proj.{layer}"
                found.add(embed, f"{ours}.embed.{own}", t)
        found.add(f"{block}.attn.fuse_attn", f"{ours}.attention.fuse")
        found.add(f"{root}.scale_embed.{2 - i}", f"{ours}.skip")
    found.add_unused(f"{root}.invpt.invpt_stages.0.blocks.0.attn.fuse_attn", weight=(2, 4, 1, 1), bias=(2,))
    found.add_unused(f"{root}.invpt.norm_mt", weight=(width,), bias=(width,))
    coarsest = state["preliminary.0.0.weight"].shape[1]
    found.add_unused(f"{root}.scale_embed.2", weight=(width, coarsest, 3, 3), bias=(width,))
    return found.views
