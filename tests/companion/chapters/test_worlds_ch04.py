"""The two worlds of chapter 4's claims, and the pieces of its machinery."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import worlds
from kvbook.experiments import ch04
from worlds import about

from kvlib import laws
from kvlib.data.captured import KVCache
from kvlib.quantize import RotatedQuantizer

DIMS = (8, 16, 32, 64, 128, 256, 512, 1024)
COSINES = (-1, -0.8, -0.5, -0.25, 0, 0.25, 0.5, 0.8, 1)
CELLS = len(DIMS) * len(COSINES)
KINDS = ("gaussian", "haar", "hadamard")
EPSILON, DELTA = 0.1, 0.01
PAGE = worlds.sizes("04")


def obeying(kind, dim, count, stream, rows=None):
    """A sample of sketches that obey the formulas exactly."""
    rng, m = np.random.default_rng(stream), rows or dim
    z = rng.standard_normal((4, count))
    plain = [1 + math.sqrt(2 / m) * z[2], math.sqrt(1 / m) * z[3]]
    if kind == "gaussian":
        spread = [math.sqrt((math.pi / 2 - rho) / m) for rho in (1, 0)]
        error = laws.gaussian_sketch_error(dim, m)
    else:
        spread = [math.sqrt(laws.orthogonal_sketch_variance(rho, dim)) for rho in (1.0, 0.0)]
        error = laws.orthogonal_sketch_error(dim)
    columns = np.array([1 + spread[0] * z[0], spread[1] * z[1], *plain])
    errors = np.array([about(error), about(laws.mmse_error(error))])
    return ch04.SketchSample(columns if kind == "gaussian" else columns[:2], errors)


def breaking(kind, dim, count, stream, rows=None):
    """Sketches with a wrong scale, a variance that knows no angle and few, large errors."""
    columns, errors = obeying(kind, dim, count, stream, rows)
    m = rows or dim
    variance = math.pi / 2 / m
    size = max(0.15, 1.01 * math.sqrt(variance))
    share = variance / size**2
    values, odds = [-size, 0.0, size], [share / 2, 1 - share, share / 2]
    signs = np.random.default_rng(stream).choice(values, p=odds, size=(2, count))
    columns = np.array([1.3 + signs[0], signs[1], *columns[2:]])
    if kind == "gaussian":
        columns[2:] = (columns[2:] - [[1], [0]]) / math.sqrt(2) + [[1.3], [0]]
    return ch04.SketchSample(columns, 1.5 * errors)


def page_streams():
    """The page's own seeds: grid, variance ratios, failure rates, residual errors, ..."""
    return np.random.SeedSequence(PAGE["seed"]).spawn(6)


def grid_of(sampler):
    """The page's grid of dimensions and angles, filled by a sampler."""
    seed = page_streams()[0]
    return ch04.measure_grid(
        KINDS, DIMS, COSINES, repetitions=PAGE["repetitions"], seed=seed, sampler=sampler
    )


def residual_errors_of(sampler):
    """The page's errors of residuals, from a sampler."""
    seed = page_streams()[3].spawn(2)[0]
    return ch04.measure_residual_errors(
        grid_of(sampler), rows=(64, 256), seed=seed, sampler=sampler
    )


