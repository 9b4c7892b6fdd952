"""The recurrence of the selective scan and its gradient, compiled for CPUs with Numba.

Maps are read where they lie, channels last: the innermost loops run over channels and become vector instructions, the
exponential included. A job is one image of one group, in some of its K directions. Arrays, all float32:

* ``u``, ``y`` and their gradients ``(G, R, L, d)``: signal and output of R images in each of G groups, L pixels;
* ``projected (G, R, L, K, r + 2n)``: of each pixel the time step at rank r, B and C; ``weight (G, K, r, d)`` and
  ``bias (G, K, d)``: from rank r to all channels; ``delta (G, K, R, L, d)``: time steps after softplus;
* ``A2 (G, K, n, d)``: decay rates to base 2; ``skip (G, d)``: D, summed over directions;
* ``order (K, L)``: each direction's pixels in turn;
* ``starts (G, R, K, chunks, n, d)``: states before every ``chunk``-th step, from which the gradient computes the rest.

What directions share has a leading axis S: directions are cut into S parts, which jobs in parallel may not share.
"""
# mypy: disable-error-code="no-untyped-def,untyped-decorator"

import logging
import math

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

logger = logging.getLogger(__name__)

LN2 = np.float32(math.log(2))
LOWEST, HIGHEST, HALF = np.float32(-125), np.float32(127), np.float32(0.5)
MINIMAX = (1.0, 0.6931469776, 0.2402224209, 0.0555073374, 0.0096715126, 0.0013264727)
"""``2^f`` for f in -1/2..1/2: the polynomial of degree 5 that is 1 at 0 and has the least relative error, 9.1e-8."""
C0, C1, C2, C3, C4, C5 = (np.float32(c) for c in MINIMAX)
L0, L1, L2, L3, L4, L5, L6 = (np.float32(2 / (2 * k + 1)) for k in range(7))
ZERO, TWO, LOG2E = np.float32(0), np.float32(2), np.float32(1 / math.log(2))


@intrinsic
def _float_of_bits(typing_context, bits):
    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), generate


@intrinsic
def _bits_of_float(typing_context, number):
    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.int32(types.float32), generate


@numba.njit(inline="always")
def _exp2(x):
    """``2^x`` to 2e-7, between 2^-125 and 2^127: a polynomial, to whose exponent the whole part is added."""
    x = min(max(x, LOWEST), HIGHEST)
    whole = np.floor(x + HALF)
    f = x - whole
    power = C0 + f * (C1 + f * (C2 + f * (C3 + f * (C4 + f * C5))))
    return _float_of_bits(_bits_of_float(power) + (np.int32(whole) << np.int32(23)))  # type: ignore[call-arg]


@numba.njit(inline="always")
def _softplus(x):
    """``log(1 + exp(x))``, its logarithm as a series of ``artanh``."""
    small = _exp2(-abs(x) * LOG2E)
    s = small / (TWO + small)
    z = s * s
    series = L0 + z * (L1 + z * (L2 + z * (L3 + z * (L4 + z * (L5 + z * L6)))))
    return HALF * (x + abs(x)) + s * series


def _compile(function):
    """Compile at the first call, and keep the machine code beside this file or in the user's cache, as Numba does."""
    compiled = numba.njit(function, nogil=True, fastmath={"contract", "reassoc", "nsz"}, error_model="numpy")
    try:
        compiled.enable_caching()
    except RuntimeError:  # Numba found no folder that it can write to
        logger.warning(
            "Expected a folder for Numba's compiled code that can be written, got none: each process compiles its own "
            "for some seconds; set NUMBA_CACHE_DIR=FOLDER to keep it."
        )
    return compiled


