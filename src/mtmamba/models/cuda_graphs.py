"""Networks replayed from CUDA graphs: the processor launches a whole pass at once, not kernel by kernel."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils import _pytree as pytree

from mtmamba.models.drop_path import DropPath

WARM_UP = 2
"""Runs before a capture, in which kernels are compiled and loaded."""

OTHER_THREADS_GO_ON = "thread_local"
"""What a capture forbids, to its own thread alone: the data loader's goes on pinning memory."""


class GraphedModel:
    """Call a network through CUDA graphs: a training batch's forward and its backward pass, and inference.

    They are captured at the first batch of training and of evaluation, after runs that leave the network's buffers and
    gradients as they were. Batches like the first one are replayed; others run as without graphs: of another shape or
    dtype, under another autocast, in training without gradients, in evaluation with them. A graph reads weights where
    they lie, so that updates in place are seen. Where weights have moved, or others are to be trained, it is captured
    anew.

    Outputs in training are overwritten by the next call, and the backward pass must come before it. Gradients may be
    accumulated over calls.

    Args:
        model: a network whose only input besides images on a GPU is stochastic depth.
        call: what to call it by, the network itself by default: images → tensors, as one, a list or a dict. The
            processor waits for none of its results.

    Raises:
        RuntimeError: at the first batch, where the network cannot be captured.

    Source: the PyTorch manual's partial-network capture.
    """

    def __init__(self, model: nn.Module, call: Callable[[Tensor], Any] | None = None) -> None:
        self.model = model
        self.call = model if call is None else call
        self._parts = tuple(model.modules())
        self._graphs: dict[bool, _TrainingGraph | _InferenceGraph] = {}
        self._placed: list[tuple[int, bool]] = []

    def __call__(self, images: Tensor) -> Any:
        """Return the network's outputs for images ``(B, 3, H, W)``."""
        training = self.model.training
        if training != torch.is_grad_enabled():
            return self.call(images)
        inputs = [images, *self._factors()] if training else [images]
        if (placed := self._places()) != self._placed:
            self._graphs.clear()
            self._placed = placed
        if isinstance(captured := self._graphs.get(True), _TrainingGraph):
            captured.release_gradients()
        if training not in self._graphs:
            # Passes that never overlap share memory.
            pool = next((graph.forward.pool() for graph in self._graphs.values()), None)
            if training:
                self._graphs[True] = _TrainingGraph(self.model, self.call, inputs, pool)
            else:
                self._graphs[False] = _InferenceGraph(self.call, inputs, pool)
        graph = self._graphs[training]
        return graph(inputs) if graph.kind == _kind(inputs) else self.call(images)

    def _factors(self) -> list[Tensor]:
        """Return what stochastic depth has drawn for the batch."""
        return [part.seeded for part in self._parts if isinstance(part, DropPath) and part.seeded is not None]

    def _places(self) -> list[tuple[int, bool]]:
        """Return where parameters and buffers lie, and which are trained."""
        held = (x for part in self._parts for x in (*part._parameters.values(), *part._buffers.values()))
        return [(x.data_ptr(), x.requires_grad) for x in held if x is not None]


class _InferenceGraph:
    """A forward pass without gradients."""

    def __init__(self, call: Callable[[Tensor], Any], inputs: list[Tensor], pool: Any) -> None:
        self.kind = _kind(inputs)
        with torch.inference_mode(False), torch.no_grad():  # memory that can be written outside inference mode too
            self.images = inputs[0].clone()
            with side_stream():
                for _ in range(WARM_UP):
                    _run(call, self.images)
            self.forward = torch.cuda.CUDAGraph()
            with _capture(self.forward, pool):
                self.outputs = _run(call, self.images)

    def __call__(self, inputs: list[Tensor]) -> Any:
        self.images.copy_(inputs[0])
        self.forward.replay()
        return pytree.tree_map(torch.clone, self.outputs)


