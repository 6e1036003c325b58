"""Closed forms against quadrature, published constants and the exact codebooks."""

import math

import numpy as np
import pytest
from scipy import integrate

from kvlib import codebooks, sphere, theory


@pytest.mark.parametrize("dim", [3, 4, 8, 128])
def test_coordinate_entropy_is_the_integral(dim):
    def integrand(x):
        density = float(sphere.coordinate_pdf(x, dim))
        return -density * math.log(density) if density > 0 else 0.0

    numeric, _ = integrate.quad(integrand, -1, 1, limit=200)
    assert theory.coordinate_entropy(dim) == pytest.approx(numeric, abs=1e-8)


@pytest.mark.parametrize("dim", [2, 3, 4, 8, 64, 1024])
def test_panter_dite_is_the_integral_and_the_limit_of_lloyd_max(dim):
    def cube_root(x):
        return float(np.cbrt(sphere.coordinate_pdf(x, dim)))

    integral = 2 * integrate.quad(cube_root, 0, 1, limit=200)[0]
    assert theory.panter_dite(0, dim) == pytest.approx(dim / 12 * integral**3, rel=1e-6)
    errors = [
        abs(codebooks.lloyd_max(dim, n).distortion / theory.panter_dite(n, dim) - 1)
        for n in (4, 6, 8)
    ]
    assert errors[2] < 0.015
    if dim != 3:  # the uniform law: exact at every rate
        assert errors[0] > errors[1] > errors[2]


def test_panter_dite_tends_to_the_gaussian_constant():
    assert theory.panter_dite(0, 10**7) == pytest.approx(math.sqrt(3) * math.pi / 2, rel=1e-6)
    assert theory.panter_dite(3) == pytest.approx(2.7207 / 64, rel=1e-4)


@pytest.mark.parametrize("dim", [2, 3, 4, 16, 128, 1024])
def test_shannon_lower_bound_holds_for_every_codebook(dim):
    for bits in range(9):
        bound = theory.shannon_lower_bound(bits, dim)
        assert codebooks.lloyd_max(dim, bits).distortion >= bound * (1 - 1e-12)
    assert theory.shannon_lower_bound(2, 10**6) == pytest.approx(theory.shannon_bound(2), rel=1e-5)


def test_gaussian_shannon_line_is_not_a_bound_at_d2_and_is_met_at_d3():
    assert codebooks.lloyd_max(2, 1).distortion < theory.shannon_bound(1)
    assert codebooks.lloyd_max(3, 5).distortion == pytest.approx(theory.shannon_bound(5), rel=1e-9)
    assert codebooks.lloyd_max(4, 1).distortion > theory.shannon_bound(1)


@pytest.mark.parametrize("dim", [2, 3, 8, 128, 4096])
def test_one_bit_distortion_is_the_codebooks(dim):
    exact = codebooks.lloyd_max(dim, 1).distortion
    assert theory.one_bit_distortion(dim) == pytest.approx(exact, abs=1e-13)


@pytest.mark.parametrize("distortion", [0.0, 0.0093, 0.36, 0.999])
def test_direction_errors_are_three_readings_of_one_angle(distortion):
    angle = math.pi * theory.direction_error_of(distortion, "angle")
    chord = theory.direction_error_of(distortion, "chord")
    assert 1 - math.cos(angle) == pytest.approx(
        theory.direction_error_of(distortion, "one-minus-cosine"), abs=1e-12
    )
    assert chord == pytest.approx(2 * math.sin(angle / 2), abs=1e-12)
    # tan^2 of the angle is the relative MSE of the rescaled reconstruction
    assert math.tan(angle) ** 2 == pytest.approx(theory.unbiased_distortion(distortion), rel=1e-9)


def test_sketch_variances_and_their_ratio():
    assert theory.sign_sketch_variance(0, 1) == pytest.approx(math.pi / 2)
    inflation = theory.sign_sketch_variance(0.534, 9) / theory.jl_variance(0.534, 9)
    assert inflation == pytest.approx(1, abs=1e-3)
    # summed over an orthonormal basis of queries, inner-product variance is squared error
    d = 16
    total = theory.sign_sketch_variance(1, d) + (d - 1) * theory.sign_sketch_variance(0, d)
    assert total == pytest.approx(theory.gaussian_sketch_error(d))
    assert theory.gaussian_sketch_error(d) == pytest.approx(math.pi / 2 - 1 / d)


def test_orthogonal_sketch_limits():
    assert theory.orthogonal_sketch_error(10**7) == pytest.approx(math.pi / 2 - 1, rel=1e-6)
    tie = theory.mmse_error(theory.orthogonal_sketch_error(128))
    assert tie == pytest.approx(theory.one_bit_distortion(128), rel=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: theory.direction_error_of(0.1, "degrees"), "reading must be one of"),
        (lambda: theory.unbiased_distortion(1.0), r"distortion must lie in \[0, 1\)"),
        (lambda: theory.panter_dite(2, 1), "dim must be an integer >= 2"),
        (lambda: theory.mmse_error(-0.1), "unbiased_error must be non-negative"),
        (lambda: theory.jl_variance(0, 0), "rows must be an integer >= 1"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()
