"""Captured caches: what is read, what is refused. Synthetic families: are they what they say?

Statistical tests have fixed seeds; the false-alarm rate of each is stated where it is decided.
"""

import io
import json
import re
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kvbook import models
from scipy import stats

from kvlib import files
from kvlib.data import captured, synthetic

BOOK = Path(__file__).parents[3] / "book"
ALARM = 1e-4  # false-alarm rate of each distribution test below


def make_cache(seed=0, dtype=np.float16, **change):
    x = np.random.default_rng(seed).standard_normal((3, 2, 2, 6, 8)).astype(dtype)
    fields = {
        "q": x[0], "k": x[1], "v": x[2], "causal": True, "name": "tiny", "layers": (0, 5),
        "heads": (1, 3), "meta": {"note": "made up"}, "ids": np.arange(6, dtype=np.uint16),
    }  # fmt: skip
    return captured.KVCache(**(fields | change))


def write_npz(path, change=None, drop=()):
    """A valid cache file except for the changes."""
    cache = make_cache()
    arrays = {
        "q": cache.q,
        "k": cache.k,
        "v": cache.v,
        "layers": np.array([0, 5]),
        "heads": np.array([1, 3]),
        "meta": np.array(json.dumps({"causal": True})),
    } | (change or {})
    np.savez(path, **{name: x for name, x in arrays.items() if name not in drop})
    return path


def assert_same(a, b):
    for name in ("q", "k", "v", "ids"):
        assert getattr(a, name).dtype == getattr(b, name).dtype
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    for name in ("causal", "name", "layers", "heads", "meta"):
        assert getattr(a, name) == getattr(b, name)


# Captured caches -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_round_trip_is_exact_and_bytes_are_reproducible(tmp_path, dtype):
    cache = make_cache(dtype=dtype)
    for name in ("a.npz", "b.npz"):
        captured.save(tmp_path / name, cache)
        assert_same(captured.load(tmp_path / name), cache)
    assert files.sha256(tmp_path / "a.npz") == files.sha256(tmp_path / "b.npz")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.npz", "b.npz"]


def test_a_failing_save_leaves_the_old_file_and_no_debris(tmp_path, monkeypatch):
    path = tmp_path / "cache.npz"
    captured.save(path, make_cache())
    before = files.sha256(path)
    with pytest.raises(TypeError):
        captured.save(path, make_cache(seed=1, meta={"note": object()}))

    def fail(*args, **kwargs):
        args[0].write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez_compressed", fail)
    with pytest.raises(OSError, match="disk full"):
        captured.save(path, make_cache(seed=1))
    assert files.sha256(path) == before
    assert list(tmp_path.iterdir()) == [path]


def test_heads_are_labelled_by_their_place_in_the_model():
    cache = make_cache()
    heads = list(cache.heads_iter())
    labels = [label for label, *_ in heads]
    assert labels == ["layer 0 head 1", "layer 0 head 3", "layer 5 head 1", "layer 5 head 3"]
    _, q, k, v = heads[2]
    assert q.dtype == np.float32
    for mine, stored in ((q, cache.q), (k, cache.k), (v, cache.v)):
        np.testing.assert_array_equal(mine, stored[1, 0])
    assert (cache.dim, cache.tokens) == (8, 6)


def test_big_endian_and_fortran_order_are_read_as_the_same_numbers(tmp_path):
    k = make_cache().k
    path = write_npz(tmp_path / "x.npz", {"k": np.asfortranarray(k.astype(">f4"))})
    loaded = captured.load(path).k
    assert loaded.dtype == np.float32
    np.testing.assert_array_equal(loaded, k)


def spoiled(value):
    x = make_cache().k.copy()
    x[1, 0, 3] = value
    return x


