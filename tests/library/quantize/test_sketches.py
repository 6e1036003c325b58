"""Sign sketches: exact scales, errors and variances, with every wrong scale refused.

Statistical checks have fixed seeds and a z limit of 4.5 (two-sided rate 6.8e-6 a comparison, times
the number compared at once, at most 300: below 2.1e-3 a test).
"""

import math

import numpy as np
import oracle
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvlib.laws import sphere
from kvlib.quantize import codebooks
from kvlib.quantize.rotations import Rotation
from kvlib.quantize.sketches import SignSketch

KINDS = ["gaussian", "haar", "hadamard"]
DRAWS = 3000


def dense(sketch):
    """The matrix S, through the public projection."""
    return sketch.project(np.eye(sketch.dim)).T


def roundtrip(sketch, r):
    return sketch.reconstruct(sketch.signs(r), np.linalg.norm(r, axis=-1))


def over_sketches(kind, r, scale="unbiased", rows=None, draws=DRAWS):
    """Decoded r for many independent S, shape (draws, d)."""
    dim = r.shape[-1]
    return np.array(
        [
            roundtrip(SignSketch(kind, dim, rows=rows, scale=scale, seed=seed), r)
            for seed in range(draws)
        ]
    )


def isotropic(draws, dim, seed=0):
    return sphere.sample(draws, dim, rng=np.random.default_rng(seed))


# --- The map -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [None, 1, 5])
@pytest.mark.parametrize("scale", ["unbiased", "mmse"])
def test_sketch_is_the_dense_formula(kind, rows, scale):
    dim, length = 16, 3.5
    sketch = SignSketch(kind, dim, rows=rows, scale=scale, seed=11)
    matrix, r = dense(sketch), length * isotropic(6, dim).reshape(2, 3, dim)
    assert matrix.shape == (rows or dim, dim)
    alpha = oracle.sketch_scale(kind, rows or dim, dim, scale)
    assert sketch.decoder_scale == pytest.approx(alpha, rel=1e-12)
    decoded = roundtrip(sketch, r)
    for index in np.ndindex(2, 3):
        signs = [1 if row @ r[index] >= 0 else -1 for row in matrix]
        expected = alpha * length * sum(s * row for s, row in zip(signs, matrix, strict=True))
        np.testing.assert_allclose(decoded[index], expected, atol=1e-13)


@pytest.mark.parametrize("kind", ["haar", "hadamard"])
@pytest.mark.parametrize("rows", [None, 3, 15])
def test_rows_are_orthonormal(kind, rows):
    matrix = dense(SignSketch(kind, 16, rows=rows, seed=2))
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(rows or 16), atol=1e-13)


def test_gaussian_rows_are_standard_normal():
    entries = dense(SignSketch("gaussian", 128, rows=300, seed=2)).ravel()
    for power, moment in [(1, 0), (2, 1), (3, 0), (4, 3)]:
        assert abs(oracle.z_score(entries**power, moment)) < oracle.Z_LIMIT
    gram = dense(SignSketch("gaussian", 16, seed=2))
    assert np.abs(gram @ gram.T / 16 - np.eye(16)).max() > 0.1  # and not orthogonalised


@pytest.mark.parametrize("kind", KINDS)
def test_seeds_reproduce_and_differ_and_are_not_the_rotations(kind):
    first = dense(SignSketch(kind, 16, seed=4))
    np.testing.assert_array_equal(first, dense(SignSketch(kind, 16, seed=4)))
    for seed in (0, 5, 4 + 2**32):
        assert np.abs(first - dense(SignSketch(kind, 16, seed=seed))).max() > 0.1
    if kind != "gaussian":
        for seed in range(20):
            same = Rotation(kind, 16, seed=seed).matrix()
            assert np.abs(same - dense(SignSketch(kind, 16, seed=seed))).max() > 0.1


def test_sign_of_zero_is_plus():
    assert SignSketch("hadamard", 4).signs(np.zeros((1, 4))).all()


# --- Unbiasedness, and the wrong scales ----------------------------------------------------------


