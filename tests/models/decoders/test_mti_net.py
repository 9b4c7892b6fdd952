"""MTI-Net against its released modules' numbers, its closed forms, and a propagation written out."""

import pytest
import torch

from mtmamba.models.decoders.mti_net import MTINet, Propagate


def test_parity_mti_net(known_answer):
    known_answer("mti_net_nyud_tiny", "mti_net", "decoder.width=null")


@pytest.mark.parametrize(
    ("data", "encoder", "width", "parameters"),
    [
        ("nyud", "swin_tiny", 48, 100_470_153),
        ("nyud", "swin_large", 48, 100_861_833),
        ("pascal_context", "swin_tiny", 48, 146_940_476),
        ("pascal_context", "swin_large", 48, 147_332_156),
        ("nyud", "swin_tiny", 18, 14_247_645),
        ("nyud", "swin_large", 18, 14_394_525),
        ("pascal_context", "swin_tiny", 18, 20_781_416),
        ("pascal_context", "swin_large", 18, 20_928_296),
        ("nyud", "swin_tiny", "null", 400_076_529),
        ("nyud", "swin_large", "null", 1_599_843_585),
        ("pascal_context", "swin_tiny", "null", 585_966_350),
        ("pascal_context", "swin_large", "null", 2_343_419_762),
    ],
)
def test_parameters_of_the_specification(counted, data, encoder, width, parameters):
    assert counted("mti_net", data, encoder, f"decoder.width={width}") == parameters


@pytest.mark.parametrize(("width", "expected"), [(48, (110.6, 110.9)), ("null", (439.9, 1757.4))])
def test_multiply_adds_of_the_specification(gmacs, width, expected):
    encoders = ("swin_tiny", "swin_large")
    assert tuple(round(gmacs("mti_net", encoder, f"decoder.width={width}"), 1) for encoder in encoders) == expected


@pytest.mark.parametrize("tasks", [1, 2, 4])
def test_parts_have_the_closed_forms_of_their_parameters(tasks):
    channels, dims = (4, 8, 16, 32), (8, 16, 32, 64)
    outputs = dict(list({"semseg": 40, "depth": 1, "normals": 3, "edge": 1}.items())[:tasks])
    decoder = MTINet(channels, outputs, width=8)
    found = {name: 0 for name, _ in decoder.parts()}
    for name, module in decoder.parts():
        found[name] += sum(p.numel() for p in module.parameters())
    n, total = sum(outputs.values()), sum(dims)
    assert found == {
        "projection": sum(a * b + 2 * b for a, b in zip(channels, dims, strict=True)),
        "initial": tasks * (36 * dims[3] ** 2 + 8 * dims[3])
        + sum(tasks * (57 * c**2 + 10 * c) for c in dims[:3])
        + sum((c + 1) * n for c in dims),
        "propagation": sum(
            71 * (tasks * c) ** 2 // 16 + 7 * tasks * c // 2 + 10 * tasks * c * c + 9 * c * c + 6 * c
            - (tasks == 1) * (c * c + 2 * c)  # a shortcut without a projection
            + tasks * (2 * c * max(1, c // 16) + max(1, c // 16) + c)
            for c in dims[1:]
        ),
        "distil": 18 * tasks * (tasks - 1) * sum(c * c for c in dims),
        "head": tasks * (total**2 + 3 * total) + (total + 1) * n,
    }  # fmt: skip
    assert sum(found.values()) == sum(p.numel() for p in decoder.parameters())


def test_the_propagations_mask_is_normalised_within_each_task():
    """Channels in groups of as many neighbours as there are tasks, as the released program has it."""
    torch.manual_seed(0)
    tasks, dim = 2, 8
    propagate, x = Propagate(tasks, dim).double().eval(), torch.randn(1, tasks * dim, 3, 4, dtype=torch.float64)
    raw = propagate.mask(x)
    mask = torch.empty_like(raw)
    for first in range(0, tasks * dim, tasks):
        group = raw[:, first : first + tasks].exp()
        mask[:, first : first + tasks] = group / sum(group[:, [k]] for k in range(tasks))
    shared = propagate.share(mask * x)
    for t, y in enumerate(propagate(x).chunk(tasks, 1)):
        reduce, expand = (
            (layer.weight.chunk(tasks)[t][:, :, 0, 0], layer.bias.chunk(tasks)[t])
            for layer in (propagate.se.reduce, propagate.se.expand)
        )
        hidden = (reduce[0] @ shared.mean((2, 3))[0] + reduce[1]).clamp(min=0)
        gate = 1 / (1 + (-(expand[0] @ hidden + expand[1])).exp())
        torch.testing.assert_close(y, shared * gate[:, None, None] + x.chunk(tasks, 1)[t])


@pytest.mark.parametrize("tasks", [None, 1, 2])
def test_every_parameter_gets_a_gradient_for_any_tasks(exercised, tasks):
    mask = [f"propagate.{s}.mask" for s in range(3)] if tasks == 1 else []  # which is 1 then
    gates = [f"propagate.{s}.se" for s in range(3)]  # of one or two hidden units, which ReLU may switch off
    scales = {f"scale_{s}": 4 * 2**s for s in range(4)}
    exercised("mti_net", "decoder.width=4", tasks=tasks, auxiliary=scales, idle=mask + gates)


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
def test_a_training_step_adds_the_losses_of_every_scale(stepped):
    module, loss, final = stepped("mti_net", "decoder.width=4")
    assert loss > final
    assert module.model.decoder.auxiliary.keys() == {"scale_0", "scale_1", "scale_2", "scale_3"}


def test_a_width_whose_mask_has_no_whole_quarter_is_refused():
    with pytest.raises(ValueError, match=r"4 to divide the 1 tasks' channels .* got tasks \['depth'\] and \[1, 2, 4"):
        MTINet((4, 8, 16, 32), {"depth": 1}, width=1)