@pytest.mark.parametrize(
    ("change", "drop", "error", "message"),
    [
        ({}, ["v", "meta"], ValueError, "misses v, meta"),
        ({"k": spoiled(np.nan)}, [], ValueError, "k must be finite, got 8 NaN"),
        ({"v": spoiled(np.inf)}, [], ValueError, "v must be finite, got 8 NaN or infinite"),
        ({"q": make_cache().q[..., :4]}, [], ValueError, "q must have the layers, windows and coo"),
        ({"v": make_cache().v[:, :1]}, [], ValueError, "k and v must have the same layers, heads"),
        ({"q": make_cache().q[:, :, :4]}, [], ValueError, "query_tokens must say which token"),
        ({"q": make_cache().q[0, 0]}, [], ValueError, r"q must have axes \(layer, head"),
        ({"k": make_cache().k[..., :0]}, [], ValueError, "array 'k' must not be empty"),
        ({"k": np.ones((2, 2, 6, 8), int)}, [], TypeError, "k must be an array of float16"),
        ({"k": np.ones((2, 2, 6, 8), complex)}, [], TypeError, "k must be an array of float16"),
        ({"k": np.full((2, 2, 6, 8), {})}, [], TypeError, "array 'k' holds Python objects"),
        ({"meta": np.array({}, object)}, [], TypeError, "array 'meta' holds Python objects"),
        ({"layers": np.array([0, 1, 2])}, [], ValueError, "layers must name the 2 entries"),
        ({"heads": np.array([0.0, 1.0])}, [], TypeError, "'heads' must be a vector of integers"),
        ({"ids": np.ones(6)}, [], TypeError, "ids must hold integers"),
        ({"meta": np.array("{")}, [], ValueError, "'meta' must be a JSON object"),
        ({"meta": np.array("[" * 10**5)}, [], ValueError, "'meta' must be a JSON object"),
        ({"meta": np.array("{}")}, [], ValueError, "with the key 'causal'"),
        ({"meta": np.array('{"causal": 1}')}, [], TypeError, "causal must be True or False"),
    ],
)
def test_bad_arrays_are_refused_by_file_and_name(tmp_path, change, drop, error, message):
    path = write_npz(tmp_path / "bad.npz", change, drop)
    with pytest.raises(error, match=rf"bad\.npz: .*{message}"):
        captured.load(path)


def test_the_unspoiled_file_loads(tmp_path):
    # Negative control of the refusals above.
    assert captured.load(write_npz(tmp_path / "good.npz")).name == "good"


def test_missing_and_foreign_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.npz: no such file"):
        captured.load(tmp_path / "none.npz")
    text = tmp_path / "text.npz"
    text.write_text("not a zip file")
    with pytest.raises(ValueError, match=r"text\.npz: not a readable npz file"):
        captured.load(text)
    single = tmp_path / "single.npz"
    with single.open("wb") as file:
        np.save(file, np.ones(3))
    with pytest.raises(ValueError, match=r"single\.npz: not a readable npz file"):
        captured.load(single)


