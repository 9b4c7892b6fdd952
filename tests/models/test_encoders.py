"""Encoders: shapes, windows, pretrained weights in every naming, and errors that name the remedy."""

import logging
import re
import time
from functools import partial
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file, save_file
from timm.layers import DropPath as TimmDropPath
from timm.models.swin_transformer import PatchMerging as TimmPatchMerging
from timm.models.swin_transformer import SwinTransformer
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import mtmamba
from mtmamba.models.adapters import ReleasedError, load_released_encoder
from mtmamba.models.drop_path import DropPath
from mtmamba.models.encoders import SwinEncoder, TimmEncoder
from mtmamba.models.encoders.swin_blocks import PatchMerging, Residual
from mtmamba.models.pretrained import PATIENCE, WeightsError
from mtmamba.models.skeleton import skeleton

FIXTURE = Path(__file__).parents[1] / "fixtures" / "swin_tiny.safetensors"
MICRO = {"embed_dim": 12, "depths": (2, 2, 4, 2), "num_heads": (1, 2, 4, 4)}
KNOWN = "swin_tiny_patch4_window7_224.ms_in1k"


def swin(**settings):
    return SwinEncoder(**MICRO | {"window": 4} | settings)


def timm_swin(**settings):
    return SwinTransformer(**MICRO | {"window_size": 4, "img_size": 256, "num_classes": 7} | settings)


def randomise(model):
    """Give every parameter numbers of its own, so that none can stand for another."""
    generator = torch.Generator().manual_seed(0)
    for p in model.parameters():
        p.data = p.data + 0.2 * torch.randn(p.shape, generator=generator)
    return model.eval()


# Swin


