"""The serving hot path as machine code: one step of N series, and their forecasts, straight on a slab's memory.

Each of the two entries (`step_kernel`, `decode_kernel`) does all of it for any N in one call that holds no lock of
Python's, and writes nothing but the slots it is given. Products are BLAS's, in portions that OpenBLAS computes in the
calling thread; loops over units are written so that LLVM can vectorise them, with an exponential of our own, since the
C library's takes one number at a time. What is computed is `Seq2Seq.scan` for T = 1 and `Seq2Seq.predict`; missing
values are told by masks or by NaN, so that no function here may assume that there is none.

Here is what both are made of.
"""

import math

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from forecaster.data.features import DAY_US
from forecaster.model.kernels.compiling import part, units

TILE = 32  # series whose gates are computed at once: these stay in the cache
_PRODUCT = 1 << 18  # multiplications up to which OpenBLAS starts no threads
_ROWS = 8  # fewer would read large weights too often

f4 = np.float32
ONE, _TWO, ZERO = f4(1), f4(2), f4(0)
_LEAST = f4(-1e15)
_LIMIT = f4(0.01)  # of `soft_clip`, 1 / 10²
# exp(x) = 2^n · exp(r), |r| ≤ ln 2 / 2; 1 + r + r² q(r), q fitted at Chebyshev's points, to 1e-8.
_LOG2E, _LN2_HIGH, _LN2_LOW = f4(1.4426950408889634), f4(0.693359375), f4(-2.12194440e-4)
_ROUND = f4(12582912.0)  # 1.5 · 2²³: a number added to it is rounded to an integer, in its lowest bits
_E2, _E3, _E4, _E5, _E6 = (f4(c) for c in (0.5, 0.16666576, 0.041666467, 0.00836318, 0.0013933652))
# log(1 + t) = 2 artanh(s), s = t / (2 + t) ≤ 1/3; s (2 + s² w(s²)), w fitted alike, to 2e-8.
_L0, _L1, _L2, _L3 = (f4(c) for c in (0.6666664, 0.40007672, 0.28233954, 0.26867554))


@intrinsic
def _as_int(typing, x):
    """Return the bits of a float32."""
    return types.int32(types.float32), lambda _, builder, __, args: builder.bitcast(args[0], ir.IntType(32))


@intrinsic
def _as_float(typing, x):
    """Return the float32 of these bits."""
    return types.float32(types.int32), lambda _, builder, __, args: builder.bitcast(args[0], ir.FloatType())


@units
def exp(x):
    """Return exp(x) of a float32, 2 units in the last place off at most.

    x is taken as -60 … 60: what that is too large or too small by is no part of a sum with one, and denormal numbers,
    with which the processor takes its time, cannot come out.
    """
    x = min(max(x, f4(-60)), f4(60))
    n = x * _LOG2E + _ROUND
    r = x - (n - _ROUND) * _LN2_HIGH - (n - _ROUND) * _LN2_LOW
    p = ONE + (r + r * r * (_E2 + r * (_E3 + r * (_E4 + r * (_E5 + r * _E6)))))
    return _as_float((_as_int(n) << np.int32(23)) + _as_int(p))


@units
def sigmoid(x):
    return ONE / (ONE + exp(-x))


@units
def silu(x):
    return x / (ONE + exp(-x))


@units
def tanh(x):
    return ONE - _TWO / (ONE + exp(_TWO * x))


@units
def softplus(x):
    """Return log(1 + exp(x))."""
    t = exp(-abs(x))
    s = t / (_TWO + t)
    u = s * s
    return max(x, ZERO) + s * (_TWO + u * (_L0 + u * (_L1 + u * (_L2 + u * _L3))))


@units
def soft_clip(x):
    """Bend float32 numbers in place; see `normalizer.soft_clip`."""
    for j in range(x.size):
        y = min(max(x[j], _LEAST), -_LEAST)
        x[j] = y / math.sqrt(ONE + y * y * _LIMIT)


@part
def product(x, weights, out):
    rows = max(_PRODUCT // weights.size, _ROWS)
    for low in range(0, len(x), rows):
        np.dot(x[low : low + rows], weights, out[low : low + rows])


@part
def calendar(time_us, periods, out):
    """Write sine and cosine of every position; see `calendar_features`."""
    count = len(periods)
    for p in range(count):
        cycles = (time_us / DAY_US + periods[p, 0]) / periods[p, 1]
        angle = (cycles - math.trunc(cycles)) * math.tau
        out[p], out[count + p] = math.sin(angle), math.cos(angle)


@units
def add(total, x, factor):
    for j in range(total.size):
        total[j] += factor * x[j]


@units
def copy(x, out):  # NumPy's own assignment takes long to compile
    for j in range(out.size):
        out[j] = x[j]


@units
def fill(x, value):
    for j in range(x.size):
        x[j] = value
