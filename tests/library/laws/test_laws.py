"""Closed forms against quadrature, published constants and the exact codebooks."""

import itertools
import math

import numpy as np
import pytest
from scipy import integrate, special
from scipy.linalg import hadamard

from kvlib import laws
from kvlib.laws import sphere
from kvlib.quantize import codebooks


@pytest.mark.parametrize("dim", [3, 4, 8, 128])
def test_coordinate_entropy_is_the_integral(dim):
    def integrand(x):
        density = float(sphere.coordinate_pdf(x, dim))
        return -density * math.log(density) if density > 0 else 0.0

    numeric, _ = integrate.quad(integrand, -1, 1, limit=200)
    assert laws.coordinate_entropy(dim) == pytest.approx(numeric, abs=1e-8)


@pytest.mark.parametrize("dim", [2, 3, 4, 8, 64, 1024])
def test_panter_dite_is_the_integral_and_the_limit_of_lloyd_max(dim):
    def cube_root(x):
        return float(np.cbrt(sphere.coordinate_pdf(x, dim)))

    integral = 2 * integrate.quad(cube_root, 0, 1, limit=200)[0]
    assert laws.panter_dite(0, dim) == pytest.approx(dim / 12 * integral**3, rel=1e-6)
    errors = [
        abs(codebooks.lloyd_max(dim, n).distortion / laws.panter_dite(n, dim) - 1)
        for n in (4, 6, 8)
    ]
    assert errors[2] < 0.015
    if dim != 3:  # the uniform law: exact at every rate
        assert errors[0] > errors[1] > errors[2]


def test_panter_dite_tends_to_the_gaussian_constant():
    assert laws.panter_dite(0, 10**7) == pytest.approx(math.sqrt(3) * math.pi / 2, rel=1e-6)
    assert laws.panter_dite(3) == pytest.approx(2.7207 / 64, rel=1e-4)


@pytest.mark.parametrize("dim", [2, 3, 4, 16, 128, 1024])
def test_shannon_lower_bound_holds_for_every_codebook(dim):
    for bits in range(9):
        bound = laws.shannon_lower_bound(bits, dim)
        assert codebooks.lloyd_max(dim, bits).distortion >= bound * (1 - 1e-12)
    assert laws.shannon_lower_bound(2, 10**6) == pytest.approx(laws.shannon_bound(2), rel=1e-5)


def test_gaussian_shannon_line_is_not_a_bound_at_d2_and_is_met_at_d3():
    assert codebooks.lloyd_max(2, 1).distortion < laws.shannon_bound(1)
    assert codebooks.lloyd_max(3, 5).distortion == pytest.approx(laws.shannon_bound(5), rel=1e-9)
    assert codebooks.lloyd_max(4, 1).distortion > laws.shannon_bound(1)


@pytest.mark.parametrize("dim", [2, 3, 8, 128, 4096])
def test_one_bit_distortion_is_the_codebooks(dim):
    exact = codebooks.lloyd_max(dim, 1).distortion
    assert laws.one_bit_distortion(dim) == pytest.approx(exact, abs=1e-13)


@pytest.mark.parametrize("distortion", [0.0, 0.0093, 0.36, 0.999])
def test_direction_errors_are_three_readings_of_one_angle(distortion):
    angle = math.pi * laws.direction_error_of(distortion, "angle")
    chord = laws.direction_error_of(distortion, "chord")
    assert 1 - math.cos(angle) == pytest.approx(
        laws.direction_error_of(distortion, "one-minus-cosine"), abs=1e-12
    )
    assert chord == pytest.approx(2 * math.sin(angle / 2), abs=1e-12)
    # tan^2 of the angle is the relative MSE of the rescaled reconstruction
    assert math.tan(angle) ** 2 == pytest.approx(laws.unbiased_distortion(distortion), rel=1e-9)


def test_sketch_variances_and_their_ratio():
    assert laws.sign_sketch_variance(0, 1) == pytest.approx(math.pi / 2)
    inflation = laws.sign_sketch_variance(0.534, 9) / laws.jl_variance(0.534, 9)
    assert inflation == pytest.approx(1, abs=1e-3)
    # summed over an orthonormal basis of queries, inner-product variance is squared error
    d = 16
    total = laws.sign_sketch_variance(1, d) + (d - 1) * laws.sign_sketch_variance(0, d)
    assert total == pytest.approx(laws.gaussian_sketch_error(d))
    assert laws.gaussian_sketch_error(d) == pytest.approx(math.pi / 2 - 1 / d)


def test_orthogonal_sketch_limits():
    assert laws.orthogonal_sketch_error(10**7) == pytest.approx(math.pi / 2 - 1, rel=1e-6)
    tie = laws.mmse_error(laws.orthogonal_sketch_error(128))
    assert tie == pytest.approx(laws.one_bit_distortion(128), rel=1e-12)


