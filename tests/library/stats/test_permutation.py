"""Permutation tests: exact on tiny cases, against scipy, and of the size and power they claim.

Simulated rejection rates are held within four binomial standard errors of the nominal one
(false-alarm rate 6e-5 a comparison), or below it where ties make a test conservative. Each check
is shown to reject a p-value known to be wrong.
"""

import itertools
import math
import tracemalloc

import numpy as np
import pytest
import scipy.stats
from scipy.spatial.distance import cdist

from kvlib import stats
from kvlib.stats import energy, permutation

RNG = np.random.default_rng
TRIALS = 1500
LEVEL = 0.05


def band(level=LEVEL, trials=TRIALS):
    return 4 * math.sqrt(level * (1 - level) / trials)


def within(rate, level=LEVEL):
    return abs(rate - level) <= band(level)


def too_high(rate, level=LEVEL):
    return rate > level + band(level)


def normal(rng, n=8, dim=2):
    return rng.standard_normal((n, dim))


def signs(rng, n=8, dim=1):
    """One sign a point: the statistics take few values, each of them often."""
    return rng.choice([-1.0, 1.0], (n, dim))


def run(kind, x, y, rng, **options):
    if kind == "energy":
        return stats.energy_test(x, y, rng=rng, **options)
    return stats.permutation_test(x[:, 0], y[:, 0], statistic=kind, rng=rng, **options)


KINDS = ("energy", "mean", "rank_biserial")


# Exact on tiny cases ---------------------------------------------------------------------------


def relabelled(x, y, paired):
    """All relabellings of two samples, by brute force."""
    if paired:
        for swap in itertools.product([False, True], repeat=len(x)):
            swap = np.array(swap)[:, None]
            yield np.where(swap, y, x), np.where(swap, x, y)
        return
    pooled = np.concatenate([x, y])
    for chosen in itertools.combinations(range(len(pooled)), len(x)):
        inside = np.isin(np.arange(len(pooled)), chosen)
        yield pooled[inside], pooled[~inside]


def value(kind, x, y, paired):
    if kind == "energy":
        return stats.energy_distance(x, y).squared
    if kind == "mean":
        return x[:, 0].mean() - y[:, 0].mean()
    return stats.rank_biserial(x[:, 0], y[:, 0], paired=paired).r


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("draw", [normal, signs])
@pytest.mark.parametrize(("n", "m", "paired"), [(3, 5, False), (4, 4, False), (6, 6, True)])
def test_all_relabellings_by_brute_force(kind, draw, n, m, paired):
    rng = RNG(n)
    x, y = draw(rng, n) + 0.5, draw(rng, m)
    found = run(kind, x, y, rng, paired=paired)
    expected = np.sort([value(kind, *pair, paired) for pair in relabelled(x, y, paired)])
    assert found.null.exact
    assert found.null.values == pytest.approx(expected, abs=1e-10)
    assert found.statistic == pytest.approx(value(kind, x, y, paired), abs=1e-10)
    upper = np.mean(expected >= found.statistic - 1e-10)
    lower = np.mean(expected <= found.statistic + 1e-10)
    p = upper if kind == "energy" else min(1, 2 * min(upper, lower))
    assert found.pvalue == pytest.approx(p)
    assert found.pvalue_interval == stats.Interval(*[found.pvalue] * 3, expected.size)


def test_complete_separation_by_hand():
    # One of the 10 choices of 2 out of 5 puts both largest first; one of 2^3 keeps all signs.
    rng = RNG(0)
    x, y = np.array([8.0, 9]), np.array([1.0, 2, 3])
    for statistic in ("mean", "rank_biserial"):
        one = stats.permutation_test(
            x, y, statistic=statistic, alternative="greater", rng=rng, permutations=10
        )
        assert (one.pvalue, one.null.size, one.null.exact) == (0.1, 10, True)
        pair = stats.permutation_test(
            y + 5, y, statistic=statistic, alternative="less", paired=True, rng=rng
        )
        assert (pair.pvalue, pair.null.size) == (1.0, 8)
    # With one permutation fewer than there are, they are drawn.
    assert not stats.permutation_test(x, y, rng=rng, permutations=9).null.exact


# Against scipy ---------------------------------------------------------------------------------


def mean_difference(a, b, axis=-1):
    return a.mean(axis=axis) - b.mean(axis=axis)


