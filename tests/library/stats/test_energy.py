"""Energy distances: by hand, against scipy, against all pairs."""

import doctest
import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from kvlib import stats
from kvlib.stats import energy, pvalues

RNG = np.random.default_rng


def by_all_pairs(x, y):
    """The definition: three full matrices of distances."""
    x, y = (np.asarray(z, dtype=float).reshape(len(z), -1) for z in (x, y))
    return 2 * cdist(x, y).mean() - cdist(x, x).mean() - cdist(y, y).mean()


def test_examples_hold():
    assert doctest.testmod(energy).failed == doctest.testmod(pvalues).failed == 0


def test_by_hand_and_both_readings_named():
    # |X - Y| is 1, 3, 1, 1 and |X - X'| has mean 1, |Y - Y'| mean 1: 2 * 1.5 - 1 - 1 = 1.
    found = stats.energy_distance([0, 2], [1, 3])
    assert (found.squared, found.root, found.n) == (1.0, 1.0, (2, 2))
    # Two points at distance 5: twice that, and its root.
    found = stats.energy_distance([[0, 0]], [[3, 4]])
    assert (found.squared, found.root) == (10.0, math.sqrt(10))


@pytest.mark.parametrize("size", [(1, 1), (7, 12), (300, 200)])
def test_root_is_scipys_in_one_dimension(size):
    rng = RNG(sum(size))
    x, y = rng.standard_normal(size[0]), 2 * rng.standard_normal(size[1])
    found = stats.energy_distance(x, y)
    assert found.root == pytest.approx(scipy.stats.energy_distance(x, y), abs=1e-10)
    # Negative control: the squared reading is another number.
    assert found.squared != pytest.approx(scipy.stats.energy_distance(x, y), abs=1e-3)


@pytest.mark.parametrize("size", [(1, 4), (7, 12), (400, 700)])
@pytest.mark.parametrize("dim", [1, 2, 6])
def test_matches_the_definition_in_more_dimensions(size, dim, monkeypatch):
    rng = RNG(dim)
    x, y = rng.standard_normal((size[0], dim)), rng.standard_normal((size[1], dim)) + 0.3
    expected = by_all_pairs(x, y)
    assert stats.energy_distance(x, y).squared == pytest.approx(expected, abs=1e-10)
    monkeypatch.setattr(energy, "BLOCK_ENTRIES", 3000)  # many blocks, the last one smaller
    assert stats.energy_distance(x, y).squared == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("entries", [1, 50, 1 << 20])
def test_all_labellings_at_once_match_each_alone(entries, monkeypatch):
    monkeypatch.setattr(energy, "BLOCK_ENTRIES", entries)
    rng = RNG(5)
    points, n = rng.standard_normal((23, 3)), 9
    labels = rng.permuted(np.tile(np.arange(23) < n, (40, 1)), axis=1)
    expected = [by_all_pairs(points[a], points[~a]) for a in labels]
    assert energy.energy_squared(points, labels, n) == pytest.approx(expected, abs=1e-10)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 4), st.integers(0, 99))
def test_is_a_distance_of_samples(n, m, dim, seed):
    rng = RNG(seed)
    x, y = rng.standard_normal((n, dim)), rng.standard_normal((m, dim))
    squared = stats.energy_distance(x, y).squared
    close = pytest.approx(squared, abs=1e-10)
    assert squared >= 0
    assert stats.energy_distance(y, x).squared == close
    assert stats.energy_distance(x + 7, y + 7).squared == close
    assert stats.energy_distance(3 * x, 3 * y).squared / 3 == close
    # Repeating every point changes no mean.
    assert stats.energy_distance(np.repeat(x, 3, 0), np.repeat(y, 2, 0)).squared == close
    assert stats.energy_distance(x, np.repeat(x, 2, 0)).squared == pytest.approx(0, abs=1e-10)


def test_whole_numbers_give_exact_sums():
    rng = RNG(6)
    x, y = rng.integers(0, 3, 40), rng.integers(0, 3, 24)
    pairs = (np.abs(np.subtract.outer(a, b)).sum() for a, b in ((x, y), (x, x), (y, y)))
    xy, xx, yy = (int(total) for total in pairs)
    assert stats.energy_distance(x, y).squared == pytest.approx(
        (2 * xy * 40 * 24 - xx * 24**2 - yy * 40**2) / (40 * 24) ** 2, rel=1e-15
    )


def test_float16_is_widened():
    x = np.array([0, 0.5, 40000], dtype=np.float16)
    assert stats.energy_distance(x, -x).squared == pytest.approx(
        by_all_pairs(x.astype(float), -x.astype(float))
    )


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ([], [1.0], "x must hold at least 1 points, got 0"),
        ([[1.0, 2.0]], [1.0], "y must have points of 2 coordinates like x, got 1"),
        ([np.nan], [1.0], "x must be finite, got 1 NaN"),
        (np.zeros((2, 2, 2)), [1.0], r"x must have shape \(n,\) or \(n, d\), got \(2, 2, 2\)"),
        (np.zeros((2, 0)), [1.0], r"x must have shape \(n,\) or \(n, d\), got \(2, 0\)"),
        ([1e308], [-1e308], "x and y must be smaller: distances between them overflow"),
    ],
)
def test_bad_input_is_refused(x, y, message):
    with pytest.raises(ValueError, match=message):
        stats.energy_distance(x, y)
