"""The coordinate law against quadrature, scipy.stats and hand-derived constants."""

import itertools
import math

import numpy as np
import oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from kvlib.laws import sphere

DIMS = [2, 3, 4, 5, 8, 17, 64, 128, 199, 200, 201, 202, 1024, 10**4, 10**6]


@pytest.mark.parametrize("dim", DIMS)
def test_density_integrates_to_one(dim):
    # In t = sqrt(d) arcsin x the integrand is bounded even where the density is not (d = 2).
    def integrand(t):
        x = math.sin(t / math.sqrt(dim))
        # float(): the factor cos is the Jacobian; near |x| = 1 at d = 2 it tames the density.
        return float(sphere.coordinate_pdf(x, dim)) * math.cos(t / math.sqrt(dim)) / math.sqrt(dim)

    end = min(math.pi / 2 * math.sqrt(dim) * (1 - 1e-12), 12)
    total = integrate.quad(integrand, -end, end, epsabs=0, epsrel=1e-12, limit=200)[0]
    assert total == pytest.approx(1, abs=1e-11)


def test_density_by_hand():
    x = np.array([-0.9, 0.0, 0.3])
    np.testing.assert_allclose(sphere.coordinate_pdf(x, 2), 1 / np.pi / np.sqrt(1 - x * x))
    np.testing.assert_allclose(sphere.coordinate_pdf(x, 3), 0.5)
    np.testing.assert_allclose(sphere.coordinate_pdf(x, 4), 2 / np.pi * np.sqrt(1 - x * x))
    np.testing.assert_allclose(sphere.coordinate_pdf(x, 5), 0.75 * (1 - x * x))
    np.testing.assert_array_equal(sphere.coordinate_pdf([-1.01, 2.0], 5), 0)
    np.testing.assert_array_equal(sphere.coordinate_pdf([-1.0, 1.0], 2), np.inf)
    np.testing.assert_allclose(sphere.coordinate_pdf([-1.0, 1.0], 3), 0.5, rtol=1e-15)
    np.testing.assert_array_equal(sphere.coordinate_pdf([-1.0, 1.0], 4), 0)


@pytest.mark.parametrize("dim", DIMS)
def test_moments_match_quadrature(dim):
    second = 2 * oracle.partial_moment(0, 1, dim, 2)
    fourth = 2 * oracle.partial_moment(0, 1, dim, 4)
    assert sphere.variance(dim) == pytest.approx(second, rel=1e-11)
    assert sphere.kurtosis(dim) == pytest.approx(fourth / second**2, rel=1e-11)
    assert sphere.mean_absolute(dim) == pytest.approx(oracle.mean_absolute(dim), rel=1e-11)


def test_mean_absolute_by_hand():
    # d=2: mean of |cos| = 2/pi. d=3: uniform law, 1/2. d=4: semicircle law, 4/(3 pi).
    assert sphere.mean_absolute(2) == pytest.approx(2 / math.pi, rel=1e-15)
    assert sphere.mean_absolute(3) == pytest.approx(1 / 2, rel=1e-15)
    assert sphere.mean_absolute(4) == pytest.approx(4 / (3 * math.pi), rel=1e-15)
    assert sphere.mean_absolute(1e9) * math.sqrt(1e9) == pytest.approx(
        math.sqrt(2 / math.pi), rel=1e-8
    )


@pytest.mark.parametrize("dim", DIMS)
def test_cdf_is_the_beta_law(dim):
    beta = stats.beta((dim - 1) / 2, (dim - 1) / 2, loc=-1, scale=2)
    x = np.linspace(-1, 1, 41) * min(1, 6 / math.sqrt(dim))
    # scipy evaluates at (1+x)/2, which costs it digits as d grows: hence sqrt(d) eps.
    tolerance = 1e-12 + 1e-15 * math.sqrt(dim)
    np.testing.assert_allclose(sphere.coordinate_cdf(x, dim), beta.cdf(x), atol=tolerance)
    np.testing.assert_allclose(sphere.coordinate_sf(x, dim), beta.sf(x), atol=tolerance)
    np.testing.assert_array_equal(sphere.coordinate_cdf(x, dim), sphere.coordinate_sf(-x, dim))


@pytest.mark.parametrize("dim", DIMS)
def test_tails_are_accurate_in_relative_terms(dim):
    for t in (0.5, 1, 3, 8, 20):
        x = t / math.sqrt(dim)
        if x < 1:
            tail = oracle.partial_moment(x, 1, dim, 0)
            assert float(sphere.coordinate_sf(x, dim)) == pytest.approx(tail, rel=1e-10, abs=0)
            assert float(sphere.coordinate_cdf(-x, dim)) == pytest.approx(tail, rel=1e-10, abs=0)
            if t == 8 and dim >= 128:  # negative control: the obvious tail has no digit left
                assert 1 - sphere.coordinate_cdf(x, dim) != pytest.approx(tail, rel=0.01, abs=0)


@pytest.mark.parametrize("gap", [2.0**-10, 2.0**-40, 2.0**-52])
def test_tail_at_the_end_of_the_interval_by_hand(gap):
    # Powers of two: x = 1 - gap is exact, and no digit may be lost to 1 - x^2.
    expected = {
        2: 2 / math.pi * math.asin(math.sqrt(gap / 2)),
        3: gap / 2,
        5: gap**2 * (3 - gap) / 4,
    }
    for dim, tail in expected.items():
        assert float(sphere.coordinate_sf(1 - gap, dim)) == pytest.approx(tail, rel=1e-13, abs=0)