@pytest.mark.parametrize("kind", ["gaussian", "haar"])
@pytest.mark.parametrize("rows", [None, 3])
def test_unbiased_over_sketches_for_any_vector(kind, rows):
    # A one-hot and a generic vector: no isotropy is needed.
    for r in (np.eye(8)[2] * 2.0, np.array([3.0, -1, 0.5, 0, 2, 1e-3, -4, 1])):
        decoded = over_sketches(kind, r, rows=rows)
        assert np.abs(oracle.z_score(decoded, r)).max() < oracle.Z_LIMIT
        wrong = decoded / math.sqrt(8)  # the scale of the other law, the ports' bug
        assert np.abs(oracle.z_score(wrong, r)).max() > oracle.Z_LIMIT
        shrunk = over_sketches(kind, r, rows=rows, scale="mmse")
        assert np.abs(oracle.z_score(shrunk, r)).max() > oracle.Z_LIMIT


@pytest.mark.parametrize("kind", ["haar", "hadamard"])
def test_orthogonal_sketch_is_unbiased_for_isotropic_vectors_whatever_s(kind):
    # Given S, E sign(S r) (S r)^T = E|u_1| I, hence E d x_hat r^T = I: 256 means at once.
    dim = 16
    sketch = SignSketch(kind, dim, seed=3)
    r = isotropic(6000, dim)
    decoded = roundtrip(sketch, r)

    def outer(x):
        return dim * x[:, :, None] * r[:, None, :]

    assert np.abs(oracle.z_score(outer(decoded), np.eye(dim))).max() < oracle.Z_LIMIT
    for wrong in (decoded / math.sqrt(dim), 0 * decoded + 1e-3 * r):
        assert np.abs(oracle.z_score(outer(wrong), np.eye(dim))).max() > oracle.Z_LIMIT


def test_one_gaussian_sketch_is_not_unbiased_given_s():
    # What "unbiased" means there: over S. A single Gaussian S leaves an error that no average
    # over tokens removes (T15), and the check above must see it.
    dim = 16
    r = isotropic(6000, dim)
    decoded = roundtrip(SignSketch("gaussian", dim, seed=3), r)
    outer = dim * decoded[:, :, None] * r[:, None, :]
    assert np.abs(oracle.z_score(outer, np.eye(dim))).max() > 10


@pytest.mark.parametrize("dim", [8, 16, 64])
def test_hadamard_is_biased_for_a_one_hot_vector(dim):
    # H D e_i = +-1/sqrt(d) everywhere, all signs right: x_hat = alpha sqrt(d) e_i exactly.
    one_hot = np.eye(dim)[[1]]
    decoded = roundtrip(SignSketch("hadamard", dim, seed=1), one_hot)
    bias = 1 / (math.sqrt(dim) * oracle.mean_absolute(dim))
    np.testing.assert_allclose(decoded, bias * one_hot, atol=1e-14)
    assert 1.2 < bias < 1.3  # -> sqrt(pi/2) = 1.2533


@pytest.mark.parametrize("dim", [2, 16, 128, 1024])
def test_using_the_gaussian_scale_with_orthonormal_rows_is_sqrt_d_too_small(dim):
    ratio = SignSketch("haar", dim).decoder_scale / SignSketch("gaussian", dim).decoder_scale
    exact = 1 / oracle.mean_absolute(dim) / math.sqrt(math.pi / 2)
    assert ratio == pytest.approx(exact, rel=1e-12)
    assert ratio == pytest.approx(math.sqrt(dim), rel=0.3 / dim)
    if dim == 128:
        assert 11 < ratio < 12


# --- Reconstruction error (T06, T07) -------------------------------------------------------------


@pytest.mark.parametrize("scale", ["unbiased", "mmse"])
@pytest.mark.parametrize(("dim", "rows"), [(8, None), (8, 3), (8, 40), (32, None)])
def test_gaussian_error(scale, dim, rows):
    r = isotropic(1, dim)[0] * 1.7
    errors = ((over_sketches("gaussian", r, scale, rows) - r) ** 2).sum(axis=-1) / 1.7**2
    expected = SignSketch("gaussian", dim, rows=rows, scale=scale).expected_error
    assert abs(oracle.z_score(errors, expected)) < oracle.Z_LIMIT
    # Derived by hand: |S^T sign|^2 = m d + m (m-1) 2/pi.
    m = rows or dim
    unbiased = (math.pi * dim / 2 - 1) / m
    by_hand = unbiased if scale == "unbiased" else unbiased / (1 + unbiased)
    assert expected == pytest.approx(by_hand, rel=1e-12)
    if rows is None and scale == "unbiased":
        assert expected == pytest.approx(math.pi / 2 - 1 / dim, rel=1e-12)
        control = math.pi / 2 - 1  # the orthogonal sketch's error
        assert abs(oracle.z_score(errors, control)) > oracle.Z_LIMIT


