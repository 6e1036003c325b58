"""Compiled kernel of :func:`kvlib.attention.attention_kl`. Importing this imports numba and
compiles: once, then from its cache.

The matrix products stay with BLAS; what is fused here is everything after them, one attention row
at a time in a buffer of the first-level cache, where numpy would pass a dozen times over the whole
block. Rows are independent and a row's sums have one order: results depend on nothing but the row.
"""

from __future__ import annotations

import math

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

_ROWS, _ROW, _N = types.float64[:, ::1], types.float64[::1], types.int64

# As in the kernels of the schemes: nothing is allocated, so nothing counts references.
_OPTIONS = {"nogil": True, "cache": True, "error_model": "numpy", "_nrt": False}
# Never "reassoc" here: it would cancel the rounding in _split.
_inner = njit(fastmath={"contract"}, **_OPTIONS)
_summing = njit(fastmath={"contract", "reassoc"}, **_OPTIONS)

# --- Exponentials -------------------------------------------------------------------------------
# Calls into the C library keep LLVM from working on eight numbers at a time; polynomials do not.

_LOG2_E = 1 / math.log(2)
_LN2_HIGH = 6.93147180369123816490e-01  # its last 21 bits are zero: k * _LN2_HIGH is exact
_LN2_LOW = 1.90821492927058770002e-10
_ROUNDING = 1.5 * 2.0**52  # adding it leaves no bits for a fraction
_LOWEST = -708.0  # exp of it is still a normal number

# Taylor's series to r^13 leaves 7e-17 of the sum for |r| <= log(2)/2.
(_C2, _C3, _C4, _C5, _C6, _C7, _C8, _C9, _C10, _C11, _C12, _C13) = (
    1 / math.factorial(n) for n in range(2, 14)
)


@intrinsic
def _power_of_two(typing_context, k):
    """2^k for a whole number k from -1022 to 1023, through the bits of its exponent."""

    def codegen(context, builder, signature, arguments):
        integer = ir.IntType(64)
        biased = builder.add(builder.fptosi(arguments[0], integer), integer(1023))
        return builder.bitcast(builder.shl(biased, integer(52)), ir.DoubleType())

    return types.float64(types.float64), codegen


@_inner
def _split(x):
    """x = k log(2) + r with whole k and |r| <= log(2)/2; below ``_LOWEST``, of that."""
    x = x if x > _LOWEST else _LOWEST
    k = (x * _LOG2_E + _ROUNDING) - _ROUNDING
    return k, (x - k * _LN2_HIGH) - k * _LN2_LOW


@_inner
def _series(r):
    """exp(r) - 1 - r for \\|r\\| <= log(2)/2, to a relative 1e-16."""
    s = ((_C13 * r + _C12) * r + _C11) * r + _C10
    s = (((s * r + _C9) * r + _C8) * r + _C7) * r + _C6
    s = (((s * r + _C5) * r + _C4) * r + _C3) * r + _C2
    return s * (r * r)


@_inner
def _exp(x):
    """exp(x) for x <= 0; 0 where it is below 3e-308; NaN for infinite x."""
    k, r = _split(x)
    value = (1 + (r + _series(r))) * _power_of_two(k)
    return (value if x > _LOWEST else 0.0) + 0.0 * x  # the product only matters if it is NaN


@_inner
def _exp_minus_two_terms(x):
    """exp(x) - 1 - x for x < 709, without cancellation.

    For k = 0 the last two terms vanish exactly, as r is x. Else the value is above 0.05 and
    rounding is all there is to lose.
    """
    k, r = _split(x)
    power = _power_of_two(k)
    return power * _series(r) + ((power - 1) + (power * r - x))


# --- Rows ---------------------------------------------------------------------------------------


@_inner
def _largest(x, count):
    top = x[0]
    for j in range(1, count):
        top = x[j] if x[j] > top else top
    return top


@_inner
def _weights(logits, p, count):
    """p <- exp(logits - their maximum)."""
    top = _largest(logits, count)
    for j in range(count):
        p[j] = _exp(logits[j] - top)


@_summing
def _sums(p, delta, count):
    """sum(p), sum(p * delta)."""
    total = product = 0.0
    for j in range(count):
        total += p[j]
        product += p[j] * delta[j]
    return total, product


@_inner
def _excess(delta, mean, p, count):
    """p <- p * (exp(eta) - 1 - eta) with eta = delta - mean."""
    for j in range(count):
        p[j] *= _exp_minus_two_terms(delta[j] - mean)


@_summing
def _sum(p, count):
    total = 0.0
    for j in range(count):
        total += p[j]
    return total


@njit(_N(_ROWS, _ROWS, _N, _N, _N, types.float64, _ROW, _ROW), **_OPTIONS)
def kl_rows(logits, delta, queries, first, step, large, p, kl):
    """KL of each row from its exact logits and their errors.

    Row i belongs to query ``i % queries`` of its head, which sees the first
    ``first + step * (i % queries)`` keys. Returns the number of rows left to numpy, which has to
    take them all: those that overflow or have an error above ``large``.
    """
    left = 0
    for i in range(logits.shape[0]):
        count = first + step * (i % queries)
        _weights(logits[i], p, count)
        total, mean = _sums(p, delta[i], count)
        mean /= total
        _excess(delta[i], mean, p, count)
        kl[i] = np.log1p(_sum(p, count) / total)
        # A comparison with NaN is false, too.
        left += not (_largest(delta[i], count) - mean <= large and kl[i] < np.inf)
    return left
