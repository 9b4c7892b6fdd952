"""The selective scan in plain PyTorch, in about ``2 sqrt(l)`` wide steps and with a hand-written gradient.

The sequence is cut into ``K`` chunks of ``M ~ sqrt(l)`` steps. All chunks advance together from a zero state, which
gives their ends; ``K`` narrow steps join the ends into the state each chunk really starts from; all chunks then advance
again from there. The decay over a whole chunk is ``exp(A * sum(delta))``, so nothing is ever divided by a product that
may have underflowed. The gradient is the same recurrence run backwards.

States are never stored: work goes block by block (some groups, some channels), the forward pass keeps the chunks'
starts only, and the backward pass recomputes each block. Arrays of a block are ``(steps, n, groups, channels)``: time
leads, so that one step of every chunk is a strided view, and groups and channels are last, so that operations run over
long contiguous rows. A padded step has ``delta = 0``: it leaves the state alone.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mtmamba.kernels.derivatives import first_only
from mtmamba.scan.registry import ONLY_FIRST, Backend, register

CPU_BLOCK, GPU_BLOCK = 2**20, 2**23
"""Elements of one array of a block: on a CPU the three such arrays stay near the caches, a GPU needs long launches."""
MIN_CHANNELS = 16
"""Channels of the narrowest block: fewer would leave vector registers empty."""


def scan_chunked(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor) -> Tensor:
    """Scan in float32, or in float64 if any input is float64; each gradient has the dtype of its input.

    Shape: as in :func:`mtmamba.scan.selective_scan`, whose ``torch`` backend this is.
    """
    inputs = (u, delta, A, B, C, D, delta_bias)
    dtype = torch.float64 if any(x.dtype == torch.float64 for x in inputs) else torch.float32
    return _ChunkedScan.apply(*(x.to(dtype) for x in inputs))


class _Block(NamedTuple):
    """The inputs of some groups (G) and some of their channels (R), time first."""

    u: Tensor  # (steps, G, R)
    delta: Tensor  # (steps + 1, G, R) after softplus; one more padded step, for the recurrence run backwards
    delta_u: Tensor  # (steps, G, R)
    A: Tensor  # (n, G, R)
    B: Tensor  # (steps, n, G, 1)
    C: Tensor  # (steps, n, G, 1)
    D: Tensor  # (G, R)


class _Problem:
    """The inputs with images and groups on one axis (rows), cut into blocks."""

    def __init__(self, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor):
        self.batch, self.groups, self.n, self.length = B.shape
        self.d = u.shape[1] // self.groups
        self.chunk = math.isqrt(self.length - 1) + 1  # M = ceil(sqrt(l))
        self.chunks = -(-self.length // self.chunk)  # K
        self.steps = self.chunks * self.chunk  # l, padded
        self.u, self.delta = self.rows(u), self.rows(delta)  # (rows, d, l)
        self.B, self.C = B.flatten(0, 1), C.flatten(0, 1)  # (rows, n, l)
        self.A, self.D, self.delta_bias = (
            x.unflatten(0, (self.groups, self.d)).repeat(self.batch, *[1] * x.ndim) for x in (A, D, delta_bias)
        )  # (rows, d, n), (rows, d), (rows, d)

        budget = (CPU_BLOCK if u.device.type == "cpu" else GPU_BLOCK) // (self.steps * self.n)
        slices = -(-self.d // max(budget, MIN_CHANNELS))
        self.block_channels = -(-self.d // slices)
        self.block_rows = min(max(budget // self.block_channels, 1), self.batch * self.groups)

    def rows(self, x: Tensor) -> Tensor:
        """``(b, g*d, l) → (b*g, d, l)``."""
        return x.reshape(self.batch * self.groups, self.d, self.length)

    def blocks(self) -> Iterator[tuple[slice, slice]]:
        """Rows and channels of every block."""
        for row in range(0, self.batch * self.groups, self.block_rows):
            for channel in range(0, self.d, self.block_channels):
                yield slice(row, row + self.block_rows), slice(channel, channel + self.block_channels)

    def time_first(self, x: Tensor, steps: int) -> Tensor:
        """``(G, R, l) → (steps, G, R)``, zero on the padding."""
        out = x.new_zeros(steps, *x.shape[:2])
        out[: self.length] = x.permute(2, 0, 1)
        return out

    def block(self, rows: slice, channels: slice) -> _Block:
        """Bring one block into the scan's layout."""
        u = self.time_first(self.u[rows, channels], self.steps)
        delta = self.time_first(self.delta[rows, channels], self.steps + 1)
        delta[: self.length] = F.softplus(delta[: self.length] + self.delta_bias[rows, channels])
        return _Block(
            u=u,
            delta=delta,
            delta_u=delta[:-1] * u,
            A=self.A[rows, channels].permute(2, 0, 1).contiguous(),
            B=self.time_first(self.B[rows].transpose(0, 1), self.steps).unsqueeze(3),
            C=self.time_first(self.C[rows].transpose(0, 1), self.steps).unsqueeze(3),
            D=self.D[rows, channels],
        )

    def buffers(self, count: int) -> Tensor:
        """Memory for a block's arrays, reused by all blocks: fresh pages for each would cost as much as a pass."""
        size = (self.steps + 1) * self.n * self.block_rows * self.block_channels
        return self.u.new_empty(count, size)

    def by_chunk(self, x: Tensor) -> Tensor:
        """``(steps, …) → (K, M, …)``."""
        return x.unflatten(0, (self.chunks, self.chunk))

    def chunk_decays(self, delta: Tensor, A: Tensor) -> Tensor:
        """Products of the decays over every chunk, ``(K, n, G, R)``."""
        return torch.exp(self.by_chunk(delta).sum(1).unsqueeze(1) * A)


