"""Caches as models have them: grouped queries, windows, padding, sampled queries, own scales."""

import dataclasses

import numpy as np
import pytest

from kvlib import attention_kl, attention_output, attention_weights, relative_mse, sweeps
from kvlib.data import captured, heads
from kvlib.data.captured import KVCache
from kvlib.quantize import RotatedQuantizer, named
from kvlib.sweeps import cell

LAYERS, HEADS, GROUP, WINDOWS, TOKENS, DIM, WIDTH = 2, 3, 4, 2, 10, 8, 4


def arrays(seed=0, *, windows=True, queries=TOKENS, dtype=np.float32):
    rng = np.random.default_rng(seed)
    middle = (WINDOWS,) if windows else ()
    q = rng.standard_normal((LAYERS, HEADS * GROUP, *middle, queries, DIM)).astype(dtype)
    k, v = (
        rng.standard_normal((LAYERS, HEADS, *middle, TOKENS, n)).astype(dtype) for n in (DIM, WIDTH)
    )
    return q, k, v


REAL = np.arange(TOKENS) >= np.array([[3], [1]])  # padded on the left
FULL = {
    "causal": True,
    "name": "made up",
    "layers": (4, 9),
    "heads": (0, 2, 5),
    "meta": {"note": "made up"},
    "ids": np.arange(TOKENS, dtype=np.uint16),
    "scale": 0.25,
    "softcap": 2.0,
    "sliding_window": (3, None),
    "sinks": 1,
    "positions": np.where(REAL, REAL.cumsum(-1) + 6, 0),
    "mask": REAL,
    "query_tokens": np.array([1, 4, 5, 8]),
}


def full_cache(**change):
    return KVCache(*arrays(queries=4), **(FULL | change))


def test_defaults_count_layers_and_heads():
    cache = KVCache(*arrays(windows=False))
    assert (cache.layers, cache.heads, cache.causal, cache.name) == (
        (0, 1),
        (0, 1, 2),
        True,
        "cache",
    )
    assert (cache.group, cache.dim, cache.value_dim, cache.tokens, cache.windows) == (
        4,
        8,
        4,
        10,
        1,
    )
    assert KVCache(*arrays()).windows == 2


def test_the_repr_is_a_line_of_shapes():
    q, k, v = arrays()
    assert repr(KVCache(q, k, v, name="mine")) == (
        "KVCache('mine', q (2, 12, 2, 10, 8), k (2, 3, 2, 10, 8), v (2, 3, 2, 10, 4) float32, "
        "causal, group=4, layers=(0, 1), heads=(0, 1, 2))"
    )
    many = KVCache(*np.ones((3, 30, 3, 20, 8)), causal=False, softcap=50.0)
    assert "full, layers=(0, 1, ..., 29)" in repr(many)
    assert repr(many).endswith("heads=(0, 1, 2), softcap=50.0)")
    assert repr(full_cache()).endswith("ids, positions, mask, query_tokens)")
    assert len(repr(full_cache())) < 300


@pytest.mark.parametrize("change", [{}, {"sliding_window": 3}, {"sliding_window": None}])
def test_all_fields_are_saved_and_loaded(tmp_path, change):
    cache = full_cache(**change)
    captured.save(tmp_path / "x.npz", cache)
    loaded = captured.load(tmp_path / "x.npz")
    for field in dataclasses.fields(KVCache):
        mine, theirs = getattr(cache, field.name), getattr(loaded, field.name)
        if isinstance(mine, np.ndarray):
            assert mine.dtype == theirs.dtype
        np.testing.assert_array_equal(mine, theirs)
    assert repr(loaded) == repr(cache)


