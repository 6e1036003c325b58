"""Rotations: exact matrices, isometry, inverses, the Haar law, and where Hadamard differs."""

import math

import numpy as np
import oracle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.linalg import hadamard

from kvlib.laws import sphere
from kvlib.quantize import codebooks
from kvlib.quantize.rotations import (
    Rotation,
    block_hadamard,
    block_size,
    pad_to_power_of_two,
    walsh_hadamard,
)

KINDS_AND_ROUNDS = [("none", 1), ("hadamard", 1), ("hadamard", 2), ("hadamard", 3), ("haar", 1)]
seeds = st.integers(0, 2**40)


def gaussian(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


@pytest.mark.parametrize("dim", [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 4096])
def test_transform_is_sylvesters_matrix(dim):
    x = gaussian(3, dim) if dim > 512 else np.eye(dim)
    # For the identity the product is the matrix itself, so entries are compared one by one.
    expected = x @ hadamard(dim) / math.sqrt(dim)
    np.testing.assert_allclose(walsh_hadamard(x), expected, atol=1e-13)
    if dim > 2:  # negative control: another order of the rows is another matrix
        assert np.abs(walsh_hadamard(x)[..., ::-1] - expected).max() > 1e-3


@pytest.mark.parametrize("dim", [2, 64, 128, 256])
@pytest.mark.parametrize("leading", [(), (1,), (5,), (2, 3), (2, 1, 3, 2), (0,), (2, 0)])
def test_any_batch_shape(dim, leading):
    x = gaussian(*leading, dim)
    y = walsh_hadamard(x)
    assert y.shape == x.shape
    np.testing.assert_allclose(y, x @ hadamard(dim) / math.sqrt(dim), atol=1e-13)


@pytest.mark.parametrize("dim", [8, 128])
@pytest.mark.parametrize("view", ["transposed", "strided", "reversed", "read-only", "broadcast"])
def test_memory_layout_does_not_matter(dim, view):
    base = gaussian(dim, 6, 2 * dim)
    x = {
        "transposed": base[:, :, :3].transpose(2, 1, 0),
        "strided": base[:, ::2, ::2],
        "reversed": base[::-1, :, dim - 1 :: -1],
        "read-only": base[..., :dim].copy(),
        "broadcast": np.broadcast_to(base[0, 0, :dim], (4, dim)),
    }[view]
    x.setflags(write=False)
    for kind, rounds in KINDS_AND_ROUNDS:
        rotation = Rotation(kind, dim, seed=3, rounds=rounds)
        packed = np.ascontiguousarray(x)
        np.testing.assert_allclose(rotation.apply(x), rotation.apply(packed), atol=1e-13)
    np.testing.assert_allclose(walsh_hadamard(x), walsh_hadamard(packed), atol=1e-13)


@pytest.mark.parametrize(
    ("given_dtype", "computed", "tolerance"),
    [
        (np.float16, np.float32, 2e-6),
        (np.float32, np.float32, 2e-6),
        (np.float64, np.float64, 1e-14),
        (np.int8, np.float64, 1e-14),
        (">f8", np.float64, 1e-14),
    ],
)
@pytest.mark.parametrize(("kind", "rounds"), KINDS_AND_ROUNDS)
def test_dtypes(kind, rounds, given_dtype, computed, tolerance):
    x = (gaussian(5, 128) * 3).astype(given_dtype)
    rotation = Rotation(kind, 128, seed=1, rounds=rounds)
    y = rotation.apply(x)
    assert y.dtype == computed
    assert rotation.inverse(y).dtype == computed
    exact = x.astype(np.float64) @ rotation.matrix().T
    np.testing.assert_allclose(y, exact, atol=tolerance * np.linalg.norm(exact, axis=-1).max())


@given(seeds, st.integers(0, 9), st.integers(1, 4))
def test_transform_is_an_involution_and_an_isometry(seed, log_dim, tokens):
    x = gaussian(tokens, 2**log_dim, seed=seed)
    y = walsh_hadamard(x)
    np.testing.assert_allclose(walsh_hadamard(y), x, atol=1e-13)
    np.testing.assert_allclose(y @ y.T, x @ x.T, atol=1e-10)


@given(st.sampled_from(KINDS_AND_ROUNDS), seeds, st.integers(1, 8))
def test_inverse_undoes_apply(kind_and_rounds, seed, log_dim):
    kind, rounds = kind_and_rounds
    rotation = Rotation(kind, 2**log_dim, seed=seed, rounds=rounds)
    x = gaussian(3, 2**log_dim, seed=seed)
    np.testing.assert_allclose(rotation.inverse(rotation.apply(x)), x, atol=1e-12)
    np.testing.assert_allclose(rotation.apply(rotation.inverse(x)), x, atol=1e-12)
    np.testing.assert_allclose(
        np.linalg.norm(rotation.apply(x), axis=-1), np.linalg.norm(x, axis=-1), rtol=1e-12
    )


@pytest.mark.parametrize(("kind", "rounds"), KINDS_AND_ROUNDS)
@pytest.mark.parametrize("dim", [2, 16, 128])
def test_matrix_is_orthogonal_and_is_the_map(kind, rounds, dim):
    rotation = Rotation(kind, dim, seed=5, rounds=rounds)
    matrix, x = rotation.matrix(), gaussian(4, dim)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(dim), atol=1e-13)
    np.testing.assert_allclose(rotation.apply(x), np.array([matrix @ v for v in x]), atol=1e-13)
    if rounds > 1 and dim > 2:  # negative control: rounds undone in the wrong order
        wrong = rotation.apply(rotation.apply(x))
        assert np.abs(wrong - x).max() > 0.1


