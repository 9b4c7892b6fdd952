"""ASTMT: closed forms, a unit and the decoder written out task by task, and a modulated encoder against Swin's own."""

import pytest
import torch
from torch.nn import functional as F

import mtmamba
from mtmamba.models.decoders.astmt import ASTMT, ASTMTDecoder, Unit
from mtmamba.models.encoders import SwinEncoder
from mtmamba.models.encoders.efficientnet_lite import EfficientNetLite
from mtmamba.models.encoders.modulated import ModulatedSwin
from mtmamba.models.skeleton import skeleton

CHANNELS = (4, 8, 16, 32)
MICRO = {"embed_dim": 12, "depths": (1, 2, 2, 1), "num_heads": (1, 2, 3, 6), "window": 4}


def randomised(module):
    for p in module.parameters():
        p.data = p.data + 0.2 * torch.randn(p.shape)
    return module.eval()


@pytest.mark.parametrize("decoder", ["astmt", "astmt_decoder"])
@pytest.mark.parametrize(
    ("data", "encoder", "width", "parameters"),
    [
        ("nyud", "swin_tiny", 64, 2_462_505),
        ("nyud", "swin_large", 64, 4_680_105),
        ("pascal_context", "swin_tiny", 64, 2_694_765),
        ("pascal_context", "swin_large", 64, 5_110_125),
        ("nyud", "swin_large", 256, 21_546_909),
    ],
)
def test_parameters_of_the_specification(counted, decoder, data, encoder, width, parameters):
    assert counted(decoder, data, encoder, f"decoder.width={width}") == parameters


