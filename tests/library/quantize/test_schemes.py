"""Schemes against the oracle code for code, their bytes, and the distortion theory predicts.

Statistical checks have fixed seeds and a z limit of 4.5 (two-sided rate 6.8e-6 a comparison).
"""

import dataclasses
import itertools
import math

import numpy as np
import oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import hadamard

from kvlib import laws, quantize, stats
from kvlib.laws import sphere
from kvlib.measure import attention
from kvlib.quantize import RotatedQuantizer, codebooks, named, packing
from kvlib.quantize.codebooks import Codebook

SKETCHES = [None, "gaussian", "haar", "hadamard"]


def gaussian(*shape, seed=0, dtype=np.float64):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def relative_errors(x, x_hat):
    return ((x_hat - x) ** 2).sum(-1) / (x**2).sum(-1)


def cosines_squared(x, x_hat):
    return (x * x_hat).sum(-1) ** 2 / (x**2).sum(-1) / (x_hat**2).sum(-1)


# --- Code for code with the oracle ------------------------------------------------------


def dense_rotation(quantizer, dim, seed):
    """R as the paper writes it: H D / sqrt(d) from scipy's H, signs read off the first row."""
    matrix = quantizer.rotation_for(dim, seed=seed).matrix()
    if quantizer.rotation == "hadamard":
        signs = np.sign(matrix[0])
        return hadamard(dim) / math.sqrt(dim) * signs
    return np.eye(dim) if quantizer.rotation == "none" else matrix


def oracle_inputs(quantizer, dim, seed):
    rotation = dense_rotation(quantizer, dim, seed)
    levels = oracle.lloyd_levels(dim, quantizer.codebook_bits)
    sketch = alpha = None
    if quantizer.sketch:
        sketch = quantizer.sketch_for(dim, seed=seed).project(np.eye(dim)).T
        alpha = oracle.sketch_scale(quantizer.sketch, dim, dim, quantizer.sketch_scale)
    return rotation, levels, sketch, alpha


# A one-bit sketch has no codebook to rescale: that refusal has its own test.
STORED = [
    case
    for case in itertools.product(SKETCHES, [1, 2, 3, 4], ["norm", "unbiased"])
    if case[0] is None or case[1:] != (1, "unbiased")
]


@pytest.mark.parametrize("rotation", ["none", "hadamard", "haar"])
@pytest.mark.parametrize(("sketch", "bits", "scale"), STORED)
def test_every_stored_bit_is_the_oracles(rotation, sketch, bits, scale):
    dim, seed = 16, 5
    sketch_scale = "mmse" if bits % 2 else "unbiased"
    quantizer = RotatedQuantizer(
        bits, rotation, sketch=sketch, sketch_scale=sketch_scale, scale=scale, side_dtype="float32"
    )
    x = gaussian(2, 6, dim, seed=bits) * np.array([0.3, 7.0])[:, None, None]
    encoded = quantizer.encode(x, seed=seed)
    decoded = encoded.decode()
    r, levels, s, alpha = oracle_inputs(quantizer, dim, seed)
    for i in np.ndindex(2, 6):
        stored = oracle.encode(x[i], r, levels, s, scale == "unbiased", np.float32)
        codes, length, signs, residual_norm = stored
        n = quantizer.codebook_bits
        assert oracle.read_bits(encoded.codes[i], n, dim if n else 0) == codes
        if n:  # one unit in the last place of float32 apart at most: sums round differently
            assert encoded.scales[i] == pytest.approx(length, rel=1.2e-7)
        else:
            assert encoded.scales is None
            assert length is None
        if sketch:
            assert [bool(b) for b in oracle.read_bits(encoded.signs[i], 1, dim)] == signs
            assert encoded.residual_norms[i] == pytest.approx(residual_norm, rel=1e-6)
        else:
            assert encoded.signs is None
            assert encoded.residual_norms is None
        expected = oracle.decode(stored, r, levels, s, alpha)
        np.testing.assert_allclose(decoded[i], expected, atol=1e-6 * np.linalg.norm(x[i]))


def test_agreement_is_sensitive_to_each_stage():
    # Controls of the test above: another seed, another level, a forgotten transposition.
    quantizer = RotatedQuantizer(3, sketch="gaussian")
    x = gaussian(4, 16)
    encoded = quantizer.encode(x, seed=5)
    for seed in (4, 6):
        other = dataclasses.replace(encoded, seed=seed).decode()
        assert relative_errors(x, other).min() > 0.3
    flipped = dataclasses.replace(encoded, signs=~encoded.signs).decode()
    assert relative_errors(x, flipped).mean() > 2 * relative_errors(x, encoded.decode()).mean()


@pytest.mark.parametrize("rotation", ["hadamard", "haar"])
def test_float32_differs_from_float64_only_at_cell_edges(rotation):
    quantizer = RotatedQuantizer(4, rotation)
    x = gaussian(500, 128, dtype=np.float32)
    narrow, wide = (quantizer.encode(v, seed=1) for v in (x, x.astype(np.float64)))
    rotated = quantizer.rotation_for(128, seed=1).apply(x.astype(np.float64))
    rotated /= np.linalg.norm(x.astype(np.float64), axis=-1, keepdims=True)
    codes = [packing.unpack(e.codes, 4, 128) for e in (narrow, wide)]
    edges = codebooks.lloyd_max(128, 4).edges
    gap = np.abs(rotated[..., None] - edges).min(axis=-1)
    assert (gap[codes[0] != codes[1]] < 1e-6).all()
    assert (codes[0] != codes[1]).mean() < 1e-4


# --- Bits and bytes ---------------------------------------------------------------------


@pytest.mark.parametrize("dim", [2, 4, 8, 16, 128, 1024])
@pytest.mark.parametrize(
    ("sketch", "bits"), [(s, n) for s in SKETCHES for n in range(0 if s is None else 1, 9)]
)
def test_bits_per_coordinate_of_a_quantizer(dim, sketch, bits):
    for side_dtype, side_bits in (("float16", 16), ("float32", 32)):
        quantizer = RotatedQuantizer(bits, sketch=sketch, side_dtype=side_dtype)
        encoded = quantizer.encode(gaussian(2, 3, dim))
        arrays = (encoded.codes, encoded.scales, encoded.signs, encoded.residual_norms)
        assert encoded.nbytes == sum(a.nbytes for a in arrays if a is not None)
        expected = oracle.stored_bits(dim, quantizer.codebook_bits, sketch is not None, side_bits)
        assert encoded.bits_per_coordinate == expected / dim
        assert encoded.nbytes == 6 * expected / 8