class _TrainingGraph:
    """A forward pass and its backward pass, down to the parameters' gradients."""

    def __init__(self, model: nn.Module, call: Callable[[Tensor], Any], inputs: list[Tensor], pool: Any) -> None:
        self.kind = _kind(inputs)
        self.inputs = [inputs[0].clone(), *inputs[1:]]  # the factors that the network is about to read
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        with unchanged_buffers(model), side_stream():
            for _ in range(WARM_UP):
                outputs = pytree.tree_leaves(_run(call, self.inputs[0]))
                self._differentiate(outputs, [torch.ones_like(x) for x in outputs])
                del outputs
        self.forward, self.backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        with _capture(self.forward, pool):
            result = _run(call, self.inputs[0])
        outputs, self.structure = pytree.tree_flatten(result)
        self.output_gradients = [torch.zeros_like(x) for x in outputs]
        with _capture(self.backward, self.forward.pool()):
            self.gradients = _apart(self._differentiate(outputs, self.output_gradients))
        self.outputs = [x.detach() for x in outputs]

    def __call__(self, inputs: list[Tensor]) -> Any:
        return pytree.tree_unflatten(_Replay.apply(self, inputs, *self.parameters), self.structure)

    def _differentiate(self, outputs: Sequence[Tensor], gradients: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
        """Return the parameters' gradients, computed outside autocast, as in training without graphs."""
        with torch.autocast(outputs[0].device.type, enabled=False):
            return torch.autograd.grad(outputs, self.parameters, gradients, allow_unused=True)

    def release_gradients(self) -> None:
        """Move what autograd has taken over as ``grad``, without a copy, out of memory that any replay may reuse."""
        for parameter, own in zip(self.parameters, self.gradients, strict=True):
            held = parameter.grad
            if held is not None and own is not None and held.data_ptr() == own.data_ptr():
                parameter.grad = held.clone()

    def replay_forward(self, inputs: list[Tensor]) -> tuple[Tensor, ...]:
        """Return the outputs for images and factors."""
        torch._foreach_copy_(self.inputs, inputs)
        self.forward.replay()
        return tuple(x.detach() for x in self.outputs)

    def replay_backward(self, gradients: tuple[Tensor, ...]) -> list[Tensor | None]:
        """Return the parameters' gradients for the outputs'."""
        torch._foreach_copy_(self.output_gradients, gradients)
        self.backward.replay()
        return [None if x is None else x.detach() for x in self.gradients]


class _Replay(torch.autograd.Function):
    """Both passes of a `_TrainingGraph` as one node of autograd's."""

    @staticmethod
    def forward(ctx: Any, graph: _TrainingGraph, inputs: list[Tensor], *parameters: Tensor) -> tuple[Tensor, ...]:
        ctx.graph = graph
        return graph.replay_forward(inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *ctx.graph.replay_backward(gradients)


@contextmanager
def side_stream() -> Iterator[None]:
    """Queue work on a stream of its own, behind what is queued and before what will be, as a capture's warm-up must."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        yield
    torch.cuda.current_stream().wait_stream(stream)


@contextmanager
def _capture(graph: torch.cuda.CUDAGraph, pool: Any) -> Iterator[None]:
    """Capture what is launched, or say that it cannot be."""
    try:
        with torch.cuda.graph(graph, pool, capture_error_mode=OTHER_THREADS_GO_ON):
            yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise RuntimeError(
            f"Expected a network that a CUDA graph can hold, got one that cannot be captured ({reason}), as where the "
            "processor waits for a result: use cuda_graph=false."
        ) from error


@contextmanager
def unchanged_buffers(model: nn.Module) -> Iterator[None]:
    """Undo what running the network does to its buffers, such as batch norm's averages."""
    before = [(buffer, buffer.clone()) for buffer in model.buffers()]
    yield
    for buffer, value in before:
        buffer.copy_(value)


def _run(call: Callable[[Tensor], Any], images: Tensor) -> Any:
    """Run the network; under autocast without its cache, whose copies of weights would be older than the replay."""
    device = images.device.type
    dtype, enabled = torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
    with torch.autocast(device, dtype, enabled, cache_enabled=False):
        return call(images)


def _kind(inputs: list[Tensor]) -> tuple[Any, ...]:
    """Return what a graph is captured for, besides the weights."""
    device = inputs[0].device.type
    autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    return autocast, [(x.shape, x.dtype, x.device) for x in inputs]


def _apart(gradients: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Give each parameter a gradient of its own where several have got the same one: it may be changed in place."""
    uses = Counter(x.data_ptr() for x in gradients if x is not None)
    return [x.clone() if x is not None and uses[x.data_ptr()] > 1 else x for x in gradients]