def test_modulation_has_the_parameters_of_the_specification():
    with skeleton():
        model = mtmamba.build_model(mtmamba.load_config(["data=nyud", "encoder=swin_large", "decoder=astmt"]))
    count = dict.fromkeys(("adapter", "excite", "norm", "rest"), 0)
    for name, p in model.encoder.named_parameters():
        kind = next((kind for kind in count if f".{kind}" in name and "patch_embed" not in name), "rest")
        count["norm" if name.startswith("norms.") else kind] += p.numel()
    assert (count["adapter"], count["excite"]) == (62_816_256, 7_928_736)
    dims, depths = (192, 384, 768, 1536), (2, 2, 18, 2)
    norms = 2 * (sum(2 * n * d for n, d in zip(depths, dims, strict=True)) + sum(4 * d for d in dims[:3]) + sum(dims))
    assert count["norm"] == 4 * norms
    assert count["rest"] == 195_201_204 - norms


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("adapter", [False, True])
def test_a_unit_equals_one_written_out(shared, adapter):
    torch.manual_seed(0)
    unit = randomised(Unit(3, 4, 8, 3, 2, shared=shared, adapter=adapter, reduction=4))
    x = torch.randn(2, 4 if shared else 12, 7, 9)
    for t, got in enumerate(unit(x).chunk(3, 1)):
        own = x if shared else x.chunk(3, 1)[t]
        y = F.conv2d(own, unit.conv.weight, padding=2, dilation=2)
        if adapter:
            y = y + torch.einsum("bchw,oc->bohw", own, unit.adapter.weight.chunk(3)[t][:, :, 0, 0])
        scale, shift = (p.chunk(3)[t][:, None, None] for p in (unit.norm.weight, unit.norm.bias))
        y = (y / (1 + 1e-5) ** 0.5 * scale + shift).clamp(min=0)
        first, second = (
            (layer.weight.chunk(3)[t][:, :, 0, 0], layer.bias.chunk(3)[t]) for layer in (unit.se.reduce, unit.se.expand)
        )
        hidden = (y.mean((2, 3)) @ first[0].T + first[1]).clamp(min=0)
        gates = 1 / (1 + (-(hidden @ second[0].T + second[1])).exp())
        torch.testing.assert_close(got, y * gates[:, :, None, None], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_decoder_is_that_of_each_task_alone():
    """The shared convolutions of several tasks, with one task's adapters, norms and gates, are that task's decoder."""
    torch.manual_seed(0)
    outputs = {"semseg": 5, "depth": 1, "normals": 3}
    features = [torch.randn(2, 64 // s, 96 // s, c) for s, c in ((4, 4), (8, 8), (16, 16), (32, 32))]
    for kind in (ASTMTDecoder, ASTMT):
        whole = randomised(kind(CHANNELS, outputs, width=16))
        given = features if kind is ASTMTDecoder else [x + torch.randn(3, *x.shape) for x in features]
        logits = whole(given)
        for t, task in enumerate(outputs):
            single = kind(CHANNELS, {task: outputs[task]}, width=16).eval()
            state = {}
            for name, x in single.state_dict().items():
                other = whole.state_dict()[name]
                state[name] = other if other.shape == x.shape else other.chunk(3)[t]
            single.load_state_dict(state)
            alone = single(given if kind is ASTMTDecoder else [x[t : t + 1] for x in given])
            torch.testing.assert_close(alone[task], logits[task], rtol=1e-4, atol=1e-5)


def test_the_decoder_reads_its_branches_at_stride_16():
    torch.manual_seed(0)
    decoder, seen = ASTMTDecoder(CHANNELS, {"depth": 1}, width=16).eval(), {}
    for name in ("branches.0", "branches.1", "branches.2", "branches.3", "pooled", "low", "join", "refine.0"):
        decoder.get_submodule(name).register_forward_hook(lambda _, args, y, n=name: seen.update({n: (args[0], y)}))
    features = [torch.randn(1, 64 // s, 96 // s, c) for s, c in ((4, 4), (8, 8), (16, 16), (32, 32))]
    decoder(features)
    x = F.interpolate(features[3].permute(0, 3, 1, 2), scale_factor=2, mode="bilinear")
    assert all(torch.equal(seen[f"branches.{i}"][0], x) for i in range(4))
    rates = [decoder.branches[i].conv.dilation[0] for i in range(4)]
    assert (rates, [decoder.branches[i].conv.kernel_size[0] for i in range(4)]) == ([1, 6, 12, 18], [1, 3, 3, 3])
    torch.testing.assert_close(seen["pooled"][0][:, :, 0, 0], x.mean((2, 3)))
    every = [*(seen[f"branches.{i}"][1] for i in range(4)), seen["pooled"][1].expand(-1, -1, 4, 6)]
    torch.testing.assert_close(seen["join"][0], torch.cat(every, 1))
    deep = F.interpolate(seen["join"][1], scale_factor=4, mode="bilinear")
    torch.testing.assert_close(seen["refine.0"][0], torch.cat([deep, seen["low"][1]], 1))


@torch.no_grad()
def test_a_modulated_encoder_runs_each_task_through_swins_blocks():
    torch.manual_seed(0)
    encoder = randomised(SwinEncoder(**MICRO, drop_path=0.0))
    modulated, images = randomised(ModulatedSwin(encoder, 3)), torch.randn(2, 3, 64, 96)

    def norm(layer, x, t):
        return F.layer_norm(x, x.shape[-1:], layer.weight[t], layer.bias[t])

    maps = modulated(images)
    for t in range(3):
        x = encoder.patch_embed(images)
        for s, layer in enumerate(modulated.layers):
            merging, *blocks = layer
            if s > 0:
                corners = [x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)]
                x = norm(merging.norm, torch.cat(corners, 3), t) @ merging.reduction.weight.T
            for block in blocks:
                normed = norm(block.norm1, x, t)
                x = x + block.attn(normed) + normed @ block.adapter.weight[t].T
                y = block.mlp(norm(block.norm2, x, t))
                first, second = block.excite.reduce, block.excite.expand
                hidden = (y.mean((1, 2)) @ first.weight[t].T + first.bias[t]).clamp(min=0)
                x = x + y * (hidden @ second.weight[t].T + second.bias[t]).sigmoid()[:, None, None]
            torch.testing.assert_close(maps[s][t], norm(modulated.norms[s], x, t), rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_it_starts_as_the_encoder_but_for_excitation():
    torch.manual_seed(0)
    encoder, images = randomised(SwinEncoder(**MICRO, drop_path=0.0)), torch.randn(1, 3, 64, 64)
    expected, modulated = encoder(images), ModulatedSwin(encoder, 2).eval()
    for block in modulated.blocks():
        assert block.excite.expand.bias.eq(4).all()
        block.excite.expand.bias.fill_(100)
    for got, plain in zip(modulated(images), expected, strict=True):
        torch.testing.assert_close(got, plain.expand_as(got), rtol=1e-4, atol=1e-4)


def test_what_starts_at_random_is_not_pretrained():
    with skeleton():
        cfg = mtmamba.load_config(["data=nyud", "decoder=astmt", "encoder.freeze=all"])
        encoder = mtmamba.build_model(cfg).encoder
    trained = {name for name, p in encoder.named_parameters() if p.requires_grad}
    kinds = ("norms.", ".adapter.", ".excite.")
    assert trained == {n for n, _ in encoder.named_parameters() if n.startswith("norms.") or any(k in n for k in kinds)}


def test_weights_start_as_the_authors():
    torch.manual_seed(0)
    decoder = ASTMTDecoder(CHANNELS, {"semseg": 40, "depth": 1}, width=64)
    assert all(not branch.adapter.weight.any() for branch in decoder.branches)
    assert decoder.refine[1].conv.weight.std().item() == pytest.approx(0.01, rel=0.05)
    gates = decoder.refine[1].se.expand  # Kaiming's deviation for four hidden units
    assert gates.weight.std().item() == pytest.approx((2 / 4) ** 0.5, rel=0.15)
    assert not gates.bias.any()


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
@pytest.mark.parametrize("decoder", ["astmt", "astmt_decoder"])
@pytest.mark.parametrize(
    "choice", [("data=nyud",), ("data=pascal_context",), ("tasks=[depth]",), ("tasks=[semseg,normals]",)]
)
def test_a_training_step_has_the_final_losses_alone(stepped, decoder, choice):
    _, loss, final = stepped(decoder, "decoder.width=16", *choice)
    torch.testing.assert_close(loss, final)


def test_what_cannot_be_modulated_is_refused():
    decoder = ASTMT(CHANNELS, {"depth": 1}, width=16)
    with pytest.raises(ValueError, match=r"Swin encoder to modulate .* got EfficientNetLite: choose encoder=swin"):
        decoder.adapt(EfficientNetLite(0, pretrained=False))
    with pytest.raises(ValueError, match=r"maps \(T, B, h, w, c\) of each task, got \[\(1, 16, 16, 4\)"):
        decoder([torch.zeros(1, 64 // s, 64 // s, c) for s, c in zip((4, 8, 16, 32), CHANNELS, strict=True)])
    with pytest.raises(ValueError, match="at least two images per device to train this decoder"):
        decoder([torch.zeros(1, 1, 64 // s, 64 // s, c) for s, c in zip((4, 8, 16, 32), CHANNELS, strict=True)])
    with pytest.raises(ValueError, match=r"decoder\.width as a multiple of 16, got \['depth'\] and 24"):
        ASTMTDecoder(CHANNELS, {"depth": 1}, width=24)
