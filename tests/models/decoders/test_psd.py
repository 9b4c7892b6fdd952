"""The PSD-style reconstruction against its closed form and against loops over positions."""

import math

import pytest
import torch

from mtmamba.models.decoders.psd import PSD, StructureDiffusion


@pytest.mark.parametrize(
    ("data", "encoder", "parameters"),
    [
        ("nyud", "swin_tiny", 4_795_082),
        ("nyud", "swin_large", 12_863_402),
        ("pascal_context", "swin_tiny", 5_465_789),
        ("pascal_context", "swin_large", 13_994_909),
    ],
)
def test_parameters_of_the_specification(counted, data, encoder, parameters):
    assert counted("psd", data, encoder) == parameters


def test_multiply_adds_of_the_specification(gmacs):
    assert tuple(round(gmacs("psd", encoder), 1) for encoder in ("swin_tiny", "swin_large")) == (76.1, 206.1)


@torch.no_grad()
@pytest.mark.parametrize("window", [1, 3, 5])
def test_diffusion_equals_loops_over_positions(window):
    torch.manual_seed(0)
    tasks, dim, height, width, steps = 2, 8, 3, 4, 2
    diffusion = StructureDiffusion(tasks, dim, window, steps).double().eval()
    diffusion.gamma.data.normal_()
    x = torch.randn(1, tasks, dim, height, width, dtype=torch.float64)
    embed, out = (
        [layer.weight.chunk(tasks)[t][:, :, 0, 0] for t in range(tasks)] for layer in (diffusion.embed, diffusion.out)
    )

    def window_of(i, j):
        r = window // 2
        rows, columns = range(max(0, i - r), min(height, i + r + 1)), range(max(0, j - r), min(width, j + r + 1))
        return [(a, b) for a in rows for b in columns]

    def structure(t, i, j):
        q = {place: embed[t] @ x[0, t, :, place[0], place[1]] for place in window_of(i, j)}
        weights = {place: math.exp(float(q[i, j] @ y) / math.sqrt(dim / 4)) for place, y in q.items()}
        return {place: weight / sum(weights.values()) for place, weight in weights.items()}

    def cosine(a, b):
        return sum(a[k] * b[k] for k in a) / math.sqrt(sum(v * v for v in a.values()) * sum(v * v for v in b.values()))

    places = [(i, j) for i in range(height) for j in range(width)]
    own = {(t, *place): structure(t, *place) for t in range(tasks) for place in places}
    got = diffusion(x)
    for t in range(tasks):
        mixed = {}
        for place in places:
            pull = [
                math.exp(float(diffusion.gamma[t, s]) * cosine(own[t, *place], own[s, *place])) for s in range(tasks)
            ]
            mixed[place] = {
                k: sum(pull[s] / sum(pull) * own[s, *place][k] for s in range(tasks)) for k in own[t, *place]
            }
        z = {place: x[0, t, :, place[0], place[1]] for place in places}
        for _ in range(steps):
            z = {place: sum(weight * z[k] for k, weight in mixed[place].items()) for place in places}
        for i, j in places:
            torch.testing.assert_close(got[0, t, :, i, j], out[t] @ z[i, j] / math.sqrt(1 + 1e-5))


@pytest.mark.parametrize("tasks", [None, 1, 2])
def test_every_parameter_gets_a_gradient_for_any_tasks(exercised, tasks):
    matching = ["mix.change.gamma"] if tasks == 1 else []  # a task's structure alone is all of its mixture
    exercised("psd", "decoder.dim=16", tasks=tasks, auxiliary={"initial": 4}, idle=matching)


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
def test_a_training_step_adds_the_initial_predictions_losses(stepped):
    _, loss, final = stepped("psd", "decoder.dim=16")
    assert loss > final


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"decoder\.dim as a multiple of 8, got \['depth'\] and 12"):
        PSD((4, 8, 16, 32), {"depth": 1}, dim=12)
    with pytest.raises(ValueError, match=r"decoder\.window as an odd number .* got 2 and 3"):
        PSD((4, 8, 16, 32), {"depth": 1}, window=2)
