"""Fixtures of several files."""

from contextlib import nullcontext

import pytest
import torch

from fake_graphs import FakeGraph
from mtmamba import cuda_graphs

GPU = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"))


@pytest.fixture(params=["cpu", GPU])
def graph_device(request, monkeypatch):
    """A GPU, or a CPU with graphs that are not CUDA's."""
    if request.param == "cpu":
        monkeypatch.setattr(torch.cuda, "CUDAGraph", FakeGraph)
        monkeypatch.setattr(torch.cuda, "graph", lambda graph, pool, capture_error_mode: graph)
        monkeypatch.setattr(cuda_graphs, "side_stream", nullcontext)
    return torch.device(request.param)


@pytest.fixture
def replays(graph_device, monkeypatch):
    """The graphs that have been replayed, once for each time."""
    done = []
    replay = torch.cuda.CUDAGraph.replay

    def noted(graph):
        done.append(graph)
        replay(graph)

    monkeypatch.setattr(torch.cuda.CUDAGraph, "replay", noted)
    return done