@pytest.mark.parametrize("kind", ["haar", "hadamard"])
@pytest.mark.parametrize("scale", ["unbiased", "mmse"])
@pytest.mark.parametrize(("dim", "rows"), [(8, None), (8, 3), (32, None)])
def test_orthogonal_error(kind, scale, dim, rows):
    sketch = SignSketch(kind, dim, rows=rows, scale=scale, seed=5)
    r = isotropic(20_000, dim)
    errors = ((roundtrip(sketch, r) - r) ** 2).sum(axis=-1)
    assert abs(oracle.z_score(errors, sketch.expected_error)) < oracle.Z_LIMIT
    energy = 1 / ((rows or dim) * oracle.mean_absolute(dim) ** 2)  # |x_hat|^2, unbiased scale
    by_hand = energy - 1 if scale == "unbiased" else 1 - 1 / energy
    assert sketch.expected_error == pytest.approx(by_hand, rel=1e-10)
    gaussian = SignSketch("gaussian", dim, rows=rows, scale=scale).expected_error
    assert abs(oracle.z_score(errors, gaussian)) > oracle.Z_LIMIT


@pytest.mark.parametrize("kind", ["haar", "hadamard"])
def test_length_of_an_orthogonal_decoding_is_exact(kind):
    for rows in (None, 5):
        sketch = SignSketch(kind, 16, rows=rows, seed=1)
        decoded = roundtrip(sketch, 2.5 * isotropic(7, 16))
        expected = 2.5**2 / ((rows or 16) * oracle.mean_absolute(16) ** 2)
        np.testing.assert_allclose((decoded**2).sum(-1), expected, rtol=1e-12)


def test_errors_tend_to_pi_over_two():
    assert SignSketch("gaussian", 2**20).expected_error == pytest.approx(math.pi / 2, rel=1e-5)
    limits = {"unbiased": math.pi / 2 - 1, "mmse": 1 - 2 / math.pi}
    for scale, limit in limits.items():
        error = SignSketch("hadamard", 2**20, scale=scale).expected_error
        assert error == pytest.approx(limit, rel=1e-5)


@pytest.mark.parametrize("dim", [2, 3, 8, 128, 4096])
def test_mmse_orthogonal_error_is_one_bit_lloyd_max_at_every_dimension(dim):
    # Not only in the limit: both are 1 - d (E|u_1|)^2, and the decoders agree vector by vector.
    sketch = SignSketch("haar", dim, scale="mmse")
    one_bit = codebooks.lloyd_max(dim, 1)
    assert sketch.expected_error == pytest.approx(one_bit.distortion, rel=1e-9)
    assert sketch.decoder_scale == pytest.approx(one_bit.levels[1], rel=1e-11)


@given(st.sampled_from(KINDS), st.integers(1, 7), st.integers(1, 128))
def test_mmse_is_the_best_multiple_of_the_unbiased_decoder(kind, log_dim, rows):
    dim = 2**log_dim
    rows = rows if kind == "gaussian" else min(rows, dim)
    plain, best = (SignSketch(kind, dim, rows=rows, scale=s) for s in ("unbiased", "mmse"))
    shrink = best.decoder_scale / plain.decoder_scale

    def error(c):  # E|c x_hat - r|^2 from E<x_hat, r> = 1 and E|x_hat|^2 = 1 + e
        return c * c * (1 + plain.expected_error) - 2 * c + 1

    assert error(shrink) == pytest.approx(best.expected_error, rel=1e-9, abs=1e-12)
    assert best.expected_error <= min(error(shrink * 1.01), error(shrink / 1.01))
    assert 0 < best.expected_error < 1


# --- Inner products (T05) ------------------------------------------------------------------------


