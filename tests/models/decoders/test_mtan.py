"""MTAN: sizes, attention written out task by task, what it reads of the encoder, and training steps."""

import pytest
import torch
from torch.nn import functional as F

import mtmamba
from mtmamba.models.decoders.mtan import MTAN
from mtmamba.models.encoders.efficientnet_lite import EfficientNetLite
from mtmamba.models.encoders.swin_blocks import SwinBlock

MICRO = ("data=nyud", "decoder=mtan", "decoder.head_width=8")


@pytest.mark.parametrize(
    ("data", "encoder", "parameters"),
    [
        ("nyud", "swin_tiny", 3_482_016),
        ("nyud", "swin_large", 13_871_424),
        ("pascal_context", "swin_tiny", 4_072_632),
        ("pascal_context", "swin_large", 16_223_088),
    ],
)
def test_parameters_of_the_specification(counted, data, encoder, parameters):
    heads = counted("concat_head", data, encoder)
    assert counted("mtan", data, encoder) - heads == parameters


def test_attention_equals_one_written_out_task_by_task():
    """The second stage's, of the second task; batch norms that have seen nothing divide by almost 1."""
    torch.manual_seed(0)
    decoder = MTAN((4, 8, 16, 32), {"semseg": 5, "depth": 1, "normals": 3}, head_width=8).eval()
    maps = [torch.randn(2, 2, 32 // s, 64 // s, c) for s, c in ((4, 4), (8, 8), (16, 16), (32, 32))]

    def mask(s, x, t):
        first, _, _, second, _, _ = decoder.attention[s]
        dim = maps[s].shape[-1]
        hidden = F.conv2d(x, first.weight.chunk(3)[t], first.bias.chunk(3)[t]) / (1 + 1e-5) ** 0.5
        y = F.conv2d(hidden.clamp(min=0), second.weight.chunk(3)[t], second.bias.chunk(3)[t]) / (1 + 1e-5) ** 0.5
        assert y.shape[1] == dim
        return 1 / (1 + (-y).exp())

    found = decoder.attended(maps)
    for t in range(3):
        attended = None
        for s, (before, after) in enumerate(x.permute(0, 1, 4, 2, 3) for x in maps):
            if s > 0:
                refined = decoder.refine[s - 1](attended)
                pooled = refined.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).amax((3, 5))
                before = torch.cat([before, pooled], 1)
            attended = mask(s, before, t) * after
            torch.testing.assert_close(found[s].chunk(3, 1)[t], attended, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_it_reads_the_encoders_maps_and_what_the_last_blocks_read():
    choices = [*MICRO, "encoder.depths=[2,1,3,2]"]
    torch.manual_seed(0)
    tapped = mtmamba.build_model(mtmamba.load_config(choices)).encoder.eval()
    torch.manual_seed(0)
    alone = mtmamba.build_model(mtmamba.load_config([*choices, "decoder=concat_head"])).encoder.eval()
    images, reads = torch.randn(2, 3, 64, 96), []
    for layer in alone.layers:
        assert isinstance(layer.blocks[-1], SwinBlock)
        layer.blocks[-1].register_forward_pre_hook(lambda _, args: reads.append(args[0].total()))
    maps = alone(images)
    for got, read, norm, expected in zip(tapped(images), reads, alone.norms, maps, strict=True):
        torch.testing.assert_close(got[0], norm(read), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(got[1], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
@pytest.mark.parametrize(
    "choice", [("data=nyud",), ("data=pascal_context",), ("tasks=[depth]",), ("tasks=[semseg,normals]",)]
)
def test_a_training_step_has_the_final_losses_alone(stepped, choice):
    module, loss, final = stepped("mtan", "decoder.head_width=8", *choice)
    torch.testing.assert_close(loss, final)
    assert module.model.decoder.auxiliary == {}


def test_what_cannot_be_attended_to_is_refused():
    decoder = MTAN((4, 8, 16, 32), {"depth": 1}, head_width=8)
    with pytest.raises(ValueError, match=r"tapped before their last block, got EfficientNetLite: choose encoder=swin"):
        decoder.adapt(EfficientNetLite(0, pretrained=False))
    with pytest.raises(ValueError, match=r"pairs of maps \(2, B, h, w, c\), got \[\(1, 8, 8, 4\)\]"):
        decoder([torch.zeros(1, 8, 8, 4)])
    with pytest.raises(ValueError, match=r"channels that 4 divides, got \['depth'\], 256 and \[6, 12, 24, 48\]"):
        MTAN((6, 12, 24, 48), {"depth": 1})
