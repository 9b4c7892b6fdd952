"""PAD-Net against its released modules' numbers, its closed form, and a distillation written out."""

import pytest
import torch

import mtmamba
from mtmamba.models.decoders.conv import Bottleneck, Distil, Fuse
from mtmamba.models.decoders.pad_net import PADNet


def test_parity_pad_net(known_answer):
    known_answer("pad_net_nyud_tiny", "pad_net", "decoder.dim=32")


@pytest.mark.parametrize(
    ("data", "encoder", "parameters"),
    [
        ("nyud", "swin_tiny", 19_162_938),
        ("nyud", "swin_large", 27_231_258),
        ("pascal_context", "swin_tiny", 29_320_996),
        ("pascal_context", "swin_large", 37_850_116),
    ],
)
def test_parameters_of_the_specification(counted, data, encoder, parameters):
    assert counted("pad_net", data, encoder) == parameters


def test_multiply_adds_of_the_specification(gmacs):
    assert round(gmacs("pad_net", "swin_tiny"), 1) == 308.8
    assert round(gmacs("pad_net", "swin_large"), 1) == 438.8


@pytest.mark.parametrize("tasks", [1, 2, 4])
def test_parts_have_the_closed_forms_of_their_parameters(tasks):
    total, dim = 60, 32
    outputs = {"semseg": 40, "depth": 1, "normals": 3, "edge": 1}
    outputs = dict(list(outputs.items())[:tasks])
    decoder = PADNet((4, 8, 16, 32), outputs, dim=dim)
    found = {name: 0 for name, _ in decoder.parts()}
    for name, module in decoder.parts():
        found[name] += sum(p.numel() for p in module.parameters())
    n = sum(outputs.values())
    assert found == {
        "fuse": total**2 + 3 * total,
        "initial": tasks * (5 * total * dim // 4 + 13 * dim**2 // 16 + 5 * dim + 17 * dim**2 // 16 + 3 * dim)
        + (dim + 1) * n,
        "distil": 18 * tasks * (tasks - 1) * dim**2,
        "refine": tasks * 2 * (17 * dim**2 // 16 + 3 * dim),
        "head": (dim + 1) * n,
    }
    assert sum(found.values()) == sum(p.numel() for p in decoder.parameters())


def test_distillation_equals_its_sum_over_pairs():
    torch.manual_seed(0)
    tasks, dim = 3, 4
    distil, x = Distil(tasks, dim).double(), torch.randn(2, tasks * dim, 5, 6, dtype=torch.float64)
    maps, weights = x.chunk(tasks, 1), distil.messages.weight
    for target in range(tasks):
        expected = maps[target].clone()
        for source in range(tasks):
            if source != target:
                first = (source * (tasks - 1) + [t for t in range(tasks) if t != source].index(target)) * 2 * dim
                mask, value = (
                    torch.nn.functional.conv2d(maps[source], weights[first + k * dim :][:dim], padding=1)
                    for k in (0, 1)
                )
                expected += mask.sigmoid() * value
        torch.testing.assert_close(distil(x).chunk(tasks, 1)[target], expected)


def test_tasks_share_nothing_in_grouped_blocks():
    torch.manual_seed(0)
    x = torch.randn(2, 3 * 8, 4, 4, requires_grad=True)
    for block in (Bottleneck(3, 8, 8), Bottleneck(3, 8, 16)):
        (gradient,) = torch.autograd.grad(block.eval()(x).chunk(3, 1)[1].sum(), x)
        assert [bool(part.any()) for part in gradient.chunk(3, 1)] == [False, True, False]
    maps = [torch.randn(2, 3 * 4, size, size, requires_grad=True) for size in (8, 4, 2, 1)]
    fuse = Fuse((4, 4, 4, 4), 6, tasks=3).eval()
    for gradient in torch.autograd.grad(fuse(maps).chunk(3, 1)[2].sum(), maps):
        assert [bool(part.any()) for part in gradient.chunk(3, 1)] == [False, False, True]


@pytest.mark.parametrize("tasks", [None, 1, 2])
def test_every_parameter_gets_a_gradient_for_any_tasks(exercised, tasks):
    exercised("pad_net", "decoder.dim=8", tasks=tasks, auxiliary={"initial": 4})


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
def test_a_training_step_adds_the_initial_predictions_losses(stepped):
    _, loss, final = stepped("pad_net", "decoder.dim=8")
    assert loss > final


def test_recomputed_batch_norms_take_a_batch_in_once():
    buffers = []
    for part in ("none", "blocks"):
        torch.manual_seed(0)
        choices = ["data=nyud", "decoder=pad_net", "decoder.dim=8", f"model.checkpointing={part}"]
        model = mtmamba.build_model(mtmamba.load_config(choices)).train()
        sum(x.square().mean() for x in model(torch.randn(2, 3, 64, 64)).values()).backward()
        buffers.append(dict(model.named_buffers()))
    assert buffers[0]["decoder.initial.0.bn1.num_batches_tracked"] == 1
    for name, x in buffers[0].items():
        assert torch.equal(buffers[1][name], x), name


def test_a_width_that_bottlenecks_cannot_quarter_is_refused():
    with pytest.raises(ValueError, match=r"decoder\.dim as a multiple of 4, got \['depth'\] and 30"):
        PADNet((4, 8, 16, 32), {"depth": 1}, dim=30)
