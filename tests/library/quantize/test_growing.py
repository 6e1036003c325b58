"""What grows is what would have been encoded at once, byte for byte; and its price is foretold."""

import dataclasses
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvlib import BlockQuantizer, RotatedQuantizer, Scheme, named, quantize
from kvlib.quantize import FewTokensWarning, means

MEAN = np.linspace(-1, 1, 16)
GROWING = {
    "plain": (RotatedQuantizer(4), {}),
    "no rotation": (RotatedQuantizer(3, "none"), {}),
    "unbiased": (RotatedQuantizer(3, scale="unbiased"), {}),
    "sketched": (RotatedQuantizer(3, sketch="hadamard"), {}),
    "sketch alone": (RotatedQuantizer(1, sketch="hadamard"), {}),
    "nothing": (RotatedQuantizer(0), {}),
    "given mean": (RotatedQuantizer(3, scale="unbiased", center=True), {"mean": MEAN}),
    "mean a block": (RotatedQuantizer(3, scale="unbiased", center=True, block=8), {}),
    "tokens": (BlockQuantizer(4, size=8), {}),
    "channels": (BlockQuantizer(3, along="tokens", size=8), {}),
    "channels of one": (BlockQuantizer(3, along="tokens", size=1), {}),
}
PARTS = ("codes", "scales", "signs", "residual_norms", "mean", "lows", "steps")