def test_a_file_without_the_new_fields_loads_as_before(tmp_path):
    q, k, v = np.ones((3, 2, 2, 5, 4), np.float16)
    np.savez(
        tmp_path / "old.npz", q=q, k=k, v=v, layers=[0, 1], heads=[0, 1],
        meta=np.array('{"causal": false, "note": "old"}'),
    )  # fmt: skip
    loaded = captured.load(tmp_path / "old.npz")
    assert (loaded.causal, loaded.meta, loaded.group) == (False, {"note": "old"}, 1)
    assert [getattr(loaded, n) for n in ("scale", "softcap", "sliding_window", "mask")] == [
        None
    ] * 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"causal": true, "model_attention": [1]}', "model_attention in array 'meta' must be an"),
        ('{"causal": true, "model_attention": {"cap": 1}}', "model_attention in array 'meta'"),
        ('{"causal": true, "model_attention": {"scale": -1}}', "scale must be a finite number > 0"),
        ('{"causal": true, "model_attention": {"sinks": "x"}}', "sinks must be an integer >= 0"),
        ('{"causal": true, "model_attention": {"sliding_window": "xy"}}', "sliding_window must be"),
    ],
)
def test_files_with_bad_attention_are_refused(tmp_path, text, message):
    q, k, v = np.ones((3, 2, 2, 5, 4), np.float16)
    path = tmp_path / "bad.npz"
    np.savez(path, q=q, k=k, v=v, layers=[0, 1], heads=[0, 1], meta=np.array(text))
    with pytest.raises((ValueError, TypeError), match=rf"bad\.npz: {message}"):
        captured.load(path)


def test_zero_vectors_and_one_token_are_no_bad_input():
    x = np.zeros((1, 1, 1, 8), np.float16)
    assert KVCache(x, x, x).tokens == 1


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"q": arrays()[0][:, :8]},
            ValueError,
            "q must have a multiple of the heads of k, .* 8 an",
        ),
        (
            {"q": arrays()[0][:, :, :1]},
            ValueError,
            "q must have the layers, windows and coordinate",
        ),
        ({"v": arrays()[2][..., :9, :]}, ValueError, "k and v must have the same layers, heads"),
        ({"q": arrays()[0][..., :9, :]}, ValueError, "query_tokens must say .* 9 queries, 10 tok"),
        ({"layers": (1,)}, ValueError, "layers must name the 2 entries"),
        ({"scale": 0}, ValueError, "scale must be a finite number > 0, got 0"),
        ({"softcap": "50"}, TypeError, "softcap must be a finite number > 0, got '50'"),
        ({"sliding_window": 0}, ValueError, "sliding_window must be an integer >= 1, got 0"),
        ({"sliding_window": [3]}, ValueError, r"one number, or one a layer \(2\), got \[3\]"),
        ({"sliding_window": 3, "causal": False}, ValueError, "sliding_window needs causal=True"),
        ({"sinks": -1}, ValueError, "sinks must be an integer >= 0"),
        (
            {"positions": np.arange(9)},
            ValueError,
            r"positions must have shape \(10,\) or \(2, 10\)",
        ),
        ({"positions": np.zeros(10, int)}, ValueError, "positions must be >= 0 and rise"),
        ({"positions": np.arange(10) - 1}, ValueError, "positions must be >= 0 and rise"),
        ({"positions": np.arange(10.0)}, TypeError, "positions must hold integers"),
        ({"mask": np.ones(10)}, TypeError, "mask must hold booleans, got dtype float64"),
        ({"mask": np.ones((3, 10), bool)}, ValueError, "mask must have shape"),
        ({"mask": np.zeros(10, bool)}, ValueError, "mask must be True for at least one token"),
        ({"query_tokens": np.arange(9)}, ValueError, "query_tokens must be 10 rising indices"),
        ({"query_tokens": np.arange(10)[::-1]}, ValueError, "query_tokens must be 10 rising"),
        ({"query_tokens": np.arange(10) + 1}, ValueError, "from 0 to 9, one a query"),
        ({"mask": np.ma.ones(10, dtype=bool)}, TypeError, "mask must not be a masked array"),
        ({"positions": np.ma.arange(10)}, TypeError, "positions must not be a masked array"),
        ({"q": np.ma.ones((2, 12, 2, 10, 8))}, TypeError, "q must not be a masked array"),
    ],
)
def test_fields_that_do_not_fit_are_refused(change, error, message):
    q, k, v = arrays()
    with pytest.raises(error, match=message):
        KVCache(**({"q": q, "k": k, "v": v} | change))


