"""Two and three coordinates: a residual norm that costs nothing, and what it costs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from kvbook.experiments.ch10.subjects import draw_queries
from kvbook.experiments.common import children, distortion
from kvlib import laws
from kvlib.checks import FloatArray
from kvlib.data import synthetic
from kvlib.measure import attention, metrics
from kvlib.quantize import RotatedQuantizer, codebooks
from kvlib.stats import Interval, mean_interval

PLANE = 2


def sketch_constant(dim: int, scale: str = "mmse") -> float:
    """What an orthogonal sketch leaves of a residual's energy, with either scale."""
    c = laws.orthogonal_sketch_error(dim)
    return laws.mmse_error(c) if scale == "mmse" else c


def improvement(bits: int, dim: int = PLANE) -> float:
    """What the last bit leaves of the error of the best codebook: D(bits) / D(bits - 1)."""
    return distortion(dim, bits) / distortion(dim, bits - 1)


def ratio_for_free(bits: int, dim: int = PLANE) -> float:
    """Squared error of QKQV over that of KQV, MMSE scale, the residual's norm for nothing."""
    return sketch_constant(dim) / improvement(bits, dim)


def break_even_price(bits: int, scale: str = "mmse") -> float:
    """Bits a vector that the residual norm may cost at d = 2 before QKQV's lead is gone."""
    return math.log2(improvement(bits) / sketch_constant(PLANE, scale))


def break_even_limit(scale: str = "mmse") -> float:
    """The same for many bits, where one more leaves a quarter of the error."""
    return math.log2(0.25 / sketch_constant(PLANE, scale))


def ratio_without_norm(bits: int, points: int = 200_000) -> float:
    """Error ratio at d = 2 when the decoder knows only the mean residual norm.

    Averaged over equally spaced points of the circle.
    """
    angle = 2 * np.pi * (np.arange(points) + 0.5) / points
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    book = codebooks.lloyd_max(PLANE, bits - 1)
    norms = np.linalg.norm(circle - book.dequantize(book.quantize(circle)), axis=-1)
    kept = (1 - sketch_constant(PLANE)) * norms.mean() ** 2 / (norms**2).mean()
    return float((1 - kept) / improvement(bits))


def ratio_at_one_bit(bits: int) -> float:
    """Error ratio at d = 2 when the norm costs one bit a vector.

    KQV spends that bit on one of its two coordinates.
    """
    fine = (distortion(PLANE, bits) + distortion(PLANE, bits + 1)) / 2
    return sketch_constant(PLANE) * distortion(PLANE, bits - 1) / fine


def ratio_at_equal_bytes() -> float:
    """Error ratio at d = 2, n = 2 when the norm is stored in fp16.

    The norm buys KQV eight bits a coordinate more; eight in all are enough to show the point.
    """
    return sketch_constant(PLANE) * distortion(PLANE, 1) / distortion(PLANE, 8)


def measure_plane(
    dims: Sequence[int],
    bits: Sequence[int],
    *,
    tokens: int,
    draws: int,
    seed: np.random.SeedSequence,
) -> dict[int, list[tuple[Interval, Interval]]]:
    """KL and squared error of QKQV over KQV in a few dimensions, Haar rotation and MMSE sketch.

    By dimension, a pair for each budget: ratios of means over the draws, with Student's interval
    of the upper mean over the lower one's estimate (few draws of few coordinates have no stable
    ratio each).
    """
    found = {}
    for dim, child in zip(dims, children(seed, len(dims)), strict=True):
        drawn = np.array([_errors(dim, bits, tokens, one) for one in children(child, draws)])
        found[dim] = [_ratios(of_budget) for of_budget in drawn.swapaxes(0, 1)]
    return found


def _errors(dim: int, bits: Sequence[int], tokens: int, seed: np.random.SeedSequence) -> FloatArray:
    """KL and squared error of KQV and of QKQV on one draw: shape (budget, scheme, 2)."""
    rng = np.random.default_rng(seed)
    k = synthetic.draw(synthetic.GAUSSIAN, tokens, dim, rng=rng)
    q, state = draw_queries(k, 16, rng), int(rng.integers(2**31))
    found = []
    for n in bits:
        plain = RotatedQuantizer(n, rotation="haar", side_dtype="float32")
        sketched = RotatedQuantizer(
            n, rotation="haar", sketch="haar", sketch_scale="mmse", side_dtype="float32"
        )
        decoded = [z.encode(k, seed=state).decode() for z in (plain, sketched)]
        found.append(
            [
                (attention.attention_kl(q, k, x).mean(), metrics.relative_mse(k, x).mean())
                for x in decoded
            ]
        )
    return np.array(found)


def _ratios(errors: FloatArray) -> tuple[Interval, Interval]:
    """Mean of the second scheme over that of the first: (KL, squared error).

    The interval is that of the mean of ``upper - ratio * lower``, the delta method's.
    """
    found = []
    for what in range(2):
        lower, upper = errors[:, 0, what], errors[:, 1, what]
        ratio = upper.mean() / lower.mean()
        spread = mean_interval((upper - ratio * lower) / lower.mean())
        found.append(Interval(ratio, ratio + spread.low, ratio + spread.high, len(errors)))
    return found[0], found[1]