@pytest.mark.parametrize(
    ("name", "dim", "bits", "key", "value"),
    [
        # code bits, rounded up to bytes, + 16 for each stored number, by hand
        ("KV", 128, 4, 4 * 128 + 16, 4 * 128 + 16),
        ("WHT", 128, 4, 4 * 128 + 16, 4 * 128 + 16),
        ("KQV", 128, 4, 4 * 128 + 16, 3 * 128 + 128 + 32),
        ("QKV", 128, 4, 3 * 128 + 128 + 32, 4 * 128 + 16),
        ("QKQV", 128, 4, 4 * 128 + 32, 4 * 128 + 32),
        ("QKQV", 128, 1, 128 + 16, 128 + 16),  # no code, no scale: the residual's norm only
        ("KQV", 128, 1, 128 + 16, 128 + 16),
        ("WHT", 2, 3, 8 + 16, 8 + 16),  # six bits in a byte
        ("QKQV", 2, 3, 8 + 8 + 32, 8 + 8 + 32),
        ("WHT", 2, 5, 16 + 16, 16 + 16),  # ten bits in two
    ],
)
def test_bits_of_named_schemes_by_hand(name, dim, bits, key, value):
    encoded = named(name, bits).encode(gaussian(5, dim), gaussian(5, dim, seed=1))
    assert encoded.key.bits_per_coordinate == key / dim
    assert encoded.value.bits_per_coordinate == value / dim
    assert encoded.bits_per_coordinate == (key + value) / (2 * dim)
    assert encoded.nbytes == 5 * (key + value) / 8


def test_keys_and_values_of_different_width():
    encoded = named("KQV", 4).encode(gaussian(5, 128), gaussian(5, 64))
    bits = oracle.stored_bits(128, 4, False) + oracle.stored_bits(64, 3, True)
    assert encoded.bits_per_coordinate == bits / 192
    assert [a.shape for a in encoded.decode()] == [(5, 128), (5, 64)]


# --- Shapes, types, determinism ---------------------------------------------------------


@pytest.mark.parametrize("name", quantize.NAMES)
@pytest.mark.parametrize("bits", [1, 3])
def test_batches_are_their_tokens(name, bits):
    k, v = gaussian(2, 3, 5, 16), gaussian(2, 3, 5, 16, seed=1)
    scheme = named(name, bits)
    k_hat, v_hat = scheme.encode(k, v, seed=2).decode()
    assert k_hat.shape == k.shape
    assert v_hat.shape == v.shape
    for index in [(0, 0), (1, 2)]:
        alone = scheme.encode(k[index], v[index], seed=2).decode()
        np.testing.assert_allclose(k_hat[index], alone[0], atol=1e-12)
        np.testing.assert_allclose(v_hat[index], alone[1], atol=1e-12)
    encoded = scheme.encode(k, v)
    assert encoded.key.shape == k.shape
    assert encoded.value.shape == v.shape


@pytest.mark.parametrize(
    ("dtype", "computed"),
    [(np.float16, np.float32), (np.float32, np.float32), (np.float64, np.float64), (int, float)],
)
@pytest.mark.parametrize("sketch", SKETCHES)
def test_dtypes(dtype, computed, sketch):
    x = (5 * gaussian(4, 16)).astype(dtype)
    decoded = RotatedQuantizer(4, sketch=sketch).encode(x).decode()
    assert decoded.dtype == computed
    reference = RotatedQuantizer(4, sketch=sketch).encode(x.astype(np.float64)).decode()
    np.testing.assert_allclose(decoded, reference, atol=1e-5 * np.abs(reference).max())


@pytest.mark.parametrize("sketch", SKETCHES)
def test_memory_layout_does_not_matter_and_input_is_untouched(sketch):
    base = gaussian(16, 4, 6)
    x = base.transpose(1, 2, 0)[:, ::-2]
    x.setflags(write=False)
    quantizer = RotatedQuantizer(3, sketch=sketch)
    first, second = quantizer.encode(x), quantizer.encode(np.ascontiguousarray(x))
    np.testing.assert_array_equal(first.codes, second.codes)
    np.testing.assert_allclose(first.decode(), second.decode(), atol=1e-13)


@pytest.mark.parametrize("name", quantize.NAMES)
def test_seeds_reproduce_and_differ(name):
    k, v = gaussian(6, 16), gaussian(6, 16, seed=1)

    def run(seed):
        return np.stack(named(name, 3).encode(k, v, seed=seed).decode())

    np.testing.assert_array_equal(run(7), run(7))
    assert (np.abs(run(7) - run(8)).max() == 0) == (name == "KV")  # KV draws nothing


def test_global_random_state_is_neither_read_nor_moved():
    k, v = gaussian(3, 16), gaussian(3, 16, seed=1)
    np.random.seed(1)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    first = named("QKQV", 3, rotation="haar").encode(k, v).decode()
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002
    np.random.seed(2)  # noqa: NPY002
    second = named("QKQV", 3, rotation="haar").encode(k, v).decode()
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_schemes_with_equal_seeds_are_paired(bits):
    k, v = gaussian(6, 16), gaussian(6, 16, seed=1)
    run = {name: named(name, bits).encode(k, v, seed=3) for name in quantize.NAMES}

    def same(a, b):
        return all(
            (getattr(a, part) is None and getattr(b, part) is None)
            or np.array_equal(getattr(a, part), getattr(b, part))
            for part in ("codes", "scales", "signs", "residual_norms")
        )

    assert same(run["KQV"].key, run["WHT"].key)
    assert same(run["KQV"].value, run["QKQV"].value)
    assert same(run["QKV"].key, run["QKQV"].key)
    assert same(run["QKV"].value, run["WHT"].value)
    assert not same(run["KQV"].key, run["QKQV"].key)
    assert not same(run["KV"].key, run["WHT"].key)
    # K and V have randomness of their own, and neighbouring seeds share none of it.
    twice = named("WHT", 4).encode(k, k, seed=3)
    assert not same(twice.key, twice.value)
    assert not same(twice.value, named("WHT", 4).encode(k, k, seed=4).key)


@settings(max_examples=60)
@given(
    st.sampled_from(["none", "hadamard", "haar"]),
    st.sampled_from(SKETCHES),
    st.integers(1, 6),
    st.integers(-8, 8),
    st.integers(0, 2**32 - 1),
)
def test_powers_of_two_pass_through_exactly(rotation, sketch, bits, power, seed):
    # Within the normal range of float16, so that the stored norms scale exactly too.
    quantizer = RotatedQuantizer(bits, rotation, sketch=sketch)
    x = gaussian(3, 16, seed=seed)
    small, large = quantizer.encode(x, seed=seed), quantizer.encode(x * 2.0**power, seed=seed)
    np.testing.assert_array_equal(small.codes, large.codes)
    np.testing.assert_array_equal(small.decode() * 2.0**power, large.decode())
    np.testing.assert_array_equal(quantizer.encode(-x, seed=seed).nbytes, small.nbytes)