def _chunk_ends(decays: Sequence[Tensor], inputs: Sequence[Tensor]) -> Tensor:
    """Last states of all chunks, each begun at zero; one entry ``(K, n, G, R)`` per step of a chunk."""
    end = inputs[0].clone()
    for decay, x in zip(decays[1:], inputs[1:], strict=True):
        torch.addcmul(x, decay, end, out=end)
    return end


def _chunk_starts(ends: Tensor, decays: Tensor) -> Tensor:
    """States that the chunks begin from, given how each ends by itself and what it keeps, all ``(K, n, G, R)``."""
    starts = torch.zeros_like(ends)
    for k in range(1, len(starts)):
        torch.addcmul(ends[k - 1], decays[k - 1], starts[k - 1], out=starts[k])
    return starts


def _advance(decays: Sequence[Tensor], states: Sequence[Tensor], start: Tensor) -> None:
    """Turn the inputs in ``states`` into states, in place and in all chunks at once."""
    for decay, state in zip(decays, states, strict=True):
        start = state.addcmul_(decay, start)


class _ChunkedScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> Tensor:
        problem = _Problem(*inputs)
        y = torch.empty_like(problem.u)
        starts = problem.A.new_empty(problem.chunks, problem.n, problem.A.shape[0], problem.d)
        buffers = problem.buffers(2)
        for rows, channels in problem.blocks():
            block = problem.block(rows, channels)
            shape = (problem.steps, *block.A.shape)
            decay, state = (x[: math.prod(shape)].view(shape) for x in buffers)
            torch.mul(block.delta[:-1].unsqueeze(1), block.A, out=decay).exp_()
            torch.mul(block.delta_u.unsqueeze(1), block.B, out=state)
            decays, states = problem.by_chunk(decay).unbind(1), problem.by_chunk(state).unbind(1)
            start = _chunk_starts(_chunk_ends(decays, states), problem.chunk_decays(block.delta[:-1], block.A))
            _advance(decays, states, start)
            out = torch.mul(state, block.C, out=decay).sum(1).addcmul_(block.D, block.u)  # (steps, G, R)
            y[rows, channels] = out[: problem.length].permute(1, 2, 0)
            starts[:, :, rows, channels] = start
        ctx.save_for_backward(*inputs, starts)
        return y.reshape(inputs[0].shape)

    @staticmethod
    @first_only(*ONLY_FIRST)
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        *inputs, starts = ctx.saved_tensors
        grads = _gradients(_Problem(*inputs), starts, grad)
        return tuple(g.reshape(x.shape) for g, x in zip(grads, inputs, strict=True))