@pytest.mark.parametrize(("height", "width"), [(32, 32), (96, 160), (64, 224)])
def test_swin_gives_four_strides_at_any_size(height, width):
    encoder = swin(window=3)
    maps = encoder(torch.randn(2, 3, height, width))
    assert encoder.channels == (12, 24, 48, 96)
    assert [tuple(x.shape) for x in maps] == [
        (2, height // s, width // s, c) for s, c in zip((4, 8, 16, 32), encoder.channels, strict=True)
    ]
    for x in maps:
        torch.testing.assert_close(x.mean(-1), torch.zeros(x.shape[:-1]), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("height", "width"), [(6, 8), (5, 8), (6, 7), (1, 3)])
def test_patches_are_merged_as_timm_merges_them(height, width):
    reference = randomise(TimmPatchMerging(3))
    merging = PatchMerging(3)
    merging.load_state_dict(reference.state_dict())
    x = torch.randn(2, height, width, 3)
    assert torch.equal(merging(x), reference(x))


def test_every_second_block_is_shifted_even_where_the_map_is_one_window():
    encoder = swin(window=7).eval()
    blocks = list(encoder.blocks())
    assert [block.attn.shift for block in blocks] == [0, 3] * 5
    for block, reaches in zip(blocks[-2:], (True, False), strict=True):
        z = torch.randn(1, 7, 7, 96, requires_grad=True)
        block(Residual(z)).total()[0, 0, 0].sum().backward()
        assert bool(z.grad[0, 6, 6].any()) is reaches  # a shifted window is cut where the image wraps around


def test_swin_equals_timms_where_nothing_is_padded_or_unshifted():
    reference = randomise(timm_swin())
    encoder = swin().eval()
    state = {k: v for k, v in reference.state_dict().items() if not k.startswith(("norm.", "head."))}
    missing, unexpected = encoder.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(key.startswith("norms.") for key in missing)
    images = torch.randn(1, 3, 256, 256)  # maps of 64, 32, 16 and 8: multiples of the window, and larger
    expected = reference.forward_intermediates(images, intermediates_only=True)
    for got, x in zip(encoder(images), expected, strict=True):
        torch.testing.assert_close(got, F.layer_norm(x.permute(0, 2, 3, 1), x.shape[1:2]), atol=1e-4, rtol=1e-4)


# Pretrained Swin weights


def timm_file(folder, **settings):
    state = randomise(timm_swin(**settings)).state_dict()
    save_file(state, folder / "timm.safetensors")
    return folder / "timm.safetensors", state


def swin_authors_file(folder):
    """Their stages end with downsampling; their files hold derived buffers and a classifier, under ``model``."""
    _, state = timm_file(folder)
    theirs = {
        re.sub(r"layers\.(\d)\.downsample", lambda m: f"layers.{int(m[1]) - 1}.downsample", k): v
        for k, v in state.items()
    }
    theirs |= {"layers.0.blocks.1.attn_mask": torch.zeros(4, 16, 16)}
    theirs |= {"layers.0.blocks.0.attn.relative_position_index": torch.zeros(16, 16, dtype=torch.long)}
    torch.save({"model": theirs}, folder / "authors.pth")
    return folder / "authors.pth", state


@pytest.mark.parametrize("make", [timm_file, swin_authors_file])
def test_a_classifiers_file_fills_all_but_the_output_norms(make, tmp_path, caplog):
    path, state = make(tmp_path)
    with caplog.at_level(logging.INFO):
        encoder = swin(weights=path)
    own = {k: v for k, v in encoder.state_dict().items() if not k.startswith("norms.")}
    assert all(torch.equal(v, state[k]) for k, v in own.items())
    assert all(torch.equal(norm.weight, torch.ones_like(norm.weight)) for norm in encoder.norms)
    assert f"{len(own)} of {len(own)} tensors" in caplog.text
    assert "output norms start fresh" in caplog.text


@pytest.mark.parametrize("norms", [True, False])
def test_mmsegmentations_file_loads_with_its_output_norms_or_without(norms, tmp_path, caplog):
    tensors = load_file(FIXTURE)
    state = {k.removeprefix("state/"): v for k, v in tensors.items() if k.startswith("state/")}
    if not norms:
        state = {k: v for k, v in state.items() if not k.startswith("backbone.norm")}
    torch.save({"state_dict": state | {"decode_head.conv.weight": torch.zeros(1)}}, tmp_path / "mmseg.pth")
    with caplog.at_level(logging.INFO):
        encoder = swin(weights=tmp_path / "mmseg.pth").eval()
    count = sum("position_index" not in k for k in state)
    assert f"{count} of {count} tensors" in caplog.text
    assert ("start fresh" in caplog.text) is not norms
    with torch.no_grad():
        for i, x in enumerate(encoder(tensors["image"])):
            weight, bias = (tensors[f"state/backbone.norm{i}.{leaf}"] for leaf in ("weight", "bias"))
            got = x if norms else x * weight + bias
            torch.testing.assert_close(got.permute(0, 3, 1, 2), tensors[f"feature/{i + 1}"], atol=1e-4, rtol=1e-4)


def without(state, part):
    return {k: v for k, v in state.items() if part not in k}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: without(s, "layers.2.blocks.3"), "missing layers.2.blocks.3"),
        (lambda s: s | {"layers.2.blocks.9.norm1.weight": torch.zeros(48)}, "unexpected layers.2.blocks.9"),
        (lambda s: {f"encoder.{k}": v for k, v in s.items()}, "of which 0 match"),
        (lambda s: without(s, "patch_embed"), "missing patch_embed"),
    ],
)
def test_a_file_that_matches_in_part_is_refused(change, message, tmp_path):
    path, state = timm_file(tmp_path)
    save_file(change(state), path)
    with pytest.raises(WeightsError, match=message) as error:
        swin(weights=path)
    assert "encoder.pretrained=false" in str(error.value)


def test_weights_of_another_window_are_refused(tmp_path):
    path, _ = timm_file(tmp_path, window_size=7, img_size=224)
    with pytest.raises(
        WeightsError, match=r"relative_position_bias_table has shape \(169, 1\), expected \(49, 1\)"
    ) as e:
        swin(weights=path)
    assert "encoder.window" in str(e.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("absent.pth", None),
        ("empty.pth", b""),
        ("text.pth", b"<!DOCTYPE html>"),
        ("short.safetensors", b"\x08\x00"),
        ("code.pth", {"model": Path}),
        ("list.pth", [1, 2]),
        ("numbers.pth", {"model": {"epoch": 3}}),
    ],
)
def test_a_file_that_holds_no_weights_is_refused(name, content, tmp_path):
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    elif content is not None:
        torch.save(content, tmp_path / name)
    with pytest.raises(WeightsError, match=name) as error:
        swin(weights=tmp_path / name)
    assert "encoder.weights=FILE" in str(error.value)
    assert "encoder.pretrained=false" in str(error.value)


