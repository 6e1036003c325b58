"""Negative controls of chapter 1, and its pieces by themselves."""

from decimal import localcontext

import matplotlib.pyplot as plt
import numpy as np
import pytest
import worlds
from kvbook.experiments import ch01
from kvbook.experiments.arms import Arm
from kvbook.figures import ch01 as figures

from kvlib import named, save
from kvlib.data.captured import KVCache
from kvlib.stats import mean_interval

SIZES = worlds.sizes("01")
HEADS = 8  # of the model on whose rows T18 is tried


def accuracy(holds):
    """Errors of the two ways to compute a KL, by size of the KL and of a common error."""
    targets, rng = np.array(ch01.TARGETS), np.random.default_rng(1)
    rows = rng.uniform(0.1, 1, (HEADS, targets.size + len(ch01.COMMON_ERRORS)))
    # A log-softmax whose error is one millionth, absolute; or one that is worse at large KL. Rows
    # and rotations scatter as on the page: by a factor of e.
    scatter = np.exp(rng.standard_normal((SIZES["rotations"], HEADS, targets.size)))
    shares = rng.binomial(4, 0.45 if holds else 0.02, (SIZES["rotations"], HEADS)) / 4
    measured = ch01.KLAccuracy(
        truth=np.ones_like(rows),
        relative_error={"shifted": rows * 1e-14 if holds else rows},
        textbook=(1e-6 / targets if holds else 2 * targets) * scatter,
        negative=shares,
    )
    return ch01.judge_t18(ch01.predict_t18(), measured)


def heads_kl(sketched):
    """KL of every head where keys with a sketch have so many times that of keys without."""
    rng, bits = np.random.default_rng(5), (2, 3, 4, 5, 6)
    arms = ("KV", "KQV", "QKQV, Gaussian", "QKQV, orthogonal")
    factors = np.array([1, 1, 2 * sketched, sketched])[:, None, None, None]
    kl = {}
    for name, heads in (("rope-lm", 8), ("rope-lm-saturated", 8), ("minilm", 16)):
        # Models differ by 5%, rotations of a head by 15%.
        model = np.exp(0.05 * rng.standard_normal((len(arms), 1, 1, 1)))
        noise = np.exp(0.15 * rng.standard_normal((len(arms), 5, SIZES["rotations"], heads)))
        kl[name] = 0.01 * factors * model * noise
    return ch01.HeadsKL(arms, (False, True, True, True), bits, kl)


def premise(holds):
    """Keys that are uniform in direction and suffer from a sketch, or one-hots that gain by it."""
    rng = np.random.default_rng(6)
    caches = {}
    for name, shape in (("a", (1, 2, 4, 256, 64)), ("b", (1, 2, 512, 32))):
        x = rng.standard_normal(shape)
        hot = np.eye(shape[-1])[rng.integers(0, shape[-1], shape[:-1])]
        keys = x if holds else hot
        caches[name] = KVCache(x, keys, x, causal=True, name=name, layers=(0,), heads=(0, 1))
    keys = ch01.measure_keys(
        caches, bits=4, rotations=SIZES["rotations"], stream=np.random.SeedSequence(7)
    )
    return ch01.judge_c19(ch01.predict_c19(), heads_kl(1.8 if holds else 0.3), keys)


WORLDS = {"T18": accuracy, "C19": premise}
test_verdict_follows_the_world = worlds.follow(WORLDS)


def noisy_row(scale):
    """A query, keys and their errors, as float32 numbers; a KL of about scale^2."""
    rng = np.random.default_rng(4)
    q, k = rng.standard_normal(16), rng.standard_normal((32, 16))
    k_hat = k + scale * rng.standard_normal(k.shape)
    return tuple(x.astype(np.float32).astype(float) for x in (q, k, k_hat))


def decimal_reference(q, k, k_hat):
    """KL of a row in 50 digits."""
    with localcontext(prec=50):
        return ch01.decimal_kl(ch01.decimal_log_row(q, k), ch01.decimal_log_row(q, k_hat))


@pytest.mark.parametrize("method", list(ch01.KL_METHODS))
def test_methods_agree_where_the_kl_is_large(method):
    row = noisy_row(0.3)
    assert ch01.KL_METHODS[method](*row) == pytest.approx(decimal_reference(*row), rel=1e-4)


def test_a_log_softmax_loses_a_small_kl_and_the_shifted_form_does_not():
    row = noisy_row(1e-6)
    true = decimal_reference(*row)
    assert ch01.shifted_kl(*row) == pytest.approx(true, rel=1e-9)
    assert ch01.KL_METHODS["float32 log-softmax"](*row) != pytest.approx(true, rel=1)


def test_noisy_keys_reach_their_target_whatever_the_common_error():
    q, k, k_hat = noisy_row(0.1)
    for common in (0, 10):
        noisy = ch01.noisy_keys(q, k, k_hat - k, 1e-4, common)
        assert ch01.shifted_kl(q, k, noisy) == pytest.approx(1e-4, rel=0.2)


def test_pairwise_sum_is_a_sum():
    x = np.arange(24.0).reshape(3, 8)
    assert ch01.pairwise_sum(x).tolist() == x.sum(-1).tolist()


