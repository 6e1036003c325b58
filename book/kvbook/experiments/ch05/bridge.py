"""KL as a bridge: from the direction error of keys to misrouted weight and a wrong output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import spearmanr

from kvbook.experiments.ch05.keys import SCALES, Keys, by_scale, keys_and_queries
from kvbook.experiments.common import children, key_quantizer
from kvlib import attention_kl, attention_weights, stats
from kvlib.checks import FloatArray
from kvlib.data import synthetic
from kvlib.data.synthetic import Family
from kvlib.measure import metrics
from kvlib.quantize import RotatedQuantizer, Scheme
from kvlib.stats import Interval

SEEN = ("direction", "kl", "routing", "output")
LINKS = {
    "direction error to KL": ("direction", "kl"),
    "KL to routing": ("kl", "routing"),
    "KL to output error": ("kl", "output"),
}
"""What C12 says KL connects, link by link."""
ENDS = ("direction", "output")
"""Both ends of the bridge, without KL between them."""
PAPER_FAMILIES = (
    synthetic.GAUSSIAN,
    synthetic.student_t(3),
    synthetic.student_t(1.05),
    synthetic.low_rank(4),
)
BRIDGE_FAMILIES = (*PAPER_FAMILIES, synthetic.common_mean(0.5))
"""The paper's families, and one that the book adds."""
PAPER_ARMS = ("KV", "KQV", "QKQV, Gaussian")
BRIDGE_ARMS = (*PAPER_ARMS, "QKQV, orthogonal")
"""The paper's schemes for keys, and a sketch that the book adds."""


@dataclass(frozen=True, eq=False)
class ValueDependence:
    """KL of each query, shape (queries,), where only values may differ and where keys do.

    Attributes
    ----------
    reference : ndarray
        Keys and values quantized by KQV.
    other_values : list of ndarray
        Other values, longer ones, or another scheme for them: the keys are the same.
    other_keys : ndarray
        The keys sketched.
    """

    reference: FloatArray
    other_values: list[FloatArray]
    other_keys: FloatArray

    @property
    def value_change(self) -> float:
        """Largest change of any KL that comes from the values."""
        return max(float(np.abs(kl - self.reference).max()) for kl in self.other_values)

    @property
    def key_change(self) -> Interval:
        """Mean relative change of KL that comes from the keys."""
        return stats.mean_interval(np.abs(self.other_keys / self.reference - 1))


def measure_value_dependence(
    schemes: Mapping[str, Scheme], seed: np.random.SeedSequence
) -> ValueDependence:
    """Encode 256 keys with several values and schemes: ``KQV``, ``WHT`` and ``QKQV``.

    WHT quantizes keys as KQV does and rotates values besides; QKQV sketches the keys.
    """
    rng = np.random.default_rng(seed)
    k, v, other = (rng.standard_normal((256, 128)) for _ in range(3))
    q = rng.standard_normal((32, 128))

    def kl(name: str, values: FloatArray) -> FloatArray:
        keys = schemes[name].encode(k, values, seed=9).decode()[0]
        return attention_kl(q, k, keys)

    alike = [kl("KQV", other), kl("KQV", 100 * v), kl("WHT", v)]
    return ValueDependence(kl("KQV", v), alike, kl("QKQV", v))


BridgeCell = tuple[Family, str, int]
"""Family of keys, arm, bits."""


@dataclass(frozen=True, eq=False)
class Bridge:
    """Four errors of every case.

    Attributes
    ----------
    cells : list of BridgeCell
    seen : ndarray, shape (draws, cells, 4, scales)
        Direction error of K, KL, misrouted weight and relative squared error of the output; mean
        over queries, at every scale of the logits.
    """

    cells: list[BridgeCell]
    seen: FloatArray

    def of(self, name: str) -> FloatArray:
        """One of ``direction``, ``kl``, ``routing``, ``output``: shape (draws, cells, scales)."""
        return np.asarray(self.seen[:, :, SEEN.index(name)])

    def of_paper(self) -> Bridge:
        """Its cases of the paper's own families and schemes."""
        own = [x[0] in PAPER_FAMILIES and x[1] in PAPER_ARMS for x in self.cells]
        cells = [cell for cell, of_paper in zip(self.cells, own, strict=True) if of_paper]
        return Bridge(cells, self.seen[:, own])


