"""Fixtures of several files."""

import copy
import dataclasses
import gc
import socket
from contextlib import nullcontext

import pytest
import torch
import yaml
from hydra.core.hydra_config import HydraConfig

from fake_graphs import FakeGraph
from mtmamba.config import compose
from mtmamba.models import cuda_graphs
from triton_runs import GPU, INTERPRETED

gc.set_threshold(50_000)  # garbage is looked for as rarely as this can afford: it had been a tenth of the tests' time


def pytest_collection_finish():
    """What has been imported is no garbage, and is not looked through again."""
    gc.freeze()


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


def copied(known, key, make):
    """Return a copy of what is made once for each key."""
    if key not in known:
        known[key] = make()
    return copy.deepcopy(known[key])


@pytest.fixture(scope="session", autouse=True)
def parsed():
    """YAML that has been parsed is copied from then on: a composition parses some twenty files, most of them again."""
    original, known = yaml.load, {}

    def load(stream, Loader):
        text = stream if isinstance(stream, str) else stream.read()
        return copied(known, (text, Loader.__name__), lambda: original(text, Loader))

    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(yaml, "load", load)
        yield


@pytest.fixture(scope="session", autouse=True)
def compositions():
    """What has been composed of the package's own files is copied from then on, in a hundredth of the time."""
    original, known = compose.compose, {}

    def composed(overrides=(), name="train", own_configs=None):
        if own_configs is not None or HydraConfig.initialized():
            return original(overrides, name, own_configs)
        return copied(known, (name, *overrides), lambda: original(overrides, name))

    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(compose, "compose", composed)
        yield


@pytest.fixture(scope="session", autouse=True)
def interpreter():
    """Triton's interpreter, where kernels run in it, as fast as it can be and with NumPy from 2.4."""
    if not INTERPRETED:
        yield
        return
    from triton import language
    from triton.runtime import interpreter

    patch = interpreter._patch_lang_tensor

    def with_index(tensor, scope):
        patch(tensor, scope)  # whose index NumPy makes no integer of, in an array of one element
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    def call(function, *args, **kwargs):
        """Of a function within a kernel, for which the language is set up but for what is once and for all."""
        if language.core.is_builtin(language.core.add):
            interpreter._patch_lang(function.fn)
        return function.rewrite()(*args, **kwargs)

    builder = interpreter.interpreter_builder
    options = dataclasses.replace(builder.options, sanitize_overflow=False)  # which GPUs do not check either
    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(interpreter, "_patch_lang_tensor", with_index)
        patches.setattr(builder, "options", options)
        patches.setattr(interpreter.InterpretedFunction, "__call__", call)
        yield
