"""NDDR-CNN: sizes, the unit against a loop over tasks, and a training step."""

import pytest
import torch

import mtmamba
from mtmamba.models.decoders.nddr import NDDR, NDDRUnit
from mtmamba.models.skeleton import skeleton

MICRO = ("data=nyud", "decoder=nddr", "decoder.head_width=8")


@pytest.mark.parametrize(
    ("data", "encoder", "units"),
    [
        ("nyud", "swin_tiny", 12_545_280),
        ("nyud", "swin_large", 50_158_080),
        ("pascal_context", "swin_tiny", 19_598_400),
        ("pascal_context", "swin_large", 78_364_800),
    ],
)
def test_parameters_of_the_specification(data, encoder, units):
    with skeleton():
        model = mtmamba.build_model(mtmamba.load_config([*MICRO, f"data={data}", f"encoder={encoder}"]))
    assert sum(p.numel() for p in model.encoder.units.parameters()) == units


@pytest.mark.parametrize("activation", [torch.nn.Identity(), torch.nn.ReLU()])
def test_a_unit_reads_the_tasks_side_by_side(activation):
    torch.manual_seed(0)
    tasks, dim = 3, 4
    unit, x = NDDRUnit(tasks, dim, 0.8, 0.1, activation), torch.randn(tasks, 2, 5, 6, dim)
    assert unit.norm.momentum == 0.05
    for t, got in enumerate(unit.eval()(x)):  # as it starts
        mean = 0.8 * x[t] + 0.1 * sum(x[s] for s in range(tasks) if s != t)
        torch.testing.assert_close(got, activation(mean / (1 + 1e-5) ** 0.5))
    unit.conv.weight.data.normal_()
    for t, got in enumerate(unit.train()(x)):  # with statistics of the batch
        y = torch.cat(list(x), 3) @ unit.conv.weight[t * dim : (t + 1) * dim, :, 0, 0].T
        normed = (y - y.mean((0, 1, 2))) / (y.var((0, 1, 2), unbiased=False) + 1e-5).sqrt()
        torch.testing.assert_close(got, activation(normed), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
@pytest.mark.parametrize(
    "choice", [("data=nyud",), ("data=pascal_context",), ("tasks=[depth]",), ("tasks=[semseg,normals]",)]
)
def test_a_training_step_has_the_final_losses_alone(stepped, choice):
    _, loss, final = stepped("nddr", "decoder.head_width=8", *choice)
    torch.testing.assert_close(loss, final)


def test_the_originals_activation_is_a_choice():
    with skeleton():
        model = mtmamba.build_model(mtmamba.load_config([*MICRO, "decoder.activation=relu"]))
    assert all(isinstance(unit.activation, torch.nn.ReLU) for unit in model.encoder.units)
    with pytest.raises(ValueError, match=r"decoder\.activation=identity\|relu, got gelu"):
        NDDR((4, 8, 16, 32), {"depth": 1}, activation="gelu")
