"""The cover behind T09: its bounds against quadrature, its boxes against points inside them."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, optimize, special

from kvlib import laws
from kvlib.laws import sphere, splitting
from kvlib.quantize import codebooks

# --- one cell ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [3, 4, 5, 8, 64, 128, 1024])
def test_the_half_line_splits_like_the_second_bit(dim):
    ratio = codebooks.lloyd_max(dim, 2).distortion / codebooks.lloyd_max(dim, 1).distortion
    high = min(1.0, 12 / math.sqrt(dim))  # beyond it no mass that double precision could see
    assert splitting.split_ratio(0, high, dim) == pytest.approx(ratio, rel=1e-7)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.1, 0.3), (0.5, 0.52), (0.9, 1)])
def test_the_uniform_law_splits_by_a_quarter(low, high):
    assert splitting.split_ratio(low, high, 3) == pytest.approx(0.25, abs=1e-12)


def _by_quadrature(low, high, dim):
    """Best threshold by a scalar search, moments by adaptive quadrature."""
    m = (dim - 3) / 2

    def weighted(t, power):
        x = min(low + unit * t, 1 - 1e-16)
        return t**power * math.exp(m * math.log((1 - x) / (1 - low) * (1 + x) / (1 + low)))

    # In units of the density's own width, so that neither of the searches misses it.
    fading = (1 - low**2) / (2 * low * m) if low else 1
    unit = min(high - low, 1 / math.sqrt(dim), fading)
    end = min((high - low) / unit, 60)

    def moments(a, b):
        return [
            integrate.quad(weighted, a, b, (k,), epsabs=0, epsrel=1e-11, limit=200)[0]
            for k in range(3)
        ]

    def left(a, b):
        mass, first, second = moments(a, b)
        return second - first**2 / mass

    best = optimize.minimize_scalar(
        lambda t: left(0, t) + left(t, end), bounds=(0, min(end, 6)), method="bounded"
    )
    return best.fun / left(0, end)


@pytest.mark.parametrize(
    ("low", "high", "dim"),
    [
        *[(0, 1, 4), (0.3, 0.9, 4), (0.95, 1, 4), (0, 0.2, 16), (0.4, 0.9, 16), (0.1, 0.3, 128)],
        # Cells many times wider than the density in them.
        *[(0, 1, 1024), (0, 1, 10**5), (0, 1, 10**6), (0.9, 1, 1024), (0.9999, 1, 1024)],
    ],
)
def test_split_ratio_is_the_best_threshold(low, high, dim):
    expected = _by_quadrature(low, high, dim)
    assert splitting.split_ratio(low, high, dim) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("dim", [10**5, 10**6])
def test_the_whole_half_line_at_large_dimensions_is_the_half_normal(dim):
    normal = codebooks.lloyd_max(10**6, 2).distortion / codebooks.lloyd_max(10**6, 1).distortion
    assert splitting.split_ratio(0, 1, dim) == pytest.approx(normal, abs=1e-5)


@settings(max_examples=200, deadline=None)
@given(
    low=st.floats(0, 1, exclude_max=True),
    share=st.floats(0, 1, exclude_min=True),
    dim=st.one_of(st.integers(4, 64), st.integers(65, 10**7)),
)
def test_no_cell_is_split_as_badly_as_the_whole_law(low, share, dim):
    high = low + share * (1 - low)
    if not low < high <= 1:
        return
    ratio = splitting.split_ratio(low, high, dim)
    assert 0.25 * (1 - 1e-9) <= ratio < laws.one_bit_distortion(dim)


def test_far_tail_splits_like_an_exponential():
    # Two levels, threshold t = 2 - t / (e^t - 1) in units of the mean: the optimum of e^-x.
    t = optimize.brentq(lambda t: t - 2 + t / math.expm1(t), 1, 2)
    exponential = 1 - t**2 / math.expm1(t)
    dim = 10**6
    start = 40 / math.sqrt(dim)
    assert splitting.split_ratio(start, start + 1 / math.sqrt(dim), dim) == pytest.approx(
        exponential, abs=2e-3
    )
    assert exponential < 1 - 2 / math.pi


@pytest.mark.parametrize("bad", [(-0.1, 0.5), (0.5, 0.5), (0.6, 0.5), (0.5, 1.1)])
def test_split_ratio_refuses_bad_cells(bad):
    with pytest.raises(ValueError, match="low and high"):
        splitting.split_ratio(*bad, 8)


# --- the lemma: splitting every cell -----------------------------------------------------------


@pytest.mark.parametrize("dim", [3, 4, 7, 32, 128, 4096])
def test_one_more_bit_is_at_least_as_good_as_splitting_every_cell(dim):
    for bits in range(2, 7):
        coarse = codebooks.lloyd_max(dim, bits - 1)
        cuts = [0.0, *coarse.edges[coarse.edges > 1e-12], min(1.0, 12 / math.sqrt(dim))]
        split = 0.0
        for low, high in pairwise(cuts):
            mass, first, second = sphere.upper_cell_moments([low, high], dim)
            variance = float(second[0] - first[0] ** 2 / mass[0])
            split += 2 * dim * variance * splitting.split_ratio(low, high, dim)
        fine = codebooks.lloyd_max(dim, bits).distortion
        assert fine <= split * (1 + 1e-6)
        # The lemma is not vacuous: splitting costs at most a few percent.
        assert split < 1.1 * fine


@pytest.mark.parametrize("dim", [4, 5, 8, 16, 31, 64, 128, 1024, 10**5])
def test_t09_on_the_codebooks_themselves(dim):
    for bits in range(2, 9):
        ratio = (
            codebooks.lloyd_max(dim, bits).distortion
            / codebooks.lloyd_max(dim, bits - 1).distortion
        )
        assert ratio < laws.one_bit_distortion(dim)


def test_t09_is_false_at_d_2_and_a_tie_at_d_3():
    def ratio(dim):
        return codebooks.lloyd_max(dim, 2).distortion / codebooks.lloyd_max(dim, 1).distortion

    assert ratio(2) > laws.one_bit_distortion(2)
    assert ratio(3) == pytest.approx(laws.one_bit_distortion(3), rel=1e-12)


# --- the cover ---------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    linear=st.floats(0, 30),
    quadratic=st.floats(0, 30),
    m=st.floats(0.5, 1e4),
    end=st.floats(0.05, 16),
)
def test_lines_bound_the_distortions_of_a_density(linear, quadratic, m, end):
    numbers = (np.array([x]) for x in (linear, quadratic, 1 / m, end))
    cell = splitting._Cells(*numbers, splitting.PIECES)
    stop = float(cell.support_end()[0])

    def weighted(t, power):
        return t**power * max(1 - (quadratic * t + linear) * t / m, 0) ** m

    def moments(a, b):
        return [
            integrate.quad(weighted, a, b, (k,), epsabs=0, epsrel=1e-10, limit=200)[0]
            for k in range(3)
        ]

    def spread(a, b):
        mass, first, second = moments(a, b)
        return second - first**2 / mass

    reach = stop
    while weighted(reach, 0) < 1e-25:
        reach /= 2
    reach = min(2 * reach, stop)
    mass, first, _ = moments(0, reach)
    best = optimize.minimize_scalar(
        lambda t: spread(0, t) + spread(t, reach),
        bounds=(0, min(4 * first / mass, reach)),
        method="bounded",
    )
    below, above = float(cell.variance()[0]), float(cell.two_level()[0])
    assert below <= spread(0, reach) * (1 + 1e-9)
    assert best.fun * (1 - 1e-9) <= above


def test_more_lines_tighten_the_bounds():
    def gap(pieces):
        cell = splitting._cell_in_unit_square(np.array([0.8]), np.array([0.5]), 6.0, pieces)
        return float((cell.two_level() / cell.variance())[0])

    low = (1 - 0.5) / (1 + 0.5)
    exact = splitting.split_ratio(low, low + 0.8 * (1 - low), 15)
    assert exact < gap(256) < gap(64) < gap(16) < 1.1 * exact
    assert gap(256) == pytest.approx(exact, rel=1e-3)


@pytest.mark.parametrize("dim", [4, 5, 11, 20])
def test_cover_of_one_dimension(dim):
    cover = splitting.cover_dimension(dim, laws.one_bit_distortion(dim))
    assert cover.worst < 1 - splitting.SPARE
    # With more lines the bounds are tighter, and fewer boxes do.
    finer = splitting.cover_dimension(
        dim, laws.one_bit_distortion(dim), pieces=2 * splitting.PIECES
    )
    assert finer.worst < 1 - splitting.SPARE
    assert finer.boxes <= cover.boxes


def test_cover_of_all_large_dimensions():
    assert splitting.cover_from(40).worst < 1 - splitting.SPARE


def test_cover_shows_nothing_of_a_false_limit():
    # Negative control: [0, 1] itself is a cell with a ratio above this limit.
    limit = 0.999 * splitting.split_ratio(0, 1, 6)
    cover = splitting.cover_dimension(6, limit, most=2000)
    assert cover.boxes > 2000
    assert 1 < cover.worst < 1.2


def test_cover_fails_at_d_3_where_the_statement_is_a_tie():
    cover = splitting.cover_dimension(3, laws.one_bit_distortion(3), most=2000)
    assert 1 < cover.worst < 1.01


def test_cover_of_large_dimensions_that_stops_shows_nothing():
    assert splitting.cover_from(20, most=200).worst > 1


def test_cover_finds_limits_close_to_the_truth():
    worst = max(
        splitting.split_ratio(a, b, 6)
        for a in np.linspace(0, 0.98, 25)
        for b in np.linspace(a + 0.01, 1, 25)
    )
    assert splitting.cover_dimension(6, 1.02 * worst).worst < 1


@settings(max_examples=60, deadline=None)
@given(
    corner=st.tuples(st.floats(0, 0.9), st.floats(0, 0.9)),
    size=st.tuples(st.floats(0.01, 0.1), st.floats(0.01, 0.1)),
    inside=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    dim=st.integers(4, 40),
)
def test_square_box_bounds_the_cells_inside(corner, size, inside, dim):
    box = np.array([[corner[0], corner[0] + size[0], corner[1], corner[1] + size[1]]])
    m = (dim - 3) / 2
    xi = max(box[0, 0] + inside[0] * size[0], 1e-3)
    eta = min(max(box[0, 2] + inside[1] * size[1], 1e-4), 1.0)
    low = (1 - eta) / (1 + eta)
    high = min(1.0, low + xi * (1 - low))
    above = splitting._cell_in_unit_square(box[:, 0], box[:, 3], m, splitting.PIECES)
    below = splitting._cell_in_unit_square(box[:, 1], box[:, 2], m, splitting.PIECES)
    bound = float((above.two_level() / below.variance())[0])
    assert splitting.split_ratio(low, high, dim) <= bound * (1 + 1e-9)


@settings(max_examples=60, deadline=None)
@given(
    alpha=st.tuples(st.floats(0, 0.95), st.floats(0.001, 0.05)),
    width=st.tuples(st.floats(0.05, 8), st.floats(1.01, 1.3)),
    inside=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    dim=st.integers(20, 3000),
)
def test_strip_box_bounds_the_cells_inside(alpha, width, inside, dim):
    m = (dim - 3) / 2
    inverse = 1 / m
    box = np.array(
        [
            [alpha[0], sum(alpha), width[0], width[0] * width[1], 0.9 * inverse, 1.1 * inverse],
        ]
    )
    bound, limit = splitting._strip_bounds(box, splitting.PIECES)
    s = alpha[0] + inside[0] * alpha[1]
    w = width[0] * (1 + inside[1] * (width[1] - 1))
    # Back to the sphere: s t + (1-s) t^2 = m (xi (1-eta) + xi^2 eta) for a cell of width w.
    product, difference = (1 - s) * w * w / m, s * w / m
    xi = (difference + math.sqrt(difference**2 + 4 * product)) / 2
    if xi > 1:
        return  # the density ends inside this cell
    eta = min(product / xi**2, 1.0)
    low = (1 - eta) / (1 + eta)
    ratio = splitting.split_ratio(low, low + xi * (1 - low), dim)
    assert ratio <= float(bound[0]) * (1 + 1e-7)
    assert float(limit[0]) <= laws.one_bit_distortion(dim) * (1 + 1e-12)


def test_narrow_and_endless_boxes_bound_their_cells():
    narrow = np.array([[0.2, 0.3, 0.0, 0.1, 0.0, 0.01]])
    endless = np.array([[0.999, 1.0, splitting._LONG, np.inf, 0.0, 1e-5]])
    assert 0.25 < float(splitting._strip_bounds(narrow, splitting.PIECES)[0][0]) < 0.3
    t = optimize.brentq(lambda t: t - 2 + t / math.expm1(t), 1, 2)
    bound = float(splitting._strip_bounds(endless, splitting.PIECES)[0][0])
    assert 1 - t**2 / math.expm1(t) < bound < 0.37


def test_one_bit_distortion_grows_with_the_dimension():
    dims = np.concatenate([np.linspace(4, 60, 200), np.geomspace(60, 1e8, 100)])
    values = np.array([splitting._one_bit_distortion(d) for d in dims])
    assert (np.diff(values) > -1e-14).all()
    assert values[-1] == pytest.approx(1 - 2 / math.pi, abs=1e-8)
    assert values[0] == pytest.approx(
        1 - 4 / math.pi * special.gamma(2) ** 2 / special.gamma(2.5) ** 2
    )


def test_covers_refuse_dimensions_whose_density_is_not_log_concave():
    with pytest.raises(ValueError, match="dim"):
        splitting.cover_from(3)
    with pytest.raises(ValueError, match="dim"):
        splitting.cover_dimension(2, 0.3)
