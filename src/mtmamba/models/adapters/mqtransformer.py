"""MQTransformer's names in its authors' checkpoints."""

from mtmamba.models.adapters.conv import ConvViews
from mtmamba.models.adapters.decoder import decoder_views
from mtmamba.models.adapters.views import State, Views
from mtmamba.models.decoders.mqtransformer import MQTransformer


@decoder_views.register
def _(decoder: MQTransformer, state: State) -> Views:
    found = ConvViews(decoder.tasks, state, counted=True)
    root = "parts_query_encoder_decoder_blocks.0"

    def attention(released: str, ours: str) -> None:
        for i, name in enumerate(("q", "k", "v")):
            found.add(f"{released}.norm_{name}", f"{ours}.norms.{i}")
            found.add(f"{released}.to_{name}", f"{ours}.inputs.{i}")
        found.add(f"{released}.proj", f"{ours}.proj")

    def mlp(released: str, ours: str, first: int = 0) -> None:
        for i, name in ((0, "norm"), (1, "fc1"), (3, "fc2")):
            found.add(f"{released}.{name}", f"{ours}.{first + i}")

    for t, task in enumerate(decoder.tasks):
        found.add(f"linears.{t}", "project", t, linear=True)
        for released, ours in {"rpn_tokens": "queries", "rpn_qpos": "query_places", "rpn_kpos": "key_places"}.items():
            x = state[ours][t]
            shape = (1, *x.shape) if ours == "queries" else (1, x.shape[0], 1, x.shape[1])
            found.views[f"{root}.{released}.{t}"] = ([x], shape)
        found.add(f"bottleneck.{task}.conv", "head.0", t)
        found.add(f"bottleneck.{task}.bn", "head.1", t)
        found.add(f"final_logits.{task}", f"predict.{task}")
    attention(f"{root}.encoder1.enc_attn", "read.attention")
    found.add(f"{root}.encoder1.reason.norm", "read.reason.0")
    weight = state["read.reason.1.weight"]
    found.views[f"{root}.encoder1.reason.linear.weight"] = ([weight], (*weight.shape, 1))
    mlp(f"{root}.encoder1.enc_ffn", "read.mlp")
    for leaf in ("weight", "bias"):
        x, value = state[f"meet.qkv.{leaf}"], state[f"write.value.{leaf}"]
        found.views[f"{root}.mhsa_1.in_proj_{leaf}"] = ([x], tuple(x.shape))
        unread = value.new_zeros(2 * len(value), *value.shape[1:])  # queries and keys of an attention to one token
        found.views[f"{root}.decoder1.mhsa.in_proj_{leaf}"] = ([unread, value], tuple(x.shape))
    found.add(f"{root}.mhsa_1.out_proj", "meet.proj")
    found.add(f"{root}.norm_layer", "meet.mlp.0")
    mlp(f"{root}.ffn_mlp", "meet.mlp", first=1)
    attention(f"{root}.decoder1.attn1", "write.attention")
    mlp(f"{root}.decoder1.ffn1", "write.mlp1")
    mlp(f"{root}.decoder1.ffn2", "write.mlp2")
    found.add(f"{root}.decoder1.mhsa.out_proj", "write.proj")
    width = len(weight)
    for name in ("norm_q", "norm_k", "norm_v"):
        found.add_unused(f"{root}.decoder1.attn2.{name}", weight=(width,), bias=(width,))
    for name in ("to_q", "to_k", "to_v", "proj"):
        found.add_unused(f"{root}.decoder1.attn2.{name}", weight=(width, width))
    found.add_unused(f"{root}.decoder1.attn2.proj", bias=(width,))
    found.add_unused(f"{root}.decoder1.rel_pos", rel_emb_h=(7, width // 8), rel_emb_w=(7, width // 8))
    found.add_unused("patch_embed.projection", weight=(width, width, 4, 4), bias=(width,))
    found.add_unused("patch_embed.norm", weight=(width,), bias=(width,))
    return found.views
