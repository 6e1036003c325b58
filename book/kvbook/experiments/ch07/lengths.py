"""C04: keys and queries whose lengths are left as drawn, d=1024."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kvbook.experiments.ch07.cells import SKETCHED, WHT, reconstruction_errors
from kvbook.experiments.ch07.inference import ratio_interval
from kvbook.experiments.ch07.regimes import EXTREME, GAUSSIAN, HEAVY
from kvbook.experiments.common import children
from kvlib import stats
from kvlib.checks import FloatArray
from kvlib.data import synthetic
from kvlib.measure import attention
from kvlib.stats import Interval

WIDE = 1024
PRODUCT = "rank 128 product"
AS_LONG = "Gaussian of the product's length"
LENGTHS = {
    GAUSSIAN: (synthetic.GAUSSIAN, 1.0),
    HEAVY: (synthetic.student_t(3), 1.0),
    EXTREME: (synthetic.student_t(1.05), 1.0),
    "rank 128, unit mean square": (synthetic.low_rank(128), 1.0),
    PRODUCT: (synthetic.low_rank(128), math.sqrt(128)),
    AS_LONG: (synthetic.GAUSSIAN, math.sqrt(128)),
}
"""Law of the keys and factor on it; of the queries, too, where they are of the keys' family."""

QUERY_LAWS = ("Gaussian queries", "queries of the keys' family")
BITS = 4
_CELLS = (WHT, *SKETCHED.values())


@dataclass(frozen=True, eq=False)
class Lengths:
    """KL at four bits with lengths as drawn.

    Attributes
    ----------
    kl : array, shape (repetition, query law, cell, keys)
        Mean over queries, nats. Query laws as in :data:`QUERY_LAWS`; cells: all four bits in the
        codebook, three and a Gaussian sketch, three and a Hadamard sketch; keys as in
        :data:`LENGTHS`.
    """

    kl: FloatArray

    def mean(self, keys: str, law: int) -> Interval:
        """KL of four bits, with queries of a law by its index."""
        return stats.mean_interval(self.kl[:, law, 0, _place(keys)])

    def sketch_ratio(self, keys: str, sketch: str, law: int) -> Interval:
        """KL of three bits and a sketch over that of four bits."""
        kl = self.kl[:, law, :, _place(keys)]
        return ratio_interval(np.log(kl[:, 1 + list(SKETCHED).index(sketch)] / kl[:, 0]))

    def keys_ratio(self, high: str, low: str, law: int = 1) -> Interval:
        """KL of four bits on some keys over that on others."""
        kl = self.kl[:, law, 0]
        return ratio_interval(np.log(kl[:, _place(high)]) - np.log(kl[:, _place(low)]))


def _place(keys: str) -> int:
    return list(LENGTHS).index(keys)


def measure_lengths(
    *, repetitions: int, queries: int, seed: np.random.SeedSequence, tokens: int = 32
) -> Lengths:
    """Measure KL at the usual scale 1/sqrt(d), no length changed other than by the factor."""
    found = []
    for child in children(seed, repetitions):
        rng = np.random.default_rng(child)
        k, own = _as_drawn(tokens, rng), _as_drawn(queries, rng)
        isotropic = rng.standard_normal((1, queries, WIDE)).astype(np.float32)
        errors = dict(reconstruction_errors(k, _CELLS, (BITS,), seed=int(rng.integers(2**31))))
        k_hat = k + np.stack([errors[cell, BITS] for cell in _CELLS])
        found.append([attention.attention_kl(q, k, k_hat).mean(axis=-1) for q in (isotropic, own)])
    return Lengths(np.array(found))


def _as_drawn(count: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Vectors of every law, shape (law, count, d)."""
    drawn = [factor * synthetic.draw(law, count, WIDE, rng=rng) for law, factor in LENGTHS.values()]
    return np.array(drawn, dtype=np.float32)
