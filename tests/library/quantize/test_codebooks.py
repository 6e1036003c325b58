"""Lloyd-Max and the codebooks mistaken for it, against quadrature, exhaustive search and tables."""

import itertools
import math

import numpy as np
import oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats
from scipy.special import gammaln

from kvlib import laws
from kvlib.laws import sphere
from kvlib.quantize import codebooks
from kvlib.quantize.codebooks import (
    Codebook,
    equal_probability,
    lloyd_iterations,
    lloyd_max,
    radial_gain_variance,
    uniform,
)

DIMS = [2, 3, 4, 5, 8, 16, 31, 64, 100, 128, 256, 1000, 1024, 4096, 10**5, 10**6, 10**9]
SMALL = [2, 3, 4, 8, 128]


# --- Lloyd-Max is stationary, symmetric and globally optimal -----------------------------------


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("bits", range(9))
def test_lloyd_max_is_stationary_and_symmetric(dim, bits):
    codebook = lloyd_max(dim, bits)
    assert codebook.stationarity < 1e-10
    assert codebook.levels.shape == (2**bits,)
    assert (np.diff(codebook.levels) > 0).all()
    assert np.abs(codebook.levels).max() < 1
    np.testing.assert_array_equal(codebook.levels, -codebook.levels[::-1])
    np.testing.assert_array_equal(codebook.edges, (codebook.levels[1:] + codebook.levels[:-1]) / 2)
    assert codebook.occupied_cells == 2**bits


@pytest.mark.parametrize("dim", SMALL)
@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_levels_are_where_lloyds_iteration_on_quadrature_ends(dim, bits):
    # In standard deviations; the slow iteration stops at steps of 1e-14 and contracts by <= 0.99.
    difference = lloyd_max(dim, bits).levels - oracle.lloyd_levels(dim, bits)
    assert np.abs(difference).max() * math.sqrt(dim) < 2e-12


@pytest.mark.parametrize("dim", [2, 3, 4, 8])
@pytest.mark.parametrize("bits", [1, 2, 3])
def test_no_partition_is_better_not_even_an_asymmetric_one(dim, bits):
    # The dynamic programme is optimal among edges on its grid of 1000 angles: never better than
    # the optimum, and worse by O(grid^2), below 1e-4. That settles d = 2, whose density is not
    # log-concave: the symmetric stationary point is the global optimum there too.
    best = oracle.exhaustive_distortion(dim, bits)
    measured = lloyd_max(dim, bits).distortion
    assert measured <= best * (1 + 1e-12)
    assert best <= measured * (1 + 1e-4)
    assert best < equal_probability(dim, bits).distortion * (1 - 1e-4) or bits == 1 or dim == 3


@pytest.mark.parametrize("make", [lloyd_max, uniform, equal_probability])
@pytest.mark.parametrize("dim", [2, 3, 8, 128, 10**4])
@pytest.mark.parametrize("bits", [0, 1, 2, 3, 5])
def test_distortion_equals_quadrature(make, dim, bits):
    codebook = make(dim, bits)
    assert codebook.distortion == pytest.approx(oracle.distortion(codebook.levels, dim), rel=1e-9)


@settings(max_examples=150)
@given(st.sampled_from(SMALL), st.integers(1, 5), st.integers(0, 2**32 - 1), st.floats(1e-6, 0.3))
def test_perturbed_levels_are_never_better(dim, bits, seed, size):
    optimum = lloyd_max(dim, bits)
    push = np.random.default_rng(seed).standard_normal(2**bits) * size / 2**bits / math.sqrt(dim)
    perturbed = Codebook(dim, bits, np.sort(optimum.levels + push), "perturbed")
    assert perturbed.distortion >= optimum.distortion * (1 - 1e-11)
    if size > 0.01:  # the check can tell: a visible push costs visibly
        assert perturbed.distortion > optimum.distortion * (1 + 1e-8)