@pytest.mark.parametrize("dim", [2, 8, 64, 128, 512])
def test_one_round_is_hadamard_times_signs(dim):
    matrix = Rotation("hadamard", dim, seed=7).matrix()
    signs = matrix[0] * math.sqrt(dim)  # the first row of H is all ones
    np.testing.assert_allclose(np.abs(signs), 1, rtol=1e-14)
    np.testing.assert_allclose(matrix, hadamard(dim) / math.sqrt(dim) * signs, atol=1e-14)


@pytest.mark.parametrize("dim", [2, 8, 64, 128, 1024])
def test_one_hot_is_flattened_exactly_by_one_round_only(dim):
    one_hot = np.zeros((1, dim))
    one_hot[0, dim // 3] = 1
    flat = np.abs(Rotation("hadamard", dim, seed=2).apply(one_hot)) * math.sqrt(dim)
    np.testing.assert_allclose(flat, 1, rtol=4e-16)
    if dim > 2:
        haar = np.abs(Rotation("haar", dim, seed=2).apply(one_hot)) * math.sqrt(dim)
        assert haar.std() > 0.1
    if dim >= 64:  # two rounds spread it: its coordinates are then sums of many signs
        two = np.abs(Rotation("hadamard", dim, seed=2, rounds=2).apply(one_hot)) * math.sqrt(dim)
        assert two.std() > 0.3


# --- The Haar law: KS false-alarm rate 1e-3 each, controls refused below 1e-6 -------------------

DRAWS = 2000


def haar_draws():
    return np.array([Rotation("haar", 3, seed=s).matrix() for s in range(DRAWS)])


def ks(first_coordinates):
    return stats.kstest(first_coordinates, lambda x: sphere.coordinate_cdf(x, 3)).pvalue


def test_haar_entries_follow_the_sphere_law():
    # For every fixed unit x, R x is uniform on the sphere; trace: E tr = 0, E tr^2 = 1 for O(3).
    draws = haar_draws()
    x = np.array([0.6, 0.0, 0.8])
    for coordinates in (draws[:, 0, 0], draws[:, 2, 1], (draws @ x)[:, 1], draws[:, :, 0] @ x):
        assert ks(coordinates) > 1e-3
    trace = np.trace(draws, axis1=1, axis2=2)
    assert abs(oracle.z_score(trace, 0)) < oracle.Z_LIMIT
    assert abs(oracle.z_score(trace**2, 1)) < oracle.Z_LIMIT
    assert abs(oracle.z_score(np.sign(np.linalg.det(draws)), 0)) < oracle.Z_LIMIT


def test_haar_controls_are_refused():
    gaussians = gaussian(DRAWS, 3, 3)
    unfixed = np.linalg.qr(gaussians)[0]
    assert ks(unfixed[:, 0, 0]) < 1e-6  # QR without the signs of R
    assert abs(oracle.z_score(np.trace(unfixed, axis1=1, axis2=2), 0)) > oracle.Z_LIMIT
    assert ks(gaussians[:, 0, 0] / math.sqrt(3)) < 1e-6  # a Gaussian matrix, not orthogonal


def test_hadamard_signs_are_fair_and_independent_of_position():
    # z over 2000 seeds for 16 means and 120 products: rate 136 * 6.8e-6 < 1e-3.
    signs = np.array([Rotation("hadamard", 16, seed=s).matrix()[0] * 4 for s in range(DRAWS)])
    products = signs[:, :, None] * signs[:, None, :]
    assert np.abs(oracle.z_score(signs, 0)).max() < oracle.Z_LIMIT
    assert np.abs(oracle.z_score(products[:, *np.triu_indices(16, 1)], 0)).max() < oracle.Z_LIMIT


# --- Seeds, padding, refusals -------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["hadamard", "haar"])
def test_seeds_reproduce_and_differ(kind):
    first = Rotation(kind, 16, seed=4).matrix()
    np.testing.assert_array_equal(first, Rotation(kind, 16, seed=4).matrix())
    for seed in (0, 5, 4 + 2**32, 4 + 2**70):
        assert np.abs(first - Rotation(kind, 16, seed=seed).matrix()).max() > 0.1
    assert Rotation(kind, 16, seed=4) == Rotation(kind, 16, seed=4)


def test_rounds_have_different_signs():
    # R_2 R_1^-1 = H D_2 when the first rounds agree, as they do here; then D_2 differs from D_1.
    dim = 64
    one, two = (Rotation("hadamard", dim, seed=9, rounds=r).matrix() for r in (1, 2))
    first, second = one[0] * 8, (two @ one.T)[0] * 8
    np.testing.assert_allclose(np.abs(second), 1, rtol=1e-12)
    assert 0 < (np.sign(first) != np.sign(second)).sum() < dim


def test_apply_leaves_its_input_alone():
    x = gaussian(3, 8)
    before = x.copy()
    for kind, rounds in KINDS_AND_ROUNDS:
        rotation = Rotation(kind, 8, rounds=rounds)
        rotation.inverse(rotation.apply(x))
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize(
    ("dim", "padded"), [(1, 1), (2, 2), (3, 4), (5, 8), (96, 128), (128, 128), (129, 256)]
)
def test_padding(dim, padded):
    x = gaussian(2, 3, dim)
    y = pad_to_power_of_two(x)
    assert y.shape == (2, 3, padded)
    np.testing.assert_array_equal(y[..., :dim], x)
    np.testing.assert_array_equal(y[..., dim:], 0)


@pytest.mark.parametrize(
    ("dim", "price"),
    [(3, "4 .* 1.33"), (96, "128 .* 1.33"), (80, "128 .* 1.6"), (129, "256 .* 1.98")],
)
def test_a_plain_transform_of_other_dimensions_is_refused_with_remedy_and_price(dim, price):
    message = rf"power of two .*got {dim}; rotations.block_hadamard .*padding to {price} times"
    with pytest.raises(ValueError, match=r"x\.shape\[-1\] must be a " + message):
        walsh_hadamard(gaussian(2, dim))


# Dimensions that are no power of two -----------------------------------------------------------

OTHER_DIMS = [3, 6, 7, 12, 80, 96, 100, 112, 129, 192, 576]


def naive_block_hadamard(dim):
    """Dense, from its definition: sum over t of cos and sin, Sylvester's signs by bit counts."""
    size = next(2**p for p in range(dim.bit_length(), -1, -1) if dim % 2**p == 0)
    count = dim // size
    matrix = np.empty((dim, dim))
    for i, j in np.ndindex(dim, dim):
        (a, b), (c, d) = divmod(i, size), divmod(j, size)
        angle = 2 * math.pi * a * c / count
        sign = (-1) ** (b & d).bit_count()
        matrix[i, j] = (math.cos(angle) + math.sin(angle)) * sign / math.sqrt(dim)
    return matrix


@pytest.mark.parametrize("dim", [*OTHER_DIMS[:-2], 2, 16])
def test_block_transform_is_its_definition(dim):
    matrix = naive_block_hadamard(dim)
    x = gaussian(3, 2, dim)
    np.testing.assert_allclose(block_hadamard(x), x @ matrix.T, atol=1e-12)
    assert np.abs(matrix).max() <= math.sqrt(2 / dim) + 1e-12
    assert block_hadamard(x.astype(np.float32)).dtype == np.float32


def test_block_transform_of_a_power_of_two_is_the_plain_one():
    for dim in (1, 2, 64, 256):
        x = gaussian(5, dim)
        np.testing.assert_array_equal(block_hadamard(x), walsh_hadamard(x))


@pytest.mark.parametrize("rounds", [1, 2, 3])
@pytest.mark.parametrize("dim", OTHER_DIMS)
def test_rotations_of_any_dimension_are_isometric(dim, rounds):
    rotation = Rotation("hadamard", dim, seed=3, rounds=rounds)
    matrix = rotation.matrix()
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(dim), atol=1e-12)
    x = gaussian(4, dim)
    np.testing.assert_allclose(rotation.inverse(rotation.apply(x)), x, atol=1e-12)
    assert np.abs(matrix).min() > 0 or rounds > 1  # every channel reaches every coordinate