def gaussian_sketch(holds):
    """A Gaussian sketch that obeys the formulas, or one that breaks each of them."""
    sampler = obeying if holds else breaking
    _, ratio, rates, *_ = page_streams()
    few, enough = rates.spawn(2)
    failures = partial(
        ch04.measure_failures,
        epsilon=EPSILON,
        dim=32,
        cosines=np.linspace(0, 1, 11),
        sampler=sampler,
    )
    lemma, sufficient = ch04.lemma_rows(EPSILON, DELTA), ch04.enough_rows(EPSILON, DELTA)
    return ch04.judge_t05(
        ch04.predict_t05(CELLS, EPSILON, DELTA),
        coverage=ch04.count_coverage(grid_of(sampler)),
        variances=ch04.measure_variances(
            128, repetitions=PAGE["ratio_repetitions"], batches=20, seed=ratio, sampler=sampler
        ),
        lemma=failures(lemma, repetitions=PAGE["lemma_repetitions"], seed=few),
        enough=failures(sufficient, repetitions=PAGE["lemma_repetitions"] // 2, seed=enough),
    )


def gaussian_error(holds):
    """Errors of its residuals."""
    return ch04.judge_t06(ch04.predict_t06(), residual_errors_of(obeying if holds else breaking))


def orthogonal_sketch(holds):
    """The same for orthogonal rows, with the gain of one residual and the controls' counts."""
    sampler = obeying if holds else breaking
    gain = np.full(6, 1.0 if holds else 1.25)
    gains = {kind: np.array([gain * x for x in about(1.0, PAGE["draws"])]) for kind in KINDS}
    coverage = ch04.count_coverage(grid_of(sampler))
    if not holds:
        coverage = replace(coverage, wrong_scale=72, dropped=72)
    return ch04.judge_t07(
        ch04.predict_t07(CELLS),
        coverage=coverage,
        errors=residual_errors_of(sampler),
        gains=ch04.Gains((1, 2, 3, 4, 8, 128), gains, {}),
        one_bit_differences=0 if holds else 100,
        mismatch=ch04.scale_mismatch(128) if holds else 1.0,
    )


def equal_budget(holds):
    """Errors in the ratio that is derived, or off by a tenth."""
    off, draws = 1.0 if holds else 1.1, []
    for noise in about(1.0, PAGE["draws"]):
        found = {("plain", n): 1.0 for n in ch04.BUDGETS}
        for kind, sketch in ch04.MEASURED.values():
            for n in ch04.BUDGETS:
                found[kind, n] = off * noise * ch04.penalty_law(sketch, 128, n)
        draws.append(found)
    earlier = {s: [off * ch04.penalty_law(s, 128, n) for n in ch04.BUDGETS] for s in ch04.SKETCHES}
    return ch04.judge_t08(
        ch04.predict_t08(),
        budget=ch04.KeyErrors(draws, []),
        limits={s: off * ch04.penalty_law(s, 2**20, 8) for s in ch04.SKETCHES},
        earlier=earlier,
    )


def inflation(holds):
    """An inflation of pi/2 in every reading of the claim, or of none."""
    times = math.pi / 2 if holds else 0.8
    z = np.random.default_rng(3).standard_normal((4, PAGE["ratio_repetitions"]))
    columns = np.sqrt([[times], [times], [1.0], [1.0]]) * z
    key = {"plain": 1.0, "gaussian": times, "hadamard": times}
    draws = [
        {(k, n): e * x for k, e in key.items() for n in (3, 4)} for x in about(1.0, PAGE["draws"])
    ]
    for draw, x in zip(draws, about(1.0, PAGE["draws"]), strict=True):
        draw["plain", 3] = draw["plain", 4] = x * (1 + 1e-3 * math.sin(1e6 * x))
    return ch04.judge_c05(
        ch04.predict_c05(),
        variances=ch04.Variances.of_samples(128, columns, columns[:2], batches=20),
        budget=ch04.KeyErrors([], draws),
    )


def two_pi(holds):
    """Errors of inner products in the ratio 2 pi, or 2."""
    times = 2 * math.pi if holds else 2.0
    kinds = {"plain": 1.0, "gaussian": times, "hadamard": times}
    draws = [
        {(k, n): e * (1 if k == "plain" else x) for k, e in kinds.items() for n in (4, 5, 6)}
        for x in about(1.0, PAGE["draws"])
    ]
    return ch04.judge_c06(ch04.predict_c06(), ch04.KeyErrors([], draws))


WORLDS = {
    **{f"C05/{reading}": inflation for reading in ch04.REFERENCES},
    "C06": two_pi,
    "T05": gaussian_sketch,
    "T06": gaussian_error,
    "T07": orthogonal_sketch,
    "T08": equal_budget,
}
test_verdict_follows_the_world = worlds.follow(WORLDS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_is_unbiased_and_has_the_variance_derived(kind):
    columns, errors = ch04.sample_sketch(kind, 16, 20_000, np.random.SeedSequence(7))
    assert columns.shape == (4 if kind == "gaussian" else 2, 20_000)
    assert columns[0].mean() == pytest.approx(1, abs=0.02)
    law = ch04.VARIANCE_LAWS[kind]
    assert columns[0].var() == pytest.approx(law(1.0, 16), rel=0.1)
    assert columns[1].var() == pytest.approx(law(0.0, 16), rel=0.1)
    sketch = "gaussian" if kind == "gaussian" else "orthogonal"
    derived = [ch04.sketch_error_law(name, 16) for name in (sketch, f"{sketch} mmse")]
    assert errors.mean(axis=1) == pytest.approx(derived, rel=0.05)


def test_isotropic_pairs_are_orthonormal():
    r, t = ch04.isotropic_pairs(50, 8, np.random.default_rng(8))
    assert (r * t).sum(-1) == pytest.approx(np.zeros(50), abs=1e-6)
    assert np.linalg.norm(t, axis=-1) == pytest.approx(np.ones(50), rel=1e-6)


def test_gain_of_a_hadamard_sketch_on_few_coordinates():
    found = ch04.measure_gains(
        (1, 2), ("hadamard",), dim=16, sketches=200, seed=np.random.SeedSequence(9)
    )
    assert found.gains["hadamard"].shape == (200, 2)
    for k, interval in zip(found.counts, found.intervals("hadamard"), strict=True):
        assert interval.estimate == pytest.approx(ch04.hadamard_gain_law(k, 16), rel=0.05)


def test_rows_that_are_just_enough():
    rows = ch04.fewest_rows_law(EPSILON, DELTA)
    assert laws.sign_sketch_failure(EPSILON, rows) <= DELTA
    assert laws.sign_sketch_failure(EPSILON, rows - 1) > DELTA
    assert ch04.lemma_rows(EPSILON, DELTA) < rows < ch04.enough_rows(EPSILON, DELTA)
    assert ch04.normal_failure_law(EPSILON, rows, [0.0])[0] == pytest.approx(
        laws.sign_sketch_failure(EPSILON, rows)
    )


def arms(*kinds):
    """Quantizers whose last bit is a sketch."""
    return {kind: partial(RotatedQuantizer, sketch=kind) for kind in kinds}


def test_what_the_last_bit_does_to_a_key():
    found = ch04.measure_equal_budget(
        arms("gaussian", "hadamard"),
        (4,),
        least=("gaussian", "hadamard"),
        bugs_at=4,
        dim=64,
        tokens=64,
        draws=16,
        seed=np.random.SeedSequence(10),
    )
    derived = ch04.one_more_bit_law(64, 4)
    measured = {kind: found.buys(kind, 4).estimate for kind in derived}
    assert measured == pytest.approx(derived, rel=0.12)
    assert len((found + found).product) == 32


def test_random_queries_make_no_angle_with_residuals():
    rng = np.random.default_rng(11)
    q, k = rng.standard_normal((2, 1, 2, 256, 16)).astype(np.float32)
    cache = KVCache(q, k, k, causal=True, name="made up", layers=(0,), heads=(0, 1))
    found = ch04.measure_real_keys(
        {"m": cache},
        arms("hadamard"),
        (4,),
        least=("hadamard",),
        draws=2,
        seed=np.random.SeedSequence(12),
    )
    assert found.squared_cosines["m"].shape == (2 * 256 * 257 // 2,)
    assert found.alignment("m") == pytest.approx(1, abs=0.05)
    derived = ch04.penalty_law("orthogonal", 16, 4)
    assert found.of_models("hadamard", 4)[0] == pytest.approx(derived, rel=0.1)