# --- Distortion -------------------------------------------------------------------------


@pytest.mark.parametrize("rotation", ["none", "hadamard", "haar"])
@pytest.mark.parametrize(("dim", "bits"), [(2, 3), (8, 1), (8, 4), (128, 2), (128, 3), (128, 6)])
def test_isotropic_error_is_the_codebooks_distortion(rotation, dim, bits):
    # float16 norms add at most 2^-22 = 2.4e-7, 0.04% of D(6): inside the interval.
    x = gaussian(20_000 if dim < 100 else 3000, dim)
    quantizer = RotatedQuantizer(bits, rotation)
    errors = relative_errors(x, quantizer.encode(x, seed=1).decode())
    expected = codebooks.lloyd_max(dim, bits).distortion
    assert abs(oracle.z_score(errors, expected)) < oracle.Z_LIMIT
    # Controls: levels a tenth too small cost 0.01 (1 - D); at 3 bits, half of the 4-bit codebook.
    controls = [0.9 * codebooks.lloyd_max(dim, bits).levels]
    if bits == 3:
        controls.append(codebooks.lloyd_max(dim, 4).levels[::2])
    for levels in controls:
        wrong = RotatedQuantizer(bits, rotation, codebook=Codebook(dim, bits, levels, "wrong"))
        errors = relative_errors(x, wrong.encode(x, seed=1).decode())
        assert abs(oracle.z_score(errors, expected)) > oracle.Z_LIMIT


@pytest.mark.parametrize("sketch", ["gaussian", "haar", "hadamard"])
@pytest.mark.parametrize("sketch_scale", ["unbiased", "mmse"])
@pytest.mark.parametrize("bits", [1, 2, 4])
def test_sketched_error_is_c_times_distortion(sketch, sketch_scale, bits):
    # c D(n-1), with c of T06 and T07. Exact for every S, Hadamard included: x is isotropic and R
    # fresh, so R x is independent of R and the residual R^T (u - Q(u)) is isotropic.
    dim, draws = 64, 300
    quantizer = RotatedQuantizer(bits, "haar", sketch=sketch, sketch_scale=sketch_scale)
    errors = []
    for seed in range(draws):  # one mean a draw: tokens share S
        x = gaussian(16, dim, seed=seed)
        errors.append(relative_errors(x, quantizer.encode(x, seed=seed).decode()).mean())
    distortion = codebooks.lloyd_max(dim, bits - 1).distortion
    c = quantizer.sketch_for(dim, seed=0).expected_error
    assert abs(oracle.z_score(errors, c * distortion)) < oracle.Z_LIMIT
    assert abs(oracle.z_score(errors, distortion)) > oracle.Z_LIMIT


def isotropy_z(x, decoded):
    """z of the regression <x, x_hat>/|x|^2 = 1, tokens independent."""
    return oracle.z_score((x * decoded).sum(-1) / (x * x).sum(-1), 1)


@pytest.mark.parametrize("sketch", ["haar", "hadamard"])
@pytest.mark.parametrize("bits", [1, 2, 4])
def test_sketch_undoes_the_shrinkage_and_a_dead_stage_is_found(sketch, bits):
    # One R and one S for all tokens: exact at one bit; at more, the residual's law in the basis S
    # departs from a Gaussian by O(excess kurtosis / d), 1e-3 of D(n-1), below the standard error.
    x = gaussian(4000, 64)
    encoded = RotatedQuantizer(bits, "haar", sketch=sketch).encode(x, seed=1)
    assert abs(isotropy_z(x, encoded.decode())) < oracle.Z_LIMIT
    # A decoder that drops the sign sketch shrinks by D(n-1).
    silent = dataclasses.replace(encoded, residual_norms=np.zeros_like(encoded.residual_norms))
    dead = silent.decode()
    if bits > 1:
        shrinkage = codebooks.lloyd_max(64, bits - 1).distortion
        assert abs(isotropy_z(x, dead + shrinkage * x)) < oracle.Z_LIMIT
        assert abs(isotropy_z(x, dead)) > oracle.Z_LIMIT
    else:
        np.testing.assert_array_equal(dead, 0)
    # A scale sqrt(d) too small, the other port bug.
    weak = dead + (encoded.decode() - dead) / 8
    assert abs(isotropy_z(x, weak)) > oracle.Z_LIMIT


def test_gaussian_sketch_undoes_the_shrinkage_over_draws():
    ratios, dead = [], []
    for seed in range(400):
        x = gaussian(1, 64, seed=seed)
        encoded = RotatedQuantizer(2, sketch="gaussian").encode(x, seed=seed)
        silent = dataclasses.replace(encoded, residual_norms=np.zeros((1,), np.float16))
        for store, decoded in ((ratios, encoded.decode()), (dead, silent.decode())):
            store.append(((x * decoded).sum() / (x * x).sum()).item())
    assert abs(oracle.z_score(ratios, 1)) < oracle.Z_LIMIT
    assert abs(oracle.z_score(dead, 1)) > oracle.Z_LIMIT


@pytest.mark.parametrize("dim", [8, 128])
@pytest.mark.parametrize("bits", [1, 2, 4])
def test_centroid_condition_shrinks_by_one_minus_distortion(dim, bits):
    # T04: <x, x_hat> = |x_hat|^2 = (1 - D) |x|^2 in expectation, hence cos^2 near 1 - D.
    x = gaussian(8000, dim)
    decoded = RotatedQuantizer(bits, side_dtype="float32").encode(x, seed=1).decode()
    kept = 1 - codebooks.lloyd_max(dim, bits).distortion
    squares = (x**2).sum(-1)
    assert abs(oracle.z_score((x * decoded).sum(-1) / squares, kept)) < oracle.Z_LIMIT
    assert abs(oracle.z_score((decoded**2).sum(-1) / squares, kept)) < oracle.Z_LIMIT
    # Control: levels a tenth too small are not centroids.
    levels = 0.9 * codebooks.lloyd_max(dim, bits).levels
    wrong = (
        RotatedQuantizer(bits, codebook=Codebook(dim, bits, levels, "shrunk")).encode(x).decode()
    )
    difference = ((x * wrong).sum(-1) - (wrong**2).sum(-1)) / squares
    assert abs(oracle.z_score(difference, 0)) > oracle.Z_LIMIT


