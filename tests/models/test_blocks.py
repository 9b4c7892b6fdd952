"""Blocks against the paper's equations written out task by task, what they can see, and which way the gate points."""

import copy

import pytest
import torch
from timm.models.swin_transformer import WindowAttention as TimmWindowAttention
from torch.func import functional_call
from torch.nn import functional as F

from mtmamba.benchmarks.timing import tf32
from mtmamba.models.decoders.mtmamba.blocks import CTM, SCTM, STM, OwnCTM, SharedCTM, stm_stack, swin_pair
from mtmamba.models.decoders.mtmamba.extractors import MFE, AttentionGate, AttentionMFE, LinearGate
from mtmamba.models.drop_path import seed_drop_path
from mtmamba.models.ss2d import SS2D
from triton_runs import gpu

PAPER = {"mfe": MFE, "gate": LinearGate}
VARIANTS = [PAPER, {"mfe": AttentionMFE, "gate": LinearGate}, {"mfe": MFE, "gate": AttentionGate}]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def prepared(block):
    """The block in float64, no parameter at a value that would hide a mistake."""
    for p in block.double().parameters():
        p.data += torch.randn_like(p) / 10
    return block


def random(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def scan(sequence, x_proj, dt_weight, dt_bias, A_log, D, source):
    """Equations 3-5 over one sequence ``(L, e)``, one step at a time."""
    rank, states = dt_weight.shape[-1], A_log.shape[-1]
    step, B, C = (source @ x_proj.T).split((rank, states, states), dim=-1)
    delta = F.softplus(step @ dt_weight.T + dt_bias)
    h, outputs = torch.zeros_like(A_log), []
    for i, u in enumerate(sequence):
        h = torch.exp(delta[i, :, None] * -A_log.exp()) * h + delta[i, :, None] * B[i] * u[:, None]
        outputs.append(h @ C[i] + D * u)
    return torch.stack(outputs)


def scan_four_ways(ss2d, t, x, source):
    """Equations 10-12 for one map ``(H, W, e)``: rows, columns, and both from the end, summed."""
    height, width, _ = x.shape
    rows = [(i, j) for i in range(height) for j in range(width)]
    columns = [(i, j) for j in range(width) for i in range(height)]
    y = torch.zeros_like(x)
    for k, order in enumerate((rows, columns, rows[::-1], columns[::-1])):
        i, j = torch.tensor(order).T
        y[i, j] += scan(x[i, j], *(p[t, k] for p in ss2d.parameters()), source[i, j])
    return y


def extract(mfe, t, x, source=None):
    """Equation 13, or Table 3's attention in one window of 12x12, for one map ``(H, W, c)``."""
    x = x @ mfe.in_proj.weight[t].T
    if isinstance(mfe, AttentionMFE):
        return attend(mfe.attention, t, x)
    conv = F.conv2d(x.permute(2, 0, 1), mfe.conv.weight[t], mfe.conv.bias[t], padding=1, groups=x.shape[-1])
    x = F.silu(conv.permute(1, 2, 0))
    x = scan_four_ways(mfe.ss2d, t, x, x if source is None else source)
    return F.layer_norm(x, x.shape[-1:], mfe.norm.weight[t], mfe.norm.bias[t])


def attend(attention, t, x):
    """timm's attention in one window of 12x12."""
    timms = TimmWindowAttention(x.shape[-1], num_heads=6, window_size=(12, 12)).double()
    names = {"relative_position_bias_table": "position_bias"}
    state = {name: attention.get_parameter(names.get(name, name))[t] for name, _ in timms.named_parameters()}
    return functional_call(timms, state, (x.reshape(1, 144, -1),)).view(x.shape)


def gate_of(gate, t, x):
    if isinstance(gate, AttentionGate):
        return attend(gate[0], t, x) @ gate[1].weight[t].T
    return x @ gate.weight[t].T


def normed(norm, t, x):
    return F.layer_norm(x, x.shape[-1:], norm.weight[t], norm.bias[t])


def stm(block, z, t):
    """Equations 14-18 for task t of one image's maps ``(T, H, W, d)``."""
    x = normed(block.norm, t, z[t])
    return z[t] + (extract(block.mfe, t, x) * F.silu(gate_of(block.gate, t, x))) @ block.out_proj.weight[t].T


def shared_features(block, z):
    x = torch.cat(list(z), dim=-1)
    norm = block.shared.norm
    return extract(block.shared.mfe, 0, F.layer_norm(x, x.shape[-1:], norm.weight, norm.bias))


def ctm(block, z, t):
    """Equations 19-25 for task t; the gate weighs the shared features."""
    x = normed(block.norm, t, z[t])
    g = torch.sigmoid(gate_of(block.gate, t, x))
    mixed = g * shared_features(block, z) + (1 - g) * extract(block.own, t, x)
    return z[t] + mixed @ block.out_proj.weight[t].T


def own_ctm(block, z, t):
    return z[t] + extract(block.own, t, normed(block.norm, t, z[t])) @ block.out_proj.weight[t].T


def shared_ctm(block, z, t):
    return z[t] + shared_features(block, z) @ block.out_proj.weight[t].T


def sctm(block, z, t):
    """MTMamba++: step sizes, B and C come from the shared map, the scanned signal is the task's own."""
    x = torch.cat(list(z), dim=-1)
    x = F.layer_norm(x, x.shape[-1:], block.norm_shared.weight, block.norm_shared.bias).permute(2, 0, 1)
    for conv, padding in zip(block.conv_shared, (0, 1), strict=True):
        x = F.conv2d(x, conv.weight[0], conv.bias[0], padding=padding)
    source = x.permute(1, 2, 0) @ block.cross_proj.weight[t].T
    x = normed(block.norm, t, z[t])
    return z[t] + (extract(block.mfe, t, x, source) * F.silu(gate_of(block.gate, t, x))) @ block.out_proj.weight[t].T


@pytest.mark.parametrize(
    ("kind", "tasks", "dim", "parts", "equations"),
    [
        *((STM, 2, 12, parts, stm) for parts in VARIANTS),
        *((CTM, 2, 12, parts, ctm) for parts in VARIANTS),
        (OwnCTM, 2, 12, PAPER, own_ctm),
        (SharedCTM, 2, 12, PAPER, shared_ctm),
        (SCTM, 2, 12, {}, sctm),
        (STM, 1, 20, PAPER, stm),
        (CTM, 3, 20, PAPER, ctm),
    ],
)
def test_block_is_its_equations_task_by_task(kind, tasks, dim, parts, equations):
    block = prepared(kind(tasks, dim, **parts))
    z = random(tasks, 2, *((3, 4) if parts in ({}, PAPER) else (12, 12)), dim)  # attention fills one window
    expected = [torch.stack([equations(block, z[:, b], t) for b in range(2)]) for t in range(tasks)]
    torch.testing.assert_close(block(z), torch.stack(expected))


@pytest.mark.parametrize("parts", VARIANTS)
@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_own_and_shared_maps_scanned_together_are_those_scanned_apart(parts, backend):
    block, z, dy = prepared(CTM(2, 12, **parts)), random(2, 2, 3, 4, 12).requires_grad_(), random(2, 2, 3, 4, 12)
    for module in block.modules():
        if isinstance(module, SS2D):
            module.backend = backend
    x = block.norm(z)
    own = block.own(x)
    mixed = own + block.gate(x).sigmoid() * (block.shared(z) - own)
    expected, found = block.out_proj(mixed, z), block(z)
    torch.testing.assert_close(found, expected)
    leaves = [z, *block.parameters()]
    torch.testing.assert_close(torch.autograd.grad(found, leaves, dy), torch.autograd.grad(expected, leaves, dy))


def test_own_and_shared_maps_go_through_one_scan():
    block, scanned = CTM(2, 12, **PAPER), []
    for module in block.modules():
        if isinstance(module, SS2D):
            module.register_forward_hook(lambda _, args, y: scanned.append((args[0].shape, y.shape)))
    block(torch.zeros(2, 3, 4, 5, 12))
    assert scanned == [((3, 3, 4, 5, 24), (3, 3, 4, 5, 24))]


@gpu
@pytest.mark.parametrize("kind", [STM, CTM, OwnCTM, SharedCTM, SCTM])
@tf32(False)  # which PyTorch allows convolutions unless told otherwise
def test_block_on_a_gpu_is_the_block_on_a_cpu(kind):
    block = prepared(kind(3, 16, **({} if kind is SCTM else PAPER))).float()
    for module in block.modules():
        if hasattr(module, "rate"):
            module.rate = 0.5
    seed_drop_path(block, [1, 2], torch.device("cpu"))
    z, dy = torch.randn(2, 3, 2, 5, 7, 16)

    def run(device, precision):
        moved = copy.deepcopy(block).to(device)
        moved.drop_path.seeded = block.drop_path.seeded.to(device)
        leaves = [z.to(device).requires_grad_(), *moved.parameters()]
        with torch.autocast("cuda", torch.bfloat16, enabled=precision == "bf16"):
            y = moved(leaves[0])
        return [t.cpu().float() for t in (y.detach(), *torch.autograd.grad(y, leaves, dy.to(y)))]

    expected = run("cpu", "float32")
    for precision, tolerance in (("float32", 1e-4), ("bf16", 5e-2)):
        for found, wanted in zip(run("cuda", precision), expected, strict=True):
            assert (found - wanted).norm() <= tolerance * wanted.norm()


SEES_ALL_TASKS = {STM: False, OwnCTM: False, CTM: True, SharedCTM: True, SCTM: True}


@pytest.mark.parametrize("kind", SEES_ALL_TASKS)
def test_every_pixel_sees_the_whole_map_of_its_own_task_or_of_all(kind):
    block = kind(3, 4, **({} if kind is SCTM else PAPER)).double()
    readout = random(4)
    jacobian = torch.autograd.functional.jacobian(lambda z: block(z) @ readout, random(3, 1, 3, 5, 4))
    seen = jacobian.abs().sum(-1).view(3, 15, 3, 15) > 0  # does (task, pixel) depend on (task, pixel)?
    tasks = torch.ones(3, 3) if SEES_ALL_TASKS[kind] else torch.eye(3)
    assert torch.equal(seen, tasks.bool()[:, None, :, None].expand(3, 15, 3, 15))


def test_images_of_a_batch_do_not_mix():
    block, z = prepared(CTM(2, 8, **PAPER)), random(2, 3, 4, 5, 8)
    torch.testing.assert_close(block(z)[:, 1:2], block(z[:, 1:2]))


@pytest.mark.parametrize(("gate", "ablation"), [(50.0, SharedCTM), (-50.0, OwnCTM)])
def test_an_open_gate_is_the_shared_branch_and_a_closed_one_the_own(gate, ablation):
    block, z = prepared(CTM(3, 8, **PAPER)), random(3, 2, 4, 5, 8)
    block.norm.weight.data.zero_()
    block.norm.bias.data.fill_(1)  # the gate sees ones
    block.gate.weight.data.fill_(gate)
    only = ablation(3, 8, **PAPER).double()
    state = block.state_dict()
    only.load_state_dict({name: state[name] for name in only.state_dict()})
    torch.testing.assert_close(block(z), only(z))
    other = {SharedCTM: block.own, OwnCTM: block.shared}[ablation]
    before = block(z)
    prepared(other)
    torch.testing.assert_close(block(z), before)  # the branch that the gate shuts out has no say


@pytest.mark.parametrize(
    ("make", "chance"),
    [
        (lambda: STM(2, 8, **PAPER), 0.5),
        (lambda: CTM(2, 8, **PAPER), 0.5),
        (lambda: SCTM(2, 8), 0.5),
        (lambda: swin_pair(2, 8)[1], 0.25),  # which has two branches
    ],
)
def test_stochastic_depth_skips_a_task_of_a_sample(make, chance):
    block = make()
    for module in block.modules():
        if hasattr(module, "rate"):
            module.rate = 0.5
    z = torch.randn(2, 64, 2, 3, 8)
    skipped = (block.train()(z) == z).flatten(2).all(2)  # (tasks, samples)
    assert skipped.float().mean(1).tolist() == pytest.approx([chance] * 2, abs=0.2)
    assert (skipped[0] != skipped[1]).any()


def test_a_stage_has_the_blocks_it_is_told():
    assert [type(block) for block in stm_stack(2, 8, depth=3, **PAPER)] == [STM] * 3
    first, second = swin_pair(2, 192)
    assert [(b.attention.heads, b.attention.window, b.attention.shift) for b in (first, second)] == [
        (6, 12, 0),
        (6, 12, 6),
    ]