def vectors(tokens=37, dim=16, *, dtype=np.float32, seed=0):
    x = np.random.default_rng(seed).standard_normal((2, 3, tokens, dim)) + 0.5
    x[0, 1, tokens // 3] = 0
    return x.astype(dtype)


def assert_same_bytes(a, b):
    for part in PARTS:
        x, y = getattr(a, part, None), getattr(b, part, None)
        assert (x is None) == (y is None), part
        if x is not None:
            assert (x.dtype, x.shape) == (y.dtype, y.shape), part
            assert x.tobytes() == y.tobytes(), part


def grown(name, x, sizes, seed=5):
    quantizer, options = GROWING[name]
    cache, start = quantizer.grow(seed=seed, **options), 0
    for size in sizes:
        cache.append(x[..., start : start + size, :])
        start += size
    return cache


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("sizes", [[37], [1] * 37, [20, 1, 1, 15], [8, 8, 21], [3, 34]], ids=str)
@pytest.mark.parametrize("name", GROWING)
def test_tokens_that_come_one_by_one_give_the_bytes_of_all_at_once(name, sizes, dtype):
    x = vectors(dtype=dtype)
    quantizer, options = GROWING[name]
    cache, whole = grown(name, x, sizes), quantizer.encode(x, seed=5, **options)
    encoded = cache.encoded()
    assert_same_bytes(encoded, whole)
    assert (cache.tokens, cache.shape) == (37, x.shape)
    np.testing.assert_array_equal(encoded.decode(), whole.decode())
    stored = 37 - cache.waiting
    assert cache.waiting == 37 % (quantizer.period or 1)
    decoded = cache.decode()
    np.testing.assert_array_equal(decoded[..., :stored, :], whole.decode()[..., :stored, :])
    np.testing.assert_array_equal(decoded[..., stored:, :], x[..., stored:, :])
    # Waiting tokens are counted as they came.
    raw = x[..., stored:, :].nbytes
    assert cache.nbytes == quantizer.encode(x[..., :stored, :], seed=5, **options).nbytes + raw


def test_another_seed_gives_other_bytes():
    x = vectors()
    a, b = (grown("plain", x, [37], seed=s).encoded() for s in (5, 6))
    with pytest.raises(AssertionError):
        assert_same_bytes(a, b)


@settings(max_examples=60)
@given(st.sampled_from(sorted(GROWING)), st.data())
def test_any_history_is_what_is_left_of_it(name, data):
    x = vectors(60)
    quantizer, options = GROWING[name]
    cache, left = quantizer.grow(seed=1, **options), np.empty(0, dtype=int)
    for _ in range(data.draw(st.integers(1, 8))):
        if left.size and data.draw(st.booleans()):
            stored = left.size - cache.waiting
            ends = [*range(0, stored, cache.quantizer.period), *range(stored, left.size + 1)]
            end = data.draw(st.sampled_from(ends))
            cache.truncate(end)
            left = left[:end]
        else:
            at, size = data.draw(st.integers(0, 40)), data.draw(st.integers(1, 20))
            cache.append(x[..., at : at + size, :])
            left = np.concatenate([left, np.arange(at, at + size)])
    assert cache.tokens == left.size
    if not left.size:
        assert cache.decode().shape == (2, 3, 0, 16)
        return
    assert_same_bytes(cache.encoded(), quantizer.encode(x[..., left, :], seed=1, **options))
    start = data.draw(st.integers(0, left.size))
    np.testing.assert_array_equal(cache.decode(start=start), cache.decode()[..., start:, :])


def test_the_mean_of_the_prompt_stays():
    quantizer = RotatedQuantizer(4, scale="unbiased", center=True)
    x = vectors(50)
    cache = quantizer.grow(seed=2)
    cache.append(x[..., :32, :])
    prompt = quantizer.encode(x[..., :32, :], seed=2)
    assert_same_bytes(cache.encoded(), prompt)
    for token in range(32, 50):
        cache.append(x[..., token : token + 1, :])
    assert_same_bytes(cache.encoded(), quantizer.encode(x, seed=2, mean=prompt.mean))
    assert cache.nbytes == quantizer.nbytes_for(x.shape)
    # Negative control: the mean of all tokens is another one.
    with pytest.raises(AssertionError):
        assert_same_bytes(cache.encoded(), quantizer.encode(x, seed=2))


@pytest.mark.parametrize("name", ["plain", "mean a block", "channels"])
def test_decoding_into_a_buffer(name):
    x = vectors()
    cache = grown(name, x, [30, 7])
    expected, buffer = cache.decode(), np.full((2, 3, 50, 16), np.nan, np.float32)
    out = buffer[..., :37, :]
    assert cache.decode(out=out) is out
    np.testing.assert_array_equal(buffer[..., :37, :], expected)
    assert np.isnan(buffer[..., 37:, :]).all()
    # A decoded copy is kept up to date token by token, from the beginning of the open block.
    copy = np.empty((2, 3, 50, 16), np.float32)
    cache, done = grown(name, x, [1]), 0
    for token in range(1, 38):
        cache.decode(start=done, out=copy[..., done:token, :])
        done = token - cache.waiting
        if token < 37:
            cache.append(x[..., token : token + 1, :])
    np.testing.assert_array_equal(copy[..., :37, :], expected)


def test_what_was_returned_does_not_change_afterwards():
    x = vectors()
    cache = grown("plain", x, [20])
    before = cache.encoded()
    bytes_before = before.codes.tobytes()
    cache.truncate(3)
    cache.append(x[..., 20:37, :])
    assert before.codes.tobytes() == bytes_before
    x[...] = 0
    assert grown("channels", vectors(), [5]).decode().any()


def test_memory_is_twice_what_is_stored_at_most():
    cache = RotatedQuantizer(4).grow()
    x = np.ones((1, 64), np.float32)
    for _ in range(1000):
        cache.append(x)
    held = sum(column._held.nbytes for column in cache._columns.values())
    assert cache.nbytes == 1000 * 34
    assert held <= 2.1 * cache.nbytes


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda c: c.append(np.ones((2, 3, 1, 8), np.float32)),
            ValueError,
            "x must be tokens of s",
        ),
        (
            lambda c: c.append(np.ones((3, 1, 16), np.float32)),
            ValueError,
            r"\(2, 3, 'new', 16\) in",
        ),
        (lambda c: c.append(np.ones((2, 3, 1, 16))), ValueError, r"float32.* got .* in float64"),
        (lambda c: c.append(np.ones((2, 3, 1, 16), np.float16)), ValueError, "in float16"),
        (lambda c: c.append(np.full((2, 3, 1, 16), np.nan)), ValueError, "x must be finite"),
        (lambda c: c.append(np.ma.ones((2, 3, 1, 16))), TypeError, "x must not be a masked array"),
        (lambda c: c.append(np.ones((2, 3, 9, 16), np.float32) * 1e6), ValueError, "cannot hold"),
        (lambda c: c.truncate(38), ValueError, "tokens must be an integer from 0 to 37, got 38"),
        (lambda c: c.truncate(-1), ValueError, "tokens must be an integer from 0 to 37"),
        (lambda c: c.truncate(33), None, ""),
        (lambda c: c.truncate(31), ValueError, "a multiple of 8, .* or from 32 to 37, got 31"),
        (lambda c: c.decode(start=38), ValueError, "start must be an integer from 0 to 37"),
        (
            lambda c: c.decode(out=np.ones((2, 3, 37, 16))),
            ValueError,
            "out must be a writeable floa",
        ),
        (lambda c: c.decode(out=np.ma.ones((2, 3, 37, 16))), TypeError, "out must not be a masked"),
        (lambda c: c.decode(out=[1]), ValueError, r"out must be .* got \[1\]"),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(call, error, message):
    cache = grown("mean a block", vectors(), [37])
    before = cache.encoded()
    if error is None:
        call(cache)
        return
    with pytest.raises(error, match=message):
        call(cache)
    assert_same_bytes(cache.encoded(), before)


