"""InvPT against its released module's numbers, its closed form, and an attention written out."""

import pytest
import torch
from torch.nn import functional as F

from mtmamba.models.decoders.invpt import Attention, InvPT, Stage


def test_parity_invpt(known_answer):
    known_answer("invpt_nyud_tiny", "invpt", "decoder.dim=24", "decoder.extra=8", intermediate="preliminary")


@pytest.mark.parametrize(
    ("data", "encoder", "parameters"),
    [
        ("nyud", "swin_tiny", 67_347_342),
        ("nyud", "swin_base", 88_997_774),
        ("nyud", "swin_large", 146_454_414),
        ("pascal_context", "swin_large", 181_099_112),
    ],
)
def test_parameters_of_the_specification(counted, data, encoder, parameters):
    assert counted("invpt", data, encoder) == parameters


@pytest.mark.parametrize(
    ("encoder", "expected"), [("swin_small", 234.63), ("swin_base", 240.99), ("swin_large", 257.26)]
)
def test_multiply_adds_of_the_specification(gmacs, encoder, expected):
    """The released module computes a map at stride 32 that it never uses."""
    width, grid = {"swin_small": 96, "swin_base": 128, "swin_large": 192}[encoder], 14 * 18
    unused = grid * 9 * 8 * width * 576 / 1e9
    assert round(gmacs("invpt", encoder) + unused, 2) == expected


@pytest.mark.parametrize("tasks", [1, 2, 4])
def test_parts_have_the_closed_forms_of_their_parameters(tasks):
    c, dim, width = 32, 24, 32
    outputs = dict(list({"semseg": 40, "depth": 1, "normals": 3, "edge": 1}.items())[:tasks])
    decoder = InvPT((4, 8, 16, c), outputs, dim=dim, extra=width - dim)
    found = {name: 0 for name, _ in decoder.parts()}
    for name, module in decoder.parts():
        found[name] += sum(p.numel() for p in module.parameters())
    n, e = sum(outputs.values()), (width, width // 2, width // 4)
    block = [12 * w**2 + 13 * w + 9 * w * tasks + 2 * w * tasks for w in e]
    embed = [0, *(10 + tasks * (9 * e[i - 1] * e[i] + 9 * e[i] ** 2 + 4 * e[i]) for i in (1, 2))]
    skip = [0, 9 * 16 * e[1] + e[1], 9 * 8 * e[2] + e[2]]
    assert found == {
        "preliminary": tasks * (9 * c**2 + 2 * c + 9 * c * dim + 2 * dim) + (dim + 1) * n,
        "mix": tasks * (dim + 1) * width + n * width,
        **{f"stage {i}": block[i] + embed[i] + skip[i] for i in range(3)},
        "out": sum(2 * tasks * w for w in e) + sum(tasks * (w + 1) * width for w in e[1:]),
        "head": tasks * (9 * width**2 + 3 * width) + (width + 1) * n,
    }
    assert sum(found.values()) == sum(p.numel() for p in decoder.parameters())


def test_attention_equals_a_loop_over_heads_and_tasks():
    """Stage 1 on a map of odd sides: pooled windows that stick out average their own pixels."""
    torch.manual_seed(0)
    tasks, dim, height, width = 2, 4, 6, 10
    attention = Attention(tasks, dim, 1).double().eval()
    for norm in attention.norm.parameters():
        torch.nn.init.normal_(norm)
    x = torch.randn(1, tasks, height, width, dim, dtype=torch.float64)
    before = torch.randn(1, 2, tasks * 2 * 3, tasks * 2 * 3, dtype=torch.float64)
    found, passed_on = attention(x, before)
    queries, keys = [], []
    for t in range(tasks):
        own, c = x[:, t].permute(0, 3, 1, 2), slice(t * dim, (t + 1) * dim)
        y = F.conv2d(own, attention.conv.weight[c], stride=2, padding=1, groups=dim)
        y = y / (1 + attention.norm.eps) ** 0.5 * attention.norm.weight[c, None, None]
        queries.append((y + attention.norm.bias[c, None, None]).flatten(2)[0].T)
        cells = [own[0, :, i : i + 4, j : j + 4].mean((1, 2)) for i in (0, 4) for j in (0, 4, 8)]
        keys.append(torch.stack(cells))
    q, k, v = attention.query(torch.cat(queries)), attention.key(torch.cat(keys)), attention.value(torch.cat(keys))
    heads = [q[:, c] @ k[:, c].T / dim**0.5 for c in (slice(0, 2), slice(2, 4))]
    for head in range(2):
        rows = before[0, head].unflatten(0, (tasks, 2, 3)).permute(0, 3, 1, 2)  # (T, keys, 2, 3)
        enlarged = F.interpolate(rows, (3, 5), mode="bilinear").permute(0, 2, 3, 1).flatten(0, 2)
        heads.append(enlarged)
    weight, bias = attention.fuse.weight[:, :, 0, 0], attention.fuse.bias
    fused = [sum(weight[o, i] * heads[i] for i in range(4)) + bias[o] for o in range(2)]
    torch.testing.assert_close(passed_on[0], torch.stack(fused))
    y = torch.cat([fused[o].softmax(1) @ v[:, 2 * o : 2 * o + 2] for o in range(2)], 1)
    for t, own in enumerate(attention.proj(y).chunk(tasks)):
        expected = F.interpolate(own.T.reshape(1, dim, 3, 5), (height, width), mode="bilinear")
        torch.testing.assert_close(found[:, t], expected.permute(0, 2, 3, 1))


def test_initialisation_is_the_released_one():
    torch.manual_seed(0)
    decoder = InvPT((4, 8, 16, 32), {"depth": 1})
    for stage in decoder.stages:
        assert isinstance(stage, Stage)
        for layer in (stage.attention.query, stage.attention.proj, stage.mlp[0], stage.mlp[2]):
            assert layer.weight.std().item() == pytest.approx(0.02, rel=0.05)
            assert not layer.bias.any()
    assert decoder.head[0].weight.std().item() == pytest.approx(0.02, rel=0.01)
    assert decoder.head[0].bias.any()


@pytest.mark.parametrize("tasks", [None, 1, 2])
def test_any_tasks_of_both_datasets(exercised, tasks):
    exercised("invpt", "decoder.dim=24", "decoder.extra=8", tasks=tasks, auxiliary={"preliminary": 32})


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
def test_a_training_step_adds_the_preliminary_predictions_losses(stepped):
    _, loss, final = stepped("invpt", "decoder.dim=24", "decoder.extra=8", "model.checkpointing=blocks")
    assert loss > final


def test_a_width_that_stages_cannot_halve_is_refused():
    with pytest.raises(ValueError, match=r"decoder\.dim \+ decoder\.extra as a multiple of 8, got \['depth'\] and 30"):
        InvPT((4, 8, 16, 32), {"depth": 1}, dim=30)
