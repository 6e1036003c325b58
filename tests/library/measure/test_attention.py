"""Attention rows, outputs and the KL divergence, against closed forms and extended precision."""

import math
import threading
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax

from kvlib.measure import attention


def reference_kl(q, k, k_hat, *, scale, causal=False):
    """KL row by row in extended precision, by the definition."""
    q, k, k_hat = (x.astype(np.longdouble) for x in (q, k, k_hat))
    queries, tokens = len(q), len(k)
    out = []
    for i in range(queries):
        seen = i + tokens - queries + 1 if causal else tokens
        exact, noisy = (scale * (x[:seen] @ q[i]) for x in (k, k_hat))
        log_p, log_p_hat = (x - x.max() - np.log(np.exp(x - x.max()).sum()) for x in (exact, noisy))
        out.append(float((np.exp(log_p) * (log_p - log_p_hat)).sum()))
    return np.array(out)


def naive_float32_kl(q, k, k_hat, *, scale):
    """What is usually written: two log-softmax rows in float32."""
    q, k, k_hat = (x.astype(np.float32) for x in (q, k, k_hat))
    log_p, log_p_hat = (log_softmax(np.float32(scale) * q @ x.T, axis=-1) for x in (k, k_hat))
    return (np.exp(log_p) * (log_p - log_p_hat)).sum(-1)


def draw(seed, queries=5, tokens=40, dim=16, noise=0.1, dtype=np.float64):
    rng = np.random.default_rng(seed)
    q, k = rng.standard_normal((queries, dim)), rng.standard_normal((tokens, dim))
    k_hat = k + noise * rng.standard_normal(k.shape)
    return q.astype(dtype), k.astype(dtype), k_hat.astype(dtype)


# Rows ------------------------------------------------------------------------------------------


def test_weights_match_scipy_and_sum_to_one():
    q, k, _ = draw(0)
    expected = np.exp(log_softmax(q @ k.T / 4, axis=-1))
    np.testing.assert_allclose(attention.attention_weights(q, k), expected, rtol=1e-13)


@pytest.mark.parametrize("queries", [1, 3, 7])
def test_causal_mask_aligns_the_last_query_with_the_last_key(queries):
    q, k, _ = draw(1, queries=queries, tokens=7)
    p = attention.attention_weights(q, k, causal=True)
    for i in range(queries):
        seen = i + 7 - queries + 1
        assert (p[i, seen:] == 0).all()
        np.testing.assert_allclose(
            p[i, :seen], attention.attention_weights(q[i : i + 1], k[:seen])[0]
        )
    assert p[-1].min() > 0


def test_output_is_the_weighted_mean_of_values_in_any_block_size():
    rng = np.random.default_rng(2)
    q, k = rng.standard_normal((2, 3, 9, 8)), rng.standard_normal((2, 3, 11, 8))
    v = rng.standard_normal((2, 3, 11, 5))
    for causal in (False, True):
        expected = attention.attention_weights(q, k, causal=causal) @ v
        for block_bytes in (1, 5000, 10**8):
            output = attention.attention_output(q, k, v, causal=causal, block_bytes=block_bytes)
            np.testing.assert_allclose(output, expected, rtol=1e-12, atol=1e-14)


def test_grouped_queries_broadcast_over_an_inserted_axis():
    rng = np.random.default_rng(3)
    q = rng.standard_normal((2, 3, 4, 8))  # two key heads, three query heads each
    k, k_hat = rng.standard_normal((2, 2, 6, 8))
    grouped = attention.attention_kl(q, k[:, None], k_hat[:, None])
    assert grouped.shape == (2, 3, 4)
    np.testing.assert_array_equal(grouped[1, 2], attention.attention_kl(q[1, 2], k[1], k_hat[1]))


def test_row_statistics_of_uniform_and_certain_rows():
    rows = np.array([[0.25] * 4, [1.0, 0, 0, 0]])
    stats = attention.row_statistics(rows)
    np.testing.assert_allclose(stats.S2, [1 / 4, 1])
    np.testing.assert_allclose(stats.S3, [1 / 16, 1])
    np.testing.assert_allclose(stats.entropy, [math.log(4), 0])
    np.testing.assert_allclose(stats.effective_tokens, [4, 1])


