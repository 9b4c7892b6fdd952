"""Balanced gradients: two quadratics written out, torchjd's own aggregators, and what is left in the parameters."""

import math
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from torch import nn
from torchjd import aggregation
from torchjd.linalg import QuadprogProjector

from mtmamba.training.balancing import Moment
from mtmamba.training.gradient_balancing import GradientBalancing, GreatestNorm, NashWeights, watched

NOW = Moment(0, False)
NASH = "ignore:You are solving a parameterized problem"
METHODS = {
    "pcgrad": aggregation.PCGradWeighting(),
    "cagrad": aggregation.CAGradWeighting(c=0.4),
    "mgda": aggregation.MGDAWeighting(),
    "nash_mtl": NashWeights(),
    "imtl_g": aggregation.IMTLGWeighting(),
    "aligned_mtl": aggregation.AlignedMTLWeighting(),
    "upgrad": aggregation.UPGradWeighting(),
    "db_mtl": GreatestNorm(),
}
if find_spec("ecos") is None:  # Python 3.13 has no wheel of Nash's solver
    del METHODS["nash_mtl"]
nash = pytest.mark.skipif("nash_mtl" not in METHODS, reason="needs the package ecos")


def by_hand(method, g, h):
    """What the papers make of two gradients."""
    p, q, inner = np.linalg.norm(g), np.linalg.norm(h), g @ h
    unit = g / p + h / q
    match method:
        case "pcgrad":
            return (g - inner / q**2 * h) + (h - inner / p**2 * g) if inner < 0 else g + h
        case "upgrad":
            return ((g - inner / q**2 * h) + (h - inner / p**2 * g)) / 2 if inner < 0 else (g + h) / 2
        case "mgda":
            share = np.clip((h - g) @ h / ((g - h) @ (g - h)), 0, 1)
            return share * g + (1 - share) * h
        case "imtl_g":  # a g + (1 - a) h with equal projections on both directions
            difference = g / p - h / q
            share = -(h @ difference) / ((g - h) @ difference)
            return share * g + (1 - share) * h
        case "nash_mtl":  # the sum of the directions, cut to the root mean square of the norms
            return unit / np.linalg.norm(unit) * math.sqrt((p**2 + q**2) / 2)
        case "aligned_mtl":  # G^(-1/2) of a 2x2 matrix, by Cayley and Hamilton
            matrix = np.array([[p**2, inner], [inner, q**2]])
            root = math.sqrt(np.linalg.det(matrix))
            inverse = np.linalg.inv((matrix + root * np.eye(2)) / math.sqrt(np.trace(matrix) + 2 * root))
            least = np.trace(matrix) / 2 - math.sqrt((np.trace(matrix) / 2) ** 2 - root**2)
            weights = math.sqrt(least) * inverse @ [0.5, 0.5]
            return weights[0] * g + weights[1] * h
        case "cagrad":
            mean, c = (g + h) / 2, 0.4
            shares = np.linspace(0, 1, 200001)
            mixed = shares[:, None] * g + (1 - shares[:, None]) * h
            norms = np.linalg.norm(mixed, axis=1)
            best = np.argmin(mixed @ mean + c * np.linalg.norm(mean) * norms)
            return mean + c * np.linalg.norm(mean) / norms[best] * mixed[best]
        case "db_mtl":
            return max(p, q) * unit


class Quadratics(nn.Module):
    """An encoder x = W u, and a decoder y = v x with the losses a_i |y - b_i|^2 / 2."""

    def __init__(self, angle):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Linear(4, 6, bias=False).double()
        self.v = nn.Parameter(torch.tensor(1.5, dtype=torch.float64))
        self.u = torch.randn(4, dtype=torch.float64)
        self.directions = torch.randn(2, 6, dtype=torch.float64)
        self.directions[1] = self.directions[1] - angle * self.directions[0]
        self.a = torch.tensor([1.0, 7.0], dtype=torch.float64)
        self.wrapped = Listed(self.encoder)

    def forward(self):
        (x,) = self.wrapped(self.u)
        return self.a * ((self.v * x - self.directions) ** 2).sum(1) / 2

    def gradients(self):
        """Each task's for x and for v, by hand."""
        x = self.encoder.weight.detach() @ self.u
        errors = self.a[:, None] * (self.v.detach() * x - self.directions)
        return (errors * self.v.detach()).numpy(), (errors @ x).numpy(), (errors**2).sum(1).numpy() / self.a.numpy() / 2