@pytest.mark.parametrize("side_dtype", ["float16", "float32"])
@pytest.mark.parametrize("rotation", ["none", "hadamard", "haar"])
@pytest.mark.parametrize("codebook", ["lloyd-max", "uniform"])
@pytest.mark.parametrize("bits", [1, 2, 5])
def test_unbiased_scale_is_exact_per_vector(side_dtype, rotation, codebook, bits):
    # <x, x_hat> = |x|^2 up to the rounding of the stored scale: half a unit, 2^-11 or 2^-24.
    rounding = {"float16": 2.0**-11, "float32": 2.0**-24}[side_dtype] * (1 + 1e-6)
    quantizer = RotatedQuantizer(
        bits, rotation, codebook=codebook, scale="unbiased", side_dtype=side_dtype
    )
    x = gaussian(200, 64) * np.geomspace(0.1, 100, 200)[:, None]
    decoded = quantizer.encode(x, seed=1).decode()
    ratio = (x * decoded).sum(-1) / (x * x).sum(-1)
    assert np.abs(ratio - 1).max() <= rounding + 1e-12
    plain = dataclasses.replace(quantizer, scale="norm").encode(x, seed=1).decode()
    ratio = (x * plain).sum(-1) / (x * x).sum(-1)
    assert np.abs(ratio - 1).max() > rounding + 1e-12


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rotation", ["hadamard", "haar", "none"])
def test_matched_scale_keeps_every_length(rotation, dtype):
    x = np.random.default_rng(8).standard_normal((3, 40, 32)).astype(dtype)
    encoded = RotatedQuantizer(3, rotation, scale="matched", side_dtype="float32").encode(x)
    plain = RotatedQuantizer(3, rotation, side_dtype="float32").encode(x)
    lengths = np.linalg.norm(encoded.decode(), axis=-1)
    np.testing.assert_allclose(lengths, np.linalg.norm(x, axis=-1), rtol=1e-5)
    assert encoded.nbytes == plain.nbytes
    shrunk = np.linalg.norm(plain.decode(), axis=-1) / np.linalg.norm(x, axis=-1)
    assert np.abs(shrunk - 1).max() > 0.01


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_matched_scale_costs_what_the_cosine_says(bits):
    x = np.random.default_rng(9).standard_normal((20000, 64))
    x_hat = RotatedQuantizer(bits, scale="matched", side_dtype="float32").encode(x).decode()
    D = codebooks.lloyd_max(64, bits).distortion
    error = ((x - x_hat) ** 2).sum(-1) / (x**2).sum(-1)
    interval = stats.mean_interval(error)
    # The closed form is the limit of many coordinates; the radial gain's variance is what is left.
    finite = codebooks.radial_gain_variance(codebooks.lloyd_max(64, bits))
    law = laws.matched_distortion(D)
    assert law - 1.1 * finite < interval.low < interval.high < law
    assert interval.high < laws.unbiased_distortion(D)
    assert interval.low > D - 1.1 * finite


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_unbiased_scale_costs_distortion_over_one_minus_distortion(bits):
    # T04, D/(1-D), is the limit of large d. For every vector the error is 1/cos^2 - 1, and Jensen
    # adds O(1/d): at one bit cos^2 = d (E|u|)^2 (1 + a)^2 with Var a = (pi/2 - 3/2)/d, an excess of
    # 3 Var a / (1 - D) = 0.0026 at d = 128, or 0.5%; less at more bits. Tolerance 1% + 4.5 errors.
    x = gaussian(6000, 128)
    decoded = (
        RotatedQuantizer(bits, scale="unbiased", side_dtype="float32").encode(x, seed=1).decode()
    )
    errors = relative_errors(x, decoded)
    np.testing.assert_allclose(errors, 1 / cosines_squared(x, decoded) - 1, rtol=1e-4)
    distortion = codebooks.lloyd_max(128, bits).distortion
    expected = distortion / (1 - distortion)
    slack = 0.01 * expected + oracle.Z_LIMIT * errors.std() / math.sqrt(len(errors))
    assert abs(errors.mean() - expected) < slack
    if bits < 4:  # the plain scale's D is told apart while D itself exceeds the slack
        assert abs(distortion - expected) > slack
    if bits == 1:  # and the derived excess is there
        excess = 3 * (math.pi / 2 - 1.5) / 128 / (1 - distortion)
        assert abs(oracle.z_score(errors, expected + excess)) < oracle.Z_LIMIT


@settings(max_examples=30)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(["none", "hadamard", "haar"]),
    st.sampled_from(["lloyd-max", "uniform"]),
    st.sampled_from(SKETCHES),
)
def test_error_falls_with_every_bit(seed, rotation, codebook, sketch):
    x = gaussian(64, 32, seed=seed)
    errors = [
        relative_errors(
            x,
            RotatedQuantizer(n, rotation, codebook=codebook, sketch=sketch)
            .encode(x, seed=seed)
            .decode(),
        ).mean()
        for n in range(1, 9)
    ]
    assert (np.diff(errors) < 0).all()


def test_rotation_rescues_spikes():
    # Rows with one large entry: unrotated coordinates leave the sphere law; a fresh Haar rotation
    # restores the isotropic error.
    dim, bits = 64, 4
    x = gaussian(8, dim)
    x[:, 5] += 60
    errors = {
        rotation: np.array(
            [
                relative_errors(
                    x, RotatedQuantizer(bits, rotation).encode(x, seed=s).decode()
                ).mean()
                for s in range(200)
            ]
        )
        for rotation in ("none", "haar")
    }
    distortion = codebooks.lloyd_max(dim, bits).distortion
    assert abs(oracle.z_score(errors["haar"], distortion)) < oracle.Z_LIMIT
    assert errors["none"].mean() > 10 * distortion
    # One-hot under one Hadamard round: the same |coordinate| 1/sqrt(d) everywhere, so the error is
    # that of one code, exactly; under Haar it is not (T02).
    one_hot = np.eye(dim)[[5]]
    codebook = codebooks.lloyd_max(dim, bits)
    level = codebook.dequantize(codebook.quantize([1 / 8]))
    decoded = RotatedQuantizer(bits, "hadamard").encode(one_hot).decode()
    assert relative_errors(one_hot, decoded)[0] == pytest.approx((1 - 8 * level[0]) ** 2, rel=1e-9)


def test_zero_bits_decode_to_zero():
    encoded = RotatedQuantizer(0).encode(gaussian(3, 8))
    assert encoded.nbytes == 0
    np.testing.assert_array_equal(encoded.decode(), np.zeros((3, 8)))


def test_one_bit_of_mmse_sketch_is_one_bit_of_lloyd_max():
    # T09's tie at n = 1.
    x = gaussian(4000, 32)
    sketched = RotatedQuantizer(1, sketch="haar", sketch_scale="mmse").encode(x, seed=1).decode()
    errors = relative_errors(x, sketched)
    expected = codebooks.lloyd_max(32, 1).distortion
    assert abs(oracle.z_score(errors, expected)) < oracle.Z_LIMIT


# --- Refusals ---------------------------------------------------------------------------


def with_entry(value, dtype=np.float64):
    x = np.ones((2, 3, 8), dtype=dtype)
    x[1, 2, 3] = value
    return x


