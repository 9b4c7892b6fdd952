"""The authors' network, number by number: their program's weights, inputs, outputs and gradients at tiny widths."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import mtmamba
from mtmamba.benchmarks.timing import tf32
from mtmamba.models.adapters import (
    ReleasedError,
    decoder_views,
    encoder_views,
    export_views,
    load_released_decoder,
    load_released_encoder,
    position_indices,
)
from mtmamba.models.encoders import SwinEncoder
from triton_runs import GPU

FIXTURES = Path(__file__).parents[1] / "fixtures"
DECODERS = {"mtmamba": "mtmamba_nyud_tiny", "mtmamba_plus": "mtmamba_plus_nyud_tiny"}


@pytest.fixture(params=["cpu", GPU])
def device(request):
    """Where a network runs; on a GPU with its own kernels, and without TF32."""
    with tf32(False):
        yield request.param


def read(name):
    with safe_open(FIXTURES / f"{name}.safetensors", "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
        return tensors, file.metadata()


def under(tensors, prefix):
    return {key.removeprefix(prefix): x for key, x in tensors.items() if key.startswith(prefix)}


def error(got, expected):
    return ((got.double().cpu() - expected.double()).norm() / expected.double().norm()).item()


def tiny_decoder(name):
    tensors, meta = read(DECODERS[name])
    channels = [int(c) for c in meta["channels"].split(",")]
    cfg = mtmamba.load_config([f"decoder={name}", "data=nyud", f"tasks=[{meta['tasks']}]"])
    assert json.loads(meta["num_outputs"]) == dict(cfg.data.num_outputs)
    decoder = mtmamba.build_decoder(cfg, channels).eval()
    load_released_decoder(decoder, under(tensors, "state/"))
    features = [tensors[f"feature/{i}"].permute(0, 2, 3, 1).contiguous() for i in (1, 2, 3, 4)]
    return decoder, features, tensors


@pytest.mark.parametrize("name", DECODERS)
def test_decoder_gives_the_released_outputs_and_gradients(name, device):
    decoder, features, tensors = tiny_decoder(name)
    decoder.to(device)
    features = [x.to(device).requires_grad_() for x in features]
    logits = decoder(features)
    assert list(logits) == ["semseg", "depth", "normals", "edge"]
    for task, expected in under(tensors, "output/").items():
        assert error(logits[task], expected) < 1e-5, task

    torch.autograd.backward(list(logits.values()), [tensors[f"output_grad/{task}"].to(device) for task in logits])
    for i, x in enumerate(features, 1):
        assert error(x.grad.permute(0, 3, 1, 2), tensors[f"feature_grad/{i}"]) < 1e-4
    grads = {key: p.grad.cpu() for key, p in decoder.named_parameters()}
    got, expected = export_views(decoder_views(decoder, grads)), under(tensors, "param_grad/")
    assert got.keys() == expected.keys()
    for key, grad in expected.items():
        assert error(got[key], grad) < 1e-4, key


@pytest.mark.parametrize("name", DECODERS)
def test_decoder_in_bfloat16_autocast_stays_within_five_percent(name, device):
    decoder, features, tensors = tiny_decoder(name)
    with torch.no_grad(), torch.autocast(device, torch.bfloat16):
        logits = decoder.to(device)([x.to(device) for x in features])
    for task, expected in under(tensors, "output/").items():
        assert error(logits[task], expected) < 0.05, task


@pytest.mark.parametrize("name", DECODERS)
def test_decoder_export_gives_the_released_state_back_bit_for_bit(name):
    decoder, _, tensors = tiny_decoder(name)
    state = export_views(decoder_views(decoder, decoder.state_dict()))
    released = under(tensors, "state/")
    assert state.keys() == released.keys()
    assert all(torch.equal(state[key], x) for key, x in released.items())


def swin_tiny():
    tensors, meta = read("swin_tiny")
    depths, heads = ([int(x) for x in meta[key].split(",")] for key in ("depths", "num_heads"))
    encoder = SwinEncoder(int(meta["embed_dim"]), depths, heads, int(meta["window"])).eval()
    load_released_encoder(encoder, under(tensors, "state/"))
    return encoder, tensors


def test_encoder_gives_the_released_features_and_image_gradient(device):
    encoder, tensors = swin_tiny()
    image = tensors["image"].to(device).requires_grad_()
    maps = [x.permute(0, 3, 1, 2) for x in encoder.to(device)(image)]
    for i, x in enumerate(maps, 1):
        assert error(x, tensors[f"feature/{i}"]) < 1e-5
    torch.autograd.backward(maps, [tensors[f"feature_cotangent/{i}"].to(device) for i in (1, 2, 3, 4)])
    assert error(image.grad, tensors["image_grad"]) < 1e-4


def test_encoder_export_gives_the_released_state_back_bit_for_bit():
    encoder, tensors = swin_tiny()
    views = encoder_views(encoder.state_dict())
    state = export_views(views) | position_indices(views)
    released = under(tensors, "state/backbone.")
    assert state.keys() == released.keys()
    assert all(state[key].dtype == x.dtype and torch.equal(state[key], x) for key, x in released.items())


@pytest.mark.parametrize("prefix", ["", "backbone.", "module.backbone."])
@pytest.mark.parametrize("with_indices", [True, False])
def test_prefixes_and_absent_position_indices_are_accepted(prefix, with_indices):
    encoder, tensors = swin_tiny()
    before = {key: x.clone() for key, x in encoder.state_dict().items()}
    for p in encoder.parameters():
        p.data.zero_()
    released = under(tensors, "state/backbone.")
    state = {prefix + key: x for key, x in released.items() if with_indices or "position_index" not in key}
    if prefix:
        state["module.head"] = torch.zeros(1)  # a decoder's
    load_released_encoder(encoder, state)
    assert all(torch.equal(encoder.state_dict()[key], x) for key, x in before.items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("norm3.bias"), "missing norm3.bias"),
        (lambda s: s.update(surprise=torch.zeros(1)), "unexpected surprise"),
        (lambda s: s.update({"norm3.bias": torch.zeros(2)}), r"shape \(2,\), expected \(96,\)"),
        (lambda s: s["stages.2.blocks.3.attn.w_msa.relative_position_index"].add_(1), "stages.2.blocks.3"),
        (
            lambda s: s.update({"stages.2.blocks.4.attn.w_msa.relative_position_index": torch.zeros(16, 16)}),
            "unexpected stages.2.blocks.4",
        ),
    ],
)
def test_an_encoder_state_that_does_not_fit_is_refused_whole(change, message):
    encoder, tensors = swin_tiny()
    before = {key: x.clone() for key, x in encoder.state_dict().items()}
    state = {key: x + 1 if x.is_floating_point() else x for key, x in under(tensors, "state/backbone.").items()}
    change(state)
    with pytest.raises(ReleasedError, match=message):
        load_released_encoder(encoder, state)
    assert all(torch.equal(encoder.state_dict()[key], x) for key, x in before.items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("final_project.edge.bias"), "missing final_project.edge.bias"),
        (lambda s: s.update(surprise=torch.zeros(1)), "unexpected surprise"),
        (lambda s: s.update({"final_project.edge.bias": torch.zeros(2)}), r"shape \(2,\), expected \(1,\)"),
    ],
)
def test_a_decoder_state_that_does_not_fit_is_refused_whole(change, message):
    decoder, _, tensors = tiny_decoder("mtmamba")
    before = {key: x.clone() for key, x in decoder.state_dict().items()}
    state = under(tensors, "state/")
    state = {key: x + 1 for key, x in state.items()}
    change(state)
    with pytest.raises(ReleasedError, match=message):
        load_released_decoder(decoder, state)
    assert all(torch.equal(decoder.state_dict()[key], x) for key, x in before.items())