@_compile
def forward(first, last, u, projected, weight, bias, delta, A2, skip, order, chunk, starts, y):
    """Scan jobs ``first`` to ``last``; fills ``starts`` and ``y (S, G, R, L, d)``.

    Where the rank is not 0, ``delta`` is filled too: of all pixels, or with an L of 1 of one pixel after another.
    """
    groups, images, length, channels = u.shape
    directions, n_states = A2.shape[1:3]
    rank = weight.shape[2]
    kept = delta.shape[3] == length
    part = directions // len(y)
    h = np.empty((n_states, channels), np.float32)
    drive = np.empty(channels, np.float32)
    out = np.empty(channels, np.float32)
    for job in range(first, last):
        s, g, r = job // (groups * images), job // images % groups, job % images
        for t in range(length):
            for d in range(channels):
                y[s, g, r, t, d] = skip[g, d] * u[g, r, t, d] if s == 0 else ZERO
        for k in range(s * part, (s + 1) * part):
            h[:] = ZERO
            rates = A2[g, k]
            for t in range(length):
                if t % chunk == 0:
                    starts[g, r, k, t // chunk] = h
                p = order[k, t]
                step, signal, result = delta[g, k, r, p if kept else 0], u[g, r, p], y[s, g, r, p]
                pixel = projected[g, r, p, k]
                if rank > 0:
                    step[:] = bias[g, k]
                    for j in range(rank):
                        for d in range(channels):
                            step[d] += pixel[j] * weight[g, k, j, d]
                    for d in range(channels):
                        step[d] = _softplus(step[d])
                for d in range(channels):
                    drive[d] = step[d] * signal[d]
                    out[d] = ZERO
                for n in range(n_states):
                    b, c = pixel[rank + n], pixel[rank + n_states + n]
                    for d in range(channels):
                        state = _exp2(step[d] * rates[n, d]) * h[n, d] + b * drive[d]
                        h[n, d] = state
                        out[d] += c * state
                for d in range(channels):
                    result[d] += out[d]


@_compile
def backward(first, last, u, projected, delta, A2, skip, order, chunk, starts, dy, du, ddelta, dprojected, dA, dskip):
    """Differentiate jobs ``first`` to ``last``; fills ``du (S, G, R, L, d)``, ``dA (G, R, K, n, d)`` by the natural
    base's rates, ``dskip (S, G, R, d)`` and the rest in their inputs' shapes; of ``dprojected`` those of B and C."""
    groups, images, length, channels = u.shape
    directions, n_states = A2.shape[1:3]
    part = directions // len(du)
    rank = projected.shape[-1] - 2 * n_states
    decays = np.empty((chunk, n_states, channels), np.float32)
    states = np.empty((chunk + 1, n_states, channels), np.float32)
    carry = np.empty((n_states, channels), np.float32)
    drive, to_drive, to_exponent = np.empty((3, channels), np.float32)
    for job in range(first, last):
        s, g, r = job // (groups * images), job // images % groups, job % images
        to_skip = dskip[s, g, r]
        to_skip[:] = ZERO
        for t in range(length):
            for d in range(channels):
                du[s, g, r, t, d] = skip[g, d] * dy[g, r, t, d] if s == 0 else ZERO
                to_skip[d] += dy[g, r, t, d] * u[g, r, t, d] if s == 0 else ZERO
        for k in range(s * part, (s + 1) * part):
            carry[:] = ZERO
            rates, to_rates = A2[g, k], dA[g, r, k]
            to_rates[:] = ZERO
            for start in range((length - 1) // chunk * chunk, -1, -chunk):
                steps = min(chunk, length - start)
                states[0] = starts[g, r, k, start // chunk]
                for i in range(steps):
                    p = order[k, start + i]
                    step, signal = delta[g, k, r, p], u[g, r, p]
                    for d in range(channels):
                        drive[d] = step[d] * signal[d]
                    for n in range(n_states):
                        b = projected[g, r, p, k, rank + n]
                        for d in range(channels):
                            decay = _exp2(step[d] * rates[n, d])
                            decays[i, n, d] = decay
                            states[i + 1, n, d] = decay * states[i, n, d] + b * drive[d]
                for i in range(steps - 1, -1, -1):
                    p = order[k, start + i]
                    step, signal, grad = delta[g, k, r, p], u[g, r, p], dy[g, r, p]
                    to_step, to_signal = ddelta[g, k, r, p], du[s, g, r, p]
                    pixel, to_pixel = projected[g, r, p, k], dprojected[g, r, p, k]
                    for d in range(channels):
                        drive[d] = step[d] * signal[d]
                        to_drive[d] = ZERO
                        to_exponent[d] = ZERO
                    for n in range(n_states):
                        b, c = pixel[rank + n], pixel[rank + n_states + n]
                        to_b, to_c = ZERO, ZERO
                        before, state, decay = states[i, n], states[i + 1, n], decays[i, n]
                        for d in range(channels):
                            dh = c * grad[d] + carry[n, d]
                            to_c += state[d] * grad[d]
                            to_b += dh * drive[d]
                            to_drive[d] += dh * b
                            kept = decay[d] * dh
                            carry[n, d] = kept
                            inner = kept * before[d]  # gradient of the exponent delta_t A
                            to_rates[n, d] += inner * step[d]
                            to_exponent[d] += inner * rates[n, d]
                        to_pixel[rank + n] = to_b
                        to_pixel[rank + n_states + n] = to_c
                    for d in range(channels):
                        to_signal[d] += to_drive[d] * step[d]
                        to_step[d] = to_drive[d] * signal[d] + to_exponent[d] * LN2
