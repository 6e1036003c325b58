"""The compiled kernels against the oracle and the numpy path: code for code, bit for bit.

A code may differ from float64's only where the coordinate lies within 1e-6 of a cell's edge (in
units of the edge or of the standard deviation 1/sqrt(d), whichever is larger): float32 cannot tell
the sides apart there. How often that may happen is bounded, too.
"""

import dataclasses
import importlib
import itertools
import math
import os
import platform
import subprocess
import sys
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import oracle
import pytest
from scipy.linalg import hadamard

from kvlib.measure import attention
from kvlib.quantize import RotatedQuantizer, codebooks, packing, rotated
from kvlib.quantize.codebooks import Codebook
from kvlib.quantize.kernels import dispatch, runtime

numba = pytest.importorskip("numba")

POWERS = [2, 4, 8, 16, 32, 64, 128, 256, 512, 1024]
OTHER_DIMS = [3, 5, 7, 9, 15, 17, 63, 65, 96, 100, 130, 1000]
SKETCHES = ["gaussian", "haar", "hadamard"]
NEAR = 1e-6
PARTS = ("codes", "scales", "signs", "residual_norms")


def gaussian(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    monkeypatch.setenv("KVLIB_NUM_THREADS", "1")
    monkeypatch.delenv("KVLIB_KERNELS", raising=False)


@pytest.fixture
def numpy_only(monkeypatch):
    """A function that calls another with the kernels off."""

    def call(function, *args, **kwargs):
        with monkeypatch.context() as patch:
            patch.setenv("KVLIB_KERNELS", "numpy")
            return function(*args, **kwargs)

    return call


def assert_same_bytes(a, b):
    for part in PARTS:
        x, y = getattr(a, part), getattr(b, part)
        assert (x is None) == (y is None)
        if x is not None:
            assert (x.dtype, x.shape) == (y.dtype, y.shape)
            assert x.tobytes() == y.tobytes(), part


def gaps(quantizer, x, seed):
    """Distance of each rotated float64 coordinate to its nearest edge, in units of the rule."""
    wide = x.astype(np.float64)
    unit = wide / np.linalg.norm(wide, axis=-1, keepdims=True)
    rotated = quantizer.rotation_for(x.shape[-1], seed=seed).apply(unit)
    edges = quantizer.codebook_for(x.shape[-1]).edges
    unit_of_edge = np.maximum(np.abs(edges), 1 / math.sqrt(x.shape[-1]))
    right = np.clip(np.searchsorted(edges, rotated), 0, len(edges) - 1)
    near = [np.abs(rotated - edges[i]) / unit_of_edge[i] for i in (right, np.maximum(right - 1, 0))]
    return np.minimum(*near)


def differing(encoded, quantizer, x, seed):
    """Mask of the codes that differ from the float64 numpy path's."""
    wide = quantizer.encode(x.astype(np.float64), seed=seed)
    n, dim = quantizer.codebook_bits, x.shape[-1]
    return packing.unpack(encoded.codes, n, dim) != packing.unpack(wide.codes, n, dim)


def assert_codes_agree(encoded, quantizer, x, seed):
    wrong = differing(encoded, quantizer, x, seed)
    assert (gaps(quantizer, x, seed)[wrong] < NEAR).all()
    return int(wrong.sum())


# --- Codes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", range(1, 9))
def test_codes_are_those_of_float64_except_at_edges(bits):
    wrong = total = 0
    for rotation, dims in (("hadamard", POWERS), ("none", POWERS + OTHER_DIMS)):
        for dim in dims:
            quantizer = RotatedQuantizer(bits, rotation, side_dtype="float32")
            x = gaussian(3, 37, dim, seed=dim) * np.float32(1.7)
            encoded = quantizer.encode(x, seed=dim)
            assert encoded.dtype == "float32"
            wrong += assert_codes_agree(encoded, quantizer, x, dim)
            total += x.size
            np.testing.assert_allclose(
                encoded.scales, np.linalg.norm(x.astype(np.float64), axis=-1), rtol=1.2e-7
            )
    # 2^n cells of about 8/2^n deviations: a band of 2e-6 around each edge holds 2.5e-7 2^n of all
    # coordinates; float32 errs a few times less. Twice that, and one for the smallest counts.
    assert wrong <= 1 + 5e-7 * 2**bits * total


def test_the_comparison_finds_a_wrong_code_and_a_moved_edge():
    quantizer = RotatedQuantizer(4)
    x = gaussian(200, 128)
    encoded = quantizer.encode(x, seed=1)
    assert assert_codes_agree(encoded, quantizer, x, 1) <= 1
    flipped = encoded.codes.copy()
    flipped[7, 9] ^= 1
    with pytest.raises(AssertionError):
        assert_codes_agree(dataclasses.replace(encoded, codes=flipped), quantizer, x, 1)
    moved = Codebook(128, 4, codebooks.lloyd_max(128, 4).levels * (1 + 1e-3), "moved")
    with pytest.raises(AssertionError):
        assert_codes_agree(RotatedQuantizer(4, codebook=moved).encode(x, seed=1), quantizer, x, 1)


@pytest.mark.parametrize("rotation", ["none", "hadamard"])
@pytest.mark.parametrize("bits", range(1, 9))
def test_rows_are_the_oracles(rotation, bits):
    for dim in POWERS:
        quantizer = RotatedQuantizer(bits, rotation, side_dtype="float32")
        x = gaussian(2, dim, seed=bits)
        encoded, levels = quantizer.encode(x, seed=3), codebooks.lloyd_max(dim, bits).levels
        matrix = quantizer.rotation_for(dim, seed=3).matrix()
        near_edge = gaps(quantizer, x, 3) < NEAR
        decoded = encoded.decode()
        for i, row in enumerate(x.astype(np.float64)):
            stored = oracle.encode(row, matrix, levels, side=np.float32)
            codes = oracle.read_bits(encoded.codes[i], bits, dim)
            same = np.array(codes) == stored[0]
            assert (same | near_edge[i]).all()
            assert encoded.scales[i] == pytest.approx(stored[1], rel=1.2e-7)
            expected = oracle.decode((codes, stored[1], None, None), matrix, levels)
            np.testing.assert_allclose(decoded[i], expected, atol=1e-6 * oracle.norm(row))


@pytest.mark.parametrize("rounds", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("scale", ["norm", "unbiased"])
def test_rounds_and_scales(rounds, scale):  # five rounds are numpy's
    quantizer = RotatedQuantizer(3, rounds=rounds, scale=scale, side_dtype="float32")
    x = gaussian(150, 64, seed=rounds)
    encoded, wide = quantizer.encode(x, seed=2), quantizer.encode(x.astype(np.float64), seed=2)
    wrong = differing(encoded, quantizer, x, 2)
    assert_codes_agree(encoded, quantizer, x, 2)
    same = ~wrong.any(axis=-1)
    np.testing.assert_allclose(encoded.scales[same], wide.scales[same], rtol=1e-6)
    np.testing.assert_allclose(encoded.decode()[same], wide.decode()[same], atol=2e-6)


def test_a_tie_goes_down_as_in_numpy(numpy_only):
    book = Codebook(4, 2, np.array([-0.75, -0.25, 0.25, 0.75]), "ties")
    quantizer = RotatedQuantizer(2, "none", codebook=book)
    x = np.array([[1, 1, 1, 1], [-1, -1, -1, -1], [0, 0, 0, 8]], dtype=np.float32) * 4
    encoded = quantizer.encode(x)
    codes = packing.unpack(encoded.codes, 2, 4)
    np.testing.assert_array_equal(codes, [[2] * 4, [0] * 4, [1, 1, 1, 3]])
    assert_same_bytes(encoded, numpy_only(quantizer.encode, x))
    # One-hot rows rotate to +-1/sqrt(d) exactly: sparse inputs are full of exact values.
    for bits in range(1, 9):
        eye = np.eye(128, dtype=np.float32) * np.float32(0.3)
        q = RotatedQuantizer(bits)
        assert assert_codes_agree(q.encode(eye, seed=4), q, eye, 4) == 0


def test_the_transform_is_exact_on_integers():
    from kvlib.quantize.kernels import rows

    for dim in POWERS:
        x = np.random.default_rng(dim).integers(-99, 100, dim)
        y = x.astype(np.float32)
        rows._transform(y, dim)
        np.testing.assert_array_equal(y, hadamard(dim) @ x)


# --- Decode -----------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", range(1, 9))
def test_decoded_vectors_are_numpys(bits, numpy_only):
    for rotation, dims in (("hadamard", POWERS), ("none", POWERS + OTHER_DIMS)):
        for dim in dims:
            encoded = RotatedQuantizer(bits, rotation).encode(gaussian(2, 5, dim, seed=dim), seed=9)
            fast, slow = encoded.decode(), numpy_only(encoded.decode)
            assert (fast.shape, fast.dtype) == (slow.shape, slow.dtype)
            bound = 1e-6 * np.linalg.norm(slow, axis=-1, keepdims=True)
            assert (np.abs(fast - slow) <= bound).all()
            if rotation == "none":
                np.testing.assert_array_equal(fast, slow)


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("sketch", [None, "hadamard", "gaussian"])
def test_decoding_into_an_array(sketch, center, numpy_only):
    encoded = RotatedQuantizer(3, sketch=sketch, center=center).encode(
        gaussian(4, 6, 32) + 1, seed=2
    )
    expected = encoded.decode()
    strided = np.full((4, 6, 64), np.nan, dtype=np.float32)[..., ::2]
    unaligned = np.zeros(4 * expected.size + 1, dtype=np.uint8)[1:].view(np.float32)
    for out in (np.full((4, 6, 32), np.nan, np.float32), strided, unaligned.reshape(4, 6, 32)):
        assert encoded.decode(out=out) is out
        np.testing.assert_array_equal(out, expected)
        out[...] = np.nan
        assert numpy_only(encoded.decode, out=out) is out
        np.testing.assert_allclose(out, expected, atol=1e-5)


def test_what_cannot_be_decoded_into_is_refused():
    encoded = RotatedQuantizer(3).encode(gaussian(4, 6, 32))
    locked = np.zeros((4, 6, 32), np.float32)
    locked.setflags(write=False)
    for out, got in (
        (np.zeros((4, 6, 32)), "a float64 array of shape"),
        (np.zeros((6, 4, 32), np.float32), r"a float32 array of shape \(6, 4, 32\)"),
        (locked, "a read-only float32 array"),
    ):
        with pytest.raises(ValueError, match=f"out must be a writeable float32 .* got {got}"):
            encoded.decode(out=out)


# --- Sketches ---------------------------------------------------------------------------------


@pytest.mark.parametrize("sketch", SKETCHES)
@pytest.mark.parametrize("rotation", ["none", "hadamard"])
@pytest.mark.parametrize("bits", [1, 2, 4])
def test_sketched_signs_norms_and_decoder(sketch, rotation, bits, numpy_only):
    for dim in (2, 4, 16, 128, 256):
        quantizer = RotatedQuantizer(bits, rotation, sketch=sketch, side_dtype="float32")
        x = gaussian(3, 41, dim, seed=dim)
        encoded = quantizer.encode(x, seed=1)
        wide = quantizer.encode(x.astype(np.float64), seed=1)
        same = np.ones(x.shape[:-1], dtype=bool)
        if bits > 1:
            assert_codes_agree(encoded, quantizer, x, 1)
            same = ~differing(encoded, quantizer, x, 1).any(axis=-1)
        np.testing.assert_allclose(
            encoded.residual_norms[same], wide.residual_norms[same], rtol=1e-5, atol=1e-6
        )
        # A sign may differ where the projection is at float32's rounding of the vector itself.
        residual = x - wide._decode_codes()
        projected = quantizer.sketch_for(dim, seed=1).project(residual)
        signs = [packing.unpack(e.signs, 1, dim) for e in (encoded, wide)]
        wrong = (signs[0] != signs[1]) & same[..., None]
        row = math.sqrt(dim) if sketch == "gaussian" else 1.0
        assert (np.abs(projected)[wrong] < 1e-6 * row * math.sqrt(dim)).all()
        assert wrong.mean() < 1e-4 + 1 / wrong.size
        fast, slow = encoded.decode(), numpy_only(encoded.decode)
        np.testing.assert_allclose(fast, slow, atol=3e-6 * math.sqrt(dim))


def test_a_sketch_with_another_seed_is_told_apart():  # control of the test above
    quantizer = RotatedQuantizer(3, sketch="hadamard")
    encoded = quantizer.encode(gaussian(50, 64), seed=1)
    other = dataclasses.replace(encoded, seed=2).decode()
    assert np.abs(other - encoded.decode()).max() > 0.1


# --- Threads, blocks, layouts -----------------------------------------------------------------


@pytest.mark.parametrize("sketch", [None, *SKETCHES])
@pytest.mark.parametrize("rows", [1, 2, 127, 129])
def test_threads_change_nothing(sketch, rows, monkeypatch):
    monkeypatch.setattr(dispatch, "_BLOCK", 64 * 10)
    quantizer = RotatedQuantizer(3, sketch=sketch)
    x = gaussian(3, rows, 64)
    first = quantizer.encode(x, seed=1)
    for threads in ("2", "3", "64"):
        monkeypatch.setenv("KVLIB_NUM_THREADS", threads)
        again = quantizer.encode(x, seed=1)
        assert_same_bytes(first, again)
        np.testing.assert_array_equal(first.decode(), again.decode())
    monkeypatch.setattr(dispatch, "_BLOCK", 1 << 19)
    if sketch in (None, "hadamard"):  # a matrix product may depend on its number of rows
        whole = quantizer.encode(x, seed=1)
        assert_same_bytes(first, whole)
        np.testing.assert_array_equal(first.decode(), whole.decode())


@pytest.mark.parametrize("sketch", [None, "hadamard"])
@pytest.mark.parametrize("bits", range(1, 9))
def test_every_way_in_gives_the_same_bytes(bits, sketch, monkeypatch):
    quantizer = RotatedQuantizer(bits, sketch=sketch)
    for dim in POWERS:
        x = gaussian(3, 37, dim, seed=dim).astype(np.float16)
        wide = x.astype(np.float32)
        expected = quantizer.encode(wide, seed=5)
        apart = np.ascontiguousarray(wide.transpose(1, 0, 2)).transpose(1, 0, 2)
        every_other = np.repeat(wide, 2, axis=-1)[..., ::2]
        monkeypatch.setattr(dispatch, "_BLOCK", 7 * dim)
        for threads in ("1", "2"):
            monkeypatch.setenv("KVLIB_NUM_THREADS", threads)
            for other in (x, wide, apart, every_other):
                encoded = quantizer.encode(other, seed=5)
                assert_same_bytes(encoded, expected)
                np.testing.assert_array_equal(encoded.decode(), expected.decode())


def test_calls_from_many_threads_at_once(monkeypatch):
    import numba

    monkeypatch.setenv("KVLIB_NUM_THREADS", "2")
    monkeypatch.setattr(dispatch, "_BLOCK", 1 << 10)

    def work(seed):
        x = gaussian(2, 60, 64, seed=seed)
        quantizer = RotatedQuantizer(1 + seed % 8, sketch="hadamard" if seed % 2 else None)
        encoded = quantizer.encode(x, seed=seed)
        decoded = encoded.decode()
        kl = attention.attention_kl(x[:, :20], x, decoded, causal=True, block_bytes=20_000)
        return [encoded.codes, encoded.scales, encoded.signs, decoded, kl]

    alone = [work(seed) for seed in range(40)]
    for _ in range(5):
        with ThreadPoolExecutor(8) as pool:
            together = list(pool.map(work, range(40)))
        for one, other in zip(alone, together, strict=True):
            for a, b in zip(one, other, strict=True):
                np.testing.assert_array_equal(a, b)
    # numba's own pool, which must not be entered from two threads at once, was never started.
    with pytest.raises(ValueError, match="not initialized"):
        numba.threading_layer()


def test_threads_stop_at_the_first_refusal_and_the_first_error(monkeypatch):
    monkeypatch.setenv("KVLIB_NUM_THREADS", "4")
    done = []

    def refuse(item):
        done.append(item)
        return item != 5

    def fail(item):
        done.append(item)
        if item == 5:
            raise RuntimeError("item 5")

    assert not runtime.run(refuse, range(10_000))
    assert len(done) < 5_000
    done.clear()
    with pytest.raises(RuntimeError, match="item 5"):
        runtime.run(fail, range(10_000))
    assert len(done) < 5_000
    done.clear()
    assert runtime.run(done.append, range(10_000))  # control: without either all are done
    assert sorted(done) == list(range(10_000))


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="cores are Linux's to choose")
def test_helpers_keep_off_the_core_of_their_caller(monkeypatch):
    monkeypatch.setenv("KVLIB_NUM_THREADS", "2")
    monkeypatch.setattr(runtime, "_core", lambda: min(os.sched_getaffinity(0)))
    mine, allowed = threading.get_ident(), os.sched_getaffinity(0)
    seen = {True: set(), False: set()}

    def note(item):
        seen[threading.get_ident() == mine].add(frozenset(os.sched_getaffinity(0)))
        time.sleep(0.001)

    runtime.run(note, range(50))
    assert seen[True] <= {frozenset(allowed)}
    assert seen[False] == {frozenset(allowed - {min(allowed)} or allowed)}
    assert os.sched_getaffinity(0) == allowed
    # Control: where the system does not tell the core, threads stay where they are put.
    monkeypatch.setattr(runtime, "_core", lambda: -1)
    seen[False].clear()
    runtime.run(note, range(50))
    assert seen[False] == {frozenset(allowed)}


def test_batches_are_their_tokens():
    quantizer = RotatedQuantizer(3, sketch="hadamard")
    x = gaussian(2, 3, 5, 32)
    encoded = quantizer.encode(x)
    for index in np.ndindex(2, 3):
        alone = quantizer.encode(x[index])
        np.testing.assert_array_equal(encoded.codes[index], alone.codes)
        np.testing.assert_array_equal(encoded.decode()[index], alone.decode())


def layouts():
    base = gaussian(4, 6, 48, 64)
    odd = np.frombuffer(b"\0" + base[0, 0].tobytes(), dtype=np.uint8)[1:].view(np.float32)
    return {
        "transposed": base.transpose(2, 1, 0, 3),
        "strided": base[::2, ::-3, 1::5],
        "coordinates apart": base[..., ::2],
        "fortran": np.asfortranarray(base[0]),
        "broadcast": np.broadcast_to(base[0, 0, :1], (7, 33, 64)),
        "unaligned": odd.reshape(48, 64),
        "heads split": gaussian(37, 4 * 32).reshape(37, 4, 32).transpose(1, 0, 2),
    }


@pytest.mark.parametrize("name", layouts())
@pytest.mark.parametrize("block", [1, 64 * 7, 1 << 19])
def test_memory_layout_does_not_matter_and_input_is_untouched(name, block, monkeypatch):
    monkeypatch.setattr(dispatch, "_BLOCK", block)
    x = layouts()[name]
    x.setflags(write=False)
    before = x.copy()
    for quantizer in (RotatedQuantizer(3), RotatedQuantizer(5, "none", sketch="hadamard")):
        encoded = quantizer.encode(x, seed=1)
        assert encoded.shape == x.shape
        assert_same_bytes(encoded, quantizer.encode(np.ascontiguousarray(x), seed=1))
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("sketch", [None, "hadamard", "gaussian"])
def test_float16_is_widened(sketch):
    x = gaussian(5, 33, 64).astype(np.float16)
    quantizer = RotatedQuantizer(4, sketch=sketch)
    encoded = quantizer.encode(x)
    assert encoded.dtype == "float32"
    assert_same_bytes(encoded, quantizer.encode(x.astype(np.float32)))
    strided = gaussian(66, 5, 64).astype(np.float16).transpose(1, 0, 2)[:, ::2]
    wide = quantizer.encode(np.ascontiguousarray(strided).astype(np.float32))
    assert_same_bytes(quantizer.encode(strided), wide)


def test_stored_parts_of_any_layout_decode():
    encoded = RotatedQuantizer(3, sketch="hadamard").encode(gaussian(4, 6, 32))
    padded = {
        part: np.repeat(getattr(encoded, part), 2, axis=0)[::2] for part in PARTS
    }  # the same numbers, strided
    for part in padded.values():
        part.setflags(write=False)
    again = dataclasses.replace(encoded, **padded)
    np.testing.assert_array_equal(encoded.decode(), again.decode())


# --- What numpy must judge ----------------------------------------------------------------------


def broken(value):
    x = gaussian(40, 16)
    x[17, 3] = value
    return x


def zero_row():
    x = gaussian(40, 16)
    x[11] = x[30] = 0
    return x


TINY = 1e-9 * gaussian(40, 16)
REFUSED = [
    broken(np.nan),
    broken(np.inf),
    broken(-np.inf),
    1e6 * gaussian(40, 16),
    TINY,
    gaussian(16),
    gaussian(0, 16),
    gaussian(4, 1),
]


@pytest.mark.parametrize(
    ("x", "bits", "sketch"),
    [
        (x, bits, sketch)
        for x, bits, sketch in itertools.product(REFUSED, (1, 3), (None, "hadamard"))
        if not (x is TINY and bits == 1 and sketch)  # a residual's norm may be small
    ],
)
def test_refusals_are_numpys_word_for_word(x, bits, sketch, numpy_only):
    quantizer = RotatedQuantizer(bits, sketch=sketch)
    with pytest.raises(ValueError, match=r".+") as fast:
        quantizer.encode(x)
    with pytest.raises(ValueError, match=r".+") as slow:
        numpy_only(quantizer.encode, x)
    assert str(fast.value) == str(slow.value)


@pytest.mark.parametrize("sketch", [None, *SKETCHES])
@pytest.mark.parametrize("scale", ["norm", "unbiased"])
@pytest.mark.parametrize("bits", [1, 2, 5, 8])
def test_zero_rows_are_the_kernels_own(bits, scale, sketch, numpy_only, monkeypatch):
    if bits == 1 and sketch is not None and scale != "norm":
        pytest.skip("a sketch alone has no codebook to rescale")
    quantizer = RotatedQuantizer(bits, scale=scale, sketch=sketch)
    x, at = zero_row(), [11, 30]
    slow = numpy_only(quantizer.encode, x, seed=4)
    slow_decoded = numpy_only(slow.decode)

    def refuse(x):
        raise AssertionError("numpy was asked")

    monkeypatch.setattr(rotated, "_directions", refuse)
    fast = quantizer.encode(x, seed=4)
    for part in PARTS:
        mine, theirs = getattr(fast, part), getattr(slow, part)
        assert (mine is None) == (theirs is None)
        if mine is not None:
            np.testing.assert_array_equal(mine[at], theirs[at])
    assert (fast.decode()[at] == 0).all()
    assert (slow_decoded[at] == 0).all()
    # Control: the least number above zero is a vector like any other, and too small to store.
    x[11, 3] = 1e-45
    with pytest.raises(AssertionError, match="numpy was asked"):
        quantizer.encode(x, seed=4)


@pytest.mark.parametrize("size", [1e-30, 1e-22, 1e22, 1e30])
def test_extreme_norms_are_encoded_all_the_same(size, numpy_only):
    x = gaussian(40, 16) * np.float32(size)
    for sketch in (None, "hadamard") if 1e-25 < size < 1e25 else (None,):
        quantizer = RotatedQuantizer(3, side_dtype="float32", sketch=sketch)
        decoded = quantizer.encode(x).decode().astype(np.float64)
        assert oracle.norm((decoded - x).ravel()) < 0.5 * oracle.norm(x.ravel())
    if not 1e-25 < size < 1e25:  # beyond the kernels' range: numpy's own bytes
        assert_same_bytes(quantizer.encode(x), numpy_only(quantizer.encode, x))


# --- Without numba --------------------------------------------------------------------------------


@pytest.fixture
def reload(monkeypatch):
    """Make the next use look for the compiled module with ``importer``; undone afterwards."""

    def use(importer):
        runtime._load.cache_clear()
        monkeypatch.setattr(runtime.importlib, "import_module", importer)

    yield use
    monkeypatch.undo()
    runtime._load.cache_clear()


def test_without_numba_numpy_does_the_work_in_silence(reload, numpy_only, recwarn):
    def missing(name):
        raise ImportError(name)

    quantizer, x = RotatedQuantizer(3, sketch="gaussian"), gaussian(50, 32)
    expected = numpy_only(quantizer.encode, x)
    reload(missing)
    assert runtime.kernels("rows") is None
    encoded = quantizer.encode(x)
    assert_same_bytes(encoded, expected)
    np.testing.assert_array_equal(encoded.decode(), numpy_only(expected.decode))
    assert not recwarn.list


def test_where_the_kernels_do_not_compile_numpy_does_the_work_and_says_so(reload, numpy_only):
    genuine = importlib.import_module

    def failing(name):
        if name == "kvlib.quantize.kernels.rows":
            raise RuntimeError("no compiler here")
        return genuine(name)

    quantizer, x = RotatedQuantizer(3), gaussian(50, 32)
    expected = numpy_only(quantizer.encode, x)
    reload(failing)
    with pytest.warns(RuntimeWarning, match=r"numpy is used instead .*no compiler here"):
        encoded = quantizer.encode(x)
    assert_same_bytes(encoded, expected)


def test_options_from_the_environment(monkeypatch):
    monkeypatch.setenv("KVLIB_NUM_THREADS", "3")
    assert runtime.thread_count() == 3
    monkeypatch.setenv("KVLIB_NUM_THREADS", "1000")
    assert runtime.thread_count() == 64
    monkeypatch.delenv("KVLIB_NUM_THREADS")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert runtime.thread_count() == 2
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert 1 <= runtime.thread_count() <= 64
    for bad in ("0", "-1", "two"):
        monkeypatch.setenv("KVLIB_NUM_THREADS", bad)
        for call in (
            runtime.thread_count,
            # Whatever the size of the work: one block needs one thread.
            lambda: RotatedQuantizer(3).encode(gaussian(4, 16)),
            lambda: attention.attention_output(*gaussian(3, 4, 16)),
        ):
            for kernels in ("auto", "numpy"):
                monkeypatch.setenv("KVLIB_KERNELS", kernels)
                with pytest.raises(ValueError, match="KVLIB_NUM_THREADS must be an integer >= 1"):
                    call()
    monkeypatch.delenv("KVLIB_NUM_THREADS")
    x, compiled = gaussian(4, 16), RotatedQuantizer(3).encode(gaussian(4, 16))
    for unset in ("", " ", "auto"):
        monkeypatch.setenv("KVLIB_KERNELS", unset)
        assert runtime.kernels("rows") is not None
        assert_same_bytes(RotatedQuantizer(3).encode(x), compiled)
    monkeypatch.setenv("KVLIB_KERNELS", "fortran")
    with pytest.raises(ValueError, match="KVLIB_KERNELS must be one of 'auto', 'numpy'"):
        RotatedQuantizer(3).encode(gaussian(4, 16))


# --- Other processors and settings ----------------------------------------------------------------


def test_half_precision_is_rounded_as_numpy_does():
    from kvlib.quantize.kernels import rows

    @numba.njit
    def rounded(x, out):
        for i in range(x.size):
            out[i] = rows.half(x[i])

    finite = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
    finite = np.sort(finite[np.isfinite(finite)])
    middles = finite[:-1] + np.diff(finite) / 2  # exact: a tie between two neighbours
    beside = [np.nextafter(middles, np.float32(end)) for end in (-np.inf, np.inf)]
    extreme = [0, -0.0, 65519.996, 65520, -65520, 1e6, -3e38, np.inf, 1e-8, 2.0**-25, -1e-40]
    x = np.concatenate([finite, middles, *beside, extreme]).astype(np.float32)
    out = np.empty_like(x)
    rounded(x, out)
    with np.errstate(over="ignore", under="ignore"):
        expected = x.astype(np.float16).astype(np.float32)
    assert out.tobytes() == expected.tobytes()
    truncated = (x.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)
    assert (truncated != expected).mean() > 0.1  # control: the points tell other roundings apart


EVERYTHING = """
import sys
import numpy as np
from kvlib.measure.attention import attention_kl
from kvlib.quantize import RotatedQuantizer
from kvlib.quantize.kernels import runtime

def everything():
    x = np.random.default_rng(0).standard_normal((40, 128)).astype(np.float32)
    parts = []
    for sketch in (None, "gaussian", "hadamard"):
        for side in ("float16", "float32"):
            encoded = RotatedQuantizer(3, sketch=sketch, side_dtype=side).encode(x, seed=1)
            stored = (encoded.codes, encoded.scales, encoded.signs, encoded.residual_norms)
            parts += [part.tobytes().hex() for part in stored if part is not None]
            x_hat = encoded.decode()
    return parts, x_hat, attention_kl(x[None], x[None], x_hat[None])
"""


def in_another_process(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def assert_same_as_here(code, tmp_path, **environment):
    """That ``EVERYTHING`` gives there what it gives here."""
    path = tmp_path / "there.npz"
    code += f"\nparts, *floats = everything()\nnp.savez({str(path)!r}, *floats, parts=parts)"
    done = in_another_process(code, **environment)
    assert done.returncode == 0, done.stderr
    here = {}
    exec(EVERYTHING, here)
    parts, x_hat, kl = here["everything"]()
    with np.load(path) as there:
        assert there["parts"].tolist() == parts
        np.testing.assert_allclose(there["arr_0"], x_hat, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(there["arr_1"], kl, rtol=1e-5)


OLD = {"NUMBA_CPU_NAME": "nehalem", "NUMBA_CPU_FEATURES": ""}

HALF_OF_LLVM = """
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

@intrinsic
def half(typing_context, number):
    def codegen(context, builder, signature, arguments):
        narrow = builder.fptrunc(arguments[0], ir.HalfType())
        return builder.fpext(narrow, ir.FloatType())
    return types.float32(types.float32), codegen

njit(types.float32(types.float32))(lambda x: half(x))(1.5)
"""


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="of another make")
def test_a_processor_without_half_precision_instructions(tmp_path):
    compiled = EVERYTHING + '\nassert runtime.kernels("rows"), "numpy would have done it"\n'
    assert_same_as_here(compiled, tmp_path, NUMBA_CACHE_DIR=str(tmp_path), **OLD)
    # Control: what LLVM makes of its own type does not live on such a processor.
    assert in_another_process(HALF_OF_LLVM, **OLD).returncode != 0


def test_without_just_in_time_compilation_numpy_does_the_work(tmp_path, numpy_only):
    uncompiled = EVERYTHING + '\nassert runtime.kernels("rows") is None\n'
    environment = {"NUMBA_DISABLE_JIT": "1", "KVLIB_KERNELS": "auto"}
    numpy_only(assert_same_as_here, uncompiled, tmp_path, **environment)


# --- Cost -----------------------------------------------------------------------------------------

IMPORTS = """
import sys, time
start = time.perf_counter()
import kvlib
elapsed = time.perf_counter() - start
from kvlib import quantize, sweeps
from kvlib.data import captured, synthetic
from kvlib.measure import attention, metrics
import numpy as np

def loaded(*names):
    return [name for name in names if name in sys.modules]

assert not loaded(
    "numba", "pandas", "pyarrow", "joblib", "distributed", "tqdm", "threadpoolctl",
    "matplotlib", "scipy.linalg", "scipy.optimize", "scipy.stats", "scipy.integrate",
), "imported for nothing"
x = np.ones((2, 8))
quantize.RotatedQuantizer(3).encode(x).decode()
attention.attention_output(x, x, x)
assert not loaded("numba"), "imported too early"
{first_use}
assert loaded("numba"), "the check above is blind"
assert elapsed < 0.3, elapsed
"""


@pytest.mark.parametrize(
    "first_use",
    [
        "quantize.RotatedQuantizer(3).encode(x.astype(np.float32))",
        "attention.attention_kl(x, x, x)",
    ],
)
def test_numba_is_imported_when_first_used(first_use):
    code = IMPORTS.format(first_use=first_use)
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_kernels_release_the_lock_and_are_cached():
    from kvlib.quantize.kernels import rows

    kernels = [f for name, f in vars(rows).items() if name.endswith("_rows")]
    assert len(kernels) == 8
    for kernel in kernels:
        assert kernel.targetoptions["nogil"]
        assert len(kernel.signatures) == 1  # compiled once, whatever it is called with
        assert kernel.stats.cache_path


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("sketch", "dtype", "limit"),
    [(None, np.float32, 1), (None, np.float16, 4), ("hadamard", np.float32, 4),
     ("gaussian", np.float32, 8)],
)  # fmt: skip
def test_extra_memory_is_a_few_blocks(sketch, dtype, limit, threads, numpy_only, monkeypatch):
    quantizer = RotatedQuantizer(3, sketch=sketch)
    x = gaussian(64_000, 128).astype(dtype)  # 33 MB in float32
    quantizer.encode(x[:1])

    def extra(function):
        tracemalloc.start()
        result = function()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return result, (peak - getattr(result, "nbytes", 0)) / 1e6

    monkeypatch.setenv("KVLIB_NUM_THREADS", str(threads))
    encoded, megabytes = extra(lambda: quantizer.encode(x))
    assert megabytes < limit * threads
    assert extra(encoded.decode)[1] < limit * threads
    out = np.empty(x.shape, np.float32)
    assert extra(lambda: encoded.decode(out=out))[1] < limit * threads - out.nbytes / 1e6
    assert extra(lambda: numpy_only(quantizer.encode, x))[1] > 30  # the measure sees a copy