def replaced(path, name, data):
    """The same archive with one member's bytes replaced."""
    with zipfile.ZipFile(path) as archive:
        members = {n: archive.read(n) for n in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, old in members.items():
            archive.writestr(member, data if member == name else old)
    return path


def npy_header(shape, dtype="<f4"):
    out = io.BytesIO()
    header = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(out, header)
    return out.getvalue()


@pytest.mark.parametrize("shape", [(2, 2, 10**6, 10**6), (2, -3, -2, 8), (2**70, 2, 6, 8)])
def test_a_header_that_declares_more_than_there_is_is_refused(tmp_path, shape):
    path = replaced(write_npz(tmp_path / "lie.npz"), "k.npy", npy_header(shape) + b"\0" * 64)
    with pytest.raises(ValueError, match=r"lie\.npz: array 'k' (declares shape|must not be empty)"):
        captured.load(path)


def test_members_without_npy_header_are_refused(tmp_path):
    path = replaced(write_npz(tmp_path / "raw.npz"), "k.npy", b"some text")
    with pytest.raises(ValueError, match=r"raw\.npz: array 'k' has no readable npy header"):
        captured.load(path)


def test_a_zip_bomb_is_refused_before_unpacking(tmp_path):
    path = replaced(write_npz(tmp_path / "bomb.npz"), "k.npy", bytes(10**8))
    assert path.stat().st_size < 10**6
    with pytest.raises(ValueError, match=r"bomb\.npz: declares 1000\d+ unpacked bytes, allowed"):
        captured.load(path, max_bytes=10**7)
    with pytest.raises(ValueError, match="max_bytes must be an integer >= 1"):
        captured.load(path, max_bytes=0)


@pytest.mark.parametrize(("count", "comment"), [(3000, b""), (3000, b"by hand"), (70_000, b"")])
def test_thousands_of_members_are_refused_before_they_are_read(tmp_path, count, comment):
    # Built by hand: zipfile takes seconds for what it should not be asked to read, either. From
    # 65,535 members on the length stands in a zip64 record.
    entry = b"PK\x01\x02" + bytes(24) + (1).to_bytes(2, "little") + bytes(16) + b"x"
    size, many = len(entry) * count, min(count, 0xFFFF)
    end = b"PK\x05\x06" + bytes(4) + many.to_bytes(2, "little") * 2
    end += min(size, 0xFFFFFFFF).to_bytes(4, "little") + bytes(4)
    end += len(comment).to_bytes(2, "little") + comment
    if many == 0xFFFF:
        record = b"PK\x06\x06" + (44).to_bytes(8, "little") + bytes(12)
        record += count.to_bytes(8, "little") * 2 + size.to_bytes(8, "little") + bytes(8)
        locator = b"PK\x06\x07" + bytes(4) + size.to_bytes(8, "little") + bytes(4)
        end = record + locator + end.replace(size.to_bytes(4, "little"), b"\xff" * 4)
    path = tmp_path / "many.npz"
    path.write_bytes(entry * count + end)
    with zipfile.ZipFile(path) as archive:  # control: the file is what it should be
        assert len(archive.infolist()) == count
    begin = time.perf_counter()
    with pytest.raises(ValueError, match=rf"many.npz: has a directory of {size} bytes, allowed"):
        captured.load(path)
    assert time.perf_counter() - begin < 0.1


def test_duplicate_members_are_refused(tmp_path):
    path = write_npz(tmp_path / "twice.npz")
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr("k.npy", b"")
    with pytest.raises(ValueError, match="holds some twice"):
        captured.load(path)


@pytest.fixture(scope="module")
def valid(tmp_path_factory):
    path = tmp_path_factory.mktemp("valid") / "valid.npz"
    captured.save(path, make_cache())
    return path.read_bytes(), path.with_name("damaged.npz")


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damage_is_refused_or_harmless(valid, data):
    content, path = valid
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        damaged = content[:place]
    else:
        flip = data.draw(st.integers(1, 255))
        damaged = content[:place] + bytes([content[place] ^ flip]) + content[place + 1 :]
    path.write_bytes(damaged)
    try:
        loaded = captured.load(path)
    except (ValueError, TypeError):
        with pytest.raises((ValueError, TypeError), match=r"damaged\.npz: "):
            captured.load(path)
        return
    # Damage in a field that zip readers ignore, such as a time stamp; ids are optional.
    if loaded.ids is None:
        loaded = captured.KVCache(**(vars(loaded) | {"ids": make_cache().ids}))
    assert_same(loaded, make_cache())


# The committed captures ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "shape", "causal"),
    [
        ("rope-lm", (4, 2, 4, 256, 64), True),
        ("rope-lm-saturated", (4, 2, 4, 256, 64), True),
        ("minilm", (4, 4, 512, 32), False),
    ],
)
def test_captured_files_are_those_of_the_data_card(name, shape, causal):
    card = (BOOK / "datacard.md").read_text()
    digests = dict(re.findall(r"\|\s*`([\w-]+)\.npz`\s*\|\s*`([0-9a-f]{64})`", card))
    assert files.sha256(BOOK / "data" / f"{name}.npz") == digests[name]
    cache = captured.load(BOOK / "data" / f"{name}.npz")
    assert cache.k.shape == shape
    assert cache.causal is causal


def test_every_captured_file_has_its_row_and_its_digest():
    card = (BOOK / "datacard.md").read_text()
    named = set(re.findall(r"\|\s*`([\w-]+)\.npz`", card))
    assert {path.stem for path in (BOOK / "data").glob("*.npz")} == named == set(models.MODELS)
    assert len({(m.color, m.marker) for m in models.MODELS.values()}) == len(models.MODELS)