def _gradients(problem: _Problem, starts: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
    """Gradients of the seven inputs from that of the output."""
    dy_rows = problem.rows(grad)
    du, ddelta = torch.empty_like(problem.u), torch.empty_like(problem.delta)
    dA, dD, dbias = (torch.empty_like(x) for x in (problem.A, problem.D, problem.delta_bias))
    dB, dC = (torch.zeros_like(x) for x in (problem.B, problem.C))
    buffers = problem.buffers(3)
    length = problem.length
    for rows, channels in problem.blocks():
        block = problem.block(rows, channels)
        dy = problem.time_first(dy_rows[rows, channels], problem.steps)
        shape = (problem.steps + 1, *block.A.shape)
        decay, state, adjoint = (x[: math.prod(shape)].view(shape) for x in buffers)
        before, state = state[:-1], state[1:]  # h_{t-1}, h_t
        adjoint = adjoint[1:]

        torch.mul(block.delta.unsqueeze(1), block.A, out=decay).exp_()
        before[0] = 0
        torch.mul(block.delta_u.unsqueeze(1), block.B, out=state)
        _advance(
            problem.by_chunk(decay[:-1]).unbind(1), problem.by_chunk(state).unbind(1), starts[:, :, rows, channels]
        )
        dC_block = torch.mul(state, dy.unsqueeze(1), out=adjoint).sum(3)

        # dL/dh_t = C_t dy_t + a_{t+1} dL/dh_{t+1}: the same recurrence, from the end, with the decays one step on.
        torch.mul(block.C, dy.unsqueeze(1), out=adjoint)
        decays, adjoints = problem.by_chunk(decay[1:]).unbind(1)[::-1], problem.by_chunk(adjoint).unbind(1)[::-1]
        ends, kept = _chunk_ends(decays, adjoints), problem.chunk_decays(block.delta[1:], block.A)
        _advance(decays, adjoints, _chunk_starts(ends.flip(0), kept.flip(0)).flip(0))

        ddelta_A = decay[:-1].mul_(before).mul_(adjoint)  # gradient of the exponent delta_t A
        scratch = state
        dB_block = torch.mul(adjoint, block.delta_u.unsqueeze(1), out=scratch).sum(3)
        ddelta_u = torch.mul(adjoint, block.B, out=scratch).sum(1)  # (steps, G, R)
        dA[rows, channels] = torch.mul(ddelta_A, block.delta[:-1].unsqueeze(1), out=scratch).sum(0).permute(1, 2, 0)
        ddelta_block = torch.mul(ddelta_A, block.A, out=scratch).sum(1).addcmul_(ddelta_u, block.u)
        ddelta_block.mul_(-torch.expm1(-block.delta[:-1]))  # the slope of softplus; 0 on the padding

        dB[rows] += dB_block[:length].permute(2, 1, 0)
        dC[rows] += dC_block[:length].permute(2, 1, 0)
        dD[rows, channels] = (dy * block.u).sum(0)
        dbias[rows, channels] = ddelta_block.sum(0)
        ddelta[rows, channels] = ddelta_block[:length].permute(1, 2, 0)
        du[rows, channels] = (ddelta_u * block.delta[:-1]).addcmul_(block.D, dy)[:length].permute(1, 2, 0)
    dA, dD, dbias = (x.unflatten(0, (problem.batch, problem.groups)).sum(0) for x in (dA, dD, dbias))
    return du, ddelta, dA, dB, dC, dD, dbias


register(Backend("torch", 3, scan_chunked))