def test_nothing_appended_has_no_shape():
    cache = RotatedQuantizer(4).grow()
    assert (cache.tokens, cache.nbytes, cache.waiting) == (0, 0, 0)
    assert repr(cache).startswith("Growing(shape=None, nbytes=0, quantizer=RotatedQuantizer(")
    cache.truncate(0)
    for call in (cache.decode, cache.encoded, lambda: cache.shape):
        with pytest.raises(ValueError, match="nothing has been appended yet"):
            call()
    with pytest.raises(ValueError, match="quantizer must encode its tokens in blocks to grow"):
        BlockQuantizer(4, along="tokens").grow()


# Keys and values -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in quantize.formats() if n != "C-EDEN"])
def test_a_cache_of_every_format_grows(name):
    k, v = vectors(70), vectors(70, 8, seed=1)
    scheme = named(name, 4, **({"sketch": "hadamard"} if "Q" in name else {}))
    cache = scheme.grow(seed=3)
    for at in (0, 33, 34, 60):
        end = {0: 33, 33: 34, 34: 60, 60: 70}[at]
        cache.append(k[..., at:end, :], v[..., at:end, :])
    whole = scheme.encode(k, v, seed=3)
    assert_same_bytes(cache.encoded().key, whole.key)
    assert_same_bytes(cache.encoded().value, whole.value)
    assert cache.encoded().name == name
    cache.truncate(64)
    assert cache.tokens == 64
    assert [x.shape for x in cache.decode()] == [(2, 3, 64, 16), (2, 3, 64, 8)]
    assert cache.nbytes == scheme.encode(k[..., :64, :], v[..., :64, :]).nbytes


def test_a_pair_of_means_is_subtracted():
    k, v = vectors(40), vectors(40, 8, seed=1)
    scheme = Scheme("mine", RotatedQuantizer(4, center=True), RotatedQuantizer(3, scale="unbiased"))
    cache = scheme.grow(seed=3, mean=(MEAN, None))
    cache.append(k, v)
    whole = scheme.encode(k, v, seed=3, mean=(MEAN, None))
    assert_same_bytes(cache.encoded().key, whole.key)
    np.testing.assert_array_equal(whole.key.mean[1, 2, 0], MEAN.astype(np.float16))
    with pytest.raises(ValueError, match="mean needs center=True and no block, got center=False"):
        scheme.encode(k, v, mean=(None, MEAN[:8]))