# Synthetic families ----------------------------------------------------------------------------

EXAMPLES = [
    synthetic.GAUSSIAN,
    synthetic.student_t(3),
    synthetic.low_rank(2),
    synthetic.low_rank_t(2, 4),
    synthetic.spike(0.9),
    synthetic.common_mean(0.3),
]


@pytest.mark.parametrize("family", EXAMPLES, ids=lambda f: f.label)
def test_draws_have_their_shape_and_repeat_with_the_seed(family):
    x, again = (
        synthetic.draw(family, 5, 8, rng=np.random.default_rng(1), heads=(2, 3)) for _ in range(2)
    )
    assert x.shape == (2, 3, 5, 8)
    np.testing.assert_array_equal(x, again)
    other = synthetic.draw(family, 5, 8, rng=np.random.default_rng(2), heads=(2, 3))
    assert not np.isclose(x, other).any()
    # Heads are independent draws.
    assert not np.isclose(x[0, 0], x[1, 2]).any()


def ks_p(family, cdf, seed):
    x = synthetic.draw(family, 2000, 8, rng=np.random.default_rng(seed))
    return stats.kstest(x.ravel(), cdf).pvalue


def test_entries_follow_their_laws():
    assert ks_p(synthetic.GAUSSIAN, stats.norm.cdf, 3) > ALARM
    for nu in (1.05, 3.0):
        assert ks_p(synthetic.student_t(nu), stats.t(nu).cdf, 4) > ALARM
    # Negative control: the same test tells nu = 3 from nu = 5 and from the normal law.
    assert ks_p(synthetic.student_t(3), stats.t(5).cdf, 4) < ALARM
    assert ks_p(synthetic.student_t(3), stats.norm.cdf, 4) < ALARM


@pytest.mark.parametrize("family", [synthetic.low_rank(3), synthetic.low_rank_t(3, 3)])
def test_low_rank_draws_have_that_rank_in_every_head(family):
    x = synthetic.draw(family, 50, 16, rng=np.random.default_rng(5), heads=(4,))
    values = np.linalg.svd(x, compute_uv=False)
    assert (values[:, 2] > 1e-3 * values[:, 0]).all()
    assert (values[:, 3] < 1e-12 * values[:, 0]).all()
    # The heads do not share one subspace.
    assert np.linalg.matrix_rank(np.concatenate(x)) == 12


def test_low_rank_t_has_the_tails_of_its_factors():
    # At rank one a vector is a factor times a common direction; ratios of factors are free of
    # that direction's length, so they can be compared with ratios of Student-t draws.
    # The distribution functions of the two ratio laws below differ by 0.05 at most, so that
    # 8000 draws cannot tell them apart at this alarm rate (tried); 80000 can.
    size = 80_000

    def ratio_p(family, nu):
        x = synthetic.draw(family, size, 4, rng=np.random.default_rng(6))[:, 0]
        t = stats.t(nu).rvs(size, random_state=np.random.default_rng(7))
        return stats.ks_2samp(x[::2] / x[1::2], t[::2] / t[1::2]).pvalue

    assert ratio_p(synthetic.low_rank_t(1, 1.05), 1.05) > ALARM
    # Negative control: Gaussian factors have other ratios.
    assert ratio_p(synthetic.low_rank(1), 1.05) < ALARM


@pytest.mark.parametrize("energy", [0.5, 0.99])
def test_spike_holds_its_share_exactly_and_at_random_places(energy):
    x = synthetic.draw(synthetic.spike(energy), 4000, 8, rng=np.random.default_rng(8))
    share = np.square(x).max(-1) / np.square(x).sum(-1)
    # The spike is the largest coordinate whenever its share is at least one half.
    np.testing.assert_allclose(share, energy, rtol=1e-12)
    place = np.abs(x).argmax(-1)
    assert stats.chisquare(np.bincount(place, minlength=8)).pvalue > ALARM
    signs = np.take_along_axis(x, place[:, None], -1) > 0
    assert stats.binomtest(int(signs.sum()), 4000).pvalue > ALARM
    gaussian = synthetic.draw(synthetic.GAUSSIAN, 4000, 8, rng=np.random.default_rng(8))
    assert (np.square(gaussian).max(-1) / np.square(gaussian).sum(-1)).mean() < 0.5