@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
@pytest.mark.parametrize(("n", "m", "paired"), [(5, 6, False), (9, 9, True)])
@pytest.mark.parametrize("draw", [normal, signs])
def test_mean_matches_scipy(alternative, n, m, paired, draw):
    x, y = draw(RNG(n), n)[:, 0] + 0.5, draw(RNG(m + 20), m)[:, 0]
    found = stats.permutation_test(x, y, paired=paired, alternative=alternative, rng=RNG(0))
    expected = scipy.stats.permutation_test(
        (x, y),
        mean_difference,
        permutation_type="samples" if paired else "independent",
        alternative=alternative,
        n_resamples=9999,
        vectorized=True,
    )
    assert found.statistic == pytest.approx(expected.statistic, abs=1e-10)
    assert found.pvalue == pytest.approx(expected.pvalue, abs=1e-10)
    assert found.null.values == pytest.approx(np.sort(expected.null_distribution), abs=1e-10)


@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
def test_rank_test_is_mann_and_whitneys_exact_one(alternative):
    x, y = RNG(1).standard_normal(6) + 1, RNG(2).standard_normal(7)
    found = stats.permutation_test(
        x, y, statistic="rank_biserial", alternative=alternative, rng=RNG(0)
    )
    expected = scipy.stats.mannwhitneyu(x, y, alternative=alternative, method="exact").pvalue
    assert found.pvalue == pytest.approx(expected, abs=1e-10)


def test_energy_matches_scipy_in_six_dimensions():
    rng = RNG(3)
    x, y = rng.standard_normal((5, 6)), rng.standard_normal((6, 6)) + 0.5

    def statistic(i, j):
        return stats.energy_distance(pooled[i.astype(int)], pooled[j.astype(int)]).squared

    pooled = np.concatenate([x, y])
    expected = scipy.stats.permutation_test(
        (np.arange(5), np.arange(5, 11)), statistic, alternative="greater", n_resamples=9999
    )
    found = stats.energy_test(x, y, rng=rng)
    assert found.pvalue == pytest.approx(expected.pvalue, abs=1e-10)
    assert found.null.values == pytest.approx(np.sort(expected.null_distribution), abs=1e-10)


# Random relabellings ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("paired", [False, True])
def test_random_relabellings_approach_all_of_them(kind, paired):
    # 12,870 relabellings of 8 + 8 points, 256 of 8 pairs; 255 random ones against them all.
    rng = RNG(4)
    x, y = normal(rng) + 1.5, normal(rng)
    every = run(kind, x, y, rng, paired=paired, permutations=20_000)
    drawn = run(kind, x, y, rng, paired=paired, permutations=255, confidence=0.9999)
    assert (every.null.exact, drawn.null.exact) == (True, False)
    assert drawn.statistic == pytest.approx(every.statistic)
    assert every.pvalue in drawn.pvalue_interval  # alarm rate 1e-4, or twice that if two-sided
    assert abs(drawn.null.mean - every.null.mean) <= 4.5 * every.null.sd / math.sqrt(255)
    # Negative control: the p-value of the other tail lies outside.
    assert 1 - every.pvalue not in drawn.pvalue_interval


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("paired", [False, True])
def test_pieces_do_not_matter(kind, paired, monkeypatch):
    x, y = normal(RNG(5), 30), normal(RNG(6), 30)
    whole = run(kind, x, y, RNG(7), paired=paired, permutations=200)
    tiny = run(kind, x[:4], y[:4], RNG(7), paired=paired)
    monkeypatch.setattr(permutation, "LABEL_BYTES", 700)
    monkeypatch.setattr(energy, "BLOCK_ENTRIES", 500)
    pieces = run(kind, x, y, RNG(7), paired=paired, permutations=200)
    assert pieces.null.values == pytest.approx(whole.null.values, abs=1e-12)
    assert pieces.pvalue == whole.pvalue
    assert run(kind, x[:4], y[:4], RNG(7), paired=paired).pvalue == tiny.pvalue
    # Negative control: another seed gives other relabellings.
    other = run(kind, x, y, RNG(8), paired=paired, permutations=200)
    assert other.null.values != pytest.approx(whole.null.values, abs=1e-12)