@settings(max_examples=100)
@given(st.sampled_from(DIMS), st.integers(1, 2**20 - 1))
def test_ppf_inverts_cdf(dim, numerator):
    p = numerator / 2**20  # so that 1 - p is exact
    x = sphere.coordinate_ppf(p, dim)
    # No inverse can do better than x rounded to a double, which moves the cdf by f(x) eps.
    rounding = float(sphere.coordinate_pdf(x, dim)) * 2**-52
    assert float(sphere.coordinate_cdf(x, dim)) == pytest.approx(p, rel=1e-11, abs=2 * rounding)
    assert sphere.coordinate_ppf(1 - p, dim) == -x


@pytest.mark.parametrize("dim", [64, 128, 1024, 10**6])
def test_ppf_reaches_far_into_the_tail(dim):
    p = np.array([1e-200, 1e-50, 1e-20, 1e-9])
    if dim == 64:
        p = p[1:]  # beyond that x is within rounding of -1
    np.testing.assert_allclose(
        sphere.coordinate_cdf(sphere.coordinate_ppf(p, dim), dim), p, rtol=1e-9
    )


def test_ppf_by_hand():
    p = np.array([0.0, 0.1, 0.5, 0.8, 1.0])
    np.testing.assert_allclose(sphere.coordinate_ppf(p, 2), -np.cos(np.pi * p), atol=1e-14)
    np.testing.assert_allclose(sphere.coordinate_ppf(p, 3), 2 * p - 1, atol=1e-14)


@pytest.mark.parametrize("dim", DIMS)
def test_cell_moments_match_quadrature(dim):
    edges = np.array([0, 0.01, 0.1, 0.7, 1.0, 1.3, 2.5, 6.0]) / math.sqrt(dim)
    edges = np.append(edges[edges < 1], 1.0)
    measured = np.array(sphere.upper_cell_moments(edges, dim))
    expected = [
        [oracle.partial_moment(a, b, dim, power) for a, b in itertools.pairwise(edges)]
        for power in range(3)
    ]
    # 1e-9 relative to the cell; the narrowest, (0, 0.01 sd), has second moment 1e-7 of 1/d.
    np.testing.assert_allclose(measured, expected, rtol=1e-9, atol=1e-18)


def test_cell_moments_of_the_gaussian_without_its_bound_fail():
    # Negative control: at d = 8 the normal limit is not within the tolerance used above.
    edges = np.array([0.0, 0.2, 1.0])
    probability = sphere.upper_cell_moments(edges, 8)[0]
    assert probability != pytest.approx(np.diff(stats.norm.cdf(edges * np.sqrt(8))), rel=1e-3)


@given(st.integers(2, 10**6), st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_cells_partition_half_of_the_law(dim, inner):
    edges = np.concatenate([[0], np.sort(inner), [1]])
    probability, first, second = sphere.upper_cell_moments(edges, dim)
    assert (probability >= 0).all()
    assert (first >= 0).all()
    assert probability.sum() == pytest.approx(1 / 2, rel=1e-12)
    assert first.sum() == pytest.approx(sphere.mean_absolute(dim) / 2, rel=1e-12)
    assert second.sum() == pytest.approx(1 / (2 * dim), rel=1e-12)


@pytest.mark.parametrize("dim", [2, 3, 4, 8, 128, 10**6])
def test_companding_law_is_the_cube_root(dim):
    x = np.linspace(-0.99, 0.99, 9) * min(1, 5 / math.sqrt(dim))
    cube_root = sphere.coordinate_pdf(x, dim) ** (1 / 3)
    ratio = sphere.coordinate_pdf(x, sphere.companding_dim(dim)) / cube_root
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-12)
    # Negative control: another member of the family is not proportional to it.
    wrong = sphere.coordinate_pdf(x, 1.5 * sphere.companding_dim(dim)) / cube_root
    assert np.ptp(wrong) > 0.1 * wrong.max()


def test_sample_follows_the_law():
    # KS at p < 1e-3 would be a false alarm; the control must be refused at 1e-6.
    u = sphere.sample(4000, 3, rng=np.random.default_rng(1))
    assert u.shape == (4000, 3)
    np.testing.assert_allclose(np.linalg.norm(u, axis=-1), 1, rtol=1e-14)
    for axis in range(3):
        assert stats.kstest(u[:, axis], lambda x: sphere.coordinate_cdf(x, 3)).pvalue > 1e-3
    cube = np.random.default_rng(1).uniform(-1, 1, (4000, 3))
    cube /= np.linalg.norm(cube, axis=-1, keepdims=True)  # a common wrong recipe
    control = np.abs(cube).max(axis=-1)
    assert stats.ks_2samp(np.abs(u).max(axis=-1), control).pvalue < 1e-6
    assert sphere.sample((2, 0, 5), 4, rng=np.random.default_rng(0)).shape == (2, 0, 5, 4)


@pytest.mark.parametrize("dim", [1, 0, -3, 0.5, math.nan, math.inf])
def test_impossible_dimensions_are_refused(dim):
    for function in (sphere.variance, sphere.kurtosis, sphere.mean_absolute, sphere.normalizer):
        with pytest.raises(ValueError, match=r"dim must be a finite number > 1, got"):
            function(dim)


@pytest.mark.parametrize("probability", [-0.1, 1.1, math.nan, [0.5, 2.0]])
def test_impossible_probabilities_are_refused(probability):
    with pytest.raises(ValueError, match=r"probability must be a number in \[0, 1\]"):
        sphere.coordinate_ppf(probability, 8)


@pytest.mark.parametrize("edges", [[0.5], [[0, 1]], [-0.1, 1], [0, 1.1]])
def test_impossible_edges_are_refused(edges):
    with pytest.raises(ValueError, match=r"edges must be .* in \[0, 1\], got"):
        sphere.upper_cell_moments(edges, 8)