def test_common_mean_holds_its_share_and_is_one_vector_a_head():
    energy, tokens, dim = 0.3, 4000, 16
    rng = np.random.default_rng(9)
    x = synthetic.draw(synthetic.common_mean(energy), tokens, dim, rng=rng, heads=(2,))
    mean = x.mean(1)
    # |mean|^2 / d estimates the share with variance about 4 e (1-e) / (d tokens) and a bias of
    # (1-e)/tokens, here removed; six standard errors: alarm rate 2e-9.
    share = np.square(mean).sum(-1) / dim - (1 - energy) / tokens
    error = np.sqrt(4 * energy * (1 - energy) / (dim * tokens))
    assert (np.abs(share - energy) < 6 * error).all()
    # Negative control: the neighbouring shares fail the same check.
    assert (np.abs(share - 0.25) > 6 * error).all()
    assert not np.allclose(mean[0], mean[1], atol=0.1)


@pytest.mark.parametrize(
    "family",
    [synthetic.GAUSSIAN, synthetic.low_rank(4), synthetic.spike(0.9), synthetic.common_mean(0.3)],
    ids=lambda f: f.label,
)
def test_families_with_a_variance_have_mean_square_one(family):
    # Over 400 heads; the standard error is estimated from them, six of them: alarm rate 2e-9.
    x = synthetic.draw(family, 40, 16, rng=np.random.default_rng(10), heads=(400,))
    power = np.square(x).mean((-2, -1))
    assert abs(power.mean() - 1) < 6 * power.std() / 20
    # Negative control: ten percent more fails the same check.
    assert abs(1.1 * power.mean() - 1) > 6 * 1.1 * power.std() / 20


def test_families_by_name_and_label():
    assert synthetic.family("student_t", nu=3) == synthetic.student_t(3)
    assert synthetic.family("gaussian") is not None
    for example in EXAMPLES:
        given_params = {
            p: getattr(example, p) for p in ("nu", "rank", "energy") if getattr(example, p)
        }
        assert synthetic.family(example.kind, **given_params) == example
    assert synthetic.low_rank_t(2, 1.5).label == "low_rank_t(rank=2, nu=1.5)"
    assert synthetic.GAUSSIAN.label == "gaussian"


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: synthetic.family("cauchy"), ValueError, "name must be one of 'gaussian', "),
        (lambda: synthetic.family("student_t"), ValueError, "'student_t' takes nu, got none"),
        (lambda: synthetic.family("spike", nu=3), ValueError, "'spike' takes energy, got nu"),
        (lambda: synthetic.family("gaussian", nu=3), ValueError, "'gaussian' takes no parameter"),
        (lambda: synthetic.Family("gaussian", nu=3), ValueError, "takes no parameter, got nu=3"),
        (lambda: synthetic.student_t(0), ValueError, "nu must be a finite number > 0, got 0"),
        (lambda: synthetic.student_t("3"), TypeError, "nu must be a finite number > 0, got '3'"),
        (lambda: synthetic.low_rank(0), ValueError, "rank must be an integer >= 1, got 0"),
        (lambda: synthetic.low_rank(1.5), TypeError, "rank must be an integer >= 1, got 1.5"),
        (lambda: synthetic.spike(1.0), ValueError, r"energy must be a number in \(0, 1\), got 1.0"),
        (lambda: synthetic.common_mean(float("nan")), ValueError, "energy must be a number"),
        (lambda: draw_one(synthetic.low_rank(9)), ValueError, "got rank 9 and dim 8"),
        (lambda: draw_one(synthetic.student_t(1e-3)), ValueError, "overflows float64"),
        (lambda: draw_one(synthetic.GAUSSIAN, tokens=0), ValueError, "tokens must be an integer"),
        (lambda: draw_one(synthetic.GAUSSIAN, heads=(0,)), ValueError, "heads must be an integer"),
    ],
)
def test_bad_families_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def draw_one(family, tokens=4, heads=()):
    return synthetic.draw(family, tokens, 8, rng=np.random.default_rng(0), heads=heads)
