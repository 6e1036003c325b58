"""What is no dimension, cosine, probability, variance, seed or truth value is refused by name,
whichever public function it is given to; and what is one counts, whatever numpy type it has."""

import ast
import dataclasses
import inspect
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import kvlib
from kvlib import laws, quantize, stats
from kvlib.data import captured, heads, synthetic
from kvlib.laws import sphere, splitting
from kvlib.measure import attention, metrics
from kvlib.quantize import (
    BlockQuantizer,
    RotatedQuantizer,
    codebooks,
    packing,
    registry,
    rotations,
)
from kvlib.quantize.codebooks import Codebook
from kvlib.quantize.rotations import Rotation
from kvlib.quantize.sketches import SignSketch
from kvlib.sweeps import grid

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


# --- Integers of any width --------------------------------------------------------------------
# 100 is the largest round number whose double, square or power of two no int8 holds.

INTEGERS = [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64]
X = np.random.default_rng(0).standard_normal((5, 64)).astype(np.float32)
RNG = np.random.default_rng
CACHE = captured.KVCache(
    *np.random.default_rng(1).standard_normal((3, 2, 2, 120, 4)),
    causal=True,
    name="drawn",
    layers=(0, 1),
    heads=(0, 1),
)
OBSERVED, NULL = np.arange(6.0), np.arange(6.0) + 0.5


LONG = np.random.default_rng(2).standard_normal((120, 64)).astype(np.float32)


def grown(n):
    """Vectors that grow to 100 and shrink."""
    cache = RotatedQuantizer(3).grow(seed=n)
    cache.append(LONG)
    cache.truncate(n + 1)
    return cache


def stored(encoded):
    parts = [getattr(encoded, field.name) for field in dataclasses.fields(encoded)][1:]
    return [part.tolist() if isinstance(part, np.ndarray) else part for part in parts]


def of_scheme(n):
    encoded = quantize.named("QKQV", 3).encode(X, X, seed=n)
    return stored(encoded.key) + stored(encoded.value)


def sketched(**options):
    sketch = SignSketch(**{"kind": "gaussian", "dim": 64, **options})
    signs = sketch.signs(X[:, : sketch.dim])
    return sketch, signs.tolist(), sketch.reconstruct(signs, np.ones(5)).tolist()


def levels_of(codebook):
    return [getattr(codebook, field.name) for field in dataclasses.fields(codebook)]


def permuted(permutations):
    return stats.permutation_test(OBSERVED, NULL, permutations=permutations, rng=RNG(0))