def test_a_cache_grows_by_keys_and_values_or_by_neither():
    k, v = vectors(40), vectors(40, 8, seed=1)
    cache = named("KIVI", 4).grow()
    cache.append(k, v)
    for bad_k, bad_v, message in (
        (k, v[..., :3, :], "k and v must hold the same tokens"),
        (k, vectors(40), "v must be tokens of shape"),
        (k, v * 1e6, "cannot hold"),
    ):
        with pytest.raises(ValueError, match=message):
            cache.append(bad_k, bad_v)
        assert (cache.key.tokens, cache.value.tokens) == (40, 40)
    with pytest.raises(ValueError, match="tokens must be a multiple of 32"):
        cache.truncate(31)
    assert (cache.key.tokens, cache.value.tokens) == (40, 40)


class Plain:
    """Somebody's quantizer: it can encode, and that is all."""

    def encode(self, x, *, seed=0):
        return RotatedQuantizer(3).encode(x, seed=seed)


def test_a_quantizer_of_ones_own_need_not_grow_nor_foretell():
    scheme = Scheme("mine", Plain(), RotatedQuantizer(3))
    x = vectors()
    assert scheme.encode(x, x).nbytes == 2 * RotatedQuantizer(3).encode(x).nbytes
    with pytest.raises(TypeError, match="key must be a quantizer with a method grow, got"):
        scheme.grow()
    with pytest.raises(TypeError, match="key must be a quantizer with a method bytes_per_token"):
        scheme.bytes_per_token(64)


# Means -----------------------------------------------------------------------------------------


def test_a_given_mean_is_what_is_subtracted_and_stored():
    quantizer = RotatedQuantizer(3, scale="unbiased", center=True)
    x = vectors(dtype=np.float64)
    for mean in (MEAN, MEAN[None], np.broadcast_to(MEAN, (2, 3, 1, 16))):
        encoded = quantizer.encode(x, seed=1, mean=mean)
        assert encoded.mean.shape == (2, 3, 1, 16)
        stored = MEAN.astype(np.float16).astype(float)
        plain = dataclasses.replace(quantizer, center=False).encode(x - stored, seed=1)
        np.testing.assert_array_equal(encoded.codes, plain.codes)
        np.testing.assert_array_equal(encoded.decode(), plain.decode() + stored)
    # Negative control, and a mean that is exact: the tokens' own.
    assert (quantizer.encode(x, seed=1).codes != encoded.codes).any()
    own = quantizer.encode(x, seed=1)
    assert_same_bytes(quantizer.encode(x, seed=1, mean=own.mean), own)


