"""What is no dimension, cosine, probability, variance, seed or truth value is refused by name,
whichever public function it is given to; and what is one counts, whatever numpy type it has."""

import inspect

import numpy as np
import pytest

from kvlib import laws
from kvlib.laws import sphere, splitting

NAN, INF = float("nan"), float("inf")

# --- Closed forms -----------------------------------------------------------------------------
# Each function with arguments that it takes, and what no argument of that kind may be.

BAD = {
    "dim": [1, 0, -4, 2.5, NAN, True, "8", None],
    "real_dim": [1, 0.5, NAN, INF, True, "8", None],
    "count": [0, -1, 1.5, NAN, True, "1"],
    "bits": [-1, NAN, INF, "2", True],
    "cosine": [1.01, -2, NAN, INF, "0"],
    "distortion": [-0.1, 1, 2, NAN, "0.1"],
    "positive": [0, -1, NAN, INF, "1", True],
    "fraction": [0, 1, -1, NAN, "0.5", True],
    "variance": [-0.1, NAN, INF, "1", 1j],
    "share": [-0.1, 1.1, NAN, INF, "0"],
    "tokens": [0, 0.5, -3, NAN, INF, "4"],
    "number": [NAN, INF, "1", 1j],
    "point": [NAN, "1", 1j],
    "row": [[0.5, 0.6], [-0.5, 1.5], [NAN, 1], [], 0.5, ["a"], [True]],
    "levels": [[-1, 0, 2], [1, -1], [], [[-1, 1]], [NAN], ["a"], 1.0],
    "kurtosis": [0.9, 8.1, NAN, "3"],
    "kind": ["hadamard", "", None],
    "reading": ["degrees", None],
    "rest": [-0.1, 1, 1.1, NAN],
    "edges": [[0.5], [0, 1.1], [-0.1, 1], [0, 0.7, 0.5, 1], [0, NAN, 1], [[0, 1]], ["a", "b"]],
    "pair": [(-1, 0), (NAN, 0), (0.5, INF), (0.5, "0")],
    "shape": [-1, 2.5, (2, -1), "2", None],
    "rng": [None, 0, np.random, np.random.RandomState(0)],
}
LEVELS = [-0.5, -0.1, 0.1, 0.5]
LAWS = {
    "common_mean_error": ("share", 0.3, "levels", LEVELS, "dim", 8),
    "coordinate_entropy": ("dim", 8),
    "cosine_of": ("distortion", 0.1),
    "diffuse_kl": ("variance", 0.1, "tokens", 9),
    "direction_error_of": ("distortion", 0.1, "reading", "angle"),
    "equal_budget_penalty": ("variance", 0.5, "positive", 0.1, "positive", 0.03),
    "gaussian_noise_kl": ("row", [0.5, 0.5], "variance", 0.1),
    "gaussian_sketch_error": ("dim", 8, "count", 4),
    "gegenbauer": ("degrees", 3, "number", 0.5, "dim", 8),
    "hadamard_kurtosis": ("kurtosis", 4, "dim", 8, "degrees", 1),
    "inflation_crossing": (),
    "is_superlinear": ("share", 0.5, "share", 0.3),
    "jl_variance": ("cosine", 0.5, "count", 4),
    "kl_bound": ("variance", 0.1, "share", 0.5),
    "ks_of_kurtosis": ("kurtosis", 4, "dim", 8),
    "logit_variance": ("variance", 0.1, "variance", 1.0, "variance", 1.0, "dim", 8),
    "mmse_error": ("variance", 0.5),
    "one_bit_distortion": ("dim", 8),
    "orthogonal_sketch_error": ("dim", 8),
    "orthogonal_sketch_variance": ("cosine", 0.5, "dim", 8),
    "output_error": ("tokens", 4, "variance", 0.1, "number", 0.01),
    "output_threshold": ("pair", (0.1, 0.01), "pair", (0.2, 0.0)),
    "overload_error": ("share", 0.5, "levels", LEVELS, "dim", 8),
    "panter_dite": ("bits", 2, "dim_or_none", 8),
    "peaked_kl": ("variance", 0.1, "share", 0.5),
    "peaked_kl_lower_bound": ("variance", 0.1, "rest", 0.5, "share", 0.1),
    "predicted_kl": ("row", [0.5, 0.5], "number", [0, 1], "variance", [0.1, 0.1]),
    "qjl_rows": ("positive", 0.1, "fraction", 0.1),
    "quantizer_energies": ("levels", LEVELS, "dim", 8, "count", 5),
    "second_order_coefficient": ("share", 0.5, "share", 0.3),
    "second_order_kl": ("variance", 0.1, "share", 0.5, "share", 0.3),
    "shannon_bound": ("bits", 2),
    "shannon_lower_bound": ("bits", 2, "dim", 8),
    "shared_error": ("cosine", 0.5, "levels", LEVELS, "dim", 8),
    "sign_sketch_failure": ("positive", 0.1, "count", 4),
    "sign_sketch_variance": ("cosine", 0.5, "count", 4),
    "sketch_inflation": ("cosine", 0.5),
    "sketched_mean_error": ("share", 0.3, "levels", LEVELS, "dim", 8, "kind", "gaussian"),
    "sketched_shared_error": ("cosine", 0.5, "dim", 8, "kind", "orthogonal"),
    "small_noise_kl": ("variance", 0.1, "share", 0.5),
    "student_t_kurtosis": ("positive", 3, "dim", 8),
    "sufficient_rows": ("positive", 0.1, "fraction", 0.1),
    "unbiased_distortion": ("distortion", 0.1),
}
BAD["end"] = [0, 0.1, 1.1, NAN, "1"]
BAD["degrees"] = [-1, 1.5, NAN, True]
BAD["dim_or_none"] = [bad for bad in BAD["dim"] if bad is not None]
SPHERE = {
    "companding_dim": ("real_dim", 8),
    "coordinate_cdf": ("point", 0.1, "real_dim", 8),
    "coordinate_pdf": ("point", 0.1, "real_dim", 8),
    "coordinate_ppf": ("share", 0.1, "real_dim", 8),
    "coordinate_sf": ("point", 0.1, "real_dim", 8),
    "kurtosis": ("real_dim", 8),
    "mean_absolute": ("real_dim", 8),
    "normalizer": ("real_dim", 8),
    "upper_cell_moments": ("edges", [0, 0.5, 1], "real_dim", 8),
    "variance": ("real_dim", 8),
}
SPLITTING = {
    "split_ratio": ("share", 0.1, "end", 0.5, "dim", 8),
    "cover_dimension": ("dim", 8, "positive", 0.4),
    "cover_from": ("dim", 9),
}
FUNCTIONS = [
    (module, name, arguments)
    for module, table in ((laws, LAWS), (sphere, SPHERE), (splitting, SPLITTING))
    for name, arguments in table.items()
]


