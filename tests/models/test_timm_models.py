"""Encoders that people come with, from ResNet to MambaOut: features, training, freezing, and their files."""

from itertools import pairwise

import pytest
import timm
import torch
from torch.autograd.graph import saved_tensors_hooks

import mtmamba
from mtmamba import build
from mtmamba.benchmarks.network_cases import random_batch

MODELS = [
    ("resnet18", 0.1),
    ("convnext_atto", 0.1),
    ("vit_small_patch14_dinov2", 0.1),
    ("vit_small_patch16_dinov3", 0.1),
    ("eva02_tiny_patch14_224", 0.1),
    ("mobilenetv4_conv_small_035", 0.1),
    ("mambaout_femto", 0.1),
    ("dla46_c", 0.0),  # whose first map is left out by timm unless it is asked for
    pytest.param("tresnet_m", 0.0, marks=pytest.mark.slow),  # likewise
    pytest.param("convnext_tiny", 0.1, marks=pytest.mark.slow),
    pytest.param("samvit_base_patch16", 0.1, marks=pytest.mark.slow),
    pytest.param("hieradet_small", 0.1, marks=pytest.mark.slow),
    pytest.param("vit_base_patch32_clip_224", 0.1, marks=pytest.mark.slow),
]
"""timm's names, and stochastic depth where they have any; small ones of their kinds."""
OUTPUTS = {"semseg": 40, "depth": 1}
SIZE = (64, 96)


def configured(name, drop_path, *more):
    torch.manual_seed(0)
    choices = ["encoder=timm", f"encoder.name={name}", f"encoder.drop_path={drop_path}", "encoder.pretrained=false"]
    return mtmamba.load_config([*choices, "decoder=fcn", "decoder.neck=[8,8,8,8]", "tasks=[semseg,depth]", *more])


def two_steps(module):
    """Train for two steps on random images and labels."""
    optimizer = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=0.01)
    for _ in range(2):
        loss = module.training_step(random_batch(OUTPUTS, 2, SIZE, torch.device("cpu")), 0)
        assert loss.isfinite()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def state(module):
    return {name: x.clone() for name, x in module.state_dict().items()}


@pytest.mark.parametrize(("name", "drop_path"), MODELS)
@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
def test_it_gives_features_trains_and_is_saved_and_loaded(name, drop_path, tmp_path):
    module = build.build_module(configured(name, drop_path)).train()
    model, before = module.model, state(module.model.encoder)
    two_steps(module)
    assert all(p.grad is not None for p in model.encoder.parameters())
    parameters = dict(model.encoder.named_parameters())
    assert any(not torch.equal(p, before[key]) for key, p in parameters.items() if key.startswith("features."))

    model.eval()
    assert all(2 * a == b for a, b in pairwise(model.encoder.channels))
    for height, width in (SIZE, (160, 96), (224, 224)):
        with torch.no_grad():
            maps = model.encoder(torch.randn(1, 3, height, width))
        expected = [
            (1, height // s, width // s, c) for s, c in zip((4, 8, 16, 32), model.encoder.channels, strict=True)
        ]
        assert [tuple(x.shape) for x in maps] == expected
        assert all(x.isfinite().all() for x in maps)

    mtmamba.save_pretrained(model, tmp_path / "given")
    images = torch.randn(1, 3, *SIZE)
    with torch.no_grad():
        own, again = model(images), mtmamba.load_model(tmp_path / "given")(images)
    assert all(torch.equal(x, again[task]) for task, x in own.items())


@pytest.mark.parametrize(("name", "drop_path"), MODELS)
@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
def test_frozen_it_keeps_no_activation_and_changes_in_nothing(name, drop_path):
    module = build.build_module(configured(name, drop_path, "encoder.freeze=all")).train()
    features, kept = module.model.encoder.features, []
    before = state(features)
    with saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        features(torch.randn(1, 3, 224, 224))
    assert kept == []
    two_steps(module)
    assert all(torch.equal(x, before[key]) for key, x in features.state_dict().items())


@pytest.mark.parametrize(("name", "layers"), [("dla46_c", [f"level{i}" for i in range(2, 6)])])
def test_the_maps_are_those_of_the_models_strides(name, layers):
    """timm counts a model's maps from its first one, though it may leave that out."""
    torch.manual_seed(0)
    encoder = mtmamba.build_model(configured(name, 0.0)).encoder.eval()
    model = timm.create_model(name).eval()
    assert not model.load_state_dict(encoder.features.state_dict(), strict=False).unexpected_keys
    x = torch.randn(1, 3, *SIZE)
    with torch.no_grad():
        found, x = encoder.features(x), model.level1(model.level0(model.base_layer(x)))
        for layer, y in zip(layers, found, strict=True):
            x = getattr(model, layer)(x)
            torch.testing.assert_close(y, x)