BAD_VECTORS = [
    (with_entry(np.nan), ValueError, r"must be finite, got 1 NaN or infinite"),
    (with_entry(np.inf, np.float32), ValueError, r"must be finite, got 1 NaN or infinite"),
    (with_entry(-np.inf, np.float16), ValueError, r"must be finite, got 1 NaN or infinite"),
    (np.ones(8), ValueError, r"must have shape \(\.\.\., tokens, d\) .*got \(8,\)"),
    (np.float64(1), ValueError, r"must have shape .*got \(\)"),
    (np.ones((0, 8)), ValueError, r"must not be empty, got shape \(0, 8\)"),
    (np.ones((3, 0)), ValueError, r"must not be empty, got shape \(3, 0\)"),
    (np.ones((3, 8), dtype=object), TypeError, "must hold real numbers, got dtype object"),
    (np.ones((3, 8), dtype=bool), TypeError, "must hold real numbers, got dtype bool"),
    (np.ones((3, 8), dtype=complex), TypeError, "must hold real numbers, got dtype complex128"),
    (np.full((3, 8), "1"), TypeError, "must hold real numbers, got dtype <U1"),
    (None, TypeError, "must hold real numbers, got dtype object"),
]


@pytest.mark.parametrize(("x", "error", "message"), BAD_VECTORS)
def test_bad_vectors_are_refused(x, error, message):
    with pytest.raises(error, match="x " + message):
        RotatedQuantizer(3).encode(x)
    good = np.ones((2, 3, 8))
    with pytest.raises(error, match="k " + message):
        named("KQV", 3).encode(x, good)
    with pytest.raises(error, match="v " + message):
        named("KQV", 3).encode(good, x)


@pytest.mark.parametrize("kernels", ["auto", "numpy"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("rotation", ["none", "hadamard", "haar"])
@pytest.mark.parametrize("sketch", SKETCHES)
@pytest.mark.parametrize(
    ("bits", "scale"), [(1, "norm"), (3, "norm"), (3, "matched"), (3, "unbiased")]
)
def test_zero_vectors_have_scale_zero_and_decode_to_zero(
    dtype, rotation, sketch, bits, scale, kernels, monkeypatch
):
    monkeypatch.setenv("KVLIB_KERNELS", kernels)
    quantizer = RotatedQuantizer(bits, rotation, sketch=sketch, scale=scale)
    x = gaussian(2, 9, 16, seed=1).astype(dtype)
    whole = quantizer.encode(x, seed=3)
    x[0, 4] = x[1, 0] = 0
    x[1, 8] = -0.0
    holed = quantizer.encode(x, seed=3)
    decoded, zero = holed.decode(), ~x.any(-1)
    assert (decoded[zero] == 0).all()
    assert holed.nbytes == whole.nbytes
    for lengths in (holed.scales, holed.residual_norms):
        assert lengths is None or (lengths[zero] == 0).all()
        assert lengths is None or (lengths[~zero] > 0).all()
    # Their neighbours are stored as if they were not there.
    for name in ("codes", "scales", "signs", "residual_norms"):
        mine, theirs = getattr(holed, name), getattr(whole, name)
        if mine is not None:
            np.testing.assert_array_equal(mine[~zero], theirs[~zero])
    assert (quantizer.encode(0 * x, seed=3).decode() == 0).all()


def test_vectors_too_small_for_their_scale_are_not_taken_for_zero():
    x = np.zeros((3, 8))
    x[1] = 1e-9
    with pytest.raises(ValueError, match="side_dtype='float16' cannot hold per-vector scales"):
        RotatedQuantizer(3).encode(x)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("dim", [80, 96, 112, 192, 576])
@pytest.mark.parametrize(
    "quantizer",
    [
        RotatedQuantizer(3),
        RotatedQuantizer(3, rounds=2, scale="unbiased"),
        RotatedQuantizer(3, "none", sketch="hadamard"),
        RotatedQuantizer(3, "haar", sketch="hadamard"),
        RotatedQuantizer(3, sketch="hadamard", sketch_scale="mmse"),
        RotatedQuantizer(1, sketch="hadamard", sketch_scale="mmse"),
    ],
    ids=lambda q: f"{q.bits} {q.rotation} {q.sketch}",
)
def test_any_dimension_has_a_hadamard_rotation_and_sketch(quantizer, dim, dtype):
    x = gaussian(200, dim, seed=dim).astype(dtype)
    encoded = quantizer.encode(x, seed=2)
    book = quantizer.codebook_for(dim)
    sketch = quantizer.sketch_for(dim, seed=2)
    expected = 1.0 if quantizer.codebook_bits == 0 else book.distortion
    if quantizer.scale == "unbiased":
        expected /= 1 - expected  # D / (1 - D): x_hat is longer
    if sketch is not None:
        expected *= sketch.expected_error
    # Isotropic vectors: the law holds for any rotation; 200 vectors of d coordinates.
    assert relative_errors(x, encoded.decode()).mean() == pytest.approx(expected, rel=0.03)
    assert encoded.nbytes == 200 * (
        -(-dim * quantizer.codebook_bits // 8) + 2 * (quantizer.codebook_bits > 0)
        + (dim // 8 + 2) * (sketch is not None)
    )  # fmt: skip


def test_a_sketch_of_another_seed_is_noise_in_any_dimension():
    # Negative control of the test above: what is decoded depends on the block transform's signs.
    x = gaussian(50, 80)
    encoded = RotatedQuantizer(3, sketch="hadamard").encode(x, seed=2)
    wrong = dataclasses.replace(encoded, seed=3)
    assert relative_errors(x, wrong.decode()).mean() > 1


def test_dimension_one_is_refused():
    with pytest.raises(ValueError, match="dim must be an integer >= 2, got 1"):
        RotatedQuantizer(3).encode(np.ones((3, 1)))


def test_keys_and_values_must_hold_the_same_tokens():
    with pytest.raises(
        ValueError, match=r"k and v .*same tokens, got shapes \(4, 8\) and \(5, 8\)"
    ):
        named("KQV", 3).encode(np.ones((4, 8)), np.ones((5, 8)))


@pytest.mark.parametrize(
    ("seed", "error"), [(-1, ValueError), (1.5, TypeError), (None, TypeError), (True, TypeError)]
)
def test_bad_seeds_are_refused(seed, error):
    x = np.ones((3, 8))
    for call in (
        lambda: RotatedQuantizer(3).encode(x, seed=seed),
        lambda: named("KV", 3).encode(x, x, seed=seed),
    ):
        with pytest.raises(error, match=f"seed must be an integer >= 0, got {seed}"):
            call()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"bits": -1}, ValueError, "bits must be an integer from 0 to 8, got -1"),
        ({"bits": 9}, ValueError, "bits must be an integer from 0 to 8, got 9"),
        ({"bits": 0, "sketch": "haar"}, ValueError, "bits must be an integer from 1 to 8, got 0"),
        ({"bits": 2.5}, TypeError, r"bits must be an integer from 0 to 8, got 2\.5"),
        ({"bits": True}, TypeError, "bits must be an integer from 0 to 8, got True"),
        (
            {"codebook": "max"},
            ValueError,
            "codebook must be one of 'lloyd-max', 'uniform', got 'max'",
        ),
        ({"scale": "eden"}, ValueError, "scale must be one of 'norm', 'matched', 'unbiased', got"),
        ({"side_dtype": "bfloat16"}, ValueError, "side_dtype must be one of 'float16', 'float32'"),
        ({"rounds": 0}, ValueError, "rounds must be an integer >= 1, got 0"),
        ({"rotation": "haar", "rounds": 2}, ValueError, "rounds must be .*got 2"),
        ({"rotation": "dct"}, ValueError, "must be one of 'none', 'hadamard', 'haar', got 'dct'"),
        ({"sketch": "dct"}, ValueError, "must be one of 'gaussian', 'haar', 'hadamard', got 'dct'"),
        ({"bits": 0, "scale": "unbiased"}, ValueError, "scale='unbiased' needs .*got bits=0"),
        ({"bits": 1, "sketch": "haar", "scale": "unbiased"}, ValueError, "scale='unbiased' needs"),
    ],
)
def test_bad_quantizers_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        RotatedQuantizer(**{"bits": 3, **arguments})