@pytest.mark.parametrize("tokens", [5, 8, 16, 37])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_mean_a_block_is_each_block_by_itself(tokens, dtype):
    quantizer = RotatedQuantizer(3, scale="unbiased", center=True, block=8)
    x = vectors(tokens, dtype=dtype)
    encoded = quantizer.encode(x, seed=4)
    assert encoded.mean.shape == (2, 3, -(-tokens // 8), 16)
    whole, decoded = dataclasses.replace(quantizer, block=None), encoded.decode()
    for start in range(0, tokens, 8):
        alone = whole.encode(x[..., start : start + 8, :], seed=4)
        np.testing.assert_array_equal(encoded.codes[..., start : start + 8, :], alone.codes)
        np.testing.assert_array_equal(decoded[..., start : start + 8, :], alone.decode())


def test_c_eden_has_a_mean_a_block_by_name():
    scheme = named("C-EDEN", 4, block=128)
    assert scheme.key == RotatedQuantizer(4, scale="unbiased", center=True, block=128)
    assert named("EDEN", 4, block=128) == named("EDEN", 4)
    with pytest.raises(ValueError, match="block must be an integer >= 1, got 0"):
        named("EDEN", 4, block=0)
    cache = scheme.grow(seed=1)
    k, v = vectors(300), vectors(300, seed=1)
    for start in range(0, 300, 50):
        cache.append(k[..., start : start + 50, :], v[..., start : start + 50, :])
    assert_same_bytes(cache.encoded().key, scheme.encode(k, v, seed=1).key)


def test_block_means_follow_a_drift_that_one_mean_does_not():
    rng = np.random.default_rng(0)
    drift = np.repeat(5 * rng.standard_normal((4, 64)), 128, axis=0)
    x = drift + rng.standard_normal((512, 64))
    errors = [
        np.square(RotatedQuantizer(3, center=True, block=b).encode(x).decode() - x).mean()
        for b in (128, None)
    ]
    assert errors[0] < 0.1 * errors[1]


def test_means_of_padded_blocks_leave_the_padding_out():
    x = vectors(16)
    mask = np.arange(16) < 11
    x[..., 11:, :] = 100
    encoded = RotatedQuantizer(3, center=True, block=8, side_dtype="float32").encode(x, mask=mask)
    expected = np.stack([x[..., :8, :].mean(-2), x[..., 8:11, :].mean(-2)], axis=-2)
    np.testing.assert_allclose(encoded.mean, expected, rtol=1e-5)


def test_ranges_over_tokens_leave_the_padding_out():
    x = vectors(16)
    mask = np.arange(16) < 11
    padded = np.where(mask[:, None], x, 100).astype(x.dtype)
    quantizer = BlockQuantizer(4, along="tokens", size=8)
    alone = quantizer.encode(x[..., :11, :])
    encoded = quantizer.encode(padded, mask=mask)
    np.testing.assert_array_equal(encoded.lows, alone.lows)
    np.testing.assert_array_equal(encoded.steps, alone.steps)
    np.testing.assert_array_equal(encoded.decode()[..., :11, :], alone.decode())
    assert (quantizer.encode(padded).steps > encoded.steps)[..., 1].all()  # negative control
    assert not quantizer.encode(x, mask=np.zeros(16, bool)).steps.any()
    both = named("KIVI", 4).encode(padded, padded, mask=mask)
    assert both.key.steps.max() < 1 < both.value.steps.max() + 1


@pytest.mark.parametrize(
    ("quantizer", "mean", "error", "message"),
    [
        (
            RotatedQuantizer(3),
            MEAN,
            ValueError,
            "mean needs center=True and no block, got center=F",
        ),
        (RotatedQuantizer(3, center=True, block=4), MEAN, ValueError, "center=True and block=4"),
        (
            RotatedQuantizer(3, center=True),
            MEAN[:8],
            ValueError,
            r"mean must broadcast to \(2, 3, 1",
        ),
        (
            RotatedQuantizer(3, center=True),
            vectors()[0, 0],
            ValueError,
            "one vector for all tokens",
        ),
        (RotatedQuantizer(3, center=True), MEAN * np.nan, ValueError, "mean must be finite"),
        (
            RotatedQuantizer(3, center=True),
            MEAN * 1e6,
            ValueError,
            "side_dtype='float16' cannot ho",
        ),
        (RotatedQuantizer(3, center=True), "prompt", TypeError, "mean must hold real numbers"),
        (
            RotatedQuantizer(3, center=True),
            np.ma.array(MEAN),
            TypeError,
            "mean must not be a maske",
        ),
    ],
)
def test_means_that_do_not_fit_are_refused(quantizer, mean, error, message):
    with pytest.raises(error, match=message):
        quantizer.encode(vectors(), mean=mean)
    with pytest.raises(error, match=message):
        quantizer.grow(mean=mean).append(vectors())


def test_blocks_without_centring_are_refused():
    with pytest.raises(ValueError, match="block needs center=True"):
        RotatedQuantizer(3, block=8)
    with pytest.raises(ValueError, match="block must be an integer >= 1, got 0"):
        RotatedQuantizer(3, center=True, block=0)


def test_a_mean_of_few_tokens_is_warned_of():
    quantizer = RotatedQuantizer(3, center=True)
    with pytest.warns(
        FewTokensWarning, match=r"mean of 31 tokens, fewer than 2 d = 32.*mean="
    ) as w:
        quantizer.encode(vectors(31))
    assert w[0].filename == __file__
    with pytest.warns(FewTokensWarning, match="mean of 1 tokens"):
        named("C-EDEN", 4).encode(vectors(1), vectors(40)[..., :1, :])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quantizer.encode(vectors(32))
        quantizer.encode(vectors(1), mean=MEAN)
        dataclasses.replace(quantizer, block=8).encode(vectors(9))
        RotatedQuantizer(3).encode(vectors(1))


def test_the_experiments_of_the_book_are_not_warned():
    with warnings.catch_warnings():
        warnings.resetwarnings()
        import importlib

        import kvbook.experiments

        importlib.reload(kvbook.experiments)
        warnings.filterwarnings("error", category=UserWarning, append=True)
        RotatedQuantizer(3, center=True).encode(vectors(3))
        with pytest.raises(UserWarning, match="another"):  # control
            warnings.warn("another", UserWarning, stacklevel=1)


# Bytes -----------------------------------------------------------------------------------------

ALL = [
    *(q for q, _ in GROWING.values()),
    RotatedQuantizer(3, center=True),
    RotatedQuantizer(5, sketch="gaussian", side_dtype="float32", center=True),
    BlockQuantizer(3, side_dtype="float32"),
    BlockQuantizer(4, along="tokens"),
    BlockQuantizer(4, along="coordinates", size=5),
]


@pytest.mark.parametrize("tokens", [1, 7, 8, 40])
@pytest.mark.parametrize("dim", [5, 16, 80])
@pytest.mark.parametrize("quantizer", ALL, ids=str)
def test_bytes_are_foretold_to_the_last(quantizer, dim, tokens):
    x = np.random.default_rng(0).standard_normal((2, 3, tokens, dim)).astype(np.float32)
    nbytes = quantizer.encode(x).nbytes
    assert quantizer.nbytes_for(x.shape) == nbytes
    foretold = 6 * (tokens * quantizer.bytes_per_token(dim) + quantizer.fixed_bytes(dim))
    period = quantizer.period or 1
    if tokens % period == 0:
        assert foretold == pytest.approx(nbytes, rel=1e-12)
    else:  # a block that is not full costs what a full one does
        assert nbytes - 6 * 4 * 2 * dim < foretold < nbytes


@pytest.mark.parametrize("name", quantize.formats())
def test_bytes_of_schemes_are_those_of_their_parts(name):
    scheme = named(name, 4)
    k, v = vectors(64), vectors(64, 8)
    foretold = 64 * scheme.bytes_per_token(16, 8) + scheme.fixed_bytes(16, 8)
    assert scheme.encode(k, v).nbytes == 6 * foretold
    same = 64 * scheme.bytes_per_token(16) + scheme.fixed_bytes(16)
    assert scheme.encode(k, k).nbytes == 6 * same
    assert isinstance(scheme.bytes_per_token(128), int)


def test_bytes_of_shapes_that_are_none_are_refused():
    for quantizer in (RotatedQuantizer(3), BlockQuantizer(3)):
        for shape in ((8,), 8, "ab", (0, 8)):
            with pytest.raises((ValueError, TypeError), match="shape must be"):
                quantizer.nbytes_for(shape)
        with pytest.raises(ValueError, match="dim must be an integer >= 2, got 1"):
            quantizer.bytes_per_token(1)


def test_reprs_are_a_line():
    for quantizer, options in GROWING.values():
        encoded = quantizer.encode(vectors(), **options)
        assert len(repr(encoded)) < 400
        assert f"shape=(2, 3, 37, 16), nbytes={encoded.nbytes}" in repr(encoded)


def test_a_mean_is_zero_where_nothing_counts():
    x = vectors(8)
    counted = np.zeros(x.shape[:-1], bool)
    assert not means.of_tokens(x, counted, 4, "float16").any()
