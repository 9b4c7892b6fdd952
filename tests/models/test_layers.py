"""Layers on the task axis against a loop of torch.nn's, attention against timm's and a written-out one."""

import math

import pytest
import torch
from timm.models.swin_transformer import SwinTransformerBlock
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from mtmamba.models.attention import SwinBlock, WindowAttention
from mtmamba.models.layers import (
    JointLayerNorm,
    PatchExpand,
    ResidualLinear,
    SkipFuse,
    TaskConv2d,
    TaskLayerNorm,
    TaskLinear,
    TaskwiseLinear,
    project_jointly,
)
from mtmamba.models.ss2d import SS2D

T = 3


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def random(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def prepared(layer):
    """The layer in float64, no parameter at a value that would hide a mistake."""
    for p in layer.double().parameters():
        p.data += torch.randn_like(p) / 10
    return layer


def task(layer, t, module):
    """A torch.nn module with task t's parameters of a layer, through which their gradients flow."""
    parameters = {name: p[t] for name, p in layer.named_parameters(recurse=False)}
    return lambda x: functional_call(module, parameters, (x,))


def assert_same(y, expected, layer, *inputs):
    """Equal values, and equal gradients for the inputs and every parameter."""
    torch.testing.assert_close(y, expected)
    wanted, cotangent = [*inputs, *layer.parameters()], torch.randn_like(y)
    torch.testing.assert_close(
        torch.autograd.grad(y, wanted, cotangent), torch.autograd.grad(expected, wanted, cotangent)
    )


CUDA = pytest.mark.parametrize("is_cuda", [False, True])  # whose products are PyTorch's


@CUDA
@pytest.mark.parametrize("maps", [1, T])
@pytest.mark.parametrize("bias", [True, False])
def test_task_linear_is_a_loop_of_linear(maps, bias, is_cuda, monkeypatch):
    layer, x = prepared(TaskLinear(T, 5, 7, bias)), random(maps, 2, 3, 4, 5)
    expected = torch.stack([task(layer, t, nn.Linear(5, 7, bias))(x[t % maps]) for t in range(T)])
    monkeypatch.setattr(Tensor, "is_cuda", is_cuda)
    assert_same(layer(x), expected, layer, x)


@CUDA
def test_projections_that_cuda_computes_as_one_product(is_cuda, monkeypatch):
    first, second = (prepared(TaskLinear(T, 5, 7, bias=False)) for _ in range(2))
    adding, taskwise = prepared(ResidualLinear(T, 5, 7)), prepared(TaskwiseLinear(T, 5, 7))
    x, residual = random(T, 2, 3, 4, 5), random(T, 2, 3, 4, 7)
    separate = torch.cat([first(x), second(x)], dim=-1)
    added = torch.stack([residual[t] + x[t] @ adding.weight[t].T for t in range(T)])
    single = x[1] @ taskwise.weight[1].T
    monkeypatch.setattr(Tensor, "is_cuda", is_cuda)
    assert_same(torch.cat(project_jointly(x, first, second), dim=-1), separate, nn.ModuleList([first, second]), x)
    assert_same(adding(x, residual), added, adding, x, residual)
    assert_same(taskwise(x[1], taskwise.weight[1]), single, taskwise, x)


def test_task_layer_norm_is_a_loop_of_layer_norm():
    layer, x = prepared(TaskLayerNorm(T, 5)), random(T, 2, 3, 4, 5)
    expected = torch.stack([task(layer, t, nn.LayerNorm(5))(x[t]) for t in range(T)])
    assert_same(layer(x), expected, layer, x)


def test_joint_layer_norm_is_a_layer_norm_of_the_concatenation():
    layer, x = prepared(JointLayerNorm(T, 5)), random(T, 2, 3, 4, 5)
    expected = F.layer_norm(torch.cat(list(x), dim=-1), (T * 5,), layer.weight, layer.bias)
    assert_same(layer(x), expected[None], layer, x)


@pytest.mark.parametrize(("dim_out", "kernel", "groups"), [(6, 1, 1), (9, 3, 1), (6, 3, 6), (12, 5, 2)])
def test_task_conv2d_is_a_loop_of_conv2d(dim_out, kernel, groups):
    layer, x = prepared(TaskConv2d(T, 6, dim_out, kernel, groups)), random(T, 2, 5, 4, 6)
    conv = nn.Conv2d(6, dim_out, kernel, padding=kernel // 2, groups=groups)
    expected = [task(layer, t, conv)(x[t].permute(0, 3, 1, 2)).permute(0, 2, 3, 1) for t in range(T)]
    assert_same(layer(x), torch.stack(expected), layer, x)


@pytest.mark.parametrize("maps", [1, T])
@pytest.mark.parametrize("scale", [2, 4])
def test_patch_expand_puts_channels_into_space(maps, scale):
    layer, x = prepared(PatchExpand(T, 6, 3, scale)), random(maps, 2, 4, 5, 6)
    expected = torch.zeros(T, 2, 4 * scale, 5 * scale, 3, dtype=x.dtype)
    for t in range(T):
        channels = task(layer.expand, t, nn.Linear(6, 3 * scale**2, bias=False))(x[t % maps])
        norm = task(layer.norm, t, nn.LayerNorm(3))
        for p in range(scale):
            for q in range(scale):
                first = 3 * (scale * p + q)
                expected[t, :, p::scale, q::scale] = norm(channels[..., first : first + 3])
    assert_same(layer(x), expected, layer, x)


@CUDA
def test_skip_fuse_is_a_loop_of_linear_on_the_concatenation(is_cuda, monkeypatch):
    layer, expanded, skip = prepared(SkipFuse(T, 4)), random(T, 2, 3, 5, 4), random(2, 3, 5, 4)
    both = [task(layer, t, nn.Linear(8, 4))(torch.cat([expanded[t], skip], dim=-1)) for t in range(T)]
    monkeypatch.setattr(Tensor, "is_cuda", is_cuda)
    assert_same(layer(expanded, skip), torch.stack(both), layer, expanded, skip)


@pytest.mark.parametrize(
    ("layer", "module", "sizes", "options"),
    [
        (TaskLinear, nn.Linear, (60, 200), {}),
        (TaskConv2d, nn.Conv2d, (40, 200, 3), {}),
        (TaskConv2d, nn.Conv2d, (400, 400, 3), {"groups": 400}),
        (TaskLayerNorm, nn.LayerNorm, (8,), {}),
    ],
)
def test_initial_values_are_those_of_torch_nn(layer, module, sizes, options):
    layer = layer(T, *sizes, **options)
    for name, expected in module(*sizes, **options).named_parameters():
        for values in layer.get_parameter(name):
            assert values.shape == expected.shape
            assert values.abs().max().item() == pytest.approx(expected.abs().max().item(), rel=0.1), name
            assert values.std().item() == pytest.approx(expected.std().item(), rel=0.2), name


def test_initial_values_of_the_scan():
    ss2d = SS2D(2, 48, dt_rank=3, d_state=5)
    steps = F.softplus(ss2d.dt_bias)
    assert ss2d.dt_bias.shape == (2, 4, 48)
    assert 1e-3 * 0.999 < steps.min() < 2e-3
    assert 5e-2 < steps.max() < 1e-1 * 1.001
    assert steps.log().mean().item() == pytest.approx(math.log(1e-2), abs=0.3)  # log-uniform
    torch.testing.assert_close(ss2d.A_log.exp(), torch.arange(1.0, 6).expand(2, 4, 48, 5))
    assert (ss2d.D == 1).all()
    for weight, bound in ((ss2d.x_proj, 48**-0.5), (ss2d.dt_weight, 3**-0.5)):
        assert 0.95 * bound < weight.abs().max() <= bound
        assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)


def written_out_attention(attention, t, x):
    """Window attention of task t, every pixel of the padded map looking at every other through one mask and bias."""
    window, shift, heads = attention.window, attention.shift, attention.heads
    batch, height, width, dim = x.shape
    rows, columns = (window * math.ceil(n / window) for n in (height, width))
    padded = torch.zeros(batch, rows, columns, dim, dtype=x.dtype)
    padded[:, :height, :width] = x
    qkv = task(attention.qkv, t, nn.Linear(dim, 3 * dim))(padded).view(batch, rows * columns, 3, heads, dim // heads)
    q, k, v = qkv.unbind(2)

    place = torch.cartesian_prod(torch.arange(rows), torch.arange(columns))
    rolled = (place - shift) % torch.tensor([rows, columns])
    offset = rolled[:, None] - rolled
    together = rolled[:, None] // window == rolled // window
    together &= offset == place[:, None] - place  # not neighbours round the map's edge
    row, column = (offset + window - 1).clamp(0, 2 * window - 2).unbind(-1)
    bias = attention.position_bias[t][row * (2 * window - 1) + column]  # (pixels, pixels, heads)

    scores = torch.einsum("bihc,bjhc->bijh", q, k) / (dim // heads) ** 0.5 + bias
    weights = scores.masked_fill(~together.all(-1)[..., None], -math.inf).softmax(2)
    mixed = torch.einsum("bijh,bjhc->bihc", weights, v).reshape(batch, rows, columns, dim)
    return task(attention.proj, t, nn.Linear(dim, dim))(mixed)[:, :height, :width]


@pytest.mark.parametrize("shift", [0, 1, 2])
@pytest.mark.parametrize("size", [(4, 8), (3, 3), (5, 9), (1, 7)])
def test_window_attention_is_the_written_out_one(size, shift):
    attention = prepared(WindowAttention(2, 6, heads=2, window=4, shift=shift))
    x = random(2, 2, *size, 6)
    expected = torch.stack([written_out_attention(attention, t, x[t]) for t in range(2)])
    assert_same(attention(x), expected, attention, x)


@pytest.mark.parametrize("shift", [0, 3])
def test_swin_block_is_a_loop_of_timms(shift):
    block, x = prepared(SwinBlock(T, 12, heads=3, window=6, shift=shift)), random(T, 2, 12, 18, 12)
    timms = SwinTransformerBlock(12, (12, 18), num_heads=3, window_size=6, shift_size=shift).double()
    names = {
        "attention": "attn",
        "position_bias": "relative_position_bias_table",
        "mlp.0": "mlp.fc1",
        "mlp.2": "mlp.fc2",
    }
    expected = []
    for t in range(T):
        state = {}
        for name, p in block.named_parameters():
            for ours, theirs in names.items():
                name = name.replace(ours, theirs)
            state[name] = p[t]
        assert state.keys() == dict(timms.named_parameters()).keys()
        expected.append(functional_call(timms, state, (x[t],)))
    assert_same(block(x), torch.stack(expected), block, x)


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="5 attention heads divide, got 12"):
        WindowAttention(1, 12, heads=5)