WITH_INTEGERS = {
    "Codebook.dim": (lambda n: levels_of(Codebook(n, 1, [-0.1, 0.1], "x")), 100),
    "Codebook.bits": (lambda n: levels_of(Codebook(100, n, np.linspace(-1, 1, 256), "x")), 8),
    "lloyd_max.dim": (lambda n: levels_of(codebooks.lloyd_max(n, 2)), 100),
    "lloyd_max.bits": (lambda n: levels_of(codebooks.lloyd_max(100, n)), 8),
    "uniform.dim": (lambda n: levels_of(codebooks.uniform(n, 2)), 100),
    "uniform.bits": (lambda n: levels_of(codebooks.uniform(100, n)), 8),
    "equal_probability.dim": (lambda n: levels_of(codebooks.equal_probability(n, 2)), 100),
    "equal_probability.bits": (lambda n: levels_of(codebooks.equal_probability(100, n)), 8),
    "lloyd_iterations": (
        lambda n: levels_of(
            codebooks.lloyd_iterations(X, n, n // 50, start=[-0.3, -0.1, 0.1, 0.3], iterations=n)
        ),
        100,
    ),
    "radial_gain_variance": (
        lambda n: codebooks.radial_gain_variance(codebooks.uniform(n, 2)),
        100,
    ),
    "bytes_per_vector.dim": (lambda n: packing.bytes_per_vector(n, 8), 100),
    "bytes_per_vector.bits": (lambda n: packing.bytes_per_vector(100, n), 8),
    "pack": (lambda n: packing.pack(np.arange(200, dtype=np.uint8), n).tolist(), 8),
    "unpack.bits": (lambda n: packing.unpack(np.arange(75, dtype=np.uint8), n, 100).tolist(), 6),
    "unpack.dim": (lambda n: packing.unpack(np.arange(75, dtype=np.uint8), 6, n).tolist(), 100),
    "RotatedQuantizer.bits": (lambda n: stored(RotatedQuantizer(n).encode(X)), 8),
    "RotatedQuantizer.rounds": (lambda n: stored(RotatedQuantizer(3, rounds=n).encode(X)), 100),
    "RotatedQuantizer.encode": (lambda n: stored(RotatedQuantizer(3).encode(X, seed=n)), 100),
    "RotatedQuantizer itself": (lambda n: RotatedQuantizer(n, sketch="haar", rounds=n), 8),
    "codebook_for": (lambda n: levels_of(RotatedQuantizer(3).codebook_for(n)), 100),
    "rotation_for.dim": (lambda n: RotatedQuantizer(3).rotation_for(n, seed=1), 64),
    "rotation_for.seed": (lambda n: RotatedQuantizer(3).rotation_for(8, seed=n), 100),
    "sketch_for": (lambda n: RotatedQuantizer(3, sketch="haar").sketch_for(n, seed=n), 100),
    "named": (lambda n: registry.named("KQV", n, rounds=n), 8),
    "Scheme.encode": (of_scheme, 100),
    "Rotation.dim": (lambda n: Rotation("hadamard", n).apply(X).tolist(), 64),
    "Rotation.seed": (lambda n: Rotation("haar", 64, seed=n).apply(X).tolist(), 100),
    "Rotation.rounds": (lambda n: Rotation("hadamard", 64, rounds=n).apply(X).tolist(), 100),
    "Rotation itself": (lambda n: Rotation("hadamard", n, seed=n, rounds=n), 64),
    "SignSketch.dim": (lambda n: sketched(dim=n), 64),
    "SignSketch.rows": (lambda n: sketched(rows=n), 100),
    "SignSketch.rows of a Haar sketch": (lambda n: sketched(kind="haar", rows=n), 60),
    "SignSketch.seed": (lambda n: sketched(seed=n), 100),
    "sphere.sample": (lambda n: sphere.sample((n, 2), n, rng=RNG(0)).tolist(), 100),
    "sphere.sample of one axis": (lambda n: sphere.sample(n, 2, rng=RNG(0)).tolist(), 100),
    "draw": (
        lambda n: synthetic.draw(synthetic.GAUSSIAN, n, n, heads=(n,), rng=RNG(0)).tolist(),
        20,
    ),
    "low_rank": (lambda n: repr(synthetic.low_rank(n)), 100),
    "family": (lambda n: repr(synthetic.family("low_rank_t", rank=n, nu=n)), 100),
    "heads": (lambda n: [h.q.tolist() for h in heads.heads(CACHE, rows=n)], 100),
    "vectors": (lambda n: heads.vectors(CACHE, "k", count=n).tolist(), 100),
    "KVCache.layers": (
        lambda n: repr(dataclasses.replace(CACHE, layers=(n, 1), heads=(n, 2))),
        100,
    ),
    "block_size": (lambda n: rotations.block_size(n), 100),
    "RotatedQuantizer.block": (
        lambda n: (
            RotatedQuantizer(3, center=True, block=n).nbytes_for((n, n, n)),
            RotatedQuantizer(3, center=True, block=n).encode(X).mean.tolist(),
        ),
        100,
    ),
    "RotatedQuantizer.bytes": (
        lambda n: (
            RotatedQuantizer(3, sketch="haar").bytes_per_token(n),
            RotatedQuantizer(3, center=True).fixed_bytes(n),
        ),
        100,
    ),
    "BlockQuantizer.bytes": (
        lambda n: [
            (q.bytes_per_token(n), q.fixed_bytes(n), q.nbytes_for((n, n, n)))
            for q in (BlockQuantizer(3, size=n), BlockQuantizer(3, along="tokens"))
        ],
        100,
    ),
    "grow": (
        lambda n: [grown(n).decode(start=n).tolist(), grown(n).encoded().seed],
        40,
    ),
    "window and sinks": (
        lambda n: attention.attention_weights(X, X, causal=True, window=n, sinks=n).tolist(),
        100,
    ),
    "query_tokens": (
        lambda n: attention.attention_weights(
            X[:1], LONG, causal=True, query_tokens=np.array([n])
        ).tolist(),
        100,
    ),
    "KVCache.sliding_window": (
        lambda n: repr(dataclasses.replace(CACHE, sliding_window=n, sinks=n)),
        100,
    ),
    "KVCache.query_tokens": (
        lambda n: [
            h.options["query_tokens"].tolist()
            for h in heads.heads(
                dataclasses.replace(
                    CACHE, q=CACHE.q[..., :2, :], query_tokens=np.array([n - 100, n])
                )
            )
        ],
        100,
    ),
    "attention_output": (
        lambda n: attention.attention_output(X, X, X, block_bytes=n).tolist(),
        100,
    ),
    "attention_kl": (lambda n: attention.attention_kl(X, X, 2 * X, block_bytes=n).tolist(), 100),
    "proportion_interval": (lambda n: stats.proportion_interval(n - 1, n), 100),
    "permutation_test": (lambda n: (permuted(n), permuted(n).null.values.tolist()), 100),
    "energy_test": (
        lambda n: stats.energy_test(
            OBSERVED, NULL, permutations=n, rng=RNG(0)
        ).null.values.tolist(),
        100,
    ),
    "bootstrap_interval": (
        lambda n: stats.bootstrap_interval(OBSERVED, np.mean, resamples=n, rng=RNG(0)),
        100,
    ),
    "monte_carlo_null": (
        lambda n: stats.monte_carlo_null(
            float, lambda rng: rng.random(), repetitions=n, rng=RNG(0)
        ).tolist(),
        100,
    ),
    "Grid": (
        lambda n: repr(
            grid.Grid(
                bits=[n // 25],
                dims=[n],
                tokens=[n],
                rotations=["haar"],
                repetitions=n,
                queries=n,
                seed=n,
            )
        ),
        100,
    ),
}


def same(a, b):
    """Equal values of equal types: 64 and np.int8(64) are not."""
    return repr(a) == repr(b) and pickle.dumps(a) == pickle.dumps(b)


@pytest.mark.parametrize("name", WITH_INTEGERS)
def test_an_integer_of_any_width_is_the_integer(name):
    function, value = WITH_INTEGERS[name]
    expected = function(value)
    for integer in INTEGERS:
        assert same(function(integer(value)), expected), integer


@pytest.mark.parametrize(("name", "arguments"), LAWS.items(), ids=list(LAWS))
def test_an_integer_of_any_width_is_the_integer_in_closed_forms(name, arguments):
    kinds, good = arguments[::2], list(arguments[1::2])
    integral = {"dim", "dim_or_none", "count", "degrees", "bits", "tokens"}
    for place, kind in enumerate(kinds):
        if kind not in integral:
            continue
        value = {"dim": 100, "dim_or_none": 100, "count": 100, "tokens": 100, "bits": 8}.get(
            kind, 5
        )
        given = [*good[:place], value, *good[place + 1 :]]
        expected = getattr(laws, name)(*given)
        for integer in INTEGERS:
            given[place] = integer(value)
            np.testing.assert_array_equal(getattr(laws, name)(*given), expected)


def discarded(source):
    """Lines where an integer is checked and what was given is used all the same."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Call)
        and isinstance(node.value.func, ast.Name)
        and node.value.func.id in ("check_int", "check_bits", "check_dim")
    ]


def test_no_checked_integer_is_thrown_away():
    folder = Path(kvlib.__file__).parent
    found = {
        path.relative_to(folder).as_posix(): lines
        for path in folder.rglob("*.py")
        if (lines := discarded(path.read_text(encoding="utf-8")))
    }
    found.pop("sweeps/sweep.py", None)  # workers: goes to joblib
    assert found == {}
    assert discarded('x = check_int(1, "x", low=0)\ncheck_dim(dim)\n') == [2]  # control


@pytest.mark.parametrize("integer", INTEGERS)
def test_seeds_of_any_width_do_not_collide(integer):
    # 2 * seed does not fit: the keys' seeds of the two halves of the range were the same.
    low, high = 7, 7 + np.iinfo(integer).max // 2 + 1
    codes = [
        quantize.named("KQV", 4).encode(X, X, seed=integer(s)).key.codes.tobytes()
        for s in (low, high)
    ]
    assert codes[0] != codes[1]


# --- Masked arrays ----------------------------------------------------------------------------


def masked(x):
    return np.ma.masked_array(x, mask=np.zeros(np.shape(x), dtype=bool))


ROWS = np.full((2, 4), 0.25)
BOOK = codebooks.lloyd_max(8, 2)
SKETCH = SignSketch("gaussian", 64)
CODES = np.zeros((2, 8), dtype=np.uint8)
WITH_ARRAYS = {
    "encode float32": (lambda x: RotatedQuantizer(3).encode(x), X),
    "encode float64": (lambda x: RotatedQuantizer(3).encode(x), X.astype(float)),
    "encode centred": (lambda x: RotatedQuantizer(3, center=True).encode(x), X),
    "decode into": (lambda x: RotatedQuantizer(3).encode(X).decode(out=x), X.copy()),
    "Scheme.encode k": (lambda x: quantize.named("WHT", 3).encode(x, X), X),
    "Scheme.encode v": (lambda x: quantize.named("WHT", 3).encode(X, x), X),
    "Codebook": (lambda x: Codebook(8, 2, x, "x"), BOOK.levels),
    "quantize": (BOOK.quantize, X),
    "dequantize": (BOOK.dequantize, CODES),
    "lloyd_iterations": (
        lambda x: codebooks.lloyd_iterations(x, 8, 2, start=BOOK.levels, iterations=1),
        X,
    ),
    "lloyd_iterations from": (
        lambda x: codebooks.lloyd_iterations(X, 8, 2, start=x, iterations=1),
        BOOK.levels,
    ),
    "pack": (lambda x: packing.pack(x, 3), CODES),
    "unpack": (lambda x: packing.unpack(x, 8, 8), CODES),
    "walsh_hadamard": (rotations.walsh_hadamard, X),
    "block_hadamard": (rotations.block_hadamard, X[:, :48]),
    "pad_to_power_of_two": (rotations.pad_to_power_of_two, X),
    "Rotation.apply": (Rotation("haar", 64).apply, X),
    "Rotation.inverse": (Rotation("haar", 64).inverse, X),
    "SignSketch.project": (SKETCH.project, X),
    "SignSketch.signs": (SKETCH.signs, X),
    "SignSketch.transpose": (SKETCH.transpose, X),
    "reconstruct signs": (lambda x: SKETCH.reconstruct(x, np.ones(5)), SKETCH.signs(X)),
    "reconstruct norms": (lambda x: SKETCH.reconstruct(SKETCH.signs(X), x), np.ones(5)),
    "attention_weights": (lambda x: attention.attention_weights(x, X), X),
    "attention_output": (lambda x: attention.attention_output(X, X, x), X),
    "attention_kl": (lambda x: attention.attention_kl(X, X, x), X),
    "row_statistics": (attention.row_statistics, ROWS),
    "relative_mse": (lambda x: metrics.relative_mse(x, X), X),
    "aggregate_relative_mse": (lambda x: metrics.aggregate_relative_mse(X, x), X),
    "direction_error": (lambda x: metrics.direction_error(X, x), X),
    "shannon_rate": (metrics.shannon_rate, np.ones(3)),
    "error_vector_6d": (lambda x: metrics.error_vector_6d(X, 2 * X, X, 2 * X, X, x), 2 * X),
    "mean_interval": (stats.mean_interval, OBSERVED),
    "difference_interval": (lambda x: stats.difference_interval(OBSERVED, x), NULL),
    "geometric_mean_interval": (stats.geometric_mean_interval, NULL),
    "bootstrap_interval": (
        lambda x: stats.bootstrap_interval(x, np.mean, rng=RNG(0)),
        OBSERVED,
    ),
    "bootstrap_difference": (
        lambda x: stats.bootstrap_difference(OBSERVED, x, np.mean, rng=RNG(0)),
        NULL,
    ),
    "rank_biserial": (lambda x: stats.rank_biserial(x, NULL), OBSERVED),
    "permutation_test": (lambda x: stats.permutation_test(x, NULL, rng=RNG(0)), OBSERVED),
    "energy_distance": (lambda x: stats.energy_distance(x, NULL), OBSERVED),
    "energy_test": (lambda x: stats.energy_test(x, NULL, rng=RNG(0)), OBSERVED),
    "ks_distance": (lambda x: stats.ks_distance(x, lambda y: 0.5 + 0 * y), OBSERVED),
    "ks_distances": (lambda x: stats.ks_distances(x, lambda y: 0.5 + 0 * y), OBSERVED),
    "monte_carlo_pvalue": (lambda x: stats.monte_carlo_pvalue(1.0, x), OBSERVED),
    "holm": (stats.holm, [0.1, 0.2]),
    "KVCache.k": (lambda x: dataclasses.replace(CACHE, k=x), CACHE.k),
    "KVCache.ids": (lambda x: dataclasses.replace(CACHE, ids=x), np.arange(120)),
    "coordinate_cdf": (lambda x: sphere.coordinate_cdf(x, 8), 0.1),
    "coordinate_pdf": (lambda x: sphere.coordinate_pdf(x, 8), 0.1),
    "coordinate_ppf": (lambda x: sphere.coordinate_ppf(x, 8), 0.1),
    "coordinate_sf": (lambda x: sphere.coordinate_sf(x, 8), 0.1),
    "upper_cell_moments": (lambda x: sphere.upper_cell_moments(x, 8), [0, 1]),
}


@pytest.mark.parametrize("name", WITH_ARRAYS)
def test_masked_arrays_are_refused(name):
    function, good = WITH_ARRAYS[name]
    function(good)
    with pytest.raises(TypeError, match=r"must not be a masked array: drop the masked entries"):
        function(masked(good))


ARRAY_KINDS = ("cosine", "levels", "number", "point", "rest", "row", "share", "tokens", "variance")


@pytest.mark.parametrize(("name", "arguments"), LAWS.items(), ids=list(LAWS))
def test_masked_arrays_are_refused_by_closed_forms(name, arguments):
    kinds, good = arguments[::2], list(arguments[1::2])
    for place, kind in enumerate(kinds):
        if kind in ARRAY_KINDS:
            with pytest.raises(TypeError, match=r"masked array|must be a"):
                getattr(laws, name)(*good[:place], masked(good[place]), *good[place + 1 :])


# --- Generators and truth values --------------------------------------------------------------

DRAWING = {
    "sphere.sample": lambda rng: sphere.sample(2, 4, rng=rng),
    "draw": lambda rng: synthetic.draw(synthetic.GAUSSIAN, 2, 4, rng=rng),
    "bootstrap_interval": lambda rng: stats.bootstrap_interval(OBSERVED, np.mean, rng=rng),
    "bootstrap_difference": lambda rng: stats.bootstrap_difference(
        OBSERVED, NULL, np.mean, rng=rng
    ),
    "permutation_test": lambda rng: stats.permutation_test(OBSERVED, NULL, rng=rng),
    "exhaustive permutation_test": lambda rng: stats.permutation_test([1, 2], [3, 4], rng=rng),
    "energy_test": lambda rng: stats.energy_test(OBSERVED, NULL, rng=rng),
    "monte_carlo_null": lambda rng: stats.monte_carlo_null(
        float, lambda child: child.random(), repetitions=3, rng=rng
    ),
}


@pytest.mark.parametrize("name", DRAWING)
def test_what_draws_needs_a_generator(name):
    DRAWING[name](RNG(0))
    for bad in BAD["rng"]:
        with pytest.raises(TypeError, match=r"rng must be a numpy.random.Generator, got"):
            DRAWING[name](bad)


TRUTHS = {
    "causal of attention_weights": lambda b: attention.attention_weights(X, X, causal=b),
    "causal of attention_output": lambda b: attention.attention_output(X, X, X, causal=b),
    "causal of attention_kl": lambda b: attention.attention_kl(X, X, X, causal=b),
    "causal of KVCache": lambda b: dataclasses.replace(CACHE, causal=b),
    "center": lambda b: RotatedQuantizer(3, center=b),
    "paired of difference_interval": lambda b: stats.difference_interval(OBSERVED, NULL, paired=b),
    "paired of bootstrap_difference": lambda b: stats.bootstrap_difference(
        OBSERVED, NULL + OBSERVED**2, np.mean, paired=b, rng=RNG(0)
    ),
    "paired of rank_biserial": lambda b: stats.rank_biserial(OBSERVED, NULL, paired=b),
    "paired of permutation_test": lambda b: stats.permutation_test(
        OBSERVED, NULL, paired=b, rng=RNG(0)
    ),
    "paired of energy_test": lambda b: stats.energy_test(OBSERVED, NULL, paired=b, rng=RNG(0)),
}


@pytest.mark.parametrize("name", TRUTHS)
def test_truth_values_are_true_or_false(name):
    for good in (True, False, np.True_, np.False_):
        TRUTHS[name](good)
    for bad in ("yes", 1, 0, None, [], np.array([True])):
        with pytest.raises(TypeError, match=rf"{name.split()[0]} must be True or False, got"):
            TRUTHS[name](bad)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: packing.pack([1, 2], 3), "codes must be a uint8 array, got list"),
        (lambda: packing.pack(np.ones(3), 3), "codes must have dtype uint8, got float64"),
        (lambda: packing.pack(np.uint8(3), 3), "codes must be a uint8 array, got uint8"),
        (lambda: packing.pack(np.array(3, np.uint8), 3), "codes must have at least one axis"),
        (lambda: packing.unpack([1, 2], 3, 5), "packed must be a uint8 array, got list"),
        (lambda: packing.unpack(None, 3, 5), "packed must be a uint8 array, got NoneType"),
        (lambda: packing.unpack(np.array(3, np.uint8), 8, 1), "packed must have at least one axis"),
        (lambda: codebooks.radial_gain_variance(8), "codebook must be a Codebook, got 8"),
        (lambda: synthetic.draw("gaussian", 2, 4, rng=RNG(0)), "family must be a Family, such as"),
        (
            lambda: synthetic.draw(synthetic.GAUSSIAN, 2, 4, rng=RNG(0), heads=3),
            "heads must be a tuple of integers >= 1, got 3",
        ),
        (lambda: rotations.pad_to_power_of_two(np.ones((2, 0))), "x must have at least one coord"),
        (lambda: rotations.pad_to_power_of_two(1.0), "x must have at least one coordinate"),
        (lambda: SKETCH.transpose(np.ones((2, 3))), "y must have 64 rows on its last axis"),
        (lambda: SKETCH.reconstruct([[1] * 64], [1.0]), "signs must be booleans of shape"),
        (lambda: grid.Grid(schemes={"KV", "WHT"}), "schemes must be a sequence of values in order"),
        (lambda: grid.Grid(bits=frozenset([2])), "bits must be a sequence of values in order"),
        (lambda: grid.Grid(dims={64: 1}), "dims must be a sequence of values in order"),
    ],
)
def test_wrong_types_give_one_clear_error(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call()


def test_big_endian_numbers_are_computed_in_their_own_precision():
    for name in ("float16", "float32", "float64"):
        swapped = X.astype(np.dtype(name).newbyteorder(">"))
        encoded = RotatedQuantizer(3, "haar").encode(swapped)
        assert stored(encoded) == stored(RotatedQuantizer(3, "haar").encode(X.astype(name)))
        native = rotations.walsh_hadamard(swapped)
        assert native.dtype.isnative
        assert native.dtype == rotations.walsh_hadamard(X.astype(name)).dtype


def test_levels_of_a_stored_codebook_stay_read_only():
    for book in (pickle.loads(pickle.dumps(BOOK)), BOOK):
        for array in (book.levels, book.edges):
            with pytest.raises(ValueError, match="read-only"):
                array[0] = 0
        np.testing.assert_array_equal(book.levels, BOOK.levels)


def test_the_command_line_runs_without_docstrings():
    done = subprocess.run(
        [sys.executable, "-OO", "-m", "kvlib", "--help"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "sweep" in done.stdout
