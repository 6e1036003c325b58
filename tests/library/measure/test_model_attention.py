"""Attention as models do it: windows, sinks, padding, caps and groups, against a dense reference.

The reference loops over queries and keys in float64 and decides about each pair by itself.
"""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvlib.measure import attention
from kvlib.measure.comparison import Comparison, Exact, Reconstruction
from kvlib.measure.visibility import visibility
from kvlib.quantize import named


def sees(i, j, causal, window, sinks):
    """Whether the query of token i sees key j."""
    if causal and j > i:
        return False
    return not (window is not None and j <= i - window and j >= sinks)


def reference_rows(
    q, k, *, causal=False, scale=None, softcap=None, window=None, sinks=0, query_tokens=None,
    mask=None,
):  # fmt: skip
    """Probabilities of one head, query by query and key by key."""
    queries, tokens = len(q), len(k)
    own = np.arange(queries) + tokens - queries if query_tokens is None else query_tokens
    rows = np.zeros((queries, tokens))
    for i in range(queries):
        logits = {}
        for j in range(tokens):
            if sees(own[i], j, causal, window, sinks) and (mask is None or mask[i, j]):
                logit = float(q[i].astype(float) @ k[j].astype(float))
                logit *= 1 / math.sqrt(q.shape[-1]) if scale is None else scale
                logits[j] = logit if softcap is None else softcap * math.tanh(logit / softcap)
        top = max(logits.values())
        total = math.fsum(math.exp(x - top) for x in logits.values())
        for j, logit in logits.items():
            rows[i, j] = math.exp(logit - top) / total
    return rows


def reference_kl(q, k, k_hat, **rules):
    p, p_hat = reference_rows(q, k, **rules), reference_rows(q, k_hat, **rules)
    terms = np.where(p > 0, p * np.log(np.where(p > 0, p, 1) / np.where(p > 0, p_hat, 1)), 0)
    return terms.sum(-1)


def draw(seed, queries=6, tokens=11, dim=8, dtype=np.float64):
    rng = np.random.default_rng(seed)
    q, k, v = (rng.standard_normal((n, dim)).astype(dtype) for n in (queries, tokens, tokens))
    return q, k, v, (k + 0.3 * rng.standard_normal(k.shape)).astype(dtype)


def some_mask(seed, queries=6, tokens=11):
    mask = np.random.default_rng(seed).random((queries, tokens)) < 0.6
    mask[np.arange(queries), np.arange(queries) + tokens - queries] = True  # its own key
    return mask


RULES = {
    "causal": {"causal": True},
    "scale": {"scale": 1.7},
    "softcap": {"softcap": 0.8, "scale": 1.3},
    "window": {"causal": True, "window": 3},
    "window of one": {"causal": True, "window": 1},
    "window and sinks": {"causal": True, "window": 2, "sinks": 2},
    "sinks alone": {"causal": True, "sinks": 4},
    "wide window": {"causal": True, "window": 50},
    "sampled queries": {"causal": True, "query_tokens": np.array([0, 2, 3, 7, 8, 10])},
    "unordered queries": {"causal": True, "window": 4, "query_tokens": [9, 1, 1, 7, 0, 5]},
    "mask": {"mask": some_mask(1)},
    "causal and mask": {"causal": True, "mask": some_mask(2)},
    "all": {
        "causal": True, "window": 3, "sinks": 1, "mask": some_mask(3), "softcap": 1.1,
        "scale": 0.9,
    },
}  # fmt: skip