def test_a_codebook_that_does_not_fit_is_refused():
    book = codebooks.lloyd_max(8, 3)
    assert (
        RotatedQuantizer(3, codebook=book).encode(np.ones((2, 8))).bits_per_coordinate == 3 + 16 / 8
    )
    with pytest.raises(ValueError, match=r"codebook must have 4 bits for bits=4 .*got 3"):
        RotatedQuantizer(4, codebook=book)
    with pytest.raises(ValueError, match=r"codebook must have 2 bits for bits=3 .*'haar', got 3"):
        RotatedQuantizer(3, codebook=book, sketch="haar")
    with pytest.raises(ValueError, match="x must have 8 coordinates to fit the codebook, got 16"):
        RotatedQuantizer(3, codebook=book).encode(np.ones((2, 16)))


@pytest.mark.parametrize("name", ["MSE", "kqv", "", None, 3])
def test_unknown_schemes_are_refused(name):
    with pytest.raises(ValueError, match=r"name must be one of 'KV', 'WHT', .*got"):
        named(name, 4)


@pytest.mark.parametrize("bits", [0, 9])
def test_named_budgets_out_of_range_are_refused(bits):
    with pytest.raises(ValueError, match=f"bits must be an integer from 1 to 8, got {bits}"):
        named("KQV", bits)


@pytest.mark.parametrize("scale", ["norm", "unbiased"])
@pytest.mark.parametrize("size", [1e5, 1e-9])
def test_norms_that_float16_cannot_hold_are_refused(scale, size):
    x = size * gaussian(4, 16)
    with pytest.raises(
        ValueError, match=r"side_dtype='float16' cannot hold .*'float32' or rescale"
    ):
        RotatedQuantizer(3, scale=scale).encode(x)
    wide = RotatedQuantizer(3, scale=scale, side_dtype="float32").encode(x)
    assert relative_errors(x, wide.decode()).max() < 0.2


def test_residual_norms_that_float16_cannot_hold_are_refused():
    with pytest.raises(ValueError, match=r"side_dtype='float16' cannot hold"):
        RotatedQuantizer(1, sketch="haar").encode(1e5 * gaussian(4, 16))


# --- The mean -----------------------------------------------------------------------------


def common(*shape, seed=0, dtype=np.float64):
    """Vectors with a mean as large as their deviations."""
    x = gaussian(*shape, seed=seed)
    return (x + gaussian(*shape[:-2], 1, shape[-1], seed=seed + 1000)).astype(dtype)


@pytest.mark.parametrize("rotation", ["none", "hadamard", "haar"])
@pytest.mark.parametrize("sketch", SKETCHES)
@pytest.mark.parametrize("side", [np.float16, np.float32])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_centred_vectors_are_the_oracles_deviations(rotation, sketch, side, dtype):
    dim, seed = 16, 5
    quantizer = RotatedQuantizer(
        3, rotation, sketch=sketch, scale="unbiased", side_dtype=np.dtype(side).name, center=True
    )
    x = common(2, 6, dim, dtype=dtype)
    encoded = quantizer.encode(x, seed=seed)
    assert encoded.mean.shape == (2, 1, dim)
    assert encoded.mean.dtype == side
    r, levels, s, alpha = oracle_inputs(quantizer, dim, seed)
    decoded = encoded.decode()
    assert decoded.dtype == dtype
    for i in range(2):
        mean = oracle.mean(x[i], side)
        np.testing.assert_array_equal(encoded.mean[i, 0], mean)
        for j in range(6):
            deviation = x[i, j].astype(float) - mean
            stored = oracle.encode(deviation, r, levels, s, True, side)
            assert oracle.read_bits(encoded.codes[i, j], quantizer.codebook_bits, dim) == stored[0]
            expected = mean + oracle.decode(stored, r, levels, s, alpha)
            # Lengths may round to neighbouring numbers of their stored type.
            slack = (2e-3 if side == np.float16 else 2e-6) * np.linalg.norm(deviation)
            np.testing.assert_allclose(decoded[i, j], expected, atol=slack)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("sketch", SKETCHES)
def test_centring_is_taking_the_stored_mean_out_by_hand(dtype, sketch):
    x = common(3, 50, 64, dtype=dtype)
    for scale in ("norm", "unbiased"):
        centred = RotatedQuantizer(3, sketch=sketch, scale=scale, center=True)
        encoded = centred.encode(x, seed=1)
        mean = encoded.mean.astype(x.dtype if dtype == np.float64 else np.float32)
        np.testing.assert_allclose(
            mean, x.mean(-2, keepdims=True, dtype=float), rtol=1e-3, atol=1e-3
        )
        plain = dataclasses.replace(centred, center=False).encode(x - mean, seed=1)
        np.testing.assert_array_equal(encoded.codes, plain.codes)
        np.testing.assert_array_equal(encoded.decode(), plain.decode() + mean)