@pytest.mark.parametrize("rows", [[[0.5, 0.4]], [[1.5, -0.5]], [[np.nan, 1.0]]])
def test_row_statistics_refuses_rows_that_are_no_distribution(rows):
    with pytest.raises(ValueError, match="p must hold probability rows"):
        attention.row_statistics(np.array(rows))


# KL --------------------------------------------------------------------------------------------


def test_kl_of_two_keys_in_closed_form():
    # One query of ones: the logits are (a, 0) and (b, 0), the rows two Bernoulli laws.
    for a, b in [(0.3, 0.1), (2.0, -1.0), (-3.0, -3.0001), (0.0, 20.0)]:
        p, p_hat = 1 / (1 + math.exp(-a)), 1 / (1 + math.exp(-b))
        expected = p * math.log(p / p_hat) + (1 - p) * math.log((1 - p) / (1 - p_hat))
        q = np.ones((1, 1))
        kl = attention.attention_kl(q, np.array([[a], [0]]), np.array([[b], [0]]), scale=1.0)
        assert kl[0] == pytest.approx(expected, rel=1e-6, abs=1e-15)


@pytest.mark.parametrize("noise", [1e-4, 1e-2, 0.3, 3.0])
@pytest.mark.parametrize("causal", [False, True])
def test_kl_matches_extended_precision(noise, causal):
    q, k, k_hat = draw(4, noise=noise)
    expected = reference_kl(q, k, k_hat, scale=0.25, causal=causal)
    kl = attention.attention_kl(q, k, k_hat, causal=causal)
    # The first noise gives KL near 1e-8, where the reference itself keeps 1e-10 (1e-7 where
    # long double is double).
    np.testing.assert_allclose(kl, expected, rtol=1e-6)


def test_tiny_kl_survives_float32_input_and_the_naive_form_does_not():
    q, k, k_hat = draw(5, queries=200, noise=1.5e-4, dtype=np.float32)
    expected = reference_kl(q, k, k_hat, scale=0.25)
    assert 1e-9 < np.median(expected) < 1e-7
    kl = attention.attention_kl(q, k, k_hat)
    np.testing.assert_allclose(kl, expected, rtol=1e-4)
    # Negative control: the same check must reject the usual float32 form.
    naive = naive_float32_kl(q, k, k_hat, scale=0.25)
    assert (naive < 0).any()
    assert np.median(np.abs(naive / expected - 1)) > 0.1


def test_second_order_law_of_small_errors():
    # Var of delta under p over two, to leading order: the next order is of relative size noise.
    q, k, k_hat = draw(6, noise=1e-5)
    p = attention.attention_weights(q, k)
    delta = q @ (k_hat - k).T / 4
    variance = (p * delta**2).sum(-1) - (p * delta).sum(-1) ** 2
    np.testing.assert_allclose(attention.attention_kl(q, k, k_hat), variance / 2, rtol=1e-3)


@pytest.mark.parametrize("shift", [1e-3, 1.0, 100.0])
def test_an_error_common_to_all_keys_cancels(shift):
    q, k, _ = draw(7)
    common = shift * np.random.default_rng(8).standard_normal(16)
    assert attention.attention_kl(q, k, k + common).max() <= 1e-15
    # Negative control: the same shift on one key alone does not cancel.
    alone = k.copy()
    alone[3] += common
    assert attention.attention_kl(q, k, alone).max() > 1e-12


def test_identical_keys_and_single_keys_give_exactly_zero():
    q, k, k_hat = draw(9)
    assert (attention.attention_kl(q, k, k) == 0).all()
    assert (attention.attention_kl(q, k[:1], k_hat[:1]) == 0).all()
    assert attention.attention_kl(q, k[:5], k_hat[:5], causal=True)[0] == 0


def test_kl_does_not_depend_on_the_order_of_keys():
    q, k, k_hat = draw(10)
    order = np.random.default_rng(11).permutation(len(k))
    np.testing.assert_allclose(
        attention.attention_kl(q, k[order], k_hat[order]),
        attention.attention_kl(q, k, k_hat),
        rtol=1e-12,
    )