def errors_of_case(
    keys: Keys, v: FloatArray, p: FloatArray, quantizer: RotatedQuantizer, seed: int
) -> FloatArray:
    """The four errors of one case at every scale, shape (4, scales); values are exact."""
    k_hat = quantizer.encode(keys.k, seed=seed).decode()
    p_hat = attention_weights(keys.q, k_hat)
    direction = np.full(len(keys.q), metrics.direction_error(keys.k, k_hat).mean())
    kl = attention_kl(keys.q, keys.k, k_hat)
    routing = np.abs(p_hat - p).sum(axis=-1) / 2
    return by_scale(np.array([direction, kl, routing, metrics.relative_mse(p @ v, p_hat @ v)]))


def measure_bridge(
    families: Sequence[Family],
    arms: Sequence[str],
    budgets: Sequence[int],
    seed: np.random.SeedSequence,
    *,
    draws: int = 6,
) -> Bridge:
    """Every family under every arm and budget; cases of a draw share a seed for the quantizer."""
    cells = [(family, arm, bits) for family in families for arm in arms for bits in budgets]
    seen = []
    for i, child in enumerate(children(seed, draws)):
        rng, of_draw = np.random.default_rng(child), []
        for family in families:
            keys = keys_and_queries(family, 128, rng)
            v, p = rng.standard_normal(keys.k.shape), attention_weights(keys.q, keys.k)
            for arm in arms:
                for bits in budgets:
                    of_draw.append(errors_of_case(keys, v, p, key_quantizer(arm, bits), 7 * i))
        seen.append(of_draw)
    return Bridge(cells, np.array(seen))


def in_order(x: FloatArray, y: FloatArray) -> FloatArray:
    """Share of pairs of cases of which one has the larger x and the larger y; axis 1 has the cases.

    One half for numbers that have nothing to do with each other, one for the same order.
    """
    first, second = np.triu_indices(x.shape[1], 1)
    of_x, of_y = (np.sign(z[:, first] - z[:, second]) for z in (x, y))
    return np.asarray(np.mean(of_x * of_y > 0, axis=1))


def concordance(bridge: Bridge, pair: tuple[str, str]) -> dict[int, list[Interval]]:
    """Pairs in order among the cases of one budget, by bits; an interval over draws a scale."""
    x, y = (bridge.of(name) for name in pair)
    found = {}
    for bits in sorted({cell[2] for cell in bridge.cells}):
        of_budget = [cell[2] == bits for cell in bridge.cells]
        shares = in_order(x[:, of_budget], y[:, of_budget])
        found[bits] = [stats.mean_interval(shares[:, s]) for s in range(len(SCALES))]
    return found


def across_families(bridge: Bridge) -> Interval:
    """Pairs in order of direction error and KL where only the family differs.

    Scheme, budget and logit scale are fixed; the mean over all of them, an interval over draws.
    """
    x, y = (bridge.of(name) for name in LINKS["direction error to KL"])
    alike = sorted({(arm, bits) for _, arm, bits in bridge.cells})
    shares = []
    for one in alike:
        of_scheme = [(arm, bits) == one for _, arm, bits in bridge.cells]
        shares.append(in_order(x[:, of_scheme], y[:, of_scheme]))
    return stats.mean_interval(np.mean(shares, axis=(0, 2)))


def _spearman(x: FloatArray, y: FloatArray) -> Interval:
    """Rank correlation, an interval over draws: the leading axis."""
    found = [spearmanr(a.ravel(), b.ravel()).statistic for a, b in zip(x, y, strict=True)]
    return stats.mean_interval(found)


def lowest_within_budget(bridge: Bridge) -> Interval:
    """The lowest rank correlation of direction error and KL, of all budgets and logit scales."""
    x, y = (bridge.of(name) for name in LINKS["direction error to KL"])
    found = []
    for bits in sorted({cell[2] for cell in bridge.cells}):
        of_budget = [cell[2] == bits for cell in bridge.cells]
        found += [_spearman(x[:, of_budget, s], y[:, of_budget, s]) for s in range(len(SCALES))]
    return min(found, key=lambda i: i.estimate)


def across_budgets(bridge: Bridge, scale: int = 1) -> tuple[Interval, Interval]:
    """Rank correlation with KL over all cases of a logit scale: direction error, bits alone."""
    x, y = (bridge.of(name)[..., scale] for name in LINKS["direction error to KL"])
    bits = np.broadcast_to([-cell[2] for cell in bridge.cells], y.shape)
    return _spearman(x, y), _spearman(bits.astype(float), y)


def scale_ratio(bridge: Bridge) -> Interval:
    """KL at the largest logit scale over that at the smallest, geometric mean of the cases."""
    kl = bridge.of("kl")
    return stats.geometric_mean_interval(np.exp(np.log(kl[..., -1] / kl[..., 0]).mean(axis=1)))