@settings(max_examples=50)
@given(st.sampled_from([2, 4, 8, 128]), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_distortion_is_an_average_over_samples(dim, bits, seed):
    # Arbitrary, asymmetric, possibly wasteful levels; z limit 5, rate 50 * 6e-7.
    rng = np.random.default_rng(seed)
    levels = np.sort(rng.uniform(-1.2, 1.2, 2**bits))
    codebook = Codebook(dim, bits, levels, "arbitrary")
    u = sphere.sample(4000, dim, rng=rng)[:, 0]
    errors = dim * np.abs(u[:, None] - levels).min(axis=1) ** 2
    assert abs(oracle.z_score(errors, codebook.distortion)) < 5


# --- Known values ------------------------------------------------------------------------------


def test_zero_bits_is_the_variance():
    for dim in DIMS:
        assert lloyd_max(dim, 0).levels.tolist() == [0]
        for make in (lloyd_max, uniform, equal_probability):
            assert make(dim, 0).distortion == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("dim", DIMS)
def test_one_bit_in_closed_form(dim):
    # Levels +-E|u_1|, so D = d (E u^2 - (E|u|)^2) = 1 - d (E|u|)^2.
    level = oracle.mean_absolute(dim)
    assert lloyd_max(dim, 1).levels[1] == pytest.approx(level, rel=1e-11)
    assert lloyd_max(dim, 1).distortion == pytest.approx(1 - dim * level**2, rel=1e-9)


def test_one_bit_at_two_and_four_dimensions_by_hand():
    assert lloyd_max(2, 1).distortion == pytest.approx(1 - 8 / math.pi**2, rel=1e-12)
    assert lloyd_max(4, 1).distortion == pytest.approx(1 - 64 / (9 * math.pi**2), rel=1e-12)


@pytest.mark.parametrize("bits", range(9))
def test_three_dimensions_is_the_uniform_law(bits):
    codebook = lloyd_max(3, bits)
    assert codebook.distortion == pytest.approx(4.0**-bits, rel=1e-10)
    expected = (2 * np.arange(2**bits) + 1) / 2**bits - 1
    np.testing.assert_allclose(codebook.levels, expected, atol=1e-11)
    np.testing.assert_allclose(uniform(3, bits).levels, expected, atol=1e-6)
    np.testing.assert_allclose(equal_probability(3, bits).levels, expected, atol=1e-12)


def test_head_dimension_128_to_all_printed_digits():
    printed = [0.36089, 0.11600, 0.03397, 0.00931, 0.00245, 0.00063]
    measured = [lloyd_max(128, bits).distortion for bits in range(1, 7)]
    np.testing.assert_allclose(measured, printed, rtol=0, atol=5.0001e-6)
    gaussian = [0.3634, 0.1175, 0.03454, 0.009497, 0.002499]  # negative control: another law
    assert not np.allclose(measured[:5], gaussian, rtol=5e-3)


def test_gaussian_limit_and_maxs_table():
    measured = [lloyd_max(10**9, bits).distortion for bits in range(1, 6)]
    limit = [oracle.gaussian_distortion(bits) for bits in range(1, 6)]
    np.testing.assert_allclose(measured, limit, rtol=1e-6)
    # Max (1960), Table I, to the accuracy of its time: the last two entries, 0.009497 and
    # 0.002499, are low by 0.05% and 0.23%; the exact ones round to 0.009501 and 0.002505.
    table = [0.3634, 0.1175, 0.03454, 0.009497, 0.002499]
    np.testing.assert_allclose(measured, table, rtol=3e-3)
    np.testing.assert_allclose(measured[3:], [0.009501, 0.002505], rtol=2e-4)


def test_approach_to_the_gaussian_limit_is_first_order_in_one_over_dim():
    limit = oracle.gaussian_distortion(3)
    gaps = [limit - lloyd_max(dim, 3).distortion for dim in (1000, 2000, 4000)]
    np.testing.assert_allclose([gaps[0] / gaps[1], gaps[1] / gaps[2]], 2, rtol=0.01)


@pytest.mark.parametrize("dim", DIMS)
def test_distortion_decreases_and_obeys_shannon_and_panter_dite(dim):
    distortions = np.array([lloyd_max(dim, bits).distortion for bits in range(9)])
    assert (np.diff(distortions) < 0).all()
    scaled = distortions * 4.0 ** np.arange(9)
    if dim > 3:  # a lower bound for the Gaussian; TurboQuant's upper bound holds throughout
        assert (np.diff(scaled) > 0).all()
    assert (scaled <= math.sqrt(3) * math.pi / 2).all()


@pytest.mark.parametrize("dim", [2, 4, 8, 128, 4096, 10**6])
def test_high_rate_constant_is_panter_and_dites(dim):
    # d / 12 (int f^(1/3))^3 by quadrature. The relative gap halves with every bit.
    scale = math.sqrt(dim)
    end = min(scale, 30.0)
    cube_root = integrate.quad(
        lambda t: float(sphere.coordinate_pdf(t / scale, dim)) ** (1 / 3) / scale,
        -end, end, epsrel=1e-10, limit=500, points=[-5, 5] if end > 5 else None,
    )[0]  # fmt: skip
    constant = dim / 12 * cube_root**3
    gaps = [1 - lloyd_max(dim, bits).distortion * 4.0**bits / constant for bits in (6, 7, 8)]
    assert abs(gaps[2]) < 0.01
    np.testing.assert_allclose([gaps[0] / gaps[1], gaps[1] / gaps[2]], 2, rtol=0.05)
    if dim == 10**6:
        assert constant == pytest.approx(math.sqrt(3) * math.pi / 2, rel=1e-5)


@pytest.mark.parametrize(
    ("dim", "printed"),
    [
        (2, [0.2207, 0.2358, 0.2430, 0.2466, 0.2483]),
        (3, [0.25, 0.25, 0.25, 0.25, 0.25]),
        (4, [0.2666, 0.2589]),
        (128, [0.3214, 0.2928, 0.2742]),
    ],
)
def test_ratios_of_neighbouring_budgets(dim, printed):
    distortions = [lloyd_max(dim, bits).distortion for bits in range(1, len(printed) + 2)]
    ratios = np.array(distortions[1:]) / distortions[:-1]
    np.testing.assert_allclose(ratios, printed, atol=5.001e-5)


def test_distortion_is_relative_to_the_dimension():
    # A quantizer of d^(1/2) u_1 has the same D: forgetting the factor d is off by d.
    codebook = lloyd_max(128, 2)
    u = sphere.sample(20_000, 128, rng=np.random.default_rng(0))[:, 0]
    errors = (u - codebook.dequantize(codebook.quantize(u))) ** 2
    assert abs(oracle.z_score(errors, codebook.distortion / 128)) < oracle.Z_LIMIT
    assert abs(oracle.z_score(errors, codebook.distortion)) > oracle.Z_LIMIT


# --- The other codebooks, and bugs seen in public ports ------------------------------------------


@pytest.mark.parametrize("dim", [2, 4, 8, 128, 4096])
@pytest.mark.parametrize("bits", [2, 3, 4, 6])
def test_uniform_and_equal_probability_are_worse(dim, bits):
    best = lloyd_max(dim, bits)
    for other in (uniform(dim, bits), equal_probability(dim, bits)):
        assert other.distortion > best.distortion * (1 + 1e-6)
        assert other.stationarity > 1e-4  # the check of Lloyd-Max must refuse both


@pytest.mark.parametrize("dim", [2, 4, 128])
@pytest.mark.parametrize("bits", [1, 2, 3, 5])
def test_uniform_has_the_best_step(dim, bits):
    codebook = uniform(dim, bits)
    steps = np.diff(codebook.levels)
    np.testing.assert_allclose(steps, steps[0], rtol=1e-9)
    np.testing.assert_allclose(codebook.levels, -codebook.levels[::-1], atol=1e-15)
    grid = np.linspace(0.02, 1.2, 60) * 2 / (2**bits - 1)
    offsets = np.arange(2**bits) - (2**bits - 1) / 2
    others = [oracle.distortion(offsets * step, dim) for step in grid]
    assert codebook.distortion <= min(others) * (1 + 1e-9)


@pytest.mark.parametrize("dim", [2, 8, 128])
def test_equal_probability_levels_are_centroids_of_equally_likely_cells(dim):
    edges = sphere.coordinate_ppf(np.arange(9) / 8, dim)
    expected = [
        oracle.partial_moment(low, high, dim, 1) * 8 for low, high in itertools.pairwise(edges)
    ]
    np.testing.assert_allclose(equal_probability(dim, 3).levels, expected, atol=1e-12)


@pytest.mark.parametrize("half", ["every second level", "positive half", "inner half"])
def test_half_of_the_four_bit_codebook_is_not_the_three_bit_one(half):
    four = lloyd_max(128, 4).levels
    levels = {
        "every second level": four[::2],
        "positive half": four[8:],
        "inner half": four[4:12],
    }[half]
    wrong = Codebook(128, 3, levels, half)
    assert wrong.stationarity > 0.05
    assert wrong.distortion > 1.01 * lloyd_max(128, 3).distortion


def test_lloyd_iterations_converge_from_a_good_start():
    # 2^16 samples, 3 bits: the sampled optimum is near the true one to second order in its
    # O(1/sqrt(samples per cell)) level errors, about levels/samples = 1.2e-4.
    u = sphere.sample(2**16, 128, rng=np.random.default_rng(0))[:, 0]
    start = equal_probability(128, 3).levels
    fitted = lloyd_iterations(u, 128, 3, start=start, iterations=500)
    best = lloyd_max(128, 3)
    assert best.distortion <= fitted.distortion < best.distortion * 1.001
    early = lloyd_iterations(u, 128, 3, start=start, iterations=2)
    assert early.distortion > fitted.distortion * 1.001
    none = lloyd_iterations(u, 128, 3, start=start, iterations=0)
    np.testing.assert_array_equal(none.levels, start)


def test_lloyd_iterations_by_hand():
    samples = [-1.0, -0.8, 0.1, 0.3, 0.6]
    once = lloyd_iterations(samples, 3, 1, start=[-0.5, 0.4], iterations=1)
    np.testing.assert_allclose(once.levels, [-0.9, 1 / 3])
    # The edge is at 0.2 and 0.2 belongs to the lower cell, as in quantize.
    tie = lloyd_iterations([0.0, 0.2, 0.6], 3, 1, start=[0.0, 0.4], iterations=1)
    np.testing.assert_allclose(tie.levels, [0.1, 0.6])
    kept = lloyd_iterations([0.5, 0.7], 3, 1, start=[-0.9, 0.6], iterations=50)
    np.testing.assert_allclose(kept.levels, [-0.9, 0.6])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_linear_start_at_high_dimension_keeps_empty_cells(seed):
    # At d = 256 the deviation is 1/16: at two bits the outer levels +-1 win only beyond 8 of
    # them, so two codes are wasted for good and two bits are no better than one.
    u = sphere.sample(2**14, 256, rng=np.random.default_rng(seed))[:, 0]

    def fit(bits):
        start = np.linspace(-1, 1, 2**bits)
        return lloyd_iterations(u, 256, bits, start=start, iterations=300)

    np.testing.assert_array_equal(fit(2).levels[[0, -1]], [-1, 1])
    assert np.unique(fit(2).quantize(u)).tolist() == [1, 2]
    assert fit(2).distortion > 0.99 * lloyd_max(256, 1).distortion
    for bits in (3, 4, 5, 6):
        assert fit(bits).distortion > 1.5 * lloyd_max(256, bits).distortion
        assert len(np.unique(fit(bits).quantize(u))) < 2**bits
    good = lloyd_iterations(u, 256, 3, start=lloyd_max(256, 3).levels, iterations=300)
    assert len(np.unique(good.quantize(u))) == 8


# --- Quantize and dequantize ---------------------------------------------------------------------


def test_ties_go_down():
    codebook = Codebook(3, 2, np.array([-0.75, -0.25, 0.25, 0.75]), "exact binary fractions")
    ties = np.array([-0.5, 0.0, 0.5])
    assert codebook.quantize(ties).tolist() == [0, 1, 2]
    assert codebook.quantize(np.nextafter(ties, 1)).tolist() == [1, 2, 3]
    assert codebook.quantize([-9, 9]).tolist() == [0, 3]
    assert [oracle.nearest(tie, codebook.levels) for tie in ties] == [0, 1, 2]


@given(
    st.sampled_from(SMALL),
    st.integers(0, 8),
    st.integers(0, 2**32 - 1),
    st.sampled_from([np.float16, np.float32, np.float64]),
)
def test_quantize_takes_the_nearest_level(dim, bits, seed, dtype):
    rng = np.random.default_rng(seed)
    codebook = lloyd_max(dim, bits)
    y = (rng.standard_normal((2, 3, 50)) / math.sqrt(dim)).astype(dtype)
    codes = codebook.quantize(y)
    assert codes.dtype == np.uint8
    assert codes.shape == y.shape
    distances = np.abs(y[..., None].astype(np.float64) - codebook.levels)
    chosen = np.take_along_axis(distances, codes[..., None].astype(int), axis=-1)[..., 0]
    # Equal distance up to rounding of the edge in the computing type is no error.
    slack = np.finfo(np.float64 if dtype == np.float64 else np.float32).eps
    assert (chosen <= distances.min(axis=-1) + 2 * slack).all()
    if dtype == np.float64:
        np.testing.assert_array_equal(codes, distances.argmin(axis=-1))


@given(st.sampled_from([lloyd_max, uniform]), st.sampled_from(SMALL), st.integers(0, 8))
def test_levels_are_fixed_points(make, dim, bits):
    codebook = make(dim, bits)
    codes = np.arange(2**bits)
    for dtype in (np.float32, np.float64):
        levels = codebook.dequantize(codes, dtype)
        assert levels.dtype == dtype
        np.testing.assert_array_equal(codebook.quantize(levels), codes)


def test_repeated_levels_are_allowed():
    codebook = Codebook(8, 2, np.array([-0.3, 0.3, 0.3, 0.3]), "wasteful")
    assert codebook.distortion == pytest.approx(oracle.distortion([-0.3, 0.3], 8), rel=1e-10)
    assert codebook.occupied_cells == 3  # the cell between two equal edges is empty
    y = np.linspace(-1, 1, 9)
    np.testing.assert_allclose(np.abs(codebook.dequantize(codebook.quantize(y))), 0.3)


def test_codebooks_are_immutable_and_own_their_levels():
    levels = np.array([-0.5, 0.5])
    codebook = Codebook(4, 1, levels, "mine")
    levels[0] = 9
    assert codebook.levels[0] == -0.5
    for array in (codebook.levels, codebook.edges, lloyd_max(8, 2).levels):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


# --- Refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [lloyd_max, uniform, equal_probability])
@pytest.mark.parametrize(
    ("dim", "bits", "error", "message"),
    [
        (1, 2, ValueError, "dim must be an integer >= 2, got 1"),
        (-8, 2, ValueError, "dim must be an integer >= 2, got -8"),
        (7.5, 2, TypeError, r"dim must be an integer >= 2, got 7\.5"),
        (None, 2, TypeError, "dim must be an integer >= 2, got None"),
        (8, -1, ValueError, "bits must be an integer from 0 to 8, got -1"),
        (8, 9, ValueError, "bits must be an integer from 0 to 8, got 9"),
        (8, 2.5, TypeError, r"bits must be an integer from 0 to 8, got 2\.5"),
        (8, "2", TypeError, "bits must be an integer from 0 to 8, got '2'"),
    ],
)
def test_impossible_codebooks_are_refused(make, dim, bits, error, message):
    with pytest.raises(error, match=message):
        make(dim, bits)


def test_bad_levels_codes_and_samples_are_refused():
    with pytest.raises(ValueError, match=r"levels must be 4 finite increasing .*bits=2.*\(3,\)"):
        Codebook(8, 2, np.arange(3.0), "short")
    with pytest.raises(ValueError, match="levels must be 4 finite increasing"):
        Codebook(8, 2, np.array([0.0, 0.2, 0.1, 0.3]), "unsorted")
    codebook = codebooks.lloyd_max(8, 2)
    with pytest.raises(ValueError, match=r"codes must lie in 0\.\.3, got 0\.\.4"):
        codebook.dequantize(np.array([0, 4]))
    with pytest.raises(ValueError, match=r"codes must lie in 0\.\.3, got -1\.\.0"):
        codebook.dequantize(np.array([-1, 0]))
    with pytest.raises(TypeError, match="codes must hold integers, got dtype float64"):
        codebook.dequantize(np.array([0.0]))
    with pytest.raises(TypeError, match="y must hold real numbers, got dtype object"):
        codebook.quantize(np.array([None]))
    good = {"start": np.linspace(-1, 1, 4), "iterations": 3}
    with pytest.raises(ValueError, match="samples must not be empty"):
        lloyd_iterations([], 8, 2, **good)
    with pytest.raises(ValueError, match=r"start must hold 4 levels for bits=2, got shape \(2,\)"):
        lloyd_iterations([0.1], 8, 2, start=[0, 1], iterations=3)
    with pytest.raises(ValueError, match="iterations must be an integer >= 0, got -1"):
        lloyd_iterations([0.1], 8, 2, start=good["start"], iterations=-1)
    with pytest.raises(TypeError, match="samples must hold real numbers, got dtype complex128"):
        lloyd_iterations([1j], 8, 2, **good)


# --- Defects once found -------------------------------------------------------------------------


def test_levels_must_be_finite():
    for levels in ([np.nan, np.nan], [0.1, np.nan], [-np.inf, 0.1]):
        with pytest.raises(ValueError, match="levels must be"):
            Codebook(4, 1, np.array(levels), "broken")


def test_codebooks_of_more_than_eight_bits_are_refused():
    with pytest.raises(ValueError, match="bits must be an integer from 0 to 8, got 9"):
        Codebook(4, 9, np.linspace(-1, 1, 512), "too fine")


@pytest.mark.parametrize("make", [lloyd_max, uniform])
@pytest.mark.parametrize(("dim", "bits"), [(8, True), (8.0, 1)])
def test_refusals_do_not_depend_on_earlier_calls(make, dim, bits):
    make(8, 1)
    with pytest.raises(TypeError, match="must be an integer"):
        make(dim, bits)


def test_quantize_refuses_nan():
    with pytest.raises(ValueError, match=r"y must be finite"):
        lloyd_max(8, 2).quantize([0.1, np.nan])


@pytest.mark.parametrize(("name", "bad"), [("samples", [0.1, np.nan]), ("start", [0.1, np.nan])])
def test_lloyd_iterations_refuse_nan(name, bad):
    arguments = {"samples": [-0.1, 0.1], "start": [-1, 1], name: bad}
    with pytest.raises(ValueError, match=f"{name} must be finite"):
        lloyd_iterations(arguments["samples"], 8, 1, start=arguments["start"], iterations=2)


# --- The spread of the radial gain -----------------------------------------------------------


@pytest.mark.parametrize(("dim", "bits"), [(8, 1), (8, 3), (64, 2), (128, 4), (1024, 4)])
def test_radial_gain_variance_against_uniform_vectors(dim, bits):
    codebook = lloyd_max(dim, bits)
    u = sphere.sample(min(60_000, 2**24 // dim), dim, rng=np.random.default_rng([dim, bits]))
    gain = (u * codebook.dequantize(codebook.quantize(u))).sum(axis=-1)
    exact = radial_gain_variance(codebook)
    squares = (gain - (1 - codebook.distortion)) ** 2
    error = squares.std() / np.sqrt(squares.size)
    assert abs(squares.mean() - exact) < 4 * error  # false alarm below 1e-4
    # negative control: coordinates taken for independent miss the constraint |u| = 1
    products = dim * u * codebook.dequantize(codebook.quantize(u))
    assert abs(squares.mean() - products.var() / dim) > 4 * error


def quadrature(function, codebook, density, width, end):
    """Twice the integral of an even function of u and Q(u) over u > 0."""
    cuts = np.concatenate([[0.0], codebook.edges[codebook.edges > 0], width * np.arange(1, 40)])
    cuts = np.unique(np.append(cuts[cuts < end], end))
    nodes, weights = np.polynomial.legendre.leggauss(60)
    half = np.diff(cuts)[:, None] / 2
    u = cuts[:-1, None] + half * (1 + nodes)
    q = codebook.levels[np.searchsorted(codebook.edges, u)]
    return float((2 * half * weights * density(u) * function(u, q)).sum())


def by_harmonics(codebook, degrees=400):
    """Var sum_i g(u_i) for g(u) = u (Q(u) - u), degree by degree.

    E g(u_1) g(u_2) = sum_k N_k (E g P_k)^2 P_k(0): the two coordinates are <u, e> for orthogonal e.
    """
    d, k = codebook.dim, np.arange(degrees + 1)
    number = np.exp(np.log(2 * k + d - 2) + gammaln(k + d - 2) - gammaln(d - 1) - gammaln(k + 1))
    moments = laws.quantizer_energies(codebook.levels, d, degrees) / np.sqrt(d * number)  # E Q P_k
    moments[1] -= 1 / d  # E (Q - u) P_k
    below = np.append(0.0, moments[:-2])
    of_g = ((k[:-1] + d - 2) * moments[1:] + k[:-1] * below) / (2 * k[:-1] + d - 2)
    energies = number[:-1] * of_g**2
    square = quadrature(
        lambda u, q: (u * (q - u)) ** 2,
        codebook,
        lambda u: sphere.coordinate_pdf(u, d),
        width=d**-0.5,
        end=1,
    )
    at_zero = laws.gegenbauer(degrees - 1, 0.0, d)
    return d * (square - of_g[0] ** 2) + d * (d - 1) * float((energies * at_zero)[1:].sum())


@pytest.mark.parametrize("dim", [16, 33, 64, 128, 256, 512])
@pytest.mark.parametrize("bits", [1, 2, 4, 6])
def test_radial_gain_variance_is_that_of_its_harmonics(dim, bits):
    codebook = lloyd_max(dim, bits)
    assert radial_gain_variance(codebook) == pytest.approx(by_harmonics(codebook), rel=1e-6)
    # Control: without the harmonics of degree two the two are far apart.
    assert radial_gain_variance(codebook) != pytest.approx(by_harmonics(codebook, 2), rel=1e-3)


@pytest.mark.parametrize(
    "codebook",
    [lloyd_max(dim, bits) for dim in (2**14, 2**17, 2**20, 2**24) for bits in (1, 2, 4, 6)]
    + [lloyd_max(2**20, 8), equal_probability(2**20, 4)],
    ids=lambda codebook: f"{codebook.dim}-{codebook.bits}-{codebook.name}",
)
def test_radial_gain_variance_tends_to_the_gaussian_one(codebook):
    # Of a normal vector, what depends on its length only taken away: the harmonic of degree two.
    dim = codebook.dim
    scaled = Codebook(dim, codebook.bits, codebook.levels * math.sqrt(dim), "for the normal law")

    def g(function):
        return quadrature(
            lambda z, q: function(z, z * (q - z)), scaled, stats.norm.pdf, width=1, end=38
        )

    own = g(lambda z, g: g**2) - g(lambda z, g: g) ** 2
    degree_two = g(lambda z, g: g * (z * z - 1)) ** 2 / 2
    value = radial_gain_variance(codebook)
    assert value == pytest.approx((own - degree_two) / dim, rel=20 / dim + 1e-6, abs=0)
    assert value != pytest.approx(own / dim, rel=40 / dim + 2e-6, abs=0)


def test_radial_gain_variance_of_wide_cells_and_of_none():
    wide = Codebook(1024, 2, np.linspace(-1, 1, 4), "wide")  # the law sees the middle edge only
    near = Codebook(1024, 1, np.array([-1, 1]) / 3, "two levels")
    assert radial_gain_variance(wide) == pytest.approx(radial_gain_variance(near), rel=1e-9)
    for dim in (8, 100, 1024):
        assert radial_gain_variance(lloyd_max(dim, 0)) == 0
    assert radial_gain_variance(lloyd_max(8, 4)) == pytest.approx(
        by_harmonics(lloyd_max(8, 4), 1600), rel=1e-6
    )


def test_radial_gain_variance_needs_a_symmetric_codebook_and_eight_dimensions():
    with pytest.raises(ValueError, match="codebook must be symmetric"):
        radial_gain_variance(Codebook(8, 1, np.array([-0.1, 0.3]), "lopsided"))
    with pytest.raises(ValueError, match=r"codebook\.dim must be an integer from 8 to .*, got 4"):
        radial_gain_variance(lloyd_max(4, 2))