def peak_bytes(call):
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_stays_below_the_matrix_of_distances():
    x, y = RNG(17).standard_normal((2000, 6)), RNG(18).standard_normal((2000, 6))
    limit = 64 * 2**20
    assert peak_bytes(lambda: stats.energy_test(x, y, permutations=200, rng=RNG(0))) < limit
    # Negative control: the matrix of all distances.
    assert peak_bytes(lambda: cdist(np.r_[x, y], np.r_[x, y])) > limit


def test_summary_of_the_null():
    x, y = np.array([0.0, 1.0]), np.array([2.0, 3.0])
    null = stats.permutation_test(x, y, rng=RNG(0)).null
    # 2 of 4 numbers 0..3: differences -2, -1, 0, 0, 1, 2.
    assert null.values.tolist() == [-2, -1, 0, 0, 1, 2]
    assert (null.size, null.mean, null.quantile(0.5), null.quantile(1)) == (6, 0, 0, 2)
    assert null.sd == pytest.approx(math.sqrt(10 / 6))


def test_results_carry_the_interval_of_the_effect():
    rng = RNG(9)
    x, y = rng.standard_normal(20) + 1, rng.standard_normal(20)
    for paired in (False, True):
        options = {"paired": paired, "rng": rng, "permutations": 99}
        mean = stats.permutation_test(x, y, **options)
        assert mean.interval == stats.difference_interval(x, y, paired=paired)
        rank = stats.permutation_test(x, y, statistic="rank_biserial", **options)
        expected = stats.rank_biserial(x, y, paired=paired)
        assert rank.interval == expected.interval
        assert rank.statistic == pytest.approx(expected.r)
        energy = stats.energy_test(x, y, **options)
        assert (energy.interval, energy.name) == (None, "energy_squared")
        assert energy.statistic == pytest.approx(stats.energy_distance(x, y).squared)


# Size and power --------------------------------------------------------------------------------


def rejections(kind, draw, paired, pvalue=lambda found: found.pvalue, permutations=39, shift=0.0):
    """Share of rejections at the level; paired samples share a part common to the pair."""
    rng = RNG(10)
    found = []
    for _ in range(TRIALS):
        x, y = draw(rng) + shift, draw(rng)
        common = 3 * normal(rng) if paired and draw is normal else 0.0
        result = run(kind, x + common, y + common, rng, paired=paired, permutations=permutations)
        found.append(pvalue(result) <= LEVEL)
    return float(np.mean(found))


def strict(found):
    """The variant that lets ties speak against the null."""
    return (1 + (found.null.values > found.statistic + found.tolerance).sum()) / (
        1 + found.null.size
    )


def without_one(found):
    """The variant that leaves the observed labelling out of its own null distribution."""
    return (found.null.values >= found.statistic - found.tolerance).sum() / found.null.size


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("paired", [False, True])
def test_size_on_continuous_data(kind, paired):
    # 39 permutations: one-sided p-values of 1/40, 2/40, two-sided 2/40, so size 0.05 exactly,
    # but for repeated relabellings, which make ties: 256 sign patterns of 8 pairs.
    rate = rejections(kind, normal, paired)
    assert within(rate) or (paired and rate < LEVEL)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("paired", [False, True])
def test_size_on_signs(kind, paired):
    assert not too_high(rejections(kind, signs, paired))


def test_size_check_rejects_strict_inequality_on_signs():
    # With 8 of each sign among 16, a surplus of 2 has probability 0.13 and a strict p-value that
    # counts only the larger ones, 0.01.
    assert too_high(rejections("energy", signs, False, strict))
    assert too_high(rejections("energy", signs, True, strict))


def test_size_check_rejects_a_pvalue_without_the_observed():
    # With 20 permutations (1 + b)/21 <= 0.05 only for b = 0: size 1/21; b/20 <= 0.05 also for
    # b = 1: size 2/21, and p-values of zero occur.
    level = 1 / 21
    assert within(rejections("energy", normal, False, permutations=20), level)
    assert too_high(rejections("energy", normal, False, without_one, permutations=20))
    separated = stats.energy_test(normal(RNG(0)), normal(RNG(1)) + 99, permutations=20, rng=RNG())
    assert without_one(separated) == 0
    assert separated.pvalue == pytest.approx(level)