def kurtosis_over_all_signs(x, rounds):
    """Mean kurtosis of H D .. H D x over every choice of signs, and of its first coordinate."""
    d = x.size
    rotations = [
        hadamard(d) / math.sqrt(d) * np.array(s) for s in itertools.product((1, -1), repeat=d)
    ]
    y = x[None]
    for _ in range(rounds):
        y = np.concatenate([y @ r.T for r in rotations])
    return d * (y**4).sum(-1).mean(), d**2 * (y[:, 0] ** 4).mean()


@pytest.mark.parametrize("x", [[1, 0, 0, 0], [1, 1, 1, 1], [5, -1, 2, 0.5]])
def test_hadamard_kurtosis_is_the_mean_over_all_signs(x):
    u = np.array(x, dtype=float) / np.linalg.norm(x)
    before = 4 * (u**4).sum()
    for rounds in (1, 2, 3):
        expected = laws.hadamard_kurtosis(before, 4, rounds)
        assert kurtosis_over_all_signs(u, rounds) == pytest.approx((expected, expected))
        # Negative control: the sphere's kurtosis, which holds for a Haar rotation.
        assert expected != pytest.approx(sphere.kurtosis(4), abs=0.05)


def test_hadamard_kurtosis_leaves_the_sphere_alone_and_tends_to_it():
    assert laws.hadamard_kurtosis(sphere.kurtosis(8), 8) == pytest.approx(sphere.kurtosis(8))
    assert laws.hadamard_kurtosis(64, 64) == pytest.approx(1)
    assert laws.hadamard_kurtosis(64, 64, 8) == pytest.approx(sphere.kurtosis(64), abs=1e-9)
    # At d = 2 the distance only changes sign: no number of rounds helps.
    assert laws.hadamard_kurtosis(2, 2, 100) == pytest.approx(2)


@pytest.mark.parametrize(("nu", "dim"), [(0.5, 2), (1, 8), (1.05, 128), (3, 2), (3, 1024), (5, 8)])
def test_student_t_kurtosis_against_confluent_hypergeometric_functions(nu, dim):
    scale = math.exp(special.gammaln((nu + 1) / 2) - special.gammaln(nu / 2))

    def integrand(log_s):
        z = nu * math.exp(log_s)
        second = 0.75 * z * z * scale * special.hyperu(2.5, 3 - nu / 2, z)
        return second * (scale * special.hyperu(0.5, 1 - nu / 2, z)) ** (dim - 1)

    integral, _ = integrate.quad(integrand, -40 * max(1, 1 / nu), 30, limit=400)
    assert laws.student_t_kurtosis(nu, dim) == pytest.approx(dim**2 * integral, rel=1e-5)


def test_student_t_kurtosis_known_values_and_limits():
    assert laws.student_t_kurtosis(2, 2) == pytest.approx(math.pi / 2)
    assert laws.student_t_kurtosis(1e7, 8) == pytest.approx(sphere.kurtosis(8), abs=1e-6)
    # E sum p^2 -> 1 - nu/2, so that one Hadamard round leaves a kurtosis of 1 + nu.
    before = laws.student_t_kurtosis(0.5, 10**6)
    assert laws.hadamard_kurtosis(before, 10**6) == pytest.approx(1.5, abs=1e-6)


