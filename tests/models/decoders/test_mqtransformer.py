"""MQTransformer against its released module's numbers, its closed form, and PyTorch's own attention."""

import pytest
import torch
from torch import nn

from mtmamba.models.decoders.mqtransformer import CrossAttention, Meet, MQTransformer
from mtmamba.models.drop_path import seed_drop_path


def test_parity_mqtransformer(known_answer):
    known_answer("mqtransformer_nyud_tiny", "mqtransformer", "decoder.dim=16")


@pytest.mark.parametrize(
    ("data", "encoder", "parameters"),
    [
        ("nyud", "swin_tiny", 4_210_029),
        ("nyud", "swin_base", 4_701_549),
        ("nyud", "swin_large", 5_684_589),
        ("pascal_context", "swin_large", 6_593_570),
    ],
)
def test_parameters_of_the_specification(counted, data, encoder, parameters):
    assert counted("mqtransformer", data, encoder) == parameters


def test_multiply_adds_of_the_specification(gmacs):
    """The released module computes queries and keys for one token, and patches that it never uses."""
    unused = (2 + 1) * 4 * 112 * 144 * 256**2 / 1e9
    assert round(gmacs("mqtransformer", "swin_large") + unused, 1) == 150.4


@pytest.mark.parametrize("tasks", [1, 2, 4])
def test_parts_have_the_closed_forms_of_their_parameters(tasks):
    total, dim, queries = 60, 16, 8
    outputs = dict(list({"semseg": 40, "depth": 1, "normals": 3, "edge": 1}.items())[:tasks])
    decoder = MQTransformer((4, 8, 16, 32), outputs, dim=dim, queries=queries)
    found = {name: 0 for name, _ in decoder.parts()}
    for name, module in decoder.parts():
        found[name] += sum(p.numel() for p in module.parameters())
    attention = 4 * dim**2 + 7 * dim
    assert found == {
        "projection": tasks * (total + 1) * dim,
        "read": attention + dim**2 + 2 * dim + 2 * dim**2 + 4 * dim,
        "meet": 4 * dim**2 + 4 * dim + 2 * dim**2 + 6 * dim,
        "write": attention + 2 * (6 * dim**2 + 6 * dim) + 2 * dim**2 + 2 * dim,
        "head": tasks * (9 * dim**2 // 4 + dim // 2) + (dim // 4 + 1) * sum(outputs.values()),
    }
    own = sum(p.numel() for p in decoder.parameters(recurse=False))
    assert own == tasks * (queries * dim + 2 * queries * dim // 4)
    assert sum(found.values()) + own == sum(p.numel() for p in decoder.parameters())


def test_cross_attention_equals_pytorchs_of_normed_inputs():
    torch.manual_seed(0)
    dim, attention = 16, CrossAttention(16).double()
    for norm in attention.norms.parameters():
        nn.init.normal_(norm)
    other = nn.MultiheadAttention(dim, 4, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        other.in_proj_weight.copy_(torch.cat([layer.weight for layer in attention.inputs]))
        other.out_proj.load_state_dict(attention.proj.state_dict())
    q, k, v = (torch.randn(3, 2, n, dim, dtype=torch.float64) for n in (5, 7, 7))
    normed = [norm(x).flatten(0, 1) for norm, x in zip(attention.norms, (q, k, v), strict=True)]
    torch.testing.assert_close(attention(q, k, v).flatten(0, 1), other(*normed)[0])


def test_queries_of_all_tasks_meet_in_pytorchs_attention():
    torch.manual_seed(0)
    tasks, queries, dim = 3, 4, 8
    meet = Meet(tasks * queries, dim).double().eval()
    other = nn.MultiheadAttention(dim, 4, dtype=torch.float64)
    with torch.no_grad():
        nn.init.normal_(meet.qkv.bias)
        other.in_proj_weight.copy_(meet.qkv.weight)
        other.in_proj_bias.copy_(meet.qkv.bias)
        other.out_proj.load_state_dict(meet.proj.state_dict())
    x = torch.randn(tasks, 2, queries, dim, dtype=torch.float64)
    tokens = torch.cat(list(x.transpose(1, 2)))  # (T Q, B, dim)
    tokens = tokens + other(tokens, tokens, tokens)[0]
    tokens = tokens + meet.mlp(tokens)
    torch.testing.assert_close(meet(x), torch.stack(tokens.chunk(tasks)).transpose(1, 2))


def test_what_is_dropped_depends_on_the_image_alone():
    torch.manual_seed(0)
    decoder = MQTransformer((4, 8, 16, 32), {"depth": 1, "edge": 1}, dim=16, queries=8).train()
    decoder.head[1].eval()  # whose statistics are the batch's
    features = [torch.randn(1, 32 // s, 64 // s, s).expand(3, -1, -1, -1) for s in (4, 8, 16, 32)]
    seed_drop_path(decoder, [5, 6, 5], torch.device("cpu"))
    first, second, again = decoder(features)["depth"]
    torch.testing.assert_close(first, again)
    assert not torch.allclose(first, second)


def test_draws_have_their_rates_and_keep_the_mean():
    torch.manual_seed(0)
    meet = Meet(tokens=24, dim=8).train()
    weights = meet.drop_weights(torch.ones(4 * 24**2, 16))
    queries = meet.drops[0](torch.ones(24, 400, 8))
    assert torch.equal(weights.unique(), torch.tensor([0, 1 / 0.9]))
    assert torch.equal(queries.unique(), torch.tensor([0.0, 2.0]))
    assert weights.mean().item() == pytest.approx(1, abs=0.01)
    assert queries.mean().item() == pytest.approx(1, abs=0.05)
    assert not queries.std(2).any()  # a query has all its channels or none


def test_initialisation_is_the_released_one():
    torch.manual_seed(0)
    decoder = MQTransformer((4, 8, 16, 32), {"depth": 1, "semseg": 40})
    for tokens in (decoder.queries, decoder.query_places, decoder.key_places):
        assert tokens.std().item() == pytest.approx(0.02, rel=0.05)
    assert decoder.predict["semseg"].weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert not decoder.predict["semseg"].bias.any()
    assert decoder.meet.qkv.weight.std().item() == pytest.approx((2 / (4 * 256)) ** 0.5, rel=0.05)
    assert not any(layer.bias.any() for layer in (decoder.meet.qkv, decoder.meet.proj, decoder.write.value))


@pytest.mark.parametrize("tasks", [None, 1, 2])
def test_any_tasks_of_both_datasets(exercised, tasks):
    exercised("mqtransformer", "decoder.dim=16", "decoder.queries=8", "decoder.drop_path=0", tasks=tasks)


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
def test_a_training_step(stepped):
    stepped("mqtransformer", "decoder.dim=16", "decoder.queries=8", "model.checkpointing=blocks")


def test_a_width_that_heads_cannot_share_is_refused():
    with pytest.raises(ValueError, match=r"decoder\.dim as a multiple of 4 .* got \['depth'\], 30 and 64"):
        MQTransformer((4, 8, 16, 32), {"depth": 1}, dim=30)
