"""The baseline's heads against its closed form and one head written out."""

import pytest
import torch
from torch.nn import functional as F

from mtmamba.models.decoders.concat_head import ConcatHead


@pytest.mark.parametrize(
    ("data", "encoder", "parameters"),
    [
        ("nyud", "swin_tiny", 8_376_525),
        ("nyud", "swin_large", 33_341_805),
        ("pascal_context", "swin_tiny", 10_438_594),
        ("pascal_context", "swin_large", 41_613_154),
    ],
)
def test_parameters_of_the_specification(counted, data, encoder, parameters):
    assert counted("concat_head", data, encoder, "decoder.head_width=null") == parameters


def test_multiply_adds_are_those_of_two_products_a_task(gmacs):
    pixels = 112 * 144
    assert gmacs("concat_head", "swin_large", "decoder.head_width=null") == pixels * (4 * 2880**2 + 2880 * 45) / 1e9
    assert round(gmacs("concat_head", "swin_large")) == 48  # the specification's, at a width of 256


@pytest.mark.parametrize("width", [None, 24])
def test_parameters_have_their_closed_form(width):
    decoder = ConcatHead((4, 8, 16, 32), {"semseg": 40, "depth": 1}, head_width=width)
    w = width or 60
    assert sum(p.numel() for p in decoder.parameters()) == 2 * (60 * w + 3 * w) + (w + 1) * 41


def test_a_head_equals_one_written_out():
    torch.manual_seed(0)
    decoder = ConcatHead((4, 8, 16, 32), {"semseg": 5, "depth": 1}, head_width=8).eval()
    maps = [torch.randn(2, 32 // s, 64 // s, c) for s, c in ((4, 4), (8, 8), (16, 16), (32, 32))]
    columns = torch.cat([F.interpolate(x.movedim(-1, 1), (8, 16), mode="bilinear") for x in maps], 1).movedim(1, -1)
    weight, bias = decoder.fuse.conv.weight[8:, :, 0, 0], decoder.fuse.conv.bias[8:]  # of the second task
    hidden = ((columns @ weight.T + bias) / (1 + 1e-5) ** 0.5).clamp(min=0)  # a batch norm that has seen nothing
    project = decoder.predict["depth"]
    logits = (hidden @ project.weight[0, :, 0, 0] + project.bias)[:, None]
    expected = F.interpolate(logits, scale_factor=4, mode="bilinear")
    torch.testing.assert_close(decoder(maps)["depth"], expected)


@pytest.mark.parametrize("tasks", [None, 1, 2])
def test_every_parameter_gets_a_gradient_for_any_tasks(exercised, tasks):
    exercised("concat_head", "decoder.head_width=8", tasks=tasks)


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
def test_a_training_step_has_the_final_losses_alone(stepped):
    _, loss, final = stepped("concat_head", "decoder.head_width=8")
    torch.testing.assert_close(loss, final)


def test_a_head_without_channels_is_refused():
    with pytest.raises(ValueError, match=r"decoder\.head_width of at least 1, got \['depth'\] and 0"):
        ConcatHead((4, 8, 16, 32), {"depth": 1}, head_width=0)