@pytest.mark.parametrize("rho", [0.0, 0.5, -0.9, 1.0])
@pytest.mark.parametrize("rows", [4, 8, 24])
def test_inner_product_mean_and_variance_of_the_gaussian_sketch(rho, rows):
    dim, q_length, r_length = 8, 3.0, 0.5
    r = r_length * np.eye(dim)[0]
    q = q_length * (rho * np.eye(dim)[0] + math.sqrt(1 - rho * rho) * np.eye(dim)[3])
    products = over_sketches("gaussian", r, rows=rows, draws=6000) @ q
    mean = rho * q_length * r_length
    assert abs(oracle.z_score(products, mean)) < oracle.Z_LIMIT
    squares = (products - mean) ** 2
    unit = (q_length * r_length) ** 2 / rows
    assert abs(oracle.z_score(squares, (math.pi / 2 - rho**2) * unit)) < oracle.Z_LIMIT
    # Control: the variance of the unquantised projection, (1 + rho^2)/m.
    if rho != 0.5:  # the two agree near |rho| = 0.534
        assert abs(oracle.z_score(squares, (1 + rho**2) * unit)) > oracle.Z_LIMIT


def test_inflation_crosses_one_where_predicted():
    crossing = math.sqrt((math.pi / 2 - 1) / 2)
    assert crossing == pytest.approx(0.534, abs=5e-4)


# --- Types, shapes, refusals ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("leading", [(), (3,), (2, 4, 3)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_shapes_and_dtypes(kind, leading, dtype):
    sketch = SignSketch(kind, 16, rows=5, seed=1)
    r = np.random.default_rng(0).standard_normal((*leading, 16)).astype(dtype)
    signs = sketch.signs(r)
    assert signs.dtype == np.bool_
    assert signs.shape == (*leading, 5)
    decoded = sketch.reconstruct(signs, np.linalg.norm(r, axis=-1))
    assert decoded.dtype == dtype
    assert decoded.shape == r.shape
    wide = sketch.reconstruct(signs, np.linalg.norm(r.astype(np.float64), axis=-1))
    np.testing.assert_allclose(decoded, wide, rtol=2e-5, atol=1e-5)


@given(st.sampled_from(KINDS), st.integers(0, 2**32 - 1), st.integers(-20, 20))
def test_signs_ignore_scale_and_decoding_follows_it(kind, seed, power):
    sketch = SignSketch(kind, 8, seed=seed)
    r = np.random.default_rng(seed).standard_normal((3, 8))
    np.testing.assert_array_equal(sketch.signs(r), sketch.signs(r * 2.0**power))
    np.testing.assert_array_equal(
        roundtrip(sketch, r) * 2.0**power, roundtrip(sketch, r * 2.0**power)
    )
    np.testing.assert_array_equal(sketch.reconstruct(sketch.signs(r), np.zeros(3)), 0)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"kind": "dct"}, ValueError, "kind must be one of 'gaussian', 'haar', 'hadamard', got"),
        ({"kind": "none"}, ValueError, "kind must be one of .*got 'none'"),
        ({"scale": "norm"}, ValueError, "scale must be one of 'unbiased', 'mmse', got 'norm'"),
        ({"dim": 1}, ValueError, "dim must be an integer >= 2, got 1"),
        ({"rows": 0}, ValueError, "rows must be an integer from 1 to 8, got 0"),
        ({"rows": 9}, ValueError, "rows must be an integer from 1 to 8, got 9"),
        ({"rows": 2.0}, TypeError, r"rows must be an integer from 1 to 8, got 2\.0"),
        ({"kind": "gaussian", "rows": 0}, ValueError, "rows must be an integer >= 1, got 0"),
        ({"seed": -1}, ValueError, "seed must be an integer >= 0, got -1"),
    ],
)
def test_bad_parameters_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        SignSketch(**{"kind": "hadamard", "dim": 8, **arguments})


def test_bad_arrays_are_refused():
    sketch = SignSketch("haar", 8, rows=5)
    with pytest.raises(ValueError, match=r"x must have 8 coordinates .*got \(2, 5\)"):
        sketch.signs(np.ones((2, 5)))
    with pytest.raises(TypeError, match="x must hold real numbers, got dtype bool"):
        sketch.signs(np.ones((2, 8), dtype=bool))
    for signs in (np.ones((3, 8), dtype=bool), np.ones((3, 5)), np.ones((2, 5), dtype=bool)):
        with pytest.raises(ValueError, match=r"signs must be booleans of shape \(3, 5\), got"):
            sketch.reconstruct(signs, np.ones(3))
