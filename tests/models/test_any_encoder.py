"""Any timm model as an encoder: necks, plain ViTs, files of weights; and encoders that are trained in part."""

import logging

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

import mtmamba
from mtmamba import build
from mtmamba.models.encoders import SwinEncoder, TimmEncoder, freeze
from mtmamba.models.encoders.efficientnet_lite import EfficientNetLite
from mtmamba.models.encoders.neck import SimplePyramid
from mtmamba.models.pretrained import WeightsError
from mtmamba.models.skeleton import skeleton
from mtmamba.types import IMAGENET_MEAN, IMAGENET_STD

VIT = "vit_tiny_patch16_224"
CLIP = {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def sizes(maps):
    return [tuple(x.shape) for x in maps]


# Necks


@pytest.mark.parametrize(
    ("name", "width", "channels"),
    [
        ("pvt_v2_b0", None, (32, 64, 128, 256)),  # its own are 32, 64, 160, 256
        ("mobilenetv3_small_050", None, (8, 16, 32, 64)),  # 8, 16, 24, 288: the nearest is 10.8
        ("pvt_v2_b0", 12, (12, 24, 48, 96)),
        ("convnext_atto", 24, (24, 48, 96, 192)),  # doubles, but another width was asked for
        ("convnext_atto", 40, (40, 80, 160, 320)),
    ],
)
def test_channels_that_do_not_double_get_a_neck(name, width, channels):
    encoder = TimmEncoder(name, width=width, drop_path=0)
    assert encoder.channels == channels
    maps = encoder(torch.randn(2, 3, 64, 96))
    assert sizes(maps) == [(2, 64 // s, 96 // s, c) for s, c in zip((4, 8, 16, 32), channels, strict=True)]
    assert (encoder.neck is None) is (channels == (40, 80, 160, 320))
    sum((x * torch.randn_like(x)).sum() for x in maps).backward()
    assert [name for name, p in encoder.named_parameters() if p.grad is None] == []


# Plain ViTs


@pytest.mark.parametrize(
    ("name", "width"),
    [
        (VIT, 48),
        ("vit_small_patch14_dinov2", 96),
        ("vit_small_patch16_dinov3", 96),
        ("vit_small_patch8_224", 192),
        ("vit_base_patch32_224", 96),
        ("samvit_base_patch16", 192),
    ],
)
@pytest.mark.parametrize("size", [(64, 96), (224, 224)])
def test_a_plain_vit_gives_a_pyramid_of_any_size(name, width, size):
    with skeleton():
        encoder = TimmEncoder(name).eval()
        maps = encoder(torch.empty(1, 3, *size))
    assert encoder.channels == (width, 2 * width, 4 * width, 8 * width)
    assert sizes(maps) == [(1, size[0] // s, size[1] // s, width * s // 4) for s in (4, 8, 16, 32)]


def test_a_vits_map_is_the_models_own_at_the_size_that_it_was_made_for():
    """Without resampling, the tokens of the last block; a ViT's mean and std are 0.5."""
    encoder, reference = TimmEncoder(VIT, drop_path=0).eval(), timm.create_model(VIT).eval()
    reference.load_state_dict(encoder.features.model.state_dict(), strict=False)
    rgb, taken = torch.rand(1, 3, 224, 224), []
    mean, std = (torch.tensor(x)[:, None, None] for x in (IMAGENET_MEAN, IMAGENET_STD))
    encoder.pyramid.register_forward_pre_hook(lambda _, args: taken.append(args[0]))
    with torch.no_grad():
        encoder((rgb - mean) / std)
        x = reference.patch_embed((rgb - 0.5) / 0.5)
        x = torch.cat([reference.cls_token, x], dim=1) + reference.pos_embed
        expected = reference.blocks(x)[:, 1:].transpose(1, 2).unflatten(2, (14, 14))
    torch.testing.assert_close(taken[0], expected, rtol=1e-4, atol=1e-4)


def test_the_position_embedding_follows_the_images_size():
    """A constant image on a wide map: tokens differ by their place alone, and by places near to each other's little."""
    encoder = TimmEncoder(VIT, drop_path=0).eval()
    encoder.features.model.blocks = nn.Sequential(*(nn.Identity() for _ in range(12)))
    own = torch.linspace(0, 1, 14).expand(14, 14)  # a ramp from left to right
    encoder.features.model.pos_embed.data[0, 1:] = own.reshape(-1, 1)
    encoder.features.model.patch_embed.proj.weight.data.zero_()
    encoder.features.model.patch_embed.proj.bias.data.zero_()
    with torch.no_grad():
        (x,) = encoder.features(torch.zeros(1, 3, 224, 448))
    assert x.shape[2:] == (14, 28)
    ramp = F.interpolate(own[None, None], (14, 28), mode="bicubic", antialias=True)[0, 0]
    torch.testing.assert_close(x[0, 0], ramp, rtol=0, atol=1e-4)


def test_images_of_patches_of_14_are_resized_to_a_map_of_stride_16():
    encoder, taken = TimmEncoder("vit_small_patch14_dinov2", drop_path=0).eval(), []
    encoder.features.register_forward_pre_hook(lambda _, args: taken.append(args[0].shape))
    with torch.no_grad():
        encoder(torch.randn(1, 3, 64, 96))
    assert taken == [(1, 3, 56, 84)]


def test_several_layers_of_a_vit_lie_side_by_side():
    encoder, taken = TimmEncoder(VIT, layers=[3, 11]).eval(), []
    encoder.pyramid.register_forward_pre_hook(lambda _, args: taken.append(args[0]))
    with torch.no_grad():
        encoder(torch.randn(1, 3, 64, 96))
    assert taken[0].shape == (1, 2 * 192, 4, 6)
    assert encoder.channels == (48, 96, 192, 384)
    with pytest.raises(ValueError, match=r"encoder\.layers=null with encoder\.name=convnext_atto"):
        TimmEncoder("convnext_atto", layers=[1])


@pytest.mark.parametrize("stride", [8, 16, 32])
def test_the_pyramid_against_a_written_out_one(stride):
    """Transposed convolutions of step 2 put each pixel's four products side by side."""
    pyramid = SimplePyramid(16, 4, stride)
    x = torch.randn(1, 16, 4, 4)

    def doubled(layer, x):
        pixels = torch.einsum("bchw,cdij->bdhiwj", x, layer.weight) + layer.bias[:, None, None, None, None]
        return pixels.flatten(4, 5).flatten(2, 3)

    def normed(layer, x):
        return F.layer_norm(x.movedim(1, -1), x.shape[1:2], layer.weight, layer.bias, eps=1e-6).movedim(-1, 1)

    for target, level, got in zip((4, 8, 16, 32), pyramid.levels, pyramid(x), strict=True):
        layers, y, scale = list(level), x, stride
        while scale > target:
            y, scale = doubled(layers.pop(0), y), scale // 2
            if scale > target:
                y = F.gelu(normed(layers.pop(0), y))
                layers.pop(0)
        if scale < target:
            side = target // scale
            y = y.unflatten(3, (-1, side)).unflatten(2, (-1, side)).amax((3, 5))
            layers.pop(0)
        y = normed(layers[1], torch.einsum("bchw,dc->bdhw", y, layers[0].weight[:, :, 0, 0]))
        y = normed(layers[3], F.conv2d(y, layers[2].weight, padding=1))
        torch.testing.assert_close(got, y.permute(0, 2, 3, 1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", [VIT, "pvt_v2_b0", "vit_small_patch16_dinov3"])
def test_it_trains_with_every_decoder_and_is_recomputed(name):
    cfg = mtmamba.load_config(["encoder=timm", f"encoder.name={name}", "encoder.width=8", "encoder.pretrained=false"])
    gradients = []
    for part in ("none", "blocks"):
        cfg.model.checkpointing, cfg.encoder.drop_path = part, 0.0
        torch.manual_seed(0)
        model = build.build_model(cfg).eval()
        sum(x.square().mean() for x in model(torch.randn(1, 3, 40, 70)).values()).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    assert [name for name, grad in gradients[0].items() if grad is None] == []
    assert all(torch.allclose(gradients[1][name], grad, atol=1e-5) for name, grad in gradients[0].items())


def test_images_are_normalised_as_the_weights_expect():
    encoder = TimmEncoder("vit_base_patch32_clip_224").eval()
    rgb = torch.rand(1, 3, 32, 32)
    mean, std = (torch.tensor(x)[:, None, None] for x in (IMAGENET_MEAN, IMAGENET_STD))
    expected = (rgb - torch.tensor(CLIP["mean"])[:, None, None]) / torch.tensor(CLIP["std"])[:, None, None]
    torch.testing.assert_close(encoder.renormalise((rgb - mean) / std), expected)
    assert isinstance(TimmEncoder("resnet18", drop_path=0).renormalise, nn.Identity)


# Files of weights


def randomised(model):
    for p in model.parameters():
        p.data = p.data + 0.2 * torch.randn(p.shape)
    return model


@pytest.mark.parametrize("name", ["convnext_atto", "resnet18", VIT, "pvt_v2_b0", "swin_tiny_patch4_window7_224"])
def test_a_file_of_timms_weights_fills_the_encoder(name, tmp_path, caplog):
    reference = randomised(timm.create_model(name)).eval()
    save_file(reference.state_dict(), tmp_path / "w.safetensors")
    with caplog.at_level(logging.INFO):
        encoder = TimmEncoder(name, weights=tmp_path / "w.safetensors", drop_path=0).eval()
    theirs = reference.state_dict()
    own = getattr(encoder.features, "model", encoder.features).state_dict()
    for key, x in own.items():
        twin = theirs.get(key, theirs.get(key.replace("_", ".", 1)))
        assert torch.equal(x, twin), key
    assert f"{len(own)} of {len(own)} tensors" in caplog.text


@pytest.mark.parametrize(
    "build_encoder", [lambda f: TimmEncoder("convnext_atto", weights=f), lambda f: EfficientNetLite(0, weights=f)]
)
def test_a_file_of_another_network_is_refused(build_encoder, tmp_path):
    save_file(timm.create_model("resnet18").state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=r"w\.safetensors, got"):
        build_encoder(tmp_path / "w.safetensors")


@pytest.mark.parametrize("change", ["missing", "unexpected", "shape"])
def test_a_file_that_matches_in_part_is_refused(change, tmp_path):
    state = timm.create_model("convnext_atto").state_dict()
    name = "stages.2.blocks.1.mlp.fc2.weight"
    x = state.pop(name)
    if change == "unexpected":
        state |= {name: x, "stages.2.blocks.77.mlp.fc2.weight": x.clone()}
    elif change == "shape":
        state[name] = x[:, :5].clone()
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(
        WeightsError, match={"missing": "missing", "unexpected": "unexpected", "shape": "has shape"}[change]
    ):
        TimmEncoder("convnext_atto", weights=tmp_path / "w.safetensors")


def test_a_classifiers_layers_may_be_left_out_only_where_the_model_has_them(tmp_path):
    state = timm.create_model("convnext_atto", num_classes=5).state_dict()
    save_file(state, tmp_path / "w.safetensors")
    TimmEncoder("convnext_atto", weights=tmp_path / "w.safetensors")


# Training a part


def names(model):
    return {name for name, p in model.named_parameters() if p.requires_grad}


def test_a_frozen_encoder_keeps_what_starts_at_random():
    encoder = TimmEncoder("pvt_v2_b0")
    freeze(encoder, "all")
    assert names(encoder) == {name for name, _ in encoder.named_parameters() if name.startswith("neck.")}
    swin = SwinEncoder(12, (1, 1, 1, 1), (1, 2, 3, 6), 4)
    freeze(swin, "all")
    assert names(swin) == {name for name, _ in swin.named_parameters() if name.startswith("norms.")}


def test_the_first_blocks_are_frozen_with_what_comes_before():
    swin = SwinEncoder(12, (1, 2, 1, 1), (1, 2, 3, 6), 4)
    freeze(swin, 2)
    frozen = {name for name, p in swin.named_parameters() if not p.requires_grad}
    prefixes = ("patch_embed.", "layers.0.", "layers.1.downsample.", "layers.1.blocks.0.")
    assert frozen == {name for name, _ in swin.named_parameters() if name.startswith(prefixes)}
    vit = TimmEncoder(VIT)
    freeze(vit, 3)
    frozen = {name.removeprefix("features.model.") for name, p in vit.named_parameters() if not p.requires_grad}
    assert {name for name in frozen if not name.startswith("blocks.")} == {
        "cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias",
    }  # fmt: skip
    assert {name.split(".")[1] for name in frozen if name.startswith("blocks.")} == {"0", "1", "2"}


@pytest.mark.parametrize("part", [0, 5, -1, True, "some", 1.5])
def test_a_number_of_blocks_that_the_encoder_lacks_is_refused(part):
    with pytest.raises(ValueError, match=r"encoder\.freeze to be all, norms, or .* from 1 to 4, got"):
        freeze(SwinEncoder(12, (1, 1, 1, 1), (1, 2, 3, 6), 4), part)


def test_training_leaves_what_is_frozen_as_it_was_batch_norm_too():
    """No gradient, no activation kept for one, no update of averages, no stochastic depth."""
    choices = ["encoder=timm", "encoder.name=resnet18", "encoder.drop_path=0.5", "encoder.pretrained=false"]
    model = build.build_model(mtmamba.load_config([*choices, "encoder.freeze=all", "encoder.width=8"])).train()
    assert model.decoder.training
    assert not any(m.training for m in model.encoder.features.modules())
    before = {name: x.clone() for name, x in model.encoder.features.state_dict().items()}
    images = torch.randn(2, 3, 32, 64)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    maps = model.encoder.features(images)
    assert not any(x.requires_grad for x in maps)
    sum(x.square().mean() for x in model(images).values()).backward()
    optimizer.step()
    assert all(torch.equal(x, before[name]) for name, x in model.encoder.features.state_dict().items())
    assert all(torch.equal(x, y) for x, y in zip(maps, model.encoder.features(images), strict=True))
    assert all(p.grad.any() for p in model.encoder.neck.parameters() if p.ndim > 1)


def test_batch_norms_are_frozen_alone():
    """They keep their averages, scales and shifts, and what the rest learns does not depend on the batch."""
    choices = ["encoder=timm", "encoder.name=resnet18", "encoder.pretrained=false", "encoder.freeze=norms"]
    model = build.build_model(mtmamba.load_config([*choices, "encoder.width=8"])).train()
    features = model.encoder.features
    norms = {f"{name}." for name, m in features.named_modules() if isinstance(m, nn.BatchNorm2d)}
    trained = {name for name, p in features.named_parameters() if p.requires_grad}
    assert norms
    assert trained == {n for n, _ in features.named_parameters() if not n.startswith(tuple(norms))}
    assert all(m.training != isinstance(m, nn.BatchNorm2d) for m in features.modules())
    before = {name: x.clone() for name, x in features.state_dict().items()}
    images = torch.randn(2, 3, 32, 64)
    alone = features(images[:1])
    for together, x in zip(features(images), alone, strict=True):
        torch.testing.assert_close(together[:1], x)
    sum(x.square().mean() for x in model(images).values()).backward()
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1).step()
    changed = {name for name, x in features.state_dict().items() if not torch.equal(x, before[name])}
    assert changed == {name for name, p in features.named_parameters() if p.grad is not None and p.grad.any()}
    assert "conv1.weight" in changed


def test_an_encoder_without_batch_norms_has_none_to_freeze():
    with pytest.raises(ValueError, match=r"batch norms for encoder\.freeze=norms, got none: leave"):
        freeze(SwinEncoder(12, (1, 1, 1, 1), (1, 2, 3, 6), 4), "norms")


def test_the_encoders_rate_is_scaled_but_for_what_starts_at_random():
    cfg = mtmamba.load_config(
        ["encoder.lr_scale=0.1", "encoder.freeze=1", "optimizer.lr=0.01", "optimizer.schedule=null"]
    )
    module = build.build_module(cfg)
    rest, scaled = module.configure_optimizers()["optimizer"].param_groups
    assert (rest["lr"], scaled["lr"]) == (0.01, pytest.approx(0.001))
    named = {id(p): name for name, p in module.model.named_parameters() if p.requires_grad}
    found = {named[id(p)] for p in scaled["params"]}
    assert found == {n for n in named.values() if n.startswith("encoder.") and not n.startswith("encoder.norms.")}
    assert len(rest["params"]) + len(scaled["params"]) == len(named)
    (everything,) = build.build_module(mtmamba.load_config()).parameter_groups()
    assert len(everything["params"]) == len(list(module.parameters()))
