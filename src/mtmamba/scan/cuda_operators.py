"""The fused scan's two operators, one node each to ``torch.compile``: their launches, shapes and gradients.

Both take ``projected`` ``(T, B, L, K (r + 2 * 16))``: the time steps of rank r of all K directions, then B and C of all
directions. Without ``dt_weight``, which has the maps' dtype, these are the time steps themselves, ``r = e``.
"""

import math
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mtmamba.kernels import nvrtc
from mtmamba.kernels.derivatives import refuse_second
from mtmamba.scan.dt_proj import widen, widen_backward
from mtmamba.scan.order import padded_order
from mtmamba.scan.registry import ONLY_FIRST

CSRC = Path(__file__).with_name("csrc")
"""The kernels' sources, which the wheel carries."""
STATES = 16
"""States of a channel in the kernel."""
PACK = 8
"""Channels are filled up to a multiple of this: rows of maps are then aligned for matrix products."""
THREADS = 128
"""Threads of a block."""
PAD = 64
"""Walks are filled up to a multiple of so many steps."""
SATURATED = 2.5 * 4 * 132
"""Warps that keep a large GPU busy: some for each of the four schedulers of 132 multiprocessors."""
STRETCH_STEPS, STRETCH_BYTES = 2**11, 2**25
"""Steps of a sequence, and bytes of all time steps, beyond which one more launch of the backward pass pays."""