class Listed(nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return [self.module(x)]


def backward(network, balancing, factor=1.0, moment=NOW):
    with watched(network.wrapped) as maps:
        losses = network()
    total = balancing(losses, torch.ones(2), moment, network.wrapped, maps)
    (factor * total).backward()
    if balancing.at == "parameters":
        balancing.finish(network.wrapped, 1, moment)
    return total


@pytest.mark.parametrize("at", ["maps", "parameters"])
@pytest.mark.parametrize("angle", [1.0, -3.0], ids=["conflict", "agreement"])
@pytest.mark.parametrize("method", METHODS)
def test_two_quadratics(method, angle, at):
    """x = W u with one u: gradients for W are those for x times u, so that both places give the same direction."""
    network = Quadratics(angle)
    weighting = METHODS[method]
    if method == "upgrad":  # torchjd adds 1e-4 to the diagonal
        weighting = aggregation.UPGradWeighting(projector=QuadprogProjector(reg_eps=1e-9))
    balancing = GradientBalancing(2, weighting, at=at, take_logs=method == "db_mtl")
    total = backward(network, balancing)
    (g, h), for_v, losses = network.gradients()
    assert (g @ h < 0) == (angle > 0)
    length = 1.0 if at == "maps" else network.u.norm().item()
    if method == "db_mtl":
        g, h, for_v = g / losses[0], h / losses[1], for_v / losses
        assert total.item() == pytest.approx(2, rel=1e-6)
    expected = by_hand(method, g * length, h * length) / length
    tolerance = {"cagrad": 1e-3, "nash_mtl": 2e-3, "mgda": 1e-9}.get(method, 1e-6)
    found = network.encoder.weight.grad.numpy()
    np.testing.assert_allclose(found, np.outer(expected, network.u), rtol=0, atol=tolerance * np.abs(found).max())
    assert network.v.grad.item() == pytest.approx(for_v.sum(), rel=1e-6), "the decoder's gradient is the sum's"
    cosine = g @ h / np.linalg.norm(g) / np.linalg.norm(h)
    assert balancing.cosines()[0, 1].item() == pytest.approx(cosine, rel=1e-9)


@pytest.mark.parametrize("method", ["pcgrad", "cagrad", "mgda", "imtl_g", "aligned_mtl", "upgrad"])
def test_weights_are_torchjds(method):
    for seed in range(5):
        torch.manual_seed(seed)
        rows = torch.randn(4, 5, dtype=torch.float64) * torch.tensor([1e-3, 1.0, 30.0, 4.0])[:, None]
        name = {"pcgrad": "PCGrad", "cagrad": "CAGrad", "mgda": "MGDA", "imtl_g": "IMTLG", "aligned_mtl": "AlignedMTL"}
        aggregator = getattr(aggregation, name.get(method, "UPGrad"))(**({"c": 0.4} if method == "cagrad" else {}))
        torch.manual_seed(3)
        expected = aggregator(rows)
        torch.manual_seed(3)
        found = GradientBalancing(4, METHODS[method]).weights(rows @ rows.T) @ rows
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-5 * expected.abs().max().item())


@nash
@pytest.mark.filterwarnings(NASH)
def test_nash_weights_are_torchjds():
    rows = torch.randn(4, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rows = rows / (rows * rows).sum(1).mean().sqrt()
    found = GradientBalancing(4, NashWeights()).weights(rows @ rows.T) @ rows
    torch.testing.assert_close(found, aggregation.NashMTL(4)(rows), rtol=0, atol=1e-4)


def test_a_task_without_a_gradient_is_left_out():
    rows = torch.randn(3, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for method in METHODS.values():
        with_it = torch.stack((rows[0], torch.zeros(8, dtype=torch.float64), *rows[1:]))
        torch.manual_seed(0)
        few = GradientBalancing(3, method).weights(rows @ rows.T)
        torch.manual_seed(0)
        found = GradientBalancing(4, method).weights(with_it @ with_it.T)
        torch.testing.assert_close(found, torch.stack((few[0], torch.zeros_like(few[0]), *few[1:])))
    assert GradientBalancing(2, METHODS["mgda"]).weights(torch.zeros(2, 2).double()).tolist() == [0, 0]


@nash
def test_nash_weights_of_no_numbers_are_none():
    assert GradientBalancing(2, NashWeights()).weights(torch.full((2, 2), torch.nan).double()).isnan().all()


def test_what_multiplies_the_loss_multiplies_the_gradients():
    """As half precision's scale, which the tasks' own passes have, too."""
    plain, scaled = Quadratics(3.0), Quadratics(3.0)
    backward(plain, GradientBalancing(2, METHODS["upgrad"]))
    backward(scaled, GradientBalancing(2, METHODS["upgrad"]), 64.0, Moment(0, False, scale=64.0))
    for x, y in zip(plain.parameters(), scaled.parameters(), strict=True):
        torch.testing.assert_close(64 * x.grad, y.grad)


def test_draws_are_a_function_of_seed_and_step():
    def weights(seed, step):
        generator = torch.Generator().manual_seed(5)
        rows = torch.randn(6, 3, dtype=torch.float64, generator=generator, requires_grad=True)
        x = nn.Parameter(torch.zeros(3, dtype=torch.float64))
        balancing = GradientBalancing(6, METHODS["pcgrad"], seed=seed)
        balancing(rows.detach() @ x, torch.ones(6), Moment(step, False), nn.Identity(), [x])
        return balancing.latest.tolist()

    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    first = weights(0, 3)
    assert torch.equal(before, torch.random.get_rng_state())
    assert weights(0, 3) == first
    assert weights(0, 4) != first
    assert weights(1, 3) != first


def test_another_place_is_refused():
    with pytest.raises(ValueError, match=r"Expected balancing\.at=maps\|parameters, got decoder: choose"):
        GradientBalancing(2, METHODS["mgda"], at="decoder")