@pytest.mark.parametrize("kind", KINDS)
def test_power_on_shifted_data(kind):
    # A t test of 8 + 8 normal numbers 2 standard deviations apart has power 0.96, one of 8 pairs
    # 0.93, whatever the common part of 3 standard deviations; ten points less are allowed here.
    t_power = [scipy.stats.nct.sf(scipy.stats.t.ppf(0.975, df), df, 4.0) for df in (14, 7)]
    for paired, power in zip((False, True), t_power, strict=True):
        assert rejections(kind, normal, paired, permutations=199, shift=2.0) > power - 0.1
    # Negative control: a shift half as large is found much less often.
    assert rejections(kind, normal, False, permutations=199, shift=1.0) < t_power[0] - 0.1


def test_pairing_finds_what_the_common_part_drowns():
    rng = RNG(11)
    common = 20 * rng.standard_normal((40, 6))
    x, y = common + rng.standard_normal((40, 6)) + 0.8, common + rng.standard_normal((40, 6))
    together = stats.energy_test(x, y, paired=True, permutations=999, rng=rng)
    apart = stats.energy_test(x, y, permutations=999, rng=rng)
    assert together.pvalue <= 0.002 < 0.5 < apart.pvalue


def test_energy_sees_a_spread_that_the_means_do_not():
    rng = RNG(12)
    x, y = rng.standard_normal(150), 3 * rng.standard_normal(150)
    assert stats.energy_test(x, y, permutations=999, rng=rng).pvalue == 0.001
    assert stats.permutation_test(x - x.mean(), y - y.mean(), rng=rng).pvalue > 0.9


# Ties of rounded sums --------------------------------------------------------------------------


def test_ties_survive_rounding():
    # Tenths are not binary fractions: equal sums come out different in the last digit.
    rng = RNG(13)
    whole_x, whole_y = rng.integers(0, 4, (7, 1)), rng.integers(0, 4, (6, 1))
    for kind in ("energy", "mean"):
        exact = run(kind, whole_x.astype(float), whole_y.astype(float), rng)
        tenths = run(kind, whole_x / 10 + 0.1, whole_y / 10 + 0.1, rng)
        assert tenths.pvalue == exact.pvalue
    # Negative control: without the tolerance some of the ties are lost.
    b = (tenths.null.values >= tenths.statistic).sum() + (
        tenths.null.values <= tenths.statistic
    ).sum()
    ties = (np.abs(exact.null.values - exact.statistic) < 1e-9).sum()
    assert b < tenths.null.size + ties


def test_tolerance_is_above_rounding_and_below_what_counts():
    x, y = RNG(14).standard_normal((150, 6)), RNG(15).standard_normal((250, 6))
    pooled, labels = np.concatenate([x, y]), np.arange(400) < 150
    forth = energy.energy_squared(pooled, labels[None], 150)[0]
    rounding = [
        abs(energy.energy_squared(pooled[order], labels[order][None], 150)[0] - forth)
        for order in (RNG(seed).permutation(400) for seed in range(20))
    ]
    found = stats.energy_test(x, y, permutations=999, rng=RNG(16))
    assert found.tolerance == pytest.approx(
        stats.TIE_TOLERANCE * np.linalg.norm(pooled - pooled.mean(0), axis=1).mean()
    )
    assert 10 * max(rounding) < found.tolerance < found.null.sd / 1e6


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("paired", [False, True])
def test_identical_points_are_no_evidence(kind, paired):
    x = np.full((30, 2), 0.1)
    found = run(kind, x, x, RNG(0), paired=paired, permutations=50)
    assert (found.statistic, found.pvalue) == (0, 1)


# Refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda **o: stats.energy_test([1.0], [1, 2], **o), "x must hold at least 2 points"),
        (lambda **o: stats.permutation_test([1.0], [1, 2], **o), "x must hold at least 2 val"),
        (
            lambda **o: stats.energy_test([1, 2], [1, 2, 3], paired=True, **o),
            "y must have as many samples as x when paired, got 3 against 2",
        ),
        (
            lambda **o: stats.permutation_test([1, 2], [1, 2], statistic="t", **o),
            "statistic must be one of 'mean', 'rank_biserial', got 't'",
        ),
        (
            lambda **o: stats.permutation_test([1, 2], [1, 2], alternative="up", **o),
            "alternative must be one of",
        ),
        (
            lambda **o: stats.energy_test([1, 2], [1, 2], permutations=0, **o),
            "permutations must be an integer >= 1, got 0",
        ),
        (
            lambda **o: stats.energy_test([1, 2], [1, 2], confidence=1, **o),
            r"confidence must be a number in \(0, 1\), got 1",
        ),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(rng=RNG(0))
