"""Fixtures of several files."""

import socket
from contextlib import nullcontext

import pytest
import torch

from fake_graphs import FakeGraph
from mtmamba.models import cuda_graphs
from triton_runs import GPU, INTERPRETED


@pytest.fixture
def silent_server():
    """The address of a server that takes calls and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


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


@pytest.fixture
def loop_bounds_for_the_interpreter(monkeypatch):
    """NumPy from 2.4 makes no integer of an array of one element, which Triton's interpreter takes bounds for."""
    if INTERPRETED:
        from triton.runtime import interpreter

        patch = interpreter._patch_lang_tensor

        def with_index(tensor, scope):
            patch(tensor, scope)
            scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

        monkeypatch.setattr(interpreter, "_patch_lang_tensor", with_index)