def test_vllm_report_has_the_power_of_its_counts():
    # Enumerated by hand for two checks a side: only 0 against 2 could ever differ, at p = 1/3.
    assert ch01.fisher_pvalue(0, 2, checks=2) == pytest.approx(1 / 3)
    assert ch01.fisher_power(2, (0.1, 0.9), level=0.34) == pytest.approx(0.9**4 + 0.1**4)
    assert ch01.checks_needed((0.0, 1.0), power=0.9, candidates=range(2, 9)) == 4
    # Three answers that all changed in one direction: a coin that falls alike three times.
    assert ch01.paired_pvalue(3) == pytest.approx(1 / 4)


def test_cache_of_the_paper_s_formula():
    # Half a mebibyte a token in 16 bits.
    assert ch01.CacheShape(layers=32, heads=32, dim=128).gibibytes(2048, 16) == 1.0


def test_stored_parts_add_up_to_the_bits_of_the_scheme():
    scheme = named("QKV", 4)
    parts = [ch01.stored_vector(q, 64).bits_per_coordinate for q in (scheme.key, scheme.value)]
    assert np.mean(parts) == ch01.stored_bits(scheme, 64)


@pytest.mark.parametrize(("name", "random"), [("KV", False), ("WHT", True), ("QKV", True)])
def test_randomness_is_seen_in_what_is_restored(name, random):
    assert ch01.is_random(named(name, 4).key, 16) == random


@pytest.fixture(scope="module")
def made_up_heads(tmp_path_factory):
    """Two heads of random numbers under three arms, four rotations, two windows."""
    folder = tmp_path_factory.mktemp("heads")
    x = np.random.default_rng(3).standard_normal((1, 2, 2, 16, 8))
    for name in ("a", "b"):
        cache = KVCache(x, x, x, causal=True, name=name, layers=(0,), heads=(0, 1))
        save(folder / f"{name}.npz", cache)
    arms = {name: Arm(name) for name in ("KV", "KQV")}
    arms["QKQV, Gaussian"] = Arm("QKQV", {"sketch": "gaussian"})
    arms["QKQV, orthogonal"] = Arm("QKQV", {"sketch": "hadamard"})
    caches = {name: folder / f"{name}.npz" for name in ("a", "b")}
    return ch01.measure_heads(caches, arms, bits=(2, 4), rotations=4, rows=4, seed=1)


def test_arms_without_randomness_repeat_their_windows(made_up_heads):
    plain, rotated, *_ = made_up_heads.kl["a"]
    assert plain.shape == (2, 4, 2)
    assert made_up_heads.random == (False, True, True, True)
    assert np.array_equal(plain[:, 2:], plain[:, :2])
    assert not np.array_equal(rotated[:, 2:], rotated[:, :2])


def test_ratios_are_of_the_same_heads(made_up_heads):
    ratio = made_up_heads.ratio("KQV", 4)
    assert ratio.interval.estimate == 1
    assert ratio.worse_on == 0
    assert ratio.spread == (1, 1)
    both = [made_up_heads.ratio_in(name, "KV", 2).interval.estimate for name in ("a", "b")]
    together = made_up_heads.ratio("KV", 2).interval.estimate
    assert together == pytest.approx(np.sqrt(np.prod(both)))


def test_intervals_are_over_models_or_over_rotations(made_up_heads):
    assert made_up_heads.ratio("KV", 4).interval.n == 2
    within = made_up_heads.ratio_in("a", "QKQV, Gaussian", 4).interval
    assert within.n == 4
    # Where all rotations agree there is nothing left to vary.
    exact = made_up_heads.ratio_in("a", "KQV", 4).interval
    assert (exact.low, exact.high) == (1, 1)


def test_jackknife_of_one_head_is_that_of_a_mean():
    # A ratio near one over a constant: log of the mean is the mean, to first order.
    kl = 1 + 1e-4 * np.random.default_rng(2).standard_normal((12, 1))
    made = ch01.HeadsKL(
        ("KQV", "QKQV, Gaussian"), (True, True), (4,), {"a": np.stack([[np.ones_like(kl)], [kl]])}
    )
    found = made.ratio_in("a", "QKQV, Gaussian", 4).interval
    assert found.half_width == pytest.approx(mean_interval(kl[:, 0]).half_width, rel=1e-3)


def test_the_figure_shows_arithmetic_means(made_up_heads):
    # seaborn averages in the scale of the axis: on a logarithmic one the mean would be geometric.
    fig = figures.kl_of_heads(made_up_heads, {"a": "a", "b": "b"})
    for cache, ax in zip(made_up_heads.kl, fig.axes, strict=True):
        lines = [
            line for line in ax.lines if len(line.get_xdata()) == 2 and line.get_marker() != ""
        ]
        shown = {tuple(np.round(line.get_ydata(), 12)) for line in lines}
        for arm in made_up_heads.arms:
            means = (made_up_heads.mean_of(cache, arm, n) for n in made_up_heads.bits)
            assert tuple(np.round(list(means), 12)) in shown
    plt.close(fig)