@pytest.mark.parametrize("side_dtype", ["float16", "float32"])
@pytest.mark.parametrize("bits", [1, 2, 5])
def test_unbiased_scale_is_exact_about_the_mean(side_dtype, bits):
    # <x - mean, x_hat - mean> = |x - mean|^2 up to the rounding of the stored scale.
    rounding = {"float16": 2.0**-11, "float32": 2.0**-24}[side_dtype] * (1 + 1e-6)
    x = common(4, 200, 64)
    encoded = RotatedQuantizer(bits, scale="unbiased", side_dtype=side_dtype, center=True).encode(x)

    def ratio(mean):
        deviation = x - mean
        return (deviation * (encoded.decode() - mean)).sum(-1) / (deviation**2).sum(-1)

    assert np.abs(ratio(encoded.mean.astype(float)) - 1).max() <= rounding + 1e-12
    assert np.abs(ratio(0) - 1).max() > rounding + 1e-12  # and about zero it is not


@pytest.mark.parametrize("rounds", [1, 2])
def test_softmax_sees_no_common_vector_under_c_eden(rounds):
    # The vector has the length of forty keys, its own rounding to float16 is encoded.
    rng = np.random.default_rng(0)
    q, k = rng.standard_normal((2, 100, 64))
    shift = 5 * rng.standard_normal(64) * np.linspace(0, 2, 64)

    def kl(name, keys):
        options = {} if name == "WHT" else {"rounds": rounds}
        decoded = named(name, 3, side_dtype="float32", **options).encode(keys, k)
        return attention.attention_kl(q, keys, decoded.decode()[0])

    np.testing.assert_allclose(kl("C-EDEN", k + shift), kl("C-EDEN", k), rtol=1e-3)
    for name in ("WHT", "EDEN"):  # negative control: these pay for it
        assert kl(name, k + shift).mean() > 5 * kl(name, k).mean()


def test_mean_is_counted_and_c_eden_costs_what_kqv_costs():
    tokens, dim, n = 256, 128, 4
    k, v = gaussian(2, tokens, dim), gaussian(2, tokens, dim, seed=1)
    sizes = {name: named(name, n).encode(k, v).nbytes for name in quantize.NAMES}
    vectors = 2 * tokens  # of keys, and as many of values
    assert sizes["EDEN"] == sizes["WHT"] == vectors * 2 * (n * dim // 8 + 2)
    assert sizes["KQV"] == sizes["WHT"] + 2 * vectors  # the values' residual norms
    assert sizes["C-EDEN"] == sizes["EDEN"] + 2 * 2 * dim * 2  # two means of two heads
    assert sizes["C-EDEN"] == sizes["KQV"]  # 2 d numbers a head against N: equal at N = 2 d
    encoded = named("C-EDEN", n).encode(k, v)
    assert encoded.bits_per_coordinate == n + 16 / dim + 16 / tokens
    assert encoded.key.mean.nbytes == 2 * dim * 2


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("sketch", SKETCHES)
@pytest.mark.parametrize("bits", [1, 3])
def test_vectors_equal_to_their_mean_decode_to_it_exactly(dtype, sketch, bits):
    quantizer = RotatedQuantizer(bits, sketch=sketch, center=True)
    x = gaussian(2, 5, 16).astype(np.float16).astype(dtype)
    x[0] = x[0, 0]  # all tokens equal
    x[1, 2:] = 0
    x[1, 1] = -x[1, 0]  # zero mean, zero vectors
    encoded = quantizer.encode(x)
    decoded = encoded.decode()
    np.testing.assert_array_equal(decoded[0], x[0])
    np.testing.assert_array_equal(decoded[1, 2:], 0)
    assert np.isfinite(decoded).all()
    assert relative_errors(x[1, :2].astype(float), decoded[1, :2]).max() < 1.5
    np.testing.assert_array_equal(quantizer.encode(x[:, :1]).decode(), x[:, :1])  # one token
    np.testing.assert_array_equal(quantizer.encode(0 * x).decode(), 0 * x)
    # A mean that float16 rounds: what it misses is coded, even where that is subnormal.
    for size in (1, 1e-3):
        once = size * gaussian(1, 16)
        error = relative_errors(once, quantizer.encode(once).decode())
        assert error.max() < 2.0**-20


def test_zero_bits_and_a_mean_are_the_mean():
    x = common(3, 4, 8)
    encoded = RotatedQuantizer(0, center=True, side_dtype="float32").encode(x)
    assert encoded.nbytes == 3 * 8 * 4
    expected = np.broadcast_to(x.mean(-2, keepdims=True), x.shape)
    np.testing.assert_allclose(encoded.decode(), expected, atol=1e-6)


@settings(max_examples=60)
@given(
    st.sampled_from(["none", "hadamard", "haar"]),
    st.sampled_from(SKETCHES),
    st.sampled_from(["norm", "unbiased"]),
    st.integers(2, 6),
    st.integers(-8, 8),
    st.integers(0, 2**32 - 1),
)
def test_powers_of_two_pass_through_the_mean_exactly(rotation, sketch, scale, bits, power, seed):
    quantizer = RotatedQuantizer(
        bits, rotation, sketch=sketch, scale=scale, side_dtype="float32", center=True
    )
    x = common(5, 16, seed=seed)
    small, large = quantizer.encode(x, seed=seed), quantizer.encode(x * 2.0**power, seed=seed)
    np.testing.assert_array_equal(small.codes, large.codes)
    np.testing.assert_array_equal(small.decode() * 2.0**power, large.decode())
    assert large.nbytes == small.nbytes


@settings(max_examples=40)
@given(
    st.sampled_from(SKETCHES),
    st.integers(2, 6),
    st.sampled_from([np.float32, np.float64]),
    st.permutations(range(7)),
    st.integers(0, 2**32 - 1),
)
def test_order_of_tokens_does_not_matter(sketch, bits, dtype, order, seed):
    # Entries are multiples of 1/16, so that their sum is exact in any order.
    x = (np.round(16 * common(7, 16, seed=seed)) / 16).astype(dtype)
    quantizer = RotatedQuantizer(bits, sketch=sketch, scale="unbiased", center=True)
    there, back = quantizer.encode(x, seed=1), quantizer.encode(x[order], seed=1)
    np.testing.assert_array_equal(there.mean, back.mean)
    np.testing.assert_array_equal(there.codes[order], back.codes)


@pytest.mark.parametrize(
    ("size", "shown"), [(1e5, r"the mean of entries from"), (1e-9, r"the mean of entries from")]
)
def test_means_that_float16_cannot_hold_are_refused(size, shown):
    x = size * (2 + gaussian(4, 16) / 9)
    with pytest.raises(ValueError, match=rf"side_dtype='float16' cannot hold {shown} .*'float32'"):
        RotatedQuantizer(3, center=True).encode(x)
    wide = RotatedQuantizer(3, center=True, side_dtype="float32").encode(x)
    assert relative_errors(x, wide.decode()).max() < 0.2


@pytest.mark.parametrize(("x", "error", "message"), BAD_VECTORS)
def test_bad_vectors_are_refused_before_their_mean(x, error, message):
    with pytest.raises(error, match="x " + message):
        RotatedQuantizer(3, center=True).encode(x)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_padding_is_left_out_of_the_mean(dtype):
    x = common(2, 40, 16).astype(dtype)
    real = np.arange(40) < np.array([25, 40])[:, None]
    padded = np.where(real[..., None], x, 1000).astype(dtype)
    quantizer = RotatedQuantizer(4, center=True, side_dtype="float32")
    encoded = quantizer.encode(padded, mask=real)
    for i, count in enumerate((25, 40)):
        alone = quantizer.encode(x[i, :count])
        np.testing.assert_allclose(encoded.mean[i], alone.mean, rtol=1e-6)
        np.testing.assert_allclose(encoded.decode()[i, :count], alone.decode(), atol=1e-3)
    # Negative control: the padding moves the mean.
    assert np.abs(quantizer.encode(padded).mean[0] - encoded.mean[0]).min() > 100
    # Without a mean nothing depends on the mask; of no tokens the mean is zero.
    plain = RotatedQuantizer(4)
    np.testing.assert_array_equal(plain.encode(x, mask=real).codes, plain.encode(x).codes)
    assert not quantizer.encode(x, mask=np.zeros(40, bool)).mean.any()


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        (np.ones(40), TypeError, "mask must hold booleans, got dtype float64"),
        (np.ones(39, bool), ValueError, r"mask must broadcast to \(2, 40\), .* got shape \(39,\)"),
        (np.ma.ones(40, dtype=bool), TypeError, "mask must not be a masked array"),
    ],
)
def test_masks_that_do_not_fit_are_refused(mask, error, message):
    for center in (True, False):
        with pytest.raises(error, match=message):
            RotatedQuantizer(4, center=center).encode(common(2, 40, 16), mask=mask)


