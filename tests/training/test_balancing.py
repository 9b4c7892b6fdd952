"""Weights of losses: each method against its paper's rule, written out."""

import math

import pytest
import torch
from torch import nn

from mtmamba.training.balancing import FAMO, DynamicWeightAverage, Moment, RandomWeights, Uncertainty

NOW = Moment(0, False)
THERE = torch.ones(2)


def test_uncertainty_ends_at_the_losses_logarithms():
    """The quadratic L_i = a_i |x - b_i|^2 at a fixed x: s settles where exp(s) = L."""
    balancing, losses = Uncertainty(2), torch.tensor([0.5, 4.0])
    optimizer = torch.optim.SGD(balancing.parameters(), lr=0.3)
    assert balancing(losses, THERE, NOW).item() == pytest.approx(4.5)
    for _ in range(200):
        optimizer.zero_grad()
        balancing(losses, THERE, NOW).backward()
        optimizer.step()
    torch.testing.assert_close(balancing.log_variance.detach(), losses.log(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(balancing.latest, 1 / losses, rtol=1e-3, atol=0)
    balancing.zero_grad()
    balancing(torch.tensor([0.5, 0.0]), torch.tensor([1.0, 0.0]), NOW).backward()
    assert balancing.log_variance.grad[1] == 0, "no label, no change"


def test_dynamic_weight_average_goes_by_two_passes():
    """Means of (2, 8), (1, 6): ratios 1/2 and 3/4; the third pass has a task without labels."""
    balancing = DynamicWeightAverage(2, temperature=2.0)
    seen = [[(1.0, 8.0), (3.0, 8.0)], [(1.0, 5.0), (1.0, 7.0)], [(4.0, 0.0), (4.0, 0.0)], [(1.0, 1.0)]]
    found, step = [], 0
    for epoch, losses in enumerate(seen):
        for index, values in enumerate(losses):
            share = torch.tensor([1.0, 0.0 if epoch == 2 else 1.0])
            moment = Moment(step, epoch > 0 and index == 0)
            for _ in range(2):  # two micro-batches
                found.append(balancing.weights(torch.tensor(values), share, moment).tolist())
            step += 1
    rates = [math.exp(0.5 / 2), math.exp(0.75 / 2)]
    later = [math.exp(4 / 2), math.exp(1 / 2)]  # from 1 to 4; unknown
    assert found[:8] == [[1, 1]] * 8
    assert found[8:12] == [pytest.approx([2 * rate / sum(rates) for rate in rates])] * 4
    assert found[12] == pytest.approx([2 * rate / sum(later) for rate in later])


def test_random_weights_are_a_function_of_seed_and_step():
    def draw(seed, step):
        return RandomWeights(3, seed).weights(torch.ones(3), torch.ones(3), Moment(step, False))

    draws = torch.stack([draw(0, step) for step in range(2000)])
    torch.testing.assert_close(draws.sum(1), torch.full((2000,), 3.0))
    assert (draws.mean(0) - 1).abs().max() < 0.06
    # softmax of standard normal numbers: ratios of two weights are log-normal with variance 2
    assert (draws[:, 0] / draws[:, 1]).log().var().item() == pytest.approx(2, rel=0.1)
    assert torch.equal(draw(0, 7), draws[7])
    assert not torch.equal(draw(1, 7), draws[7])


def test_famo_is_the_papers_algorithm():
    """Two quadratics a |x - b|^2 by gradient descent, beside the algorithm with PyTorch's own Adam and autograd."""
    a, b = torch.tensor([1.0, 30.0]), torch.tensor([[0.0, 2.0], [1.0, -1.0]])

    def losses(x):
        return a * ((x - b) ** 2).sum(1)

    balancing, mine = FAMO(2, lr=0.025, decay=1e-3), nn.Parameter(torch.tensor([3.0, 3.0]))
    theirs, w = nn.Parameter(torch.tensor([3.0, 3.0])), nn.Parameter(torch.zeros(2))
    adam = torch.optim.Adam([w], lr=0.025, weight_decay=1e-3)
    for _ in range(30):
        (gradient,) = torch.autograd.grad(balancing(losses(mine), THERE, NOW), mine)
        mine.data -= 0.1 * gradient
        balancing.look_back(losses(mine).detach())

        z, before = w.softmax(0), losses(theirs)
        c = 1 / (z / before).sum().detach()
        (gradient,) = torch.autograd.grad(c * (z.detach() * before.log()).sum(), theirs)
        theirs.data -= 0.1 * gradient
        fall = before.log() - losses(theirs).log()
        w.grad = torch.autograd.grad(w.softmax(0), w, fall.detach())[0]
        adam.step()
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(balancing.logits, w.detach(), rtol=1e-3, atol=1e-4)
    assert (balancing.logits.abs() > 0.1).all()


def test_famo_leaves_out_a_task_without_labels():
    balancing = FAMO(3)
    weights = balancing.weights(torch.tensor([2.0, 0.0, 1.0]), torch.tensor([1.0, 0.0, 1.0]), NOW)
    torch.testing.assert_close(weights, torch.tensor([1 / 3, 0.0, 2 / 3]))
    balancing.look_back(torch.tensor([1.0, 0.0, 1.0]))
    assert balancing.logits[0] < 0 < balancing.logits[2]
    assert balancing.logits[1] == 0