def test_weights_cut_short_are_refused(tmp_path):
    path, _ = swin_authors_file(tmp_path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(WeightsError, match="cut short"):
        swin(weights=path)


@pytest.mark.parametrize("name", [None, "swin_of_no_one", "swin_tiny_patch4_window7_224.no_such_tag"])
def test_an_unknown_name_is_refused(name):
    with pytest.raises(WeightsError, match=f"encoder.name={name}"):
        swin(pretrained=True, name=name)


def fails(*_, **__):
    raise AssertionError("fetched")


def offline(*_, **__):
    raise LocalEntryNotFoundError("no network")


@pytest.fixture
def hub(monkeypatch):
    """The hub answers, whatever it then gives."""
    monkeypatch.setattr("mtmamba.models.pretrained.answers", lambda *_: True)


def test_the_named_weights_are_fetched_and_loaded(hub, tmp_path, monkeypatch):
    path, state = timm_file(tmp_path)
    asked = []
    monkeypatch.setattr("mtmamba.models.pretrained.hf_hub_download", lambda *args: asked.append(args) or str(path))
    encoder = swin(pretrained=True, name=KNOWN)
    assert asked == [(f"timm/{KNOWN}", "model.safetensors")]
    assert torch.equal(encoder.patch_embed.proj.weight, state["patch_embed.proj.weight"])


@pytest.mark.parametrize("error", [offline, partial(open, "/no/such/file")])
def test_a_download_that_fails_names_the_remedies(error, hub, monkeypatch):
    monkeypatch.setattr("mtmamba.models.pretrained.hf_hub_download", lambda *_: error())
    with pytest.raises(WeightsError, match=KNOWN) as caught:
        swin(pretrained=True, name=KNOWN)
    assert all(
        remedy in str(caught.value) for remedy in ("encoder.weights=FILE", "encoder.pretrained=false", "HF_HOME")
    )


@pytest.mark.parametrize("build", [partial(swin, name=KNOWN), partial(TimmEncoder, "convnext_atto")])
def test_without_a_network_the_error_comes_in_seconds_and_begins_with_how_to_do_without(
    build, silent_server, tmp_path, monkeypatch
):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", silent_server)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    start = time.perf_counter()
    with pytest.raises(WeightsError, match=r"^Train from scratch with encoder\.pretrained=false, or give a file with"):
        build(pretrained=True)
    assert PATIENCE < 3
    assert time.perf_counter() - start < PATIENCE + 5  # a busy machine; the hub's client would try for half a minute


def test_nothing_is_fetched_on_the_meta_device(monkeypatch):
    for module in ("mtmamba.models.pretrained", "timm.models._hub"):
        monkeypatch.setattr(f"{module}.hf_hub_download", fails)
    with torch.device("meta"):
        encoders = [
            swin(pretrained=True, name=KNOWN),
            swin(weights="no/such/file"),
            TimmEncoder("convnext_atto", pretrained=True),
        ]
    assert all(p.is_meta for encoder in encoders for p in encoder.parameters())


# Any timm model


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("convnext_atto", (40, 80, 160, 320)),
        ("resnet18", (64, 128, 256, 512)),  # has a map of stride 2 to skip
        ("lcnet_050", (32, 64, 128, 256)),  # its stages are no modules of their own
        ("swin_tiny_patch4_window7_224", (96, 192, 384, 768)),  # channels last; of one size unless told otherwise
    ],
)
def test_timm_encoder_gives_four_strides_at_any_size(name, channels):
    encoder = TimmEncoder(name)
    maps = encoder(torch.randn(2, 3, 96, 160))
    assert encoder.channels == channels
    assert [tuple(x.shape) for x in maps] == [
        (2, 96 // s, 160 // s, c) for s, c in zip((4, 8, 16, 32), channels, strict=True)
    ]
    sum((x * torch.randn_like(x)).sum() for x in maps).backward()
    assert not [key for key, p in encoder.named_parameters() if p.grad is None]


def test_timm_encoder_is_the_model_and_a_layer_norm():
    encoder = randomise(TimmEncoder("resnet18", drop_path=0))
    model = timm.create_model("resnet18").eval()
    model.load_state_dict({k.removeprefix("features."): v for k, v in encoder.state_dict().items()}, strict=False)
    x = torch.randn(1, 3, 64, 96)
    maps = encoder(x)
    x = model.maxpool(model.act1(model.bn1(model.conv1(x))))
    for i, norm in enumerate(encoder.norms):
        x = getattr(model, f"layer{i + 1}")(x)
        expected = F.layer_norm(x.permute(0, 2, 3, 1), (x.shape[1],), norm.weight, norm.bias)
        torch.testing.assert_close(maps[i], expected)


@pytest.mark.parametrize("name", ["convnext_atto", "lcnet_050"])
def test_recomputing_the_blocks_gives_the_same_gradients(name):
    encoder = randomise(TimmEncoder(name))
    images = torch.randn(1, 3, 64, 64)

    def gradients():
        encoder.zero_grad()
        sum((x**3).sum() for x in encoder(images)).backward()
        return [p.grad.clone() for p in encoder.parameters()]

    expected, calls = gradients(), []
    for block in encoder.blocks():
        block.register_forward_hook(lambda *_: calls.append(1))
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    for got, grad in zip(gradients(), expected, strict=True):
        torch.testing.assert_close(got, grad)
    assert len(calls) == len(list(encoder.blocks()))


@pytest.mark.parametrize(
    "build", [partial(swin, drop_path=0.3), partial(TimmEncoder, "convnext_atto", drop_path=0.3)], ids=["swin", "timm"]
)
def test_stochastic_depth_is_ours_and_rises_to_the_rate(build):
    modules = list(build().modules())
    assert not [m for m in modules if isinstance(m, TimmDropPath)]
    rates = [m.rate for m in modules if isinstance(m, DropPath)]
    assert rates == sorted(rates)
    assert max(rates) == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("visformer_tiny", r"which has maps at strides \(8, 16, 32\), without \[4\]"),
        ("mobilevitv2_050", r"which has a map of \(14, 20\) at stride 32 of \(416, 608\), not \(13, 19\)"),
        ("no_such_model", "encoder.name=no_such_model: see timm.list_models"),
        ("convnext_atto.no_such_tag", "no_such_tag"),
        ("coatnet_nano_rw_224", r"any size, got encoder.name=coatnet_nano_rw_224"),
        ("efficientvit_b0", "encoder.drop_path=0"),
    ],
)
def test_a_timm_model_that_will_not_do_is_refused(name, message):
    with pytest.raises(ValueError, match=message):
        TimmEncoder(name)


