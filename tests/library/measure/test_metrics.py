"""Relative errors, direction errors, rate and the six-dimensional error vector."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvlib.measure import metrics


def turned(angle, length=1.0, dim=5, seed=0):
    """A vector and a second one of another length at exactly this angle from it."""
    basis, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((dim, 2)))
    x = 3.0 * basis[:, 0]
    return x[None], length * (np.cos(angle) * basis[:, 0] + np.sin(angle) * basis[:, 1])[None]


def test_relative_mse_by_hand():
    x = np.array([[3.0, 4.0], [1.0, 0.0]])
    x_hat = np.array([[3.0, 3.0], [0.0, 0.0]])
    np.testing.assert_allclose(metrics.relative_mse(x, x_hat), [1 / 25, 1])
    # Energy ratio 2/26: the long vector weighs more than in the mean of the two.
    assert metrics.aggregate_relative_mse(x, x_hat) == pytest.approx(2 / 26)


@pytest.mark.parametrize("angle", [1e-12, 1e-9, 1e-4, 0.5, np.pi / 2, 3.0, np.pi - 1e-9, np.pi])
def test_three_readings_of_a_known_angle(angle):
    x, x_hat = turned(angle, length=0.2)
    # The vectors themselves are rounded at 1e-16. abs=0: approx otherwise adds 1e-12.
    tolerance = {"rel": 1e-3 if angle < 1e-10 else 1e-6, "abs": 0}
    expected = {
        "angle": angle / np.pi,
        "one-minus-cosine": 2 * np.sin(angle / 2) ** 2,
        "chord": 2 * np.sin(angle / 2),
    }
    for reading, value in expected.items():
        measured = metrics.direction_error(x, x_hat, reading)[0]
        assert measured == pytest.approx(value, **tolerance)


def test_textbook_formula_fails_the_tiny_angle_check():
    # Negative control: 1 - cos by subtraction, at an angle where the library is right.
    x, x_hat = turned(1e-9)
    cosine = (x * x_hat).sum() / np.linalg.norm(x) / np.linalg.norm(x_hat)
    assert 1 - cosine != pytest.approx(5e-19, rel=0.5, abs=0)
    assert metrics.direction_error(x, x_hat, "one-minus-cosine")[0] == pytest.approx(
        5e-19, rel=1e-6, abs=0
    )


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_direction_error_ignores_lengths_and_is_symmetric(seed, a, b):
    x, y = np.random.default_rng(seed).standard_normal((2, 3, 4))
    for reading in metrics.READINGS:
        error = metrics.direction_error(x, y, reading)
        np.testing.assert_allclose(metrics.direction_error(b * y, a * x, reading), error, rtol=1e-9)
        assert (error <= {"angle": 1, "chord": 2, "one-minus-cosine": 2}[reading] + 1e-12).all()


def test_relative_mse_of_a_centroid_quantizer_fixes_the_direction_error():
    # For a reconstruction with <x, x_hat> = |x_hat|^2: cos^2 = 1 - D (theory T04), so
    # 1 - cos = 1 - sqrt(1 - D). Built here exactly: x_hat is the projection of x.
    rng = np.random.default_rng(1)
    x, axis = rng.standard_normal((2, 20, 6))
    axis /= np.linalg.norm(axis, axis=-1, keepdims=True)
    x_hat = (x * axis).sum(-1, keepdims=True) * axis
    D = metrics.relative_mse(x, x_hat)
    np.testing.assert_allclose(
        metrics.direction_error(x, x_hat, "one-minus-cosine"), 1 - np.sqrt(1 - D), rtol=1e-12
    )


def test_shannon_rate_inverts_the_distortion_rate_function():
    rates = np.array([-0.5, 0.0, 1.0, 4.0, 20.0])
    np.testing.assert_allclose(metrics.shannon_rate(4.0**-rates), rates)


def test_six_numbers_in_their_order():
    rng = np.random.default_rng(2)
    k, v, t = rng.standard_normal((3, 2, 7, 4))
    k_hat = 1.5 * k  # relative MSE 1/4: rate 1, same direction
    v_hat = np.sqrt(1 + 1 / 16) * v  # a direction error of zero again
    t_hat = -t  # relative MSE 4: rate -1, opposite direction
    vector = metrics.error_vector_6d(k, k_hat, v, v_hat, t, t_hat)
    rate_v = metrics.shannon_rate((np.sqrt(1 + 1 / 16) - 1) ** 2)
    assert vector.shape == (2, 6)
    np.testing.assert_allclose(vector, [[1, 0, rate_v, 0, -1, 1]] * 2, atol=1e-8)
    chord = metrics.error_vector_6d(k, k_hat, v, v_hat, t, t_hat, reading="chord")
    np.testing.assert_allclose(chord[:, 5], 2)


def test_rate_is_taken_of_the_mean_error():
    k = np.ones((2, 2))
    k_hat = np.array([[1.0, 1.0], [0.5, 0.5]])  # errors 0 and 1/4: one token exact
    vector = metrics.error_vector_6d(k, k_hat, k, 2 * k, k, 2 * k)
    assert vector[0] == pytest.approx(-np.log2(1 / 8) / 2)


def test_several_reconstructions_broadcast_against_the_same_vectors():
    rng = np.random.default_rng(3)
    x = rng.standard_normal((3, 8, 4)).astype(np.float32)
    x_hat = x + rng.standard_normal((5, 3, 8, 4)).astype(np.float32)
    for measure in (metrics.relative_mse, metrics.direction_error):
        assert measure(x, x_hat).shape == (5, 3, 8)
        np.testing.assert_array_equal(measure(x, x_hat)[4], measure(x, x_hat[4]))
    assert metrics.aggregate_relative_mse(x, x_hat).shape == (5, 3)


@pytest.mark.parametrize("size", [1e-200, 1e200])
def test_extreme_lengths_neither_overflow_nor_vanish(size):
    x, x_hat = turned(0.3)
    assert metrics.direction_error(size * x, x_hat)[0] == pytest.approx(0.3 / np.pi)
    exact = metrics.relative_mse(x, x_hat)
    np.testing.assert_allclose(metrics.relative_mse(size * x, size * x_hat), exact)


@pytest.mark.parametrize("size", [1e-300, 1e-170, 1e160, 1e300])
def test_an_energy_ratio_has_no_unit(size):
    rng = np.random.default_rng(6)
    x = rng.standard_normal((2, 5, 4))
    x[1, 3] = 0  # single zero vectors count
    x_hat = x + rng.standard_normal((3, 2, 5, 4))
    exact = ((x - x_hat) ** 2).sum((-2, -1)) / (x**2).sum((-2, -1))
    np.testing.assert_allclose(metrics.aggregate_relative_mse(x, x_hat), exact, rtol=1e-12)
    scaled = metrics.aggregate_relative_mse(size * x, size * x_hat)
    np.testing.assert_allclose(scaled, exact, rtol=1e-12)
    with np.errstate(over="ignore"):  # control: what squares first has nothing left
        assert np.square(size * x).sum() in (0, np.inf)


# Refusals --------------------------------------------------------------------------------------


def test_directions_of_zero_vectors_are_refused_by_name():
    x, zero = np.ones((3, 4)), np.zeros((3, 4))
    with pytest.raises(ValueError, match=r"x_hat must hold nonzero vectors, got 3 of 3"):
        metrics.direction_error(x, zero)
    with pytest.raises(ValueError, match="x must hold nonzero vectors"):
        metrics.relative_mse(zero, x)
    with pytest.raises(ValueError, match="x must hold nonzero vectors"):
        metrics.aggregate_relative_mse(zero, x)
    with pytest.raises(ValueError, match="v_hat must hold nonzero vectors"):
        metrics.error_vector_6d(x, 2 * x, x, zero, x, 2 * x)
    # A zero reconstruction has a relative error all the same.
    np.testing.assert_array_equal(metrics.relative_mse(x, zero), 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.relative_mse(np.ones((3, 4)), np.ones((2, 4))), "x_hat must have the tok"),
        (lambda: metrics.relative_mse(np.ones((3, 4)), np.full((3, 4), np.inf)), "x_hat must be f"),
        (lambda: metrics.direction_error(np.ones((1, 2)), np.ones((1, 2)), "sine"), "reading must"),
        (lambda: metrics.shannon_rate(0.0), "no finite rate"),
        (lambda: metrics.shannon_rate([0.1, np.nan]), "relative_mse must be finite"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