class Shape(NamedTuple):
    """How a kernel's threads share the work."""

    channels: int
    """Channels of a thread."""
    parts: int
    """Threads that share a channel's states."""

    @property
    def width(self) -> int:
        """Channels of a block."""
        return THREADS // self.parts * self.channels

    def blocks(self, e: int) -> int:
        """Return how many blocks share a sequence's ``e`` channels."""
        return -(-e // self.width)


FORWARD = Shape(2, 2), Shape(1, 2), Shape(1, 4), Shape(1, 8)
BACKWARD = Shape(2, 4), Shape(1, 4)
"""What a kernel can do, with ever more threads."""


def shape(shapes: tuple[Shape, ...], channels: int) -> Shape:
    """Return how so many channels, of all sequences, are shared: with the fewest threads that keep a GPU busy."""
    busy = (s for s in shapes if channels / s.channels * s.parts / 32 >= SATURATED)
    return next(busy, shapes[-1])


@cache
def source(name: str) -> str:
    """The CUDA C++ of a file: what all share, then its own."""
    return "".join((CSRC / file).read_text(encoding="utf-8") for file in ("ss2d.cuh", f"{name}.cu"))


@cache
def options(dtype: torch.dtype, directions: int, shape: Shape, stride: int = 16) -> tuple[str, ...]:
    """What the compiler is told for maps of a precision, so many directions and states saved every ``stride`` steps."""
    real = "bf16" if dtype == torch.bfloat16 else "float"
    sizes = {"REAL": real, "DIRECTIONS": directions, "CHANNELS": shape.channels, "PARTS": shape.parts}
    sizes |= {"THREADS": THREADS, "STRIDE": stride}
    return ("--std=c++17", *(f"-D{name}={value}" for name, value in sizes.items()))


class Walk:
    """The launches that scan maps ``(T, B, H, W, e)`` in K directions."""

    def __init__(self, x: Tensor, directions: int) -> None:
        self.x, self.directions = x, directions
        tasks, batch, height, width, e = x.shape
        self.sizes = tasks, batch, height * width, e
        self.forward, self.backward = (shape(s, tasks * batch * directions * e) for s in (FORWARD, BACKWARD))
        self.steps = -(-height * width // PAD) * PAD
        """Steps of a sequence, filled up."""
        self.stride = 32 if self.backward.channels == 1 and x.element_size() == 2 else 16
        """Steps from one saved state to the next: what the backward pass's shared memory has room for."""

    def per_sequence(self, *more: int) -> tuple[int, ...]:
        """Shape of what each sequence has: ``(T, K, B, more...)``."""
        tasks, batch, _, _ = self.sizes
        return (tasks, self.directions, batch, *more)

    def states_shape(self, save: bool) -> tuple[int, ...]:
        """Shape of the states that are saved for the backward pass."""
        return self.per_sequence(self.steps // self.stride if save else 0, self.sizes[3], STATES)

    def stretches(self, *, backwards: bool = False) -> Iterator["Stretch"]:
        """Cut the walk into stretches, in order: two forwards, more backwards, where more memory is held besides.

        Those of the second half come second to their pixels, after the reversed direction, and add to what is there.
        """
        half = self.steps // 2
        size = math.prod(self.per_sequence(half, self.sizes[3])) * self.x.element_size()
        count = min(-(-half // STRETCH_STEPS), -(-size // STRETCH_BYTES)) if backwards else 1
        length = -(-half // (count * PAD // 2)) * (PAD // 2)
        firsts = [first for start in (0, half) for first in range(start, start + half, length)]
        order = padded_order(*self.x.shape[2:4], self.directions, PAD, self.x.device)
        for index, first in enumerate(reversed(firsts) if backwards else firsts):
            steps = min(length, half - first % half)
            yield Stretch(self, order, first, steps, self.directions > 1 and index >= len(firsts) // 2)


class Stretch(NamedTuple):
    """Steps of a walk that one launch takes."""

    walk: Walk
    order: Tensor
    """The pixels of all the walk's steps, ``(K, steps)``."""
    first: int
    steps: int
    adds: bool
    """Whether the sums of directions have results already."""

    @property
    def pixels(self) -> Tensor:
        """This stretch's pixels, ``(K, steps)``."""
        return self.order[:, self.first : self.first + self.steps]

    def scan(self, kernel: str, sharing: Shape, dt: Tensor, bc: Tensor, *arguments: Tensor | None) -> None:
        """Launch a scan kernel, which takes ``arguments`` after the maps, their time steps, B and C."""
        tasks, batch, pixels, e = self.walk.sizes
        directions, stride, x = self.walk.directions, self.walk.stride, self.walk.x
        steps = self.order, bc.stride(-2), self.walk.steps, self.first, self.steps, self.adds
        nvrtc.launch(
            source(kernel),
            kernel,
            options(x.dtype, directions, sharing, stride),
            (sharing.blocks(e), batch * directions, tasks),
            THREADS,
            (x, dt, bc, *arguments, *steps, tasks, batch, pixels, e),
        )

    def sum(self, parts: Tensor, maps: Tensor) -> None:
        """Write to the pixels of maps ``(T, B, L, K c)`` the sums of parts ``(parts, T, K, B, steps, c)``."""
        columns = parts.shape[-1]
        steps = self.order, len(parts), columns, maps.stride(-2), self.walk.steps, self.first, self.steps
        nvrtc.launch(
            source("steps"),
            "sum_of_steps",
            options(parts.dtype, self.walk.directions, BACKWARD[-1]),
            (-(-self.steps * columns // (PACK * THREADS)), math.prod(self.walk.per_sequence()), 1),
            THREADS,
            (parts, maps, *steps, *self.walk.sizes[1:3]),
        )


def _split(projected: Tensor, directions: int) -> list[Tensor]:
    """Time steps ``(T, B, L, K r)``, and B and C ``(T, B, L, K 2n)``, both views."""
    bc = directions * 2 * STATES
    return list(projected.split((projected.shape[-1] - bc, bc), dim=-1))


@torch.library.custom_op("mtmamba::ss2d_forward", mutates_args=())
def ss2d_forward(
    x: Tensor,
    projected: Tensor,
    A: Tensor,
    dt_weight: Tensor | None,
    dt_bias: Tensor,
    D: Tensor,
    directions: int,
    save: bool,
) -> tuple[Tensor, Tensor]:
    """Return the sum of the directions, like ``x``, and the saved states (none unless ``save``)."""
    walk = Walk(x, directions)
    states = x.new_empty(walk.states_shape(save))
    rows, columns = torch.empty_like(x), torch.empty_like(x) if directions > 1 else None
    carry = A.new_zeros(walk.per_sequence(x.shape[4], STATES))
    with torch.autocast(x.device.type, enabled=False):
        low, bc = _split(projected, directions)
        inputs = A * math.log2(math.e), dt_bias, D
        results = rows, columns, states if save else None, carry
        for stretch in walk.stretches():
            dt, _ = widen(low, dt_weight, stretch.pixels)
            stretch.scan("ss2d_forward", walk.forward, dt, bc, *inputs, *results)
            del dt  # before there is the next
    return (rows if columns is None else rows.add_(columns)), states


@ss2d_forward.register_fake
def _(
    x: Tensor,
    projected: Tensor,
    A: Tensor,
    dt_weight: Any,
    dt_bias: Tensor,
    D: Tensor,
    directions: int,
    save: bool,
) -> Any:
    return torch.empty_like(x), x.new_empty(Walk(x, directions).states_shape(save))


@torch.library.custom_op("mtmamba::ss2d_backward", mutates_args=())
def ss2d_backward(
    dy: Tensor,
    x: Tensor,
    projected: Tensor,
    A: Tensor,
    dt_weight: Tensor | None,
    dt_bias: Tensor,
    D: Tensor,
    states: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of x, projected, A, dt_weight (empty where it is None), and of dt_bias and D in one."""
    walk, e = Walk(x, A.shape[1]), x.shape[4]
    rows, columns = torch.empty_like(x), torch.empty_like(x) if walk.directions > 1 else None
    carry, dA = A.new_zeros(2, *walk.per_sequence(e, STATES))
    dvectors = A.new_zeros(2, *walk.per_sequence(e))
    dbias, dD = dvectors
    dprojected = torch.empty_like(projected)
    dweight = A.new_zeros(0 if dt_weight is None else dt_weight.shape)
    with torch.autocast(x.device.type, enabled=False):
        (low, bc), (dlow, dbc) = _split(projected, walk.directions), _split(dprojected, walk.directions)
        inputs = A * math.log2(math.e), dt_bias, D, states, dy.contiguous()
        for stretch in walk.stretches(backwards=True):
            dt, ranks = widen(low, dt_weight, stretch.pixels)  # dt becomes its gradient
            shares = x.new_empty(walk.backward.blocks(e), *walk.per_sequence(stretch.steps, 2 * STATES))
            results = rows, columns, shares, carry, dA, dD, dbias
            stretch.scan("ss2d_backward", walk.backward, dt, bc, *inputs, *results)
            stretch.sum(shares, dbc)
            del shares, results
            stretch.sum(widen_backward(dt, dt_weight, ranks, dweight), dlow)
            del dt, ranks  # before there are the next
        dx = rows if columns is None else rows.add_(columns)
        return dx, dprojected, dA.sum(2), dweight.to(x.dtype), dvectors.sum(3)


@ss2d_backward.register_fake
def _(
    dy: Tensor,
    x: Tensor,
    projected: Tensor,
    A: Tensor,
    dt_weight: Any,
    dt_bias: Tensor,
    D: Tensor,
    states: Tensor,
) -> Any:
    dweight = x.new_empty(0) if dt_weight is None else torch.empty_like(dt_weight)
    return *(torch.empty_like(t) for t in (x, projected, A)), dweight, dt_bias.new_empty(2, *dt_bias.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:-2], output[1])
    ctx.set_materialize_grads(False)  # there is none for the states


def _gradients(ctx: Any, dy: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors  # once: under checkpointing a second look would raise
    dx, dprojected, dA, dweight, dvectors = ss2d_backward(dy, *saved)
    return dx, dprojected, dA, None if saved[3] is None else dweight, *dvectors, None, None


ss2d_forward.register_autograd(_gradients, setup_context=_setup_context)
refuse_second(ss2d_backward, *ONLY_FIRST)
