# mypy: ignore-errors
# What onnxscript reads has types of its own.
"""The selective scan as ONNX operators, in steps that are few and wide.

The sequence is cut into ``K`` chunks of ``M ~ sqrt(l)`` steps. All chunks advance together from a zero state, which
gives their outputs but for what they began with; ``K`` narrow steps join the chunks' ends into the states that they
really begin with; ``M`` wide steps add what these contribute: ``C_t exp(A (delta_1 + … + delta_t)) start``. No state
outlives its step. A padded step has ``delta = 0`` and leaves the state alone.

States are ``(K, b, g, n, d)``: channels are last, so that each operator runs along contiguous rows.
"""

from onnxscript import FLOAT, graph, script
from onnxscript import opset18 as op
from onnxscript.values import Opset

Vector, Matrix, Signal, Projection = FLOAT["gd"], FLOAT["gd", "n"], FLOAT["b", "gd", "l"], FLOAT["b", "g", "n", "l"]
T = FLOAT[...]


@script(Opset("mtmamba", 1), default_opset=op)  # read, never run: it is written in onnxscript's part of Python
def selective_scan(
    u: Signal, delta: Signal, A: Matrix, B: Projection, C: Projection, D: Vector, delta_bias: Vector
) -> Signal:
    """Scan in float32 as `mtmamba.scan.selective_scan` does; the same arguments."""
    zero, one = op.Constant(value_ints=[0]), op.Constant(value_ints=[1])
    rest, before_last, last = op.Constant(value_ints=[-1]), op.Constant(value_ints=[4]), op.Constant(value_ints=[5])
    batch, groups, states, length = op.Split(op.Shape(B), num_outputs=4)
    width = op.Div(op.Shape(u, start=1, end=2), groups)  # d
    steps = op.Cast(op.Ceil(op.Sqrt(op.Cast(length, to=11))), to=7)  # M, by way of float64
    chunks = op.Div(op.Sub(op.Add(length, steps), one), steps)  # K
    filling = op.Sub(op.Mul(chunks, steps), length)
    of_three = op.Concat(zero, zero, zero, zero, zero, filling, axis=0)
    of_four = op.Concat(zero, zero, of_three, axis=0)
    cut = op.Concat(batch, groups, rest, chunks, steps, axis=0)

    rates = op.Transpose(op.Reshape(A, op.Concat(groups, width, states, axis=0)), perm=[0, 2, 1])  # (g, n, d)
    dt = op.Softplus(op.Add(delta, op.Unsqueeze(delta_bias, one)))
    dt_rows = op.Reshape(op.Pad(dt, of_three), cut)  # (b, g, d, K, M)
    dt_u_rows = op.Reshape(op.Pad(op.Mul(dt, u), of_three), cut)
    B_rows, C_rows = op.Reshape(op.Pad(B, of_four), cut), op.Reshape(op.Pad(C, of_four), cut)  # (b, g, n, K, M)
    dts = op.Unsqueeze(op.Transpose(dt_rows, perm=[4, 3, 0, 1, 2]), before_last)  # (M, K, b, g, 1, d)
    dt_us = op.Unsqueeze(op.Transpose(dt_u_rows, perm=[4, 3, 0, 1, 2]), before_last)
    Bs = op.Unsqueeze(op.Transpose(B_rows, perm=[4, 3, 0, 1, 2]), last)  # (M, K, b, g, n, 1)
    Cs = op.Unsqueeze(op.Transpose(C_rows, perm=[4, 3, 0, 1, 2]), before_last)  # (M, K, b, g, 1, n)

    @graph()
    def advance(h: T, dt_t: T, dt_u_t: T, B_t: T, C_t: T):
        h_t = op.Add(op.Mul(op.Exp(op.Mul(dt_t, rates)), h), op.Mul(dt_u_t, B_t))
        return h_t, op.MatMul(C_t, h_t)

    at_zero = op.Expand(op.Constant(value_float=0.0), op.Concat(chunks, batch, groups, states, width, axis=0))
    ends, ys = op.Scan(at_zero, dts, dt_us, Bs, Cs, body=advance, num_scan_inputs=4)  # ys (M, K, b, g, 1, d)

    @graph()
    def join(start: T, end: T, kept: T):
        return op.Add(op.Mul(kept, start), end), op.Identity(start)

    total = op.ReduceSum(dts, zero, keepdims=0)  # (K, b, g, 1, d)
    first = op.Expand(op.Constant(value_float=0.0), op.Concat(batch, groups, states, width, axis=0))
    _, starts = op.Scan(first, ends, op.Exp(op.Mul(total, rates)), body=join, num_scan_inputs=2)  # (K, b, g, n, d)

    @graph()
    def contribute(passed: T, dt_t: T, C_t: T, y_t: T):
        passed_t = op.Add(passed, dt_t)
        return passed_t, op.Add(y_t, op.MatMul(C_t, op.Mul(op.Exp(op.Mul(passed_t, rates)), starts)))

    none = op.Sub(total, total)
    _, whole = op.Scan(none, dts, Cs, ys, body=contribute, num_scan_inputs=3)

    rows = op.Transpose(op.Squeeze(whole, before_last), perm=[2, 3, 4, 1, 0])  # (b, g, d, K, M)
    flat = op.Reshape(rows, op.Concat(batch, op.Mul(groups, width), rest, axis=0))
    y = op.Slice(flat, zero, length, op.Constant(value_ints=[2]))  # (b, g d, l)
    return op.Add(y, op.Mul(op.Unsqueeze(D, one), u))
