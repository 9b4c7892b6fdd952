# mypy: ignore-errors
# What onnxscript reads has types of its own.
"""The selective scan as ONNX operators: one ``Scan`` over the steps, whose states stay in a processor's caches.

States are ``(b, g, n, d)``: channels are last, so that each operator runs along contiguous rows. ONNX Runtime's own
Softplus takes four times as long as the operators it is written in here.
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
    one, number = op.Constant(value_ints=[1]), op.Constant(value_float=1.0)
    batch, groups, states, length = op.Split(op.Shape(B), num_outputs=4)
    width = op.Div(op.Shape(u, start=1, end=2), groups)  # d
    rows = op.Concat(length, batch, groups, one, width, axis=0)

    rates = op.Transpose(op.Reshape(A, op.Concat(groups, width, states, axis=0)), perm=[0, 2, 1])  # (g, n, d)
    x = op.Add(delta, op.Unsqueeze(delta_bias, one))
    small = op.Exp(op.Neg(op.Abs(x)))
    whole = op.Add(small, number)  # rounded: what is lost is added to its logarithm
    lost = op.Sub(small, op.Sub(whole, number))
    dt = op.Add(op.Relu(x), op.Add(op.Log(whole), op.Div(lost, whole)))  # softplus
    dts = op.Reshape(op.Transpose(dt, perm=[2, 0, 1]), rows)  # (l, b, g, 1, d)
    dt_us = op.Reshape(op.Transpose(op.Mul(dt, u), perm=[2, 0, 1]), rows)
    Bs = op.Unsqueeze(op.Transpose(B, perm=[3, 0, 1, 2]), op.Constant(value_ints=[4]))  # (l, b, g, n, 1)
    Cs = op.Unsqueeze(op.Transpose(C, perm=[3, 0, 1, 2]), op.Constant(value_ints=[3]))  # (l, b, g, 1, n)

    @graph()
    def advance(h: T, dt_t: T, dt_u_t: T, B_t: T, C_t: T):
        h_t = op.Add(op.Mul(op.Exp(op.Mul(dt_t, rates)), h), op.Mul(dt_u_t, B_t))
        return h_t, op.MatMul(C_t, h_t)

    zero = op.Expand(op.Constant(value_float=0.0), op.Concat(batch, groups, states, width, axis=0))
    _, ys = op.Scan(zero, dts, dt_us, Bs, Cs, body=advance, num_scan_inputs=4)  # ys (l, b, g, 1, d)
    flat = op.Reshape(ys, op.Concat(length, batch, op.Mul(groups, width), axis=0))
    return op.Add(op.Transpose(flat, perm=[1, 2, 0]), op.Mul(op.Unsqueeze(D, one), u))  # (b, g d, l)