def assert_sane(value):
    for number in np.ravel(value):
        assert np.isfinite(number)


@pytest.mark.parametrize(
    ("module", "name", "arguments"), FUNCTIONS, ids=[name for _, name, _ in FUNCTIONS]
)
def test_closed_forms_refuse_what_their_arguments_cannot_be(module, name, arguments):
    function, kinds, good = getattr(module, name), arguments[::2], list(arguments[1::2])
    if module is not splitting:
        assert_sane(function(*good))
    for place, kind in enumerate(kinds):
        for bad in BAD[kind]:
            with pytest.raises((TypeError, ValueError), match=r" (must|holds|has) "):
                function(*good[:place], bad, *good[place + 1 :])


def test_every_closed_form_is_in_the_table():
    assert set(LAWS) == {name for name in laws.LAZY if callable(getattr(laws, name))}
    for module, table in ((sphere, {**SPHERE, "sample": ()}), (splitting, SPLITTING)):
        defined = {
            name
            for name, function in inspect.getmembers(module, inspect.isfunction)
            if function.__module__ == module.__name__ and not name.startswith("_")
        }
        assert set(table) == defined


@pytest.mark.parametrize("bad", BAD["dim"])
def test_vectors_of_no_dimension_are_not_drawn(bad):
    with pytest.raises((TypeError, ValueError), match="dim must be an integer >= 2"):
        sphere.sample(3, bad, rng=np.random.default_rng(0))


@pytest.mark.parametrize("bad", BAD["shape"])
def test_vectors_of_no_shape_are_not_drawn(bad):
    with pytest.raises((TypeError, ValueError), match="shape must be an integer >= 0"):
        sphere.sample(bad, 4, rng=np.random.default_rng(0))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: laws.shared_error(0.5, LEVELS, 8, rescale=NAN), "rescale must be"),
        (lambda: laws.common_mean_error(0.5, LEVELS, 8, rescale=-1), "rescale must be"),
        (lambda: laws.shared_error([0.5, 1.1], LEVELS, 8), "cosine must be .* got 1.1"),
        (
            lambda: laws.predicted_kl([0.5, 0.5], [0, 1], [0, 0], gain_variance=-1),
            "gain_variance must be",
        ),
        (lambda: laws.predicted_kl([0.5, 0.5], [0, 1], [0, 0], gain_mean=NAN), "gain_mean must"),
        (lambda: splitting.split_ratio(0.1, 0.2, 8, nodes=0), "nodes must be"),
        (lambda: splitting.cover_from(9, nodes=2.5), "nodes must be"),
    ],
)
def test_options_of_closed_forms_are_checked(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call()


def test_rounding_beyond_the_ends_is_no_error():
    # Sums of squares of rows in float32, and one minus a top weight of one.
    assert laws.small_noise_kl(0.1, 1 + 1e-6) == 0
    assert laws.peaked_kl(0.1, -1e-9) == 0
    assert laws.output_error(1 - 1e-6, 0.1, 0.01) == pytest.approx(0.1, rel=1e-5)
    row = np.full(7, 1 / 7, dtype=np.float32)
    assert laws.predicted_kl(row, np.zeros(7), row) > 0
    # Where no weight is, the logit may be anything.
    assert_sane(laws.predicted_kl([1.0, 0.0], [0.0, -INF], [0.1, NAN]))