def test_kl_of_a_causal_mask_is_the_row_by_row_loop():
    q, k, k_hat = draw(12, queries=6, tokens=9)
    kl = attention.attention_kl(q, k, k_hat, causal=True, block_bytes=4000)
    by_hand = [
        attention.attention_kl(q[i : i + 1], k[: i + 4], k_hat[: i + 4])[0] for i in range(6)
    ]
    np.testing.assert_allclose(kl, by_hand, rtol=1e-12)
    # Negative control: aligning the first query with the first key is another number.
    misaligned = [
        attention.attention_kl(q[i : i + 1], k[: i + 1], k_hat[: i + 1])[0] for i in range(6)
    ]
    assert not np.allclose(kl, misaligned, rtol=1e-3)


@pytest.mark.parametrize("size", [600.0, 1e4, 1e6])
def test_huge_errors_give_a_finite_divergence(size):
    # Logits (0, 0): p = (1/2, 1/2). Noisy (0, size): KL = size/2 - log 2 up to exp(-size).
    q, zero = np.ones((1, 1)), np.zeros((2, 1))
    kl = attention.attention_kl(q, zero, np.array([[0.0], [size]]), scale=1.0)
    assert kl[0] == pytest.approx(size / 2 - math.log(2), rel=1e-12)


def test_huge_error_on_a_key_whose_probability_underflows():
    # p = (1, e^-1000): exp(-1000) is 0 in float64, yet an error of 3000 puts all weight on it.
    q, k = np.ones((1, 1)), np.array([[0.0], [-1000.0]])
    kl = attention.attention_kl(q, k, k + np.array([[0.0], [3000.0]]), scale=1.0)
    assert kl[0] == pytest.approx(2000.0, rel=1e-12)
    # ... and an error of 900 leaves it at e^-100: KL = log(1 + e^-100), neither 0 nor noise.
    kl = attention.attention_kl(q, k, k + np.array([[0.0], [900.0]]), scale=1.0)
    assert kl[0] == pytest.approx(math.exp(-100), rel=1e-9, abs=0)


def test_the_two_branches_agree_where_they_meet(monkeypatch):
    # Past 40 the terms 1 + eta that the log domain drops are below 1e-15 of exp(eta).
    q, k, k_hat = draw(13, noise=30.0)
    direct = attention.attention_kl(q, k, k_hat)
    assert direct.max() > 40
    monkeypatch.setattr(attention, "_LARGE", 40.0)
    np.testing.assert_allclose(attention.attention_kl(q, k, k_hat), direct, rtol=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.floats(-8, 4),
    st.integers(1, 6),
    st.integers(1, 6),
    st.booleans(),
)
def test_kl_is_finite_non_negative_and_independent_of_blocks(seed, log_noise, rows, cols, causal):
    cols = max(rows, cols)
    q, k, k_hat = draw(seed, queries=rows, tokens=cols, dim=2, noise=10.0**log_noise)
    whole = attention.attention_kl(q, k, k_hat, causal=causal)
    assert np.isfinite(whole).all()
    assert (whole >= 0).all()
    pieces = attention.attention_kl(q, k, k_hat, causal=causal, block_bytes=1)
    # Where KL is below the square of the unit roundoff only rounding is left to compare.
    np.testing.assert_allclose(pieces, whole, rtol=1e-9, atol=1e-24)


def test_kl_batches_agree_with_single_heads_and_broadcast_reconstructions():
    rng = np.random.default_rng(14)
    q, k = rng.standard_normal((2, 4, 3, 20, 8)).astype(np.float32)
    k_hat = k + rng.standard_normal((5, *k.shape)).astype(np.float32)
    for block_bytes in (1, 40_000, 10**8):
        kl = attention.attention_kl(q, k, k_hat, causal=True, block_bytes=block_bytes)
        assert kl.shape == (5, 4, 3, 20)
        assert kl.dtype == np.float64
        single = attention.attention_kl(q[2, 1], k[2, 1], k_hat[3, 2, 1], causal=True)
        np.testing.assert_allclose(kl[3, 2, 1], single, rtol=1e-9)


