"""FCN against its closed form and a composition of PyTorch's functions."""

import pytest
import torch
from torch.nn import functional as F

from mtmamba.models.decoders.fcn import FCN


def test_size_of_the_specification(counted, gmacs):
    assert counted("fcn", "nyud", "swin_large") == 74_687_805
    assert round(gmacs("fcn", "swin_large"), 1) == 1204.5


@pytest.mark.parametrize("neck", [None, (4, 4, 6, 6)])
def test_every_task_has_a_convolution_of_the_joined_maps(neck):
    torch.manual_seed(0)
    decoder = FCN((4, 8, 16, 32), {"semseg": 5, "depth": 1}, neck=neck).double().eval()
    features = [torch.randn(1, 32 // s, 64 // s, s, dtype=torch.float64) for s in (4, 8, 16, 32)]

    def normed(x):
        return F.relu(x / (1 + 1e-5) ** 0.5)

    maps = []
    for x, narrow in zip(features, decoder.neck, strict=True):
        x = x.permute(0, 3, 1, 2)
        x = normed(F.conv2d(x, narrow[0].weight)) if neck else x
        maps.append(F.interpolate(x, (8, 16), mode="bilinear", align_corners=False))
    joined = torch.cat(maps, 1)
    dim = joined.shape[1] // 4
    for (task, found), weight in zip(decoder(features).items(), decoder.features[0].weight.split(dim), strict=True):
        x = normed(F.conv2d(joined, weight, padding=1))
        x = F.conv2d(x, decoder.predict[task].weight, decoder.predict[task].bias)
        torch.testing.assert_close(found, F.interpolate(x, scale_factor=4, mode="bilinear", align_corners=False))


@pytest.mark.parametrize("tasks", [None, 1, 2])
def test_any_tasks_of_both_datasets(exercised, tasks):
    exercised("fcn", tasks=tasks)


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
def test_a_training_step(stepped):
    stepped("fcn", "decoder.neck=[4,8,12,16]", "model.checkpointing=blocks")


def test_a_neck_of_another_length_is_refused():
    with pytest.raises(ValueError, match=r"four widths in decoder\.neck, got \['depth'\] and \[4, 8\]"):
        FCN((4, 8, 16, 32), {"depth": 1}, neck=(4, 8))