def planted(dim):
    """Vectors with about three tenths of their energy in one channel."""
    x = gaussian(300, dim, seed=dim)
    x[:, 3] *= math.sqrt(0.4 * dim)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def distortions(dim, bits, rotate, draws=40):
    book, x = codebooks.lloyd_max(dim, bits), planted(dim)
    errors = []
    for seed in range(draws):
        y = rotate(x, seed)
        errors.append(np.square(book.dequantize(book.quantize(y)) - y).sum(-1).mean())
    return np.array(errors) / book.distortion


@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("dim", [80, 96, 112, 192, 576])
def test_distortion_is_that_of_the_law(dim, bits):
    def rotate(x, seed):
        return Rotation("hadamard", dim, seed=seed).apply(x)

    ratio = distortions(dim, bits, rotate).mean()
    # One channel's coordinates have two sizes at most, which fit a cell better than a random
    # direction does: a few percent below the law at four bits. Above it there is sampling only.
    assert 0.93 < ratio < 1.01
    if dim < 100:  # the law is Haar's
        haar = distortions(dim, bits, lambda x, seed: Rotation("haar", dim, seed=seed).apply(x))
        assert abs(haar.mean() - 1) < 0.02


def test_blocks_that_are_not_mixed_miss_the_law():
    # Negative control: the check above refuses the same transform without Hartley's factor.
    def rotate(x, seed):
        signs = np.random.default_rng(seed).choice([-1.0, 1.0], x.shape[-1])
        blocks = (x * signs).reshape(len(x), -1, block_size(x.shape[-1]))
        return walsh_hadamard(blocks).reshape(x.shape)

    assert distortions(112, 4, rotate).mean() > 1.03
    assert distortions(576, 4, rotate).mean() > 1.1


