"""Networks replayed from CUDA graphs compute what they compute without."""

from functools import cache

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

import mtmamba
from mtmamba import build
from mtmamba.benchmarks.network_cases import random_batch
from mtmamba.config import compose
from mtmamba.evaluation.views import Views
from mtmamba.models.cuda_graphs import GraphedModel

pytestmark = pytest.mark.filterwarnings("ignore:You are trying to `self.log")
MICRO_BATCHES = ((2, 2), (2, 3, 2), (2,))
"""Images of each, by optimiser step: the first defines the graph."""


def micro_module(device, *overrides):
    """A micro network with stochastic depth in all its blocks, and its numbers of outputs."""
    backend = "torch" if device.type == "cpu" else "auto"
    rates = ("decoder.drop_path=0.3", "encoder.drop_path=0.2")
    cfg = mtmamba.load_config([*rates, "tasks=[depth,normals]", f"backend={backend}", *overrides])
    torch.manual_seed(0)
    return build.build_module(cfg).to(device).train(), compose.num_outputs(cfg)


def trained(device, dtype, graphed, *overrides, course=()):
    """Take optimiser steps, with a validation after each; return losses, and each step's gradients, logits and weights.

    With a ``course``, another training's weights, each step is followed by that one's weights in place of its own.
    """
    module, outputs = micro_module(device, *overrides)
    if graphed:
        module.use_cuda_graphs()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16)
    losses, gradients, logits, weights = [], [], [], []
    for sizes in MICRO_BATCHES:
        for size in sizes:
            batch = random_batch(outputs, size, (32, 32), torch.device("cpu"))
            batch |= {name: batch[name].to(device) for name in ("image", *outputs)}
            batch["key"] = torch.randint(1000, (size,))
            with autocast:
                loss = module.training_step(batch, 0)
            loss.backward()
            losses.append(loss.detach())
        gradients.append([p.grad.clone() for p in module.parameters()])
        optimizer.step()
        optimizer.zero_grad()
        if course:
            module.load_state_dict(course[len(weights)])
        weights.append({name: x.clone() for name, x in module.state_dict().items()})
        module.eval()
        images = batch["image"]
        with torch.inference_mode(), autocast:
            logits += [module.outputs(x)[0] for x in (images, images.flip(-1), images[:1])]
        module.train()
    return losses, gradients, logits, weights


@cache
def trained_without(device, dtype, decoder):
    return trained(device, dtype, False, f"decoder={decoder}")


@pytest.mark.parametrize(
    ("decoder", "dtype", "checkpointing"),
    [
        ("mtmamba", torch.float32, "none"),
        ("mtmamba", torch.bfloat16, "none"),
        ("mtmamba", torch.float32, "blocks"),
        ("mtmamba_plus", torch.float32, "none"),
    ],
)
def test_training_with_graphs_is_training_without(graph_device, replays, decoder, dtype, checkpointing):
    if graph_device.type == "cpu" and decoder == "mtmamba_plus":
        pytest.skip("a capture on a CPU changes batch norm's averages")
    expected = trained_without(graph_device, dtype, decoder)
    assert not replays
    found = trained(graph_device, dtype, True, f"decoder={decoder}", f"model.checkpointing={checkpointing}")
    forward, backward, inference = dict.fromkeys(replays)
    assert [replays.count(graph) for graph in (forward, backward, inference)] == [5, 5, 6]
    tolerance = 0 if graph_device.type == "cpu" else 1e-4
    torch.testing.assert_close(found, expected, rtol=10 * tolerance, atol=tolerance)


def test_graphs_add_no_error_to_that_of_bfloat16(graph_device, replays):
    """MTMamba++'s heads, whose gradients a GPU sums in no fixed order, are rounded differently from run to run.

    Training multiplies such differences; compared are steps from the same weights, with the error of each tensor.
    """
    if graph_device.type == "cpu":
        pytest.skip("a CPU sums in one order")
    decoder, half = "decoder=mtmamba_plus", torch.bfloat16
    *without, course = trained(graph_device, half, False, decoder)
    *exact, _ = trained(graph_device, torch.float32, False, decoder, course=course)
    assert not replays
    *with_graphs, _ = trained(graph_device, half, True, decoder, course=course)
    assert replays
    errors = zip(*(pytree.tree_leaves_with_path(x) for x in (with_graphs, without, exact)), strict=True)
    for (path, found), (_, expected), (_, true) in errors:
        allowed = 2 * (expected - true).norm() + torch.finfo(half).eps * true.norm() + 1e-4
        assert (found - true).norm() <= allowed, pytree.keystr(path)