@pytest.mark.parametrize("batched", [False, True])
def test_memory_does_not_grow_with_the_number_of_queries(batched, monkeypatch):
    monkeypatch.setenv("KVLIB_NUM_THREADS", "1")  # the budget is a thread's
    tokens, dim, block_bytes = 512, 16, 1 << 21
    rng = np.random.default_rng(15)
    k = rng.standard_normal((tokens, dim))
    k_hat = k + 0.1

    def peak(queries, room=block_bytes):
        lead = (queries // 256,) if batched else ()
        q = rng.standard_normal((*lead, 256 if batched else queries, dim))
        tracemalloc.start()
        attention.attention_kl(q, k, k_hat, block_bytes=room)
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        # The result and the finiteness check of the input are of the size of the queries.
        return used - q.size - 8 * queries

    small, large = peak(1024), peak(16384)
    assert large < 1.5 * block_bytes + 4 * k.nbytes
    assert large < small + block_bytes / 4
    # Negative control: with room for all rows they take thirty times the budget.
    assert peak(16384, 1 << 30) > 30 * block_bytes


# The compiled kernel ---------------------------------------------------------------------------


@pytest.fixture
def numpy_kl(monkeypatch):
    """attention_kl with the kernels off."""

    def call(*args, **kwargs):
        with monkeypatch.context() as patch:
            patch.setenv("KVLIB_KERNELS", "numpy")
            return attention.attention_kl(*args, **kwargs)

    return call


@pytest.fixture
def compiled_only(monkeypatch):
    """Fail where numpy would take a block from the kernel."""
    pytest.importorskip("numba")

    def refuse(logits, delta):
        raise AssertionError("numpy was asked")

    monkeypatch.setattr(attention, "_kl_from_errors", refuse)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("tokens", [1, 2, 3, 7, 8, 9, 31, 64, 129, 1000])
def test_the_kernel_is_the_numpy_form(tokens, causal, dtype, numpy_kl):
    pytest.importorskip("numba")
    for noise in (1e-8, 1e-4, 0.05, 0.5, 20.0):
        q, k, k_hat = draw(tokens, min(5, tokens), tokens, noise=noise, dtype=dtype)
        kl = attention.attention_kl(q, k, k_hat, causal=causal)
        # Both round eta to 1e-16 of the largest delta; squared where there is nothing else.
        floor = (1e-15 * noise) ** 2
        np.testing.assert_allclose(kl, numpy_kl(q, k, k_hat, causal=causal), rtol=2e-11, atol=floor)


def test_the_kernel_takes_what_it_can_and_numpy_the_rest(compiled_only):
    q, k, k_hat = draw(16)
    attention.attention_kl(q, k, k_hat)
    # Control: a row with a huge error is numpy's.
    with pytest.raises(AssertionError, match="numpy was asked"):
        attention.attention_kl(q, k, k + 1e4 * (np.arange(40) == 7)[:, None])
    # One that overflows is refused, however little the keys differ.
    for size in (1e160, 1e300):
        with pytest.raises(ValueError, match="beyond the range"), np.errstate(all="ignore"):
            attention.attention_kl(size * q, size * k, size * k_hat)


@pytest.mark.parametrize(
    "size", [-2.0, -0.4, -1e-3, -1e-9, 1e-9, 1e-3, 0.09, 0.11, 0.4, 2.0, 300.0]
)
def test_one_error_in_closed_form(size, compiled_only):
    # Uniform p over N keys, one error: KL = log(1 + (e^s - 1)/N) - s/N, without cancellation.
    for tokens in (2, 5, 16, 33):
        k = np.zeros((tokens, 1))
        k_hat = k.copy()
        k_hat[-1] = size
        kl = attention.attention_kl(np.ones((1, 1)), k, k_hat, scale=1.0)
        x, n = np.longdouble(size), np.longdouble(tokens)
        expected = np.log1p(np.expm1(x) / n) - x / n
        if abs(size) < 0.01:  # its own Taylor series, as the difference cancels
            w = 1 / n
            expected = w * (1 - w) * (x**2 / 2 + (1 - 2 * w) * x**3 / 6)
        assert kl[0] == pytest.approx(float(expected), rel=1e-6 if abs(size) < 0.01 else 1e-12)


def test_a_vanishing_weight_is_zero_and_not_garbage(compiled_only):
    # Logits 0 and -x: p = e^-x down to where float64 has no normal number left.
    for x in (1.0, 40.0, 700.0, 707.9, 708.1, 746.0, 1e6, 1e300):
        kl = attention.attention_kl(
            np.ones((1, 1)), np.array([[0.0], [-x]]), np.array([[1.0], [-x]]), scale=1.0
        )
        p = 1 / (1 + np.exp(np.longdouble(min(x, 1e4))))
        expected = float(np.log1p(p * np.expm1(np.longdouble(-1))) + p)
        if x <= 700:
            assert kl[0] == pytest.approx(expected, rel=1e-12, abs=0)
        assert abs(kl[0] - expected) < 1e-13 * expected + 1e-307


def test_a_weight_below_float64_stays_nothing_under_a_large_error(compiled_only):
    # exp(-2000 + 499) is nothing; a weight flushed to the least normal number would give 1e-92.
    k, k_hat = np.array([[0.0], [-2000.0]]), np.array([[0.0], [-1501.0]])
    assert attention.attention_kl(np.ones((1, 1)), k, k_hat, scale=1.0)[0] == 0


def test_a_logit_that_overflows_on_one_key_is_refused(numpy_kl):
    # Minus infinity would pass for a weight of zero; the error of that key is none.
    q, k = np.full((1, 2), 1e200), np.array([[0.0, 0.0], [-1e200, -1e200], [0.0, 1.0]])
    for kl in (attention.attention_kl, numpy_kl):
        with pytest.raises(ValueError, match="beyond the range of float64"):
            kl(q, k, k)


@pytest.mark.parametrize("shape", [(3, 5), (), (40,)])
@pytest.mark.parametrize("function", ["attention_kl", "attention_output"])
def test_threads_change_nothing(shape, function, monkeypatch):
    rng = np.random.default_rng(17)
    q, k, k_hat = (rng.standard_normal((*shape, n, 16)) for n in (30, 50, 50))
    whom = set()
    genuine = attention._take

    def take(*args):
        whom.add(threading.get_ident())
        return genuine(*args)

    monkeypatch.setattr(attention, "_take", take)
    for causal in (False, True):
        results = []
        for threads in ("1", "2", "5"):
            monkeypatch.setenv("KVLIB_NUM_THREADS", threads)
            whom.clear()
            results.append(
                getattr(attention, function)(q, k, k_hat, causal=causal, block_bytes=20_000)
            )
            assert (len(whom) == 1) == (threads == "1")  # the threads are there
        np.testing.assert_array_equal(results[0], results[1])
        np.testing.assert_array_equal(results[0], results[2])


def test_an_error_in_a_thread_reaches_the_caller(monkeypatch):
    monkeypatch.setenv("KVLIB_NUM_THREADS", "3")
    q = np.full((50, 2, 8), 1e200)
    with pytest.raises(ValueError, match="beyond the range of float64"):
        attention.attention_output(q, q, q, block_bytes=1)


# Refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": np.zeros((4, 5))}, "q must have 5 coordinates"),
        ({"k_hat": np.zeros((3, 8))}, "k_hat must have 4 tokens as k has"),
        ({"q": np.full((2, 8), np.nan)}, "q must be finite, got 16 NaN"),
        ({"k": np.zeros((0, 8))}, "k must not be empty"),
        ({"q": np.zeros(8)}, "q must have shape"),
        ({"q": np.zeros((3, 2, 8)), "k": np.zeros((2, 4, 8))}, "leading axes must broadcast"),
        ({"q": np.zeros((6, 8)), "causal": True}, "at least as many keys as queries, got 6 q"),
        ({"scale": -1.0}, "scale must be a finite number > 0, got -1.0"),
        ({"block_bytes": 0}, "block_bytes must be an integer >= 1"),
        ({"q": np.full((2, 8), 1e200), "k": np.full((4, 8), 1e200)}, "beyond the range"),
    ],
)
def test_kl_refuses_bad_input(change, message):
    arguments = {"q": np.ones((2, 8)), "k": np.ones((4, 8)), "k_hat": np.ones((4, 8))} | change
    with pytest.raises(ValueError, match=message):
        attention.attention_kl(**arguments)


def test_weights_refuse_complex_keys_and_overflow():
    with pytest.raises(TypeError, match="k must hold real numbers, got dtype complex128"):
        attention.attention_weights(np.ones((2, 3)), np.ones((2, 3), complex))
    with pytest.raises(ValueError, match="beyond the range of float64"):
        attention.attention_weights(np.full((1, 2), 1e200), np.full((2, 2), 1e200))