def test_meta_that_would_be_taken_for_the_files_own_is_refused(tmp_path):
    cache = full_cache(meta={"model_attention": {}})
    with pytest.raises(ValueError, match="meta must not have the key 'model_attention'"):
        captured.save(tmp_path / "x.npz", cache)


# Heads -----------------------------------------------------------------------------------------


def dense(cache, layer, head, member, window, q_row, own):
    """One attention row by its definition, on the tokens that are there."""
    q = cache.q[layer, head * cache.group + member, window, q_row].astype(float)
    k = cache.k[layer, head, window].astype(float)
    real, positions = cache.mask_of_tokens()[window], cache.positions_of_tokens()[window]
    sliding = cache.sliding_window[layer] if cache.sliding_window else None
    logits = q @ k.T * (cache.scale or DIM**-0.5)
    if cache.softcap:
        logits = cache.softcap * np.tanh(logits / cache.softcap)
    for j in range(cache.tokens):
        inside = sliding is None or positions[own] - positions[j] < sliding
        if j > own or not real[j] or not (inside or positions[j] < cache.sinks):
            logits[j] = -np.inf
    p = np.exp(logits - logits.max())
    return p / p.sum()


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"sliding_window": None},
        {"positions": None},
        {"mask": None, "positions": None},
        {"mask": None, "positions": np.arange(10) * 2},
        {"mask": REAL[:, ::-1], "positions": None},
        {"scale": None, "softcap": None, "sinks": 0},
    ],
)
@pytest.mark.parametrize("rows", [None, 2])
def test_queries_of_a_group_attend_to_their_shared_keys(change, rows):
    cache = full_cache(**change)
    real = cache.mask_of_tokens().all(0)
    usable = [i for i, own in enumerate(cache.query_tokens) if real[own]]
    usable = usable if rows is None else usable[-rows:]
    found = list(heads.heads(cache, rows=rows))
    assert [h.label for h in found] == [f"layer {i} head {j}" for i in (4, 9) for j in (0, 2, 5)]
    for number, head in enumerate(found):
        layer, j = divmod(number, HEADS)
        assert head.q.shape == (WINDOWS, GROUP, len(usable), DIM)
        assert head.k.shape == (WINDOWS, 1, TOKENS, DIM)
        assert head.v.shape == (WINDOWS, 1, TOKENS, WIDTH)
        p = attention_weights(head.q, head.k, **head.options)
        output = attention_output(head.q, head.k, head.v, **head.options)
        for window, member in np.ndindex(WINDOWS, GROUP):
            for row, i in enumerate(usable):
                own = cache.query_tokens[i]
                expected = dense(cache, layer, j, member, window, i, own)
                np.testing.assert_allclose(p[window, member, row], expected, atol=1e-13)
                np.testing.assert_allclose(
                    output[window, member, row], expected @ cache.v[layer, j, window], atol=1e-12
                )


def test_attention_that_is_not_told_the_rules_is_another():
    # Negative control of the test above.
    for head in heads.heads(full_cache()):
        told = attention_weights(head.q, head.k, **head.options)
        assert np.abs(told - attention_weights(head.q, head.k, causal=True)).max() > 0.1