@pytest.mark.parametrize(("name", "message"), [("convnext_atto", "downloaded"), ("convnext_atto_rms", "timm knows")])
def test_timm_weights_that_cannot_be_had_are_no_random_encoder(name, message, hub, monkeypatch):
    monkeypatch.setattr("timm.models._hub.hf_hub_download", offline)
    with pytest.raises(WeightsError, match=message) as error:
        TimmEncoder(name, pretrained=True)
    assert "encoder.pretrained=false" in str(error.value)


def test_timm_weights_are_fetched_and_loaded(hub, tmp_path, monkeypatch):
    state = randomise(timm.create_model("convnext_atto")).state_dict()
    save_file(state, tmp_path / "model.safetensors")
    monkeypatch.setattr("timm.models._hub.hf_hub_download", lambda **_: str(tmp_path / "model.safetensors"))
    encoder = TimmEncoder("convnext_atto", pretrained=True)
    assert torch.equal(encoder.features["stem_0"].weight, state["stem.0.weight"])
    last = "blocks.1.mlp.fc2.weight"
    assert torch.equal(encoder.features["stages_3"].state_dict()[last], state[f"stages.3.{last}"])


def test_timm_encoder_in_a_configuration():
    cfg = mtmamba.load_config(["encoder=timm", "encoder.name=convnext_atto"])
    with skeleton():
        logits = mtmamba.build_model(cfg)(torch.empty(1, 3, 70, 100))
    assert logits["semseg"].shape == (1, 40, 70, 100)


def test_released_names_are_for_swin_only():
    with pytest.raises(ReleasedError, match="encoder=swin_large"):
        load_released_encoder(TimmEncoder("convnext_atto"), {})