@pytest.mark.parametrize("center", [1, None, "mean"])
def test_center_is_true_or_false(center):
    with pytest.raises(TypeError, match="center must be True or False, got"):
        RotatedQuantizer(3, center=center)


# --- The seven schemes ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "rotation", "key_sketched", "value_sketched"),
    [
        ("KV", "none", False, False),
        ("WHT", "hadamard", False, False),
        ("KQV", "hadamard", False, True),
        ("QKV", "hadamard", True, False),
        ("QKQV", "hadamard", True, True),
    ],
)
def test_named_schemes_are_what_their_names_say(name, rotation, key_sketched, value_sketched):
    scheme = named(name, 4)
    assert scheme.name == name
    for quantizer, sketched in ((scheme.key, key_sketched), (scheme.value, value_sketched)):
        assert quantizer.rotation == rotation
        assert quantizer.sketch == ("gaussian" if sketched else None)
        assert quantizer.codebook_bits == (3 if sketched else 4)
        assert quantizer.bits == 4
        assert (quantizer.scale, quantizer.center) == ("norm", False)
    assert set(quantize.FACTORIAL) == {"KV", "WHT", "KQV", "QKV", "QKQV"}


def test_eden_is_unbiased_and_c_eden_centred_too():
    for bits in (1, 4):
        eden = RotatedQuantizer(bits, scale="unbiased")
        centred = dataclasses.replace(eden, center=True)
        for name, quantizer in (("EDEN", eden), ("C-EDEN", centred)):
            scheme = named(name, bits)
            assert scheme.key == scheme.value == quantizer
            assert named(name, bits, rounds=2).key == dataclasses.replace(quantizer, rounds=2)
            assert named(name, bits, scale="norm", sketch="haar") == scheme
    assert set(quantize.NAMES) == {*quantize.FACTORIAL, "EDEN", "C-EDEN"}


def test_options_of_named_schemes_reach_both_caches():
    scheme = named(
        "QKQV", 4, rotation="haar", sketch="hadamard", sketch_scale="mmse",
        scale="unbiased", side_dtype="float32",
    )  # fmt: skip
    expected = RotatedQuantizer(
        4, "haar", sketch="hadamard", sketch_scale="mmse", scale="unbiased", side_dtype="float32"
    )
    assert scheme.key == scheme.value == expected
    assert named("WHT", 4, rounds=3).key.rounds == 3
    assert named("KV", 4, rounds=3).key.rounds == 1
    one_bit = named("KQV", 1, scale="unbiased")
    assert (one_bit.key.scale, one_bit.value.scale) == ("unbiased", "norm")


def test_isotropic_data_do_not_need_the_rotation():
    x = sphere.sample(3000, 64, rng=np.random.default_rng(0))
    plain, rotated = (RotatedQuantizer(3, r).encode(x).decode() for r in ("none", "hadamard"))
    difference = relative_errors(x, plain) - relative_errors(x, rotated)
    assert abs(oracle.z_score(difference, 0)) < oracle.Z_LIMIT


# --- Defects once found -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["rotation", "sketch", "sketch_scale"])
def test_a_bad_choice_is_named_as_the_caller_spelt_it(name):
    with pytest.raises(ValueError, match=rf"^{name} must be one of .*got 'norm'"):
        RotatedQuantizer(**{"bits": 3, "sketch": "haar", name: "norm"})


@pytest.mark.parametrize(
    ("name", "option"), [("WHT", "sketch"), ("WHT", "sketch_scale"), ("KV", "rotation")]
)
def test_a_misspelt_option_is_refused_even_where_unused(name, option):
    with pytest.raises(ValueError, match=r"must be one of .*got 'dct'"):
        named(name, 3, **{option: "dct"})


def test_a_codebook_of_another_type_is_refused():
    with pytest.raises(TypeError, match=r"codebook must be .*got None"):
        RotatedQuantizer(3, codebook=None)


def test_norms_that_lose_digits_in_float16_are_refused():
    # 8.8e-8 is stored as 6.0e-8: every coordinate is then a third too small, silently.
    with pytest.raises(ValueError, match=r"side_dtype='float16' cannot hold"):
        RotatedQuantizer(3).encode(4.4e-8 * np.ones((2, 4)))


@pytest.mark.parametrize(("dtype", "size"), [(np.float32, 1e-30), (np.float64, 1e-200)])
def test_tiny_vectors_are_not_called_zero(dtype, size):
    x = np.full((2, 4), size, dtype=dtype)
    with pytest.raises(ValueError, match="side_dtype='float16'"):
        RotatedQuantizer(3, side_dtype="float16").encode(x)


@pytest.mark.filterwarnings("ignore:overflow")
def test_overflow_of_float32_scales_offers_another_remedy():
    with pytest.raises(ValueError, match="side_dtype='float32' cannot hold") as caught:
        RotatedQuantizer(3, side_dtype="float32").encode(1e100 * np.ones((2, 4)))
    assert "use side_dtype='float32'" not in str(caught.value)