@pytest.mark.parametrize("dim", [2, 3, 8, 128])
def test_ks_of_kurtosis_is_the_distance_of_a_perturbed_law(dim):
    def p(x):
        return x**4 - 6 * x**2 / (dim + 4) + 3 / ((dim + 2) * (dim + 4))

    # x = sin t removes the infinite density at d = 2.
    t = (np.arange(400_000) + 0.5) / 400_000 * math.pi - math.pi / 2
    x, weight = np.sin(t), sphere.coordinate_pdf(np.sin(t), dim) * np.cos(t) * (t[1] - t[0])
    shift = 1e-3 / dim**2 / (weight * p(x) ** 2).sum() * p(x)
    kurtosis = dim**2 * (weight * (1 + shift) * x**4).sum()
    assert kurtosis == pytest.approx(sphere.kurtosis(dim) + 1e-3, abs=1e-5)
    distance = np.abs(np.cumsum(weight * shift)).max()
    assert laws.ks_of_kurtosis(kurtosis, dim) == pytest.approx(distance, rel=1e-2)
    # Negative control: the Gaussian's Edgeworth constant is wrong at small d, right at large d.
    edgeworth = 1e-3 / 24 * 0.5506
    assert (abs(distance / edgeworth - 1) < 0.1) == (dim == 128)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: laws.hadamard_kurtosis(9, 8), r"kurtosis must be a number in \[1, 8\]"),
        (lambda: laws.student_t_kurtosis(0, 8), "nu must be a finite number > 0"),
        (lambda: laws.direction_error_of(0.1, "degrees"), "reading must be one of"),
        (lambda: laws.unbiased_distortion(1.0), r"distortion must be a number in \[0, 1\)"),
        (lambda: laws.panter_dite(2, 1), "dim must be an integer >= 2"),
        (lambda: laws.mmse_error(-0.1), "unbiased_error must be a finite number >= 0"),
        (lambda: laws.jl_variance(0, 0), "rows must be an integer >= 1"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()


# ---------------------------------------------------------------- sketches, chapter 4


def test_inflation_is_pi_over_two_at_zero_and_one_at_the_crossing():
    assert laws.sketch_inflation(0) == pytest.approx(math.pi / 2)
    crossing = laws.inflation_crossing()
    assert laws.sketch_inflation(crossing) == pytest.approx(1)
    assert laws.sketch_inflation(crossing + 0.01) < 1 < laws.sketch_inflation(crossing - 0.01)


@pytest.mark.parametrize("dim", [2, 8, 128])
def test_orthogonal_sketch_variance_sums_to_its_error(dim):
    """Over an orthonormal basis of queries, one along r, variances add up to the squared error."""
    along = laws.orthogonal_sketch_variance(1, dim)
    across = laws.orthogonal_sketch_variance(0, dim)
    assert along + (dim - 1) * across == pytest.approx(laws.orthogonal_sketch_error(dim))


def test_lemma_constant_fails_exactly_where_simulation_did():
    rows = math.ceil(laws.qjl_rows(0.1, 0.01))
    assert rows == 778
    assert laws.sign_sketch_failure(0.1, rows) == pytest.approx(0.026, abs=5e-4)
    enough = math.ceil(laws.sufficient_rows(0.1, 0.01))
    assert laws.sign_sketch_failure(0.1, enough) < 0.01


def test_equal_budget_penalty_reproduces_the_published_table():
    """T08 at d=128, and its limits.

    Orthogonal rows with the error of finite d, 1/(d E|u|^2) - 1 = 0.5647; its limit pi/2 - 1
    would give 1.78 .. 2.22.
    """
    d = {n: codebooks.lloyd_max(128, n).distortion for n in range(1, 7)}
    gaussian, orthogonal = laws.gaussian_sketch_error(128), laws.orthogonal_sketch_error(128)
    expected = {
        gaussian: [4.86, 5.34, 5.70, 5.94, 6.08],
        orthogonal: [1.76, 1.93, 2.06, 2.15, 2.20],
        laws.mmse_error(orthogonal): [1.12, 1.23, 1.32, 1.37, 1.40],
    }
    for error, published in expected.items():
        measured = [laws.equal_budget_penalty(error, d[n - 1], d[n]) for n in range(2, 7)]
        np.testing.assert_allclose(measured, published, atol=0.0051)
    fine, coarse = (codebooks.lloyd_max(10**6, n).distortion for n in (8, 7))
    limits = laws.HIGH_RATE_PENALTY
    for name, error in zip(limits, (math.pi / 2, math.pi / 2 - 1, 1 - 2 / math.pi), strict=True):
        assert laws.equal_budget_penalty(error, coarse, fine) == pytest.approx(
            limits[name], rel=0.01
        )


# ----------------------------------------------------------------- softmax, chapter 5


def _two_key_kl(p, variance):
    """E KL of the row (p, 1-p) under independent Gaussian logit errors, by quadrature.

    log(p e^a + (1-p) e^b) - p a - (1-p) b depends on b - a ~ N(0, 2 variance) only.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(200)
    gap = math.sqrt(2 * variance) * nodes
    kl = np.log1p((1 - p) * np.expm1(gap)) - (1 - p) * gap
    return float((weights * kl).sum() / math.sqrt(2 * math.pi))


@pytest.mark.parametrize("p", [0.5, 0.7, 0.95])
def test_second_order_kl_is_the_taylor_series_of_the_exact_two_key_law(p):
    s2, s3 = p**2 + (1 - p) ** 2, p**3 + (1 - p) ** 3
    for variance in (0.002, 0.004):
        exact = _two_key_kl(p, variance)
        quartic = laws.second_order_kl(variance, s2, s3) - laws.small_noise_kl(variance, s2)
        remainder = exact - laws.second_order_kl(variance, s2, s3)
        assert abs(quartic) > 1e-8  # far above rounding
        assert abs(remainder) < 0.05 * abs(quartic)


@pytest.mark.parametrize("p", [0.5, 0.7, 0.95, 1 - 1e-6])
def test_quadrature_of_a_row_is_the_exact_two_key_law(p):
    for variance in (0.0, 1e-3, 0.1, 1.0):
        exact = _two_key_kl(p, variance)
        assert laws.gaussian_noise_kl([p, 1 - p], variance) == pytest.approx(exact, abs=1e-11)


def test_quadrature_of_a_row_splits_keys_like_the_row_itself():
    """Keys of weight zero change nothing; one key alone has no KL, whatever the noise."""
    variances = np.array([0.01, 2.0, 30.0])
    row = laws.gaussian_noise_kl([0.6, 0.3, 0.1], variances)
    np.testing.assert_allclose(laws.gaussian_noise_kl([0.3, 0, 0.6, 0.1, 0], variances), row)
    assert np.abs(laws.gaussian_noise_kl([1.0], variances)).max() < 1e-11
    assert (row > 0).all()
    assert (row < variances / 2).all()


def test_quadrature_of_a_long_row_against_monte_carlo():
    """False-alarm rate 1e-6 a variance; the control, noise a tenth larger, must be rejected."""
    rng = np.random.default_rng(11)
    logits = 2 * rng.standard_normal(300)
    p = np.exp(logits) / np.exp(logits).sum()
    errors = rng.standard_normal((20000, 300))
    for variance in (0.3, 5.0):
        delta = math.sqrt(variance) * errors
        kl = np.log(np.exp(delta) @ p) - delta @ p
        standard_error = kl.std() / math.sqrt(len(kl))
        z, control = (
            (kl.mean() - laws.gaussian_noise_kl(p, scale * variance)) / standard_error
            for scale in (1.0, 1.1)
        )
        assert abs(z) < 4.9
        assert abs(control) > 4.9


def test_quadrature_refuses_what_is_no_row():
    for p in ([0.5, 0.6], [1.5, -0.5], [[0.5, 0.5]], [math.nan, 1.0]):
        with pytest.raises(ValueError, match="p must be one row"):
            laws.gaussian_noise_kl(p, 1.0)
    with pytest.raises(ValueError, match="variance must be a finite number >= 0"):
        laws.gaussian_noise_kl([0.5, 0.5], -1.0)


def test_condition_for_superlinearity_has_both_signs():
    peaked = np.array([0.9] + [0.1 / 9] * 9)
    uniform = np.full(10, 0.1)
    sums = [((p**2).sum(), (p**3).sum()) for p in (peaked, uniform)]
    assert laws.is_superlinear(*sums[0])
    assert not laws.is_superlinear(*sums[1])
    excess = laws.second_order_kl(0.2, *sums[0]) - laws.small_noise_kl(0.2, sums[0][0])
    assert excess == pytest.approx(1.31e-3, rel=0.01)


def test_peaked_bound_holds_and_peaked_law_is_its_small_limit():
    for rest in (1e-6, 1e-3, 0.1, 0.4):
        for variance in (0.1, 1.0, 4.0):
            assert _two_key_kl(1 - rest, variance) <= laws.kl_bound(variance, rest) + 1e-12
    assert laws.kl_bound(0.5, 1e-6) == pytest.approx(laws.peaked_kl(0.5, 1e-6), rel=1e-5)


@pytest.mark.parametrize("tokens", [2, 50])
def test_peaked_law_lies_above_and_its_lower_bound_below(tokens):
    for rest in (1e-6, 1e-3, 0.05):
        p = np.full(tokens, rest / (tokens - 1))
        p[0] = 1 - rest
        squares = (p[1:] ** 2).sum()
        for variance in (0.01, 0.5, 2.0):
            exact = laws.gaussian_noise_kl(p, variance)
            lower = laws.peaked_kl_lower_bound(variance, rest, squares)
            assert lower - 1e-11 <= exact <= laws.peaked_kl(variance, rest) + 1e-11
    # tight where it should be: a part in a thousand at eps = 1e-6, sigma^2 = 2
    assert laws.peaked_kl_lower_bound(2.0, 1e-6, 1e-12) == pytest.approx(
        laws.peaked_kl(2.0, 1e-6), rel=1e-3
    )


def test_diffuse_law_is_continuous_and_linear_before_freezing():
    freeze = 2 * math.log(512)
    below, above = laws.diffuse_kl(np.array([freeze - 1e-9, freeze + 1e-9]), 512)
    assert below == pytest.approx(above, abs=1e-8)
    assert laws.diffuse_kl(1.0, 512) == 0.5
    assert laws.diffuse_kl(4 * freeze, 512) < 2 * freeze / 2 * 4


def test_predicted_kl_reduces_to_the_iid_law_and_to_a_temperature():
    rng = np.random.default_rng(5)
    logits = rng.standard_normal((3, 40))
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    s2 = (p**2).sum(-1)
    variance = np.full_like(p, 0.03)
    np.testing.assert_allclose(
        laws.predicted_kl(p, logits, variance), laws.small_noise_kl(0.03, s2), rtol=1e-12
    )
    # pure shrinkage: the exact KL of softmax(logits) from softmax(g logits), to second order
    gain = 0.995
    q = np.exp(gain * logits) / np.exp(gain * logits).sum(-1, keepdims=True)
    exact = (p * np.log(p / q)).sum(-1)
    predicted = laws.predicted_kl(p, logits, 0 * variance, gain_mean=gain)
    np.testing.assert_allclose(predicted, exact, rtol=0.01)
    # a masked key changes nothing
    masked = np.concatenate([p, np.zeros((3, 1))], axis=-1)
    padded = np.concatenate([logits, np.full((3, 1), -np.inf)], axis=-1)
    np.testing.assert_allclose(
        laws.predicted_kl(masked, padded, 0.03 * np.ones_like(masked), gain_variance=0.1),
        laws.predicted_kl(p, logits, variance, gain_variance=0.1),
    )


def test_logit_variance_is_the_distortion_at_unit_power():
    assert laws.logit_variance(0.1, 8.0, 8.0, 64) == pytest.approx(0.1)
    assert laws.logit_variance(0.1, 16.0, 8.0, 64) == pytest.approx(0.4)


def _cells(levels):
    """Lower ends, upper ends and levels of a quantizer of [-1, 1]."""
    edges = np.concatenate([[-1.0], (levels[1:] + levels[:-1]) / 2, [1.0]])
    return edges[:-1], edges[1:], levels


@pytest.mark.parametrize(("dim", "bits"), [(3, 1), (3, 3), (8, 2), (64, 4)])
def test_quantizer_energies_are_the_integrals(dim, bits):
    levels = codebooks.lloyd_max(dim, bits).levels
    energies = laws.quantizer_energies(levels, dim, 7)
    for k in (1, 2, 3, 6, 7):

        def integrand(x, k=k):
            zonal = laws.gegenbauer(k, x, dim)[k]
            return float(zonal * sphere.coordinate_pdf(x, dim))

        moment = sum(
            level * integrate.quad(integrand, low, high)[0]
            for low, high, level in zip(*_cells(levels), strict=True)
        )
        norm, _ = integrate.quad(
            lambda x, k=k: float(
                laws.gegenbauer(k, x, dim)[k] ** 2 * sphere.coordinate_pdf(x, dim)
            ),
            -1,
            1,
        )
        assert energies[k] == pytest.approx(moment * math.sqrt(dim / norm), abs=1e-7)


def test_gegenbauer_polynomials_are_scipys_and_in_the_plane_cosines():
    x = np.linspace(-1, 1, 9)
    for dim in (3, 8, 129):
        ours = laws.gegenbauer(12, x, dim)
        for k in (0, 1, 5, 12):
            reference = special.eval_gegenbauer(k, dim / 2 - 1, x)
            at_one = special.eval_gegenbauer(k, dim / 2 - 1, 1.0)
            np.testing.assert_allclose(ours[k], reference / at_one, atol=1e-12)
    np.testing.assert_allclose(laws.gegenbauer(5, x, 2)[5], np.cos(5 * np.arccos(x)), atol=1e-12)


@pytest.mark.parametrize("dim", [8, 32, 128])
@pytest.mark.parametrize("rescale", [1.0, 1.5])
def test_shared_error_of_one_bit_is_an_arcsine(dim, rescale):
    book = codebooks.lloyd_max(dim, 1)
    kept = 1 - book.distortion
    for cosine in (-0.6, 0.0, 0.3, 0.8):
        exact = rescale**2 * kept * 2 / math.pi * math.asin(cosine)
        exact += (1 - 2 * rescale * kept) * cosine
        found = float(laws.shared_error(cosine, book.levels, dim, rescale=rescale))
        assert found == pytest.approx(exact, abs=1e-5)


@pytest.mark.parametrize(("dim", "bits"), [(4, 2), (16, 3), (128, 4), (128, 6)])
def test_shared_error_starts_with_the_shrinkage_and_ends_at_the_distortion(dim, bits):
    book = codebooks.lloyd_max(dim, bits)
    D = book.distortion
    assert float(laws.shared_error(1.0, book.levels, dim)) == pytest.approx(D, rel=1e-9)
    slope = float(laws.common_mean_error(1e-4, book.levels, dim)) / 1e-4
    assert slope == pytest.approx(D**2, rel=1e-6)
    unbiased = laws.common_mean_error(1e-4, book.levels, dim, rescale=1 / (1 - D))
    assert abs(float(unbiased)) < 1e-9 * D
    whole = laws.shared_error(1.0, book.levels, dim, rescale=1 / (1 - D))
    assert float(whole) == pytest.approx(laws.unbiased_distortion(D), rel=1e-9)


@pytest.mark.parametrize(("bits", "cosine"), [(2, 0.8), (3, -0.3)])
def test_shared_error_is_a_double_integral(bits, cosine):
    # y = cosine x + sin sqrt(1 - x^2) t, where t is a coordinate of a unit vector in R^(d-1).
    dim, book = 8, codebooks.lloyd_max(8, bits)
    x = (np.arange(40000) + 0.5) / 20000 - 1
    rest = math.sqrt(1 - cosine**2) * np.sqrt(1 - x**2)
    above = sphere.coordinate_sf((book.edges - cosine * x[:, None]) / rest[:, None], dim - 1)
    error_x = book.levels[np.searchsorted(book.edges, x)] - x
    error_y = book.levels[0] + above @ np.diff(book.levels) - cosine * x  # mean over t
    integral = dim * float((sphere.coordinate_pdf(x, dim) / 20000 * error_x) @ error_y)
    assert float(laws.shared_error(cosine, book.levels, dim)) == pytest.approx(integral, abs=1e-5)
    # Shrinkage alone, the first degree, is not all that is shared.
    assert abs(book.distortion**2 * cosine - integral) > 1e-4


def double_integral(cosine, book):
    """d E e(x) e(y): y = cosine x + sin sqrt(1 - x^2) t, t a coordinate of a vector in R^(d-1)."""
    d = book.dim
    end = min(1, 12 / math.sqrt(d))
    cuts = np.concatenate([book.edges[np.abs(book.edges) < end], np.linspace(-end, end, 1501)])
    cuts = np.unique(cuts)
    nodes, weights = np.polynomial.legendre.leggauss(8)
    half = np.diff(cuts)[:, None] / 2
    x, weight = (cuts[:-1, None] + half * (1 + nodes)).ravel(), (half * weights).ravel()
    rest = math.sqrt((1 - cosine) * (1 + cosine)) * np.sqrt(1 - x**2)
    above = sphere.coordinate_sf((book.edges - cosine * x[:, None]) / rest[:, None], d - 1)
    error_y = book.levels[0] + above @ np.diff(book.levels) - cosine * x
    error_x = book.levels[np.searchsorted(book.edges, x)] - x
    return d * float((weight * sphere.coordinate_pdf(x, d) * error_x) @ error_y)


@pytest.mark.parametrize("cosine", [-0.97, 0.5, 0.9, 0.95, 0.98, 0.99, 0.995, 0.9999])
@pytest.mark.parametrize(
    ("dim", "bits"), [(8, 1), (8, 4), (32, 4), (128, 2), (128, 4), (128, 6), (1024, 3), (1024, 6)]
)
def test_shared_error_is_right_up_to_cosine_one(dim, bits, cosine):
    book = codebooks.lloyd_max(dim, bits)
    found = float(laws.shared_error(cosine, book.levels, dim))
    tolerance = 1e-6 * book.distortion
    assert found == pytest.approx(double_integral(cosine, book), rel=1e-6, abs=tolerance)


def test_a_cut_series_is_wrong_near_cosine_one():  # control of the test above
    book = codebooks.lloyd_max(128, 4)
    amplitude = laws.quantizer_energies(book.levels, 128, 75)
    amplitude[1] -= 1
    polynomials = laws.gegenbauer(77, 0.98, 128)
    cut = float(amplitude**2 @ polynomials[:76])
    cut += (book.distortion - float(amplitude @ amplitude)) * float(polynomials[77])
    assert cut > 1.5 * double_integral(0.98, book)


@pytest.mark.parametrize("bits", [1, 3, 5, 6])
def test_shared_error_in_the_plane(bits):
    # Two vectors at an angle, on every rotation of the circle.
    book = codebooks.lloyd_max(2, bits)
    angle = (np.arange(1 << 20) + 0.5) * math.pi / (1 << 19)
    first, second = np.cos(angle), np.cos(angle + math.acos(0.9))
    error = (book.levels[np.searchsorted(book.edges, x)] - x for x in (first, second))
    exact = 2 * float((next(error) * next(error)).mean())
    assert float(laws.shared_error(0.9, book.levels, 2)) == pytest.approx(exact, abs=1e-5)
    assert abs(float(laws.shared_error(0.8, book.levels, 2)) - exact) > 2e-5  # control


def test_shared_error_of_levels_that_no_coordinate_reaches():
    # Beyond one nothing is quantized to them; repeated levels are one level.
    inner = codebooks.lloyd_max(8, 2).levels
    outer = np.concatenate([[-4, -3], inner, [3, 4]])
    repeated = np.repeat(inner, 2)
    for cosine in (0.3, 0.99, 1.0):
        expected = laws.shared_error(cosine, inner, 8)
        np.testing.assert_allclose(laws.shared_error(cosine, outer, 8), expected, atol=1e-12)
        np.testing.assert_allclose(laws.shared_error(cosine, repeated, 8), expected, atol=1e-12)


@pytest.mark.parametrize(("dim", "bits"), [(32, 2), (64, 3), (128, 4)])
def test_common_mean_error_of_drawn_vectors(dim, bits):
    book, rng = codebooks.lloyd_max(dim, bits), np.random.default_rng([dim, bits])
    amplitude = laws.quantizer_energies(book.levels, dim, 4000)
    amplitude[1] -= 1
    for share in (0.5, 0.95, 0.98, 0.995):
        mean = rng.standard_normal((4000, 1, dim))
        mean *= math.sqrt(share * dim) / np.linalg.norm(mean, axis=-1, keepdims=True)
        v = mean + math.sqrt(1 - share) * rng.standard_normal((4000, 8, dim))
        length = np.linalg.norm(v, axis=-1, keepdims=True)
        error = v - length * book.levels[np.searchsorted(book.edges, v / length)]
        of_sums = np.square(error.sum(axis=1)).sum(axis=-1) - np.square(error).sum(axis=(1, 2))
        found = of_sums / (8 * 7 * dim)
        spread = found.std() / math.sqrt(found.size)
        derived = float(laws.common_mean_error(share, book.levels, dim))
        assert abs(found.mean() - derived) < 4 * spread  # false alarm below 1 in 10,000
    # Control: harmonics taken at the mean, as if all vectors were equally long.
    at_mean = float(amplitude**2 @ share ** np.arange(amplitude.size))
    assert abs(found.mean() - at_mean) > 4 * spread


def test_common_mean_error_has_no_seams():
    for dim, bits in ((2, 2), (8, 4), (128, 4)):
        book = codebooks.lloyd_max(dim, bits)
        low, high = (
            float(laws.common_mean_error(1 - gap, book.levels, dim)) for gap in (1.001e-5, 0.999e-5)
        )
        whole = float(laws.common_mean_error(1.0, book.levels, dim))
        assert whole == pytest.approx(book.distortion, rel=1e-9)
        # Near one it falls like the root of what is left.
        assert (whole - high) / (whole - low) == pytest.approx(math.sqrt(0.999 / 1.001), rel=2e-3)
        shares = np.linspace(0, 1, 23)
        values = laws.common_mean_error(shares, book.levels, dim)
        assert values.shape == (23,)
        assert values[0] == 0
        assert (np.diff(values) > 0).all()


def test_mean_harmonics_are_moments_of_drawn_lengths():
    from kvlib.laws import sharing

    dim, share, rng = 16, 0.7, np.random.default_rng(4)
    v = math.sqrt((1 - share) / dim) * rng.standard_normal((400_000, dim))
    v[:, 0] += math.sqrt(share)
    length = np.linalg.norm(v, axis=-1)
    for k, derived in zip((3, 5), sharing._mean_harmonics(share, 2, dim), strict=True):
        drawn = length * laws.gegenbauer(k, v[:, 0] / length, dim)[k]
        error = drawn.std() / math.sqrt(drawn.size)
        assert abs(drawn.mean() - derived) < 4 * error
        assert abs(drawn.mean() - share ** (k / 2)) > 4 * error  # control


def test_quantizer_energies_of_many_dimensions_and_degrees():
    for dim in (1024, 10**6):
        book = codebooks.lloyd_max(dim, 4)
        energies = laws.quantizer_energies(book.levels, dim, 3000)
        assert energies[1] == pytest.approx(1 - book.distortion, rel=1e-9)
        # What is left of the energy beyond degree K falls like 1/sqrt(K).
        assert 0 < 1 - book.distortion - float(energies @ energies) < 4e-3
        assert np.abs(energies[2::2]).max() < 1e-12


@pytest.mark.parametrize("levels", [[-1, 0, 2], [1, 0, -1], [[-1, 1]], [], [-1, np.nan], [-2, 1]])
def test_levels_that_no_symmetric_quantizer_has_are_refused(levels):
    for function in (laws.shared_error, laws.common_mean_error):
        with pytest.raises(ValueError, match="levels must be"):
            function(0.5, levels, 8)


def test_common_mean_averages_harmonics_at_the_mean():
    # E |v|^k P_k(cos(v, m)) = |m|^k for v = m + g: exact by quadrature in the plane of m and g.
    dim, mean, width = 6, 0.8, 0.5
    radius, weight = np.polynomial.legendre.leggauss(200)
    along = 6 * radius  # standard deviations along m
    across = 3.5 + 3.5 * radius  # length of the rest, a chi variable of dim - 1
    density = np.exp(-(along**2) / 2) / math.sqrt(2 * math.pi) * 6 * weight
    chi = across ** (dim - 2) * np.exp(-(across**2) / 2) * weight
    chi /= chi.sum()
    first, rest = mean + width * along[:, None], width * across
    length = np.hypot(first, rest)
    for k in (1, 3, 5):
        solid = length**k * laws.gegenbauer(k, first / length, dim)[k]
        assert float(density @ solid @ chi) == pytest.approx(mean**k, rel=1e-5)


@pytest.mark.parametrize("kind", ["gaussian", "orthogonal"])
@pytest.mark.parametrize("dim", [2, 16, 128])
def test_sketched_shared_error_at_cosine_one_is_the_sketchs(kind, dim):
    whole = {"gaussian": laws.gaussian_sketch_error, "orthogonal": laws.orthogonal_sketch_error}
    found = float(laws.sketched_shared_error(1.0, dim, kind))
    assert found == pytest.approx(whole[kind](dim), rel=1e-9)


def test_sketched_shared_error_of_exact_small_sketches():
    # d = 2: average over all rotations of the plane, on a fine grid of angles.
    cosine = 0.4
    u, w = np.array([1.0, 0.0]), np.array([cosine, math.sqrt(1 - cosine**2)])
    angle = (np.arange(20000) + 0.5) * math.pi / 10000
    rows = np.stack([np.cos(angle), np.sin(angle)], -1)
    other = np.stack([-np.sin(angle), np.cos(angle)], -1)
    alpha = 1 / (2 * sphere.mean_absolute(2))

    def error(x):
        signs = np.sign(rows @ x)[:, None] * rows + np.sign(other @ x)[:, None] * other
        return alpha * signs - x

    exact = float((error(u) * error(w)).sum(-1).mean())
    assert float(laws.sketched_shared_error(cosine, 2, "orthogonal")) == pytest.approx(
        exact, abs=1e-3
    )
    # Gaussian: rows independent; E over one row by the angle, over two by their means.
    same = math.pi / 2 / 4 * 2 * float((np.sign(rows @ u) * np.sign(rows @ w)).mean()) * 2
    different = math.pi / 2 / 4 * 2 * (2 / math.pi) * cosine
    assert float(laws.sketched_shared_error(cosine, 2, "gaussian")) == pytest.approx(
        same + different - cosine, abs=1e-3
    )
    # The kinds must not be mistaken for each other.
    assert abs(laws.sketched_shared_error(0.4, 128, "gaussian")) > 5 * abs(
        laws.sketched_shared_error(0.4, 128, "orthogonal")
    )


def test_a_gaussian_sketch_shares_what_its_codes_share_and_an_orthogonal_one_does_not():
    for bits in (1, 2, 3):
        levels = codebooks.lloyd_max(128, bits).levels
        bare = float(laws.common_mean_error(0.3, levels, 128))
        gaussian = laws.sketched_mean_error(0.3, levels, 128, "gaussian")
        orthogonal = laws.sketched_mean_error(0.3, levels, 128, "orthogonal")
        assert gaussian == pytest.approx(bare, rel=0.03)
        assert 0 < orthogonal < 0.05 * bare


def test_overload_is_what_an_orthogonal_sketch_shares_at_fine_budgets():
    # The sketch's error is a known function of the residuals' cosines: average it over means.
    # Interval 3.3 standard errors wide: false alarm below 1 in 1000 if the theory were exact.
    dim, share, pairs = 64, 0.6, 12
    book, rng, found = codebooks.lloyd_max(dim, 3), np.random.default_rng(20), []
    for _ in range(4000):
        mean = rng.standard_normal(dim)
        mean *= math.sqrt(share * dim) / np.linalg.norm(mean)
        v = mean + math.sqrt(1 - share) * rng.standard_normal((pairs, dim))
        length = np.linalg.norm(v, axis=-1, keepdims=True)
        residual = v - length * book.dequantize(book.quantize(v / length))
        size = np.linalg.norm(residual, axis=-1)
        cosine = np.clip(residual @ residual.T / size[:, None] / size, -1, 1)
        error = laws.sketched_shared_error(cosine, dim, "orthogonal") * size[:, None] * size
        found.append((error.sum() - np.trace(error)) / (pairs * (pairs - 1)) / dim)
    low, high = np.mean(found) + np.array([-3.3, 3.3]) * np.std(found) / math.sqrt(len(found))
    derived = laws.sketched_mean_error(share, book.levels, dim, "orthogonal")
    assert 0.7 * low < derived < 1.3 * high
    # Without the overload term the same check fails.
    assert derived - laws.overload_error(share, book.levels, dim) < 0.7 * low


def test_output_threshold_is_where_the_errors_meet():
    first, second = (0.1, 0.01), (0.2, 0.001)
    at = laws.output_threshold(first, second)
    assert laws.output_error(at, *first) == pytest.approx(laws.output_error(at, *second))
    assert laws.output_error(at / 2, *first) < laws.output_error(at / 2, *second)
    assert laws.output_error(2 * at, *first) > laws.output_error(2 * at, *second)
    assert laws.output_error(1, *first) == pytest.approx(first[0])
    assert math.isinf(laws.output_threshold(first, (0.2, 0.01)))
    with pytest.raises(ValueError, match="second must have the larger single error"):
        laws.output_threshold(second, first)
    with pytest.raises(ValueError, match="kind must be"):
        laws.sketched_shared_error(0.5, 8, "hadamard")


def test_thresholds_of_the_first_trial_and_their_growth_with_the_budget():
    thresholds = []
    for bits in (2, 3, 4, 5):
        fine, coarse = (codebooks.lloyd_max(128, n) for n in (bits, bits - 1))
        plain = fine.distortion, float(laws.common_mean_error(0.5, fine.levels, 128))
        sketched = (
            laws.orthogonal_sketch_error(128) * coarse.distortion,
            laws.sketched_mean_error(0.5, coarse.levels, 128, "orthogonal"),
        )
        thresholds.append(laws.output_threshold(plain, sketched))
    assert thresholds[0] == pytest.approx(10.6, abs=0.1)
    assert thresholds[2] == pytest.approx(105.7, abs=0.5)
    assert all(2 < b / a < 4.5 for a, b in itertools.pairwise(thresholds))