class Sum(nn.Module):
    """Images scaled, plus two parameters whose gradients are one and the same."""

    def __init__(self):
        super().__init__()
        self.scale, self.first, self.second = (nn.Parameter(torch.full((1, 1, 2, 2), x)) for x in (2.0, 3.0, 5.0))
        self.unused = nn.Parameter(torch.zeros(1))
        self.register_buffer("shift", torch.ones(()))

    def forward(self, images):
        return [images * self.scale + self.first + self.second + self.shift]


def gradients(model):
    return {name: None if p.grad is None else p.grad.flatten().tolist() for name, p in model.named_parameters()}


def test_gradients_accumulate_and_are_each_parameters_own(graph_device):
    model = Sum().to(graph_device)
    graphed = GraphedModel(model)
    for value in (1.0, 10.0, 100.0):
        (y,) = graphed(torch.full((1, 1, 2, 2), value, device=graph_device))
        assert y.flatten().tolist() == [2 * value + 9] * 4
        y.sum().backward()
    once = {"scale": [111.0] * 4, "first": [3.0] * 4, "second": [3.0] * 4, "unused": None}
    assert gradients(model) == once
    model.zero_grad()
    graphed(torch.full((1, 1, 2, 2), 7.0, device=graph_device))[0].sum().backward()
    model.first.grad.mul_(2)
    assert gradients(model) == {"scale": [7.0] * 4, "first": [2.0] * 4, "second": [1.0] * 4, "unused": None}


def test_weights_are_read_where_they_lie(graph_device, replays):
    model = Sum().to(graph_device)
    graphed, images = GraphedModel(model), torch.ones(1, 1, 2, 2, device=graph_device)

    def predict():
        with torch.inference_mode():
            return graphed(images)[0].flatten().tolist()

    model.eval()
    assert predict() == [11.0] * 4
    with torch.no_grad():
        model.scale.fill_(20)  # as an optimiser does
    assert predict() == [29.0] * 4
    model.load_state_dict(Sum().state_dict())
    assert predict() == [11.0] * 4
    assert len(set(replays)) == 1
    model.shift = model.shift + 1  # as a module that is moved
    assert predict() == [12.0] * 4
    model.scale.data = torch.full_like(model.scale, 30)
    assert predict() == [40.0] * 4
    assert len(set(replays)) == 3

    model.train()
    graphed(images)[0].sum().backward()
    model.first.requires_grad_(False)
    model.zero_grad()
    graphed(images)[0].sum().backward()
    assert gradients(model) == {"scale": [1.0] * 4, "first": None, "second": [1.0] * 4, "unused": None}


def test_other_batches_and_modes_run_without_graphs(graph_device, replays):
    model = Sum().to(graph_device)
    graphed, images = GraphedModel(model), torch.ones(2, 1, 2, 2, device=graph_device)
    for training in (True, False):
        model.train(training)
        with torch.set_grad_enabled(training):
            graphed(images)
            first = len(replays)
            assert graphed(images[:1])[0].shape[0] == 1  # a copy would broadcast it
            assert graphed(images.double())[0].dtype == torch.float64
            with torch.autocast(graph_device.type, torch.bfloat16):
                graphed(images)
        with torch.set_grad_enabled(not training):
            assert graphed(images)[0].requires_grad is not training
        assert len(replays) == first


def test_a_training_graphs_warm_up_leaves_no_trace_in_buffers(graph_device):
    model = nn.BatchNorm2d(3).to(graph_device)
    graphed, images = GraphedModel(model), torch.randn(2, 3, 4, 4, device=graph_device)
    graphed(images)
    noted_down = graph_device.type == "cuda"  # on a CPU a capture is computed, too
    assert model.num_batches_tracked == (1 if noted_down else 2)


class Normalised(nn.Module):
    """Images over their sum, for which the processor waits."""

    def forward(self, images):
        return images / images.sum().item()


@pytest.mark.parametrize("graph_device", ["cpu"], indirect=True)  # a GPU's random generator stays in the capture
def test_a_network_that_waits_for_its_results_is_refused(graph_device):
    graphed, images = GraphedModel(Normalised().eval()), torch.ones(1, 1, 2, 2)
    with torch.no_grad(), pytest.raises(RuntimeError, match=r"cannot be captured \(the proc.*: use cuda_graph=false"):
        graphed(images)


def test_views_of_an_image_are_replayed(graph_device, replays):
    module, _ = micro_module(graph_device)
    module.eval()
    images = torch.randn(1, 3, 32, 32, device=graph_device)
    settings = {"flip": True, "scales": [1, 0.5]}
    with torch.inference_mode():
        expected = Views(module.model, module.tasks, **settings)(images)
        found = Views(module.model, module.tasks, **settings, cuda_graph=True)(images)
    assert len(replays) == 2  # the others have another size
    torch.testing.assert_close(found, expected)