def test_block_sizes():
    sizes = {80: 16, 96: 32, 112: 16, 192: 64, 576: 64, 128: 128, 7: 1}
    assert {dim: block_size(dim) for dim in sizes} == sizes
    with pytest.raises(ValueError, match="dim must be an integer >= 1, got 0"):
        block_size(0)
    with pytest.raises(ValueError, match="x must have at least one coordinate"):
        block_hadamard(np.ones((2, 0)))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"kind": "dct"}, ValueError, "kind must be one of 'none', 'hadamard', 'haar', got 'dct'"),
        ({"kind": None}, ValueError, "kind must be one of .*got None"),
        ({"dim": 1}, ValueError, "dim must be an integer >= 2, got 1"),
        ({"dim": 8.0}, TypeError, r"dim must be an integer >= 2, got 8\.0"),
        ({"seed": -1}, ValueError, "seed must be an integer >= 0, got -1"),
        ({"seed": None}, TypeError, "seed must be an integer >= 0, got None"),
        ({"rounds": 0}, ValueError, "rounds must be an integer from 1 to 128, got 0"),
        ({"kind": "haar", "rounds": 2}, ValueError, "rounds must be .* from 1 to 1, got 2"),
    ],
)
def test_bad_parameters_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        Rotation(**{"kind": "hadamard", "dim": 8, **arguments})


@pytest.mark.parametrize("method", ["apply", "inverse"])
def test_bad_vectors_are_refused(method):
    call = getattr(Rotation("haar", 4), method)
    with pytest.raises(ValueError, match=r"x must have 4 coordinates .*got \(2, 5\)"):
        call(np.ones((2, 5)))
    with pytest.raises(ValueError, match=r"x must have 4 coordinates .*got \(\)"):
        call(np.float64(1))
    with pytest.raises(ValueError, match=r"x must have 4 coordinates .*got \(3,\)"):
        call([1.0, 2.0, 3.0])
    with pytest.raises(TypeError, match="x must hold real numbers, got dtype complex128"):
        call(np.ones((2, 4), dtype=complex))
    with pytest.raises(ValueError, match="x must have at least one axis"):
        walsh_hadamard(np.float64(1))
