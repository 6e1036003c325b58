"""One clear error each: the argument, what was given, what is allowed."""

import numpy as np
import pytest

from kvlib import checks as validation


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (np.float16, np.float32),
        (np.float32, np.float32),
        (np.float64, np.float64),
        (np.longdouble, np.float64),
        (np.int8, np.float64),
        (np.uint64, np.float64),
        (">f8", np.float64),
    ],
)
def test_real_arrays_are_widened_to_what_is_computed(given, kept):
    x = np.arange(6).reshape(2, 3).astype(given)
    for array in (validation.as_real(x, "x"), validation.as_vectors(x, "x")):
        assert array.dtype == kept
        np.testing.assert_array_equal(array, [[0, 1, 2], [3, 4, 5]])


def test_computed_types_are_not_copied():
    x = np.ones((2, 3))
    assert validation.as_vectors(x, "x") is x


@pytest.mark.parametrize("bad", [[True], [1j], ["a"], [None], [b"a"], [np.datetime64(1, "s")]])
def test_other_types_are_refused(bad):
    dtype = np.asarray(bad).dtype
    for check in (validation.as_real, validation.as_vectors):
        with pytest.raises(TypeError) as caught:
            check([bad], "queries")
        assert str(caught.value) == f"queries must hold real numbers, got dtype {dtype}"


def test_vectors_of_another_dimension_are_refused():
    with pytest.raises(ValueError, match=r"v must have 8 coordinates .* got \(3, 7\)"):
        validation.as_vectors(np.ones((3, 7)), "v", dim=8)
    assert validation.as_vectors(np.ones((3, 8)), "v", dim=8).shape == (3, 8)


@pytest.mark.parametrize(("bad", "count"), [([[1, np.nan]], 1), ([[np.inf, -np.inf]], 2)])
def test_entries_that_are_not_finite_are_counted(bad, count):
    with pytest.raises(ValueError, match=f"k must be finite, got {count} NaN or infinite entries"):
        validation.as_vectors(bad, "k")


def test_zero_norms_are_counted():
    validation.check_nonzero_norms(np.array([1e-300, 2.0]), "x")
    with pytest.raises(ValueError, match=r"x must hold nonzero vectors, got 2 of 3 with norm zero"):
        validation.check_nonzero_norms(np.array([0.0, 1.0, -0.0]), "x")


@pytest.mark.parametrize("good", [2, 5, np.int8(3), np.uint64(4)])
def test_integers_within_bounds_come_back_as_int(good):
    value = validation.check_int(good, "n", low=2, high=5)
    assert type(value) is int
    assert value == good


@pytest.mark.parametrize("bad", [1, 6, -3, np.int64(9)])
def test_integers_out_of_bounds_are_refused(bad):
    with pytest.raises(ValueError, match=f"n must be an integer from 2 to 5, got {bad}"):
        validation.check_int(bad, "n", low=2, high=5)
    with pytest.raises(ValueError, match="n must be an integer >= 10, got"):
        validation.check_int(bad, "n", low=10)


@pytest.mark.parametrize("bad", [2.0, True, np.True_, "3", None, [3], np.array([3])])
def test_what_is_not_an_integer_is_refused(bad):
    for check in (validation.check_bits, validation.check_dim, validation.check_power_of_two):
        with pytest.raises(TypeError, match=r"n must be an integer .*got"):
            check(bad, "n")


def test_bits_from_zero_to_eight():
    assert [validation.check_bits(bits) for bits in range(9)] == list(range(9))
    for bad in (-1, 9):
        with pytest.raises(ValueError, match=f"bits must be an integer from 0 to 8, got {bad}"):
            validation.check_bits(bad)
    with pytest.raises(ValueError, match="n must be an integer from 1 to 8, got 0"):
        validation.check_bits(0, "n", low=1)


@pytest.mark.parametrize(("dim", "padded"), [(3, 4), (5, 8), (127, 128), (129, 256), (1023, 1024)])
def test_powers_of_two(dim, padded):
    for power in range(20):
        assert validation.check_power_of_two(2**power) == 2**power
    with pytest.raises(ValueError, match=f"got {dim}; .* padding to {padded} would store"):
        validation.check_power_of_two(dim)


@pytest.mark.parametrize("bad", ["c", "", "A", None, 1, ["a"]])
def test_choices_are_listed(bad):
    assert validation.check_choice("a", "kind", ("a", "b")) == "a"
    with pytest.raises(ValueError, match="kind must be one of 'a', 'b', got"):
        validation.check_choice(bad, "kind", ("a", "b"))


@pytest.mark.parametrize("good", [1, 0.5, 1e-300, np.float32(2)])
def test_positive_numbers_come_back_as_float(good):
    value = validation.check_positive(good, "scale")
    assert type(value) is float
    assert value == good


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (0, ValueError),
        (-1.0, ValueError),
        (np.nan, ValueError),
        (np.inf, ValueError),
        (True, TypeError),
        ("1", TypeError),
        (None, TypeError),
        (1j, TypeError),
    ],
)
def test_other_numbers_are_not_positive(bad, error):
    with pytest.raises(error, match=r"scale must be a finite number > 0, got"):
        validation.check_positive(bad, "scale")


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (0, ValueError),
        (1, ValueError),
        (-0.1, ValueError),
        (np.nan, ValueError),
        (True, TypeError),
        ("0.5", TypeError),
        (None, TypeError),
    ],
)
def test_fractions_exclude_their_ends(bad, error):
    assert validation.check_fraction(np.float64(0.25), "level") == 0.25
    with pytest.raises(error, match=r"level must be a number in \(0, 1\), got"):
        validation.check_fraction(bad, "level")
