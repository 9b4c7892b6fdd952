"""Stochastic depth: its rate, draws by image, and factors that the processor does not wait for."""

import pytest
import torch
from torch import nn

from mtmamba.models.drop_path import DropPath, seed_drop_path
from triton_runs import gpu

T = 3


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_drop_path_drops_samples_at_its_rate_and_keeps_the_mean():
    drop, x = DropPath(0.3, tasks=T), torch.ones(T, 4000, 2, 5)
    y = drop(x)
    kept = y[..., 0, 0] > 0
    assert (y == y[..., :1, :1]).all()  # whole samples
    torch.testing.assert_close(y[kept], torch.full_like(y[kept], 1 / 0.7))
    assert kept.float().mean(1).tolist() == pytest.approx([0.7] * T, abs=0.03)
    assert (kept[0] & kept[1]).float().mean().item() == pytest.approx(0.49, abs=0.03)  # tasks draw independently
    assert drop.eval()(x) is x
    assert DropPath(0.0, tasks=T)(x) is x
    assert drop.factor(x) is None
    y = DropPath(0.5)(torch.ones(50, T, 2))
    assert (y == y[:, :1, :1]).all()  # without tasks the batch comes first


def test_seeded_draws_depend_on_a_samples_key_alone():
    drops = nn.ModuleList(DropPath(0.5, tasks=T) for _ in range(8))

    def draws(*keys):
        seed_drop_path(drops, keys, torch.device("cpu"))
        return torch.stack([drop(torch.ones(T, len(keys), 1))[..., 0] for drop in drops])  # (blocks, T, samples)

    three = draws(5, 7, 2**62)
    assert torch.equal(draws(7)[..., 0], three[..., 1])
    assert torch.equal(draws(9, 5)[..., 1], three[..., 0])
    assert not torch.equal(three[..., 0], three[..., 1])
    assert len(draws(*range(40)).flatten(0, 1).unique(dim=0)) == 8 * T  # every block and task draws by itself


def test_seeded_factors_are_ready_to_multiply_by():
    drops = nn.ModuleList([DropPath(0.5), DropPath(0.0), DropPath(0.2, tasks=T)])
    seed_drop_path(drops, range(200), torch.device("cpu"))
    x = torch.ones(T, 200, 2, dtype=torch.bfloat16)
    one, none, several = (drop.factor(x) for drop in drops)
    assert none is None
    assert (one.shape, several.shape) == ((200,), (T, 200))
    assert one.dtype == several.dtype == torch.float32
    assert set(one.tolist()) == {0, 2}
    assert sorted(set(several.flatten().tolist())) == pytest.approx([0, 1.25])
    assert several.count_nonzero().item() / several.numel() == pytest.approx(0.8, abs=0.05)
    torch.testing.assert_close(drops[2](x), x * several.bfloat16()[..., None])
    assert drops.eval()[0].factor(x) is None
    seed_drop_path(nn.ModuleList([drops[1]]), [1, 2], torch.device("cpu"))  # nothing to draw


@gpu
def test_the_processor_does_not_wait_to_send_stochastic_depths_factors():
    drop = DropPath(rate=0.5).cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        seed_drop_path(drop, [1, 2], torch.device("cuda"))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    on_cpu = DropPath(rate=0.5)
    seed_drop_path(on_cpu, [1, 2], torch.device("cpu"))
    assert torch.equal(drop.seeded.cpu(), on_cpu.seeded)
