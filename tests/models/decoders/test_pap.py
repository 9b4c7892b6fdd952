"""The PAP-style reconstruction against its closed form and against diffusion by whole affinity matrices."""

import pytest
import torch

from mtmamba.models.decoders.fused import MixCoarsely
from mtmamba.models.decoders.pap import PAP, AffinityDiffusion


@pytest.mark.parametrize(
    ("data", "encoder", "parameters"),
    [
        ("nyud", "swin_tiny", 4_712_138),
        ("nyud", "swin_large", 12_780_458),
        ("pascal_context", "swin_tiny", 5_362_109),
        ("pascal_context", "swin_large", 13_891_229),
    ],
)
def test_parameters_of_the_specification(counted, data, encoder, parameters):
    assert counted("pap", data, encoder) == parameters


@pytest.mark.parametrize("tasks", [1, 2])
def test_parameters_have_their_closed_form(tasks):
    s, d, outputs = 60, 32, {"semseg": 40, "depth": 1}
    outputs = dict(list(outputs.items())[:tasks])
    expected = s * s + 3 * s + tasks * (5 * s * d // 4 + 93 * d * d // 32 + 23 * d // 2)
    expected += (3 * d // 2 + 2) * sum(outputs.values()) + tasks**2
    assert sum(p.numel() for p in PAP((4, 8, 16, 32), outputs, dim=d).parameters()) == expected


def test_multiply_adds_of_the_specification(gmacs):
    assert tuple(round(gmacs("pap", encoder), 1) for encoder in ("swin_tiny", "swin_large")) == (82.1, 212.1)


def test_diffusion_equals_that_by_whole_matrices():
    torch.manual_seed(0)
    tasks, dim, beta = 3, 8, 0.5
    diffusion = AffinityDiffusion(tasks, 2, beta).double()
    diffusion.logits.data.normal_()
    x = torch.randn(2, tasks, dim, 3, 4, dtype=torch.float64)
    x[0, 1, :, 1, 2] = -1  # a position without an active channel receives nothing
    maps = x.flatten(3).mT  # (B, T, L, dim)
    affinities = []
    for t in range(tasks):
        active = maps[:, t].clamp(min=0)
        length = active.square().sum(2, keepdim=True).sqrt()
        unit = active / length.clamp(min=1e-6)
        dense = unit @ unit.mT  # (B, L, L)
        affinities.append(dense / (dense.sum(2, keepdim=True) + 1e-6))
    for t in range(tasks):
        shares = diffusion.logits[t].exp() / diffusion.logits[t].exp().sum()
        matrix = sum(share * m for share, m in zip(shares, affinities, strict=True))
        z = maps[:, t]
        for _ in range(2):
            z = beta * matrix @ z + (1 - beta) * maps[:, t]
        torch.testing.assert_close(diffusion(x)[:, t].flatten(2).mT, z - maps[:, t])


def test_without_diffusion_the_map_is_only_reduced():
    mix, x = MixCoarsely(2, 16, AffinityDiffusion(2, 3, beta=0)), torch.randn(2, 32, 4, 6)
    torch.testing.assert_close(mix(x), mix.reduce(x))


@pytest.mark.parametrize("tasks", [None, 1, 2])
def test_every_parameter_gets_a_gradient_for_any_tasks(exercised, tasks):
    shares = ["mix.change.logits"] if tasks == 1 else []  # the only one is 1
    exercised("pap", "decoder.dim=16", tasks=tasks, auxiliary={"initial": 4}, idle=shares)


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
def test_a_training_step_adds_the_initial_predictions_losses(stepped):
    _, loss, final = stepped("pap", "decoder.dim=16")
    assert loss > final


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"decoder\.dim as a multiple of 8, got \['depth'\] and 12"):
        PAP((4, 8, 16, 32), {"depth": 1}, dim=12)
    with pytest.raises(ValueError, match=r"decoder\.beta from 0 to 1, got 3 and 1\.5"):
        PAP((4, 8, 16, 32), {"depth": 1}, beta=1.5)