def test_repeating_the_keys_gives_the_same_rows_at_three_times_the_heads():
    q, k, v = arrays(windows=False)
    grouped = list(heads.heads(KVCache(q, k, v)))
    repeated = KVCache(q, *(np.repeat(x, GROUP, axis=1) for x in (k, v)))
    apart = list(heads.heads(repeated))
    assert len(apart) == GROUP * len(grouped)
    for number, head in enumerate(apart):
        of_group = grouped[number // GROUP]
        k_hat = named("WHT", 3).key.encode(of_group.k, seed=1).decode()
        kl = attention_kl(of_group.q, of_group.k, k_hat, **of_group.options)
        mine = attention_kl(head.q, head.k, k_hat[:, 0], **head.options)
        np.testing.assert_allclose(kl[:, number % GROUP], mine, rtol=1e-12)


@pytest.mark.parametrize("group", [1, GROUP])
def test_padding_of_a_head_is_left_out_of_its_mean(group):
    q, k, v = arrays()
    cache = KVCache(q[:, : HEADS * group], k, v, mask=REAL)
    for number, head in enumerate(heads.heads(cache)):
        layer, j = divmod(number, HEADS)
        encoded = RotatedQuantizer(3, center=True).encode(head.k, mask=head.mask)
        for window in range(WINDOWS):
            mean = k[layer, j, window, REAL[window]].mean(0)
            np.testing.assert_allclose(encoded.mean[window].ravel(), mean, atol=2e-3)
    assert next(heads.heads(KVCache(q, k, v))).mask is None


def test_a_plain_cache_says_causal_and_no_more():
    x = np.ones((1, 2, 2, 5, 4))
    for causal in (True, False):
        head = next(heads.heads(KVCache(x, x, x, causal=causal), rows=5))
        assert head.options == {"causal": causal}
        assert (head.q.shape, head.k.shape) == ((2, 5, 4), (2, 5, 4))


def test_padding_that_leaves_no_query_is_refused():
    mask = np.arange(TOKENS) < 5
    with pytest.raises(ValueError, match="cache must have a query of a token that is no padding"):
        next(heads.heads(KVCache(*arrays(), mask=np.stack([mask, ~mask]))))
    with pytest.raises(ValueError, match="rows must be an integer from 1 to 5, got 6"):
        next(heads.heads(KVCache(*arrays(), mask=mask), rows=6))


# Sweeps ----------------------------------------------------------------------------------------


def test_a_sweep_attends_as_the_model_does(tmp_path):
    cache = full_cache(mask=None, positions=None)
    captured.save(tmp_path / "x.npz", cache)
    grid = sweeps.Grid(
        schemes=("WHT",), bits=(3,), families=(), caches=(tmp_path / "x.npz",), repetitions=2,
        queries=4, metrics=("kl_mean", "mse_t", "bits_per_coordinate"),
    )  # fmt: skip
    table = sweeps.measure(grid)
    assert len(table) == LAYERS * HEADS * WINDOWS
    of_models = list(heads.heads(cache))
    for row, found in zip(grid.cells(), table.itertuples(), strict=True):
        place = cache.layers.index(row.layer) * HEADS + cache.heads.index(row.head)
        head = of_models[place]
        q, k, v = (x[row.window] for x in (head.q, head.k, head.v))
        scheme, seed = named("WHT", 3), cell.scheme_seed(row, grid.seed)
        k_hat, v_hat = scheme.encode(k, v, seed=seed).decode()
        rules = dict(head.options)
        kl = attention_kl(q, k, k_hat, **rules).mean()
        assert found.kl_mean == pytest.approx(kl, rel=1e-10)
        assert found.bits_per_coordinate == 8 * (3 + 2 + 2 + 2) / (DIM + WIDTH)
        exact, noisy = (
            attention_output(q, k, v, **rules),
            attention_output(q, k_hat, v_hat, **rules),
        )
        assert found.mse_t == pytest.approx(relative_mse(exact, noisy).mean(), rel=1e-10)
        # Negative control: attention that knows causal order only.
        assert abs(found.kl_mean / attention_kl(q, k, k_hat, causal=True).mean() - 1) > 1e-3


def test_a_sweep_refuses_padding(tmp_path):
    captured.save(tmp_path / "x.npz", full_cache())
    with pytest.raises(ValueError, match="caches must have no padding"):
        sweeps.Grid(families=(), caches=(tmp_path / "x.npz",), queries=2)