@pytest.mark.parametrize("kernels", ["auto", "numpy"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
def test_every_rule_is_the_dense_reference(rules, dtype, kernels, monkeypatch):
    monkeypatch.setenv("KVLIB_KERNELS", kernels)
    q, k, v, k_hat = draw(0, dtype=dtype)
    p = reference_rows(q, k, **rules)
    np.testing.assert_allclose(attention.attention_weights(q, k, **rules), p, rtol=1e-12)
    for block_bytes in (1, 1 << 20):
        options = {**rules, "block_bytes": block_bytes}
        output = attention.attention_output(q, k, v, **options)
        np.testing.assert_allclose(output, p @ v, rtol=1e-11, atol=1e-13)
        kl = attention.attention_kl(q, k, k_hat, **options)
        np.testing.assert_allclose(kl, reference_kl(q, k, k_hat, **rules), rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("name", [n for n in RULES if n not in ("sinks alone", "wide window")])
def test_a_rule_left_out_is_noticed(name):
    # Negative control: without its rule each case is another distribution.
    q, k, _, _ = draw(0)
    rules = RULES[name]
    for rule in rules:
        if rule == "causal":
            continue
        fewer = {other: value for other, value in rules.items() if other != rule}
        p, without = (attention.attention_weights(q, k, **r) for r in (rules, fewer))
        assert np.abs(p - without).max() > 1e-3


@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
def test_groups_share_their_key_head(rules):
    rng = np.random.default_rng(4)
    q = rng.standard_normal((2, 3, 6, 8))  # two key heads, three query heads each
    k, v, k_hat = rng.standard_normal((3, 2, 11, 8))
    grouped = attention.attention_weights(q, k[:, None], **rules)
    kl = attention.attention_kl(q, k[:, None], k_hat[:, None], **rules)
    output = attention.attention_output(q, k[:, None], v[:, None], **rules)
    for i, j in np.ndindex(2, 3):
        p = reference_rows(q[i, j], k[i], **rules)
        np.testing.assert_allclose(grouped[i, j], p, rtol=1e-12)
        np.testing.assert_allclose(output[i, j], p @ v[i], rtol=1e-11, atol=1e-13)
        expected = reference_kl(q[i, j], k[i], k_hat[i], **rules)
        np.testing.assert_allclose(kl[i, j], expected, rtol=1e-9, atol=1e-14)
    # Control: the other key head is another distribution, unless a query sees one key.
    assert (
        rules.get("window") == 1
        or np.abs(grouped[0, 0] - reference_rows(q[0, 0], k[1], **rules)).max() > 1e-3
    )


def test_a_mask_of_each_window_broadcasts_over_its_queries():
    rng = np.random.default_rng(5)
    q, k = rng.standard_normal((2, 4, 7, 8))
    real = np.arange(7) >= np.array([0, 2, 3, 1])[:, None]  # padded on the left
    rules = {"causal": True, "query_tokens": np.arange(3, 7)}
    p = attention.attention_weights(q[:, 3:], k, mask=real[:, None], **rules)
    assert (p[~np.broadcast_to(real[:, None], p.shape)] == 0).all()
    for i in range(4):
        first = 7 - real[i].sum()
        alone = attention.attention_weights(q[i, 3:], k[i, first:], causal=True)
        np.testing.assert_allclose(p[i][:, first:], alone, rtol=1e-13)


def test_tiny_errors_keep_their_digits_under_a_cap():
    # Second order: KL is half the variance of the capped errors, whose slope is 1 - tanh^2.
    q, k, _, _ = draw(6, tokens=40)
    noise = 1e-7 * np.random.default_rng(7).standard_normal(k.shape)
    cap, scale = 1.5, 1 / math.sqrt(8)
    kl = attention.attention_kl(q, k, k + noise, softcap=cap)
    p = attention.attention_weights(q, k, softcap=cap)
    slope = 1 - np.tanh(scale * q @ k.T / cap) ** 2
    delta = slope * (scale * q @ ((k + noise) - k).T)
    variance = (p * delta**2).sum(-1) - (p * delta).sum(-1) ** 2
    np.testing.assert_allclose(kl, variance / 2, rtol=1e-5)
    assert kl.max() < 1e-13
    # Control: the error of uncapped logits is another one.
    assert np.abs(attention.attention_kl(q, k, k + noise) / kl - 1).min() > 0.01


@settings(max_examples=50)
@given(
    st.integers(0, 2**32 - 1), st.integers(1, 8), st.integers(1, 8), st.integers(1, 9),
    st.integers(0, 9), st.floats(0.1, 100),
)  # fmt: skip
def test_any_rules_give_rows_of_sum_one(seed, queries, tokens, window, sinks, cap):
    rng = np.random.default_rng(seed)
    q, k = rng.standard_normal((queries, 4)), rng.standard_normal((tokens, 4))
    own = rng.integers(0, tokens, queries)
    rules = {
        "causal": True, "window": window, "sinks": sinks, "softcap": cap, "query_tokens": own,
    }  # fmt: skip
    p = attention.attention_weights(q, k, **rules)
    np.testing.assert_allclose(p.sum(-1), 1, rtol=1e-12)
    np.testing.assert_allclose(p, reference_rows(q, k, **rules), rtol=1e-10)
    assert (attention.attention_kl(q, k, k, **rules) == 0).all()


def test_the_kernel_is_asked_where_it_knows_the_rules(monkeypatch):
    pytest.importorskip("numba")

    def refuse(logits, delta):
        raise AssertionError("numpy was asked")

    monkeypatch.setattr(attention, "_kl_from_errors", refuse)
    q, k, _, k_hat = draw(8)
    for rules in (
        {"causal": True}, {"softcap": 2.0}, {"causal": True, "window": 11}, {"mask": True},
        {"causal": True, "query_tokens": np.arange(5, 11), "scale": 2.0},
    ):  # fmt: skip
        attention.attention_kl(q, k, k_hat, **rules)
    for rules in ({"causal": True, "window": 2}, {"mask": some_mask(1)}):
        with pytest.raises(AssertionError, match="numpy was asked"):
            attention.attention_kl(q, k, k_hat, **rules)


def test_a_comparison_of_grouped_heads_is_that_of_each_query_head():
    rng = np.random.default_rng(9)
    q, k = rng.standard_normal((2, 3, 5, 16)), rng.standard_normal((2, 12, 16))
    v = rng.standard_normal((2, 12, 8))
    rules = {"softcap": 3.0, "window": 6, "sinks": 1}
    grouped = Exact(q, k, v, True, rules)
    of_grouped = Comparison(grouped, Reconstruction(named("WHT", 3), grouped, 0))
    for j in range(3):
        one = Exact(q[:, j], k, v, True, rules)
        of_one = Comparison(one, Reconstruction(named("WHT", 3), one, 0))
        rows = slice(5 * j, 5 * j + 5)
        np.testing.assert_allclose(of_grouped.kl[:, rows], of_one.kl, rtol=1e-12)
        np.testing.assert_array_equal(of_grouped.exact.top_keys[:, rows], of_one.exact.top_keys)
        np.testing.assert_allclose(of_grouped.output[:, j], of_one.output, rtol=1e-12)
    weights = attention.attention_weights(q, k[:, None], causal=True, **rules)
    np.testing.assert_array_equal(grouped.top_keys, weights.argmax(-1).reshape(2, 15))
    assert of_grouped.t_errors[0].shape == (2,)


@pytest.mark.parametrize(
    ("rules", "error", "message"),
    [
        ({"window": 3}, ValueError, "window needs causal=True"),
        ({"window": 0, "causal": True}, ValueError, "window must be an integer >= 1, got 0"),
        ({"sinks": -1}, ValueError, "sinks must be an integer >= 0, got -1"),
        ({"softcap": 0.0}, ValueError, "softcap must be a finite number > 0, got 0"),
        ({"query_tokens": np.arange(5)}, ValueError, "query_tokens must name a token from 0 to 10"),
        ({"query_tokens": np.arange(6) + 6}, ValueError, "for each of the 6 queries, got shape .6"),
        ({"query_tokens": np.arange(6.0)}, TypeError, "query_tokens must hold integers"),
        ({"mask": np.ones((6, 11))}, TypeError, "mask must hold booleans, got dtype float64"),
        ({"mask": np.eye(6, 10) > 0}, ValueError, r"mask must broadcast to \(1, 6, 11\)"),
        ({"mask": np.arange(11) == 99}, ValueError, "mask must leave every query a key .* got 6 q"),
        (
            {"mask": np.arange(11) > 6, "causal": True},
            ValueError,
            "mask must leave every query a key to see, got 2 queries without one",
        ),
        ({"mask": np.ma.ones(11, dtype=bool)}, TypeError, "mask must not be a masked array"),
        ({"query_tokens": np.ma.arange(6)}, TypeError, "query_tokens must not be a masked"),
    ],
)
def test_rules_that_make_no_sense_are_refused(rules, error, message):
    q, k, v, k_hat = draw(10)
    for call in (
        lambda: attention.attention_weights(q, k, **rules),
        lambda: attention.attention_output(q, k, v, **rules),
        lambda: attention.attention_kl(q, k, k_hat, **rules),
    ):
        with pytest.raises(error, match=message):
            call()


def test_capped_logits_that_overflow_are_refused():
    q, k = np.full((1, 2), 1e200), np.full((2, 2), 1e200)
    for call in (attention.attention_weights, lambda *a, **b: attention.attention_kl(*a, k, **b)):
        with pytest.raises(ValueError, match="beyond the range of float64"):
            call(q, k, softcap=5.0)


def test_rules_are_kept_only_where_they_hide_something():
    plain = visibility(4, 9, causal=True, window=9, mask=np.ones(9, bool))
    assert (plain.window, plain.mask, plain.kernel_knows) == (None, None, True)
    assert not visibility(4, 9, causal=True, window=8).kernel_knows
