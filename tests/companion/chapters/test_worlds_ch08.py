"""Chapter 8: worlds in which T15 holds or fails, and the pieces of its experiment."""

from functools import partial

import numpy as np
import pytest
import worlds
from kvbook.experiments import ch08
from kvbook.experiments.ch08 import Cell
from worlds import about

from kvlib.data.captured import KVCache
from kvlib.quantize import BlockQuantizer, RotatedQuantizer


def doctored_errors(holds):
    """Single and shared errors of every cell as derived, or neither."""
    rng, found = np.random.default_rng(15), {}
    for cell in ch08.threshold_grid():
        way = cell.way.removesuffix(", Haar")
        derived = np.array(ch08.errors_law(way, cell.bits, cell.share))
        found[cell] = derived * (1 + 1e-3 * rng.standard_normal((64, 2)))
        if not holds:
            found[cell][:, 0] *= 3.0 if way == "orthogonal" else 1.0
            found[cell][:, 1] *= 1.5 if way == "gaussian" else 1.0
    for n in range(2, 6):
        left = 0.001 if holds else 0.5
        plain = found[Cell("plain", n, 0.5)]
        # Not to the digit: the estimate of a ratio without spread rounds out of its own interval.
        noise = 1 + 1e-3 * rng.standard_normal(64)
        found[Cell("centred plain", n, 0.5)][:, 1] = left * noise * plain[:, 1]
    return found


def doctored_weights(holds):
    """Outputs under unequal weights that are as the formula says, or half as much again."""
    errors = np.stack([about(1.0)[::-1], np.zeros(24)], axis=1)
    output = about(1.0 if holds else 1.5) / 10
    return ch08.UnequalWeights(output, errors, np.full((24, 16), 10.0))


def shared_errors(holds):
    """T15: values whose errors are as derived, or are not."""
    return ch08.judge_t15(
        ch08.predict_t15(),
        doctored_errors(holds),
        unequal=doctored_weights(holds),
        heads_over_foretold=about(1.0 if holds else 1.5, 32),
    )


WORLDS = {"T15": shared_errors}
test_verdict_follows_the_world = worlds.follow(WORLDS)


def tiny_cache():
    """A causal cache of four heads and 32 tokens whose values have a mean."""
    rng = np.random.default_rng(8)
    q, k, v = rng.standard_normal((3, 2, 2, 32, 16), dtype=np.float32)
    return KVCache(q, k, v + 1, causal=True, name="tiny", layers=(0, 1), heads=(0, 1))


def test_errors_of_pairs_are_those_of_the_definition():
    rng = np.random.default_rng(1)
    v, v_hat = rng.standard_normal((2, 3, 5, 8))
    e, energy = v_hat - v, np.square(v).sum(-1).mean()
    gram = e @ e.swapaxes(-1, -2)
    single = np.trace(gram, axis1=-2, axis2=-1).mean() / 5
    shared = (gram.sum((-2, -1)) - np.trace(gram, axis1=-2, axis2=-1)).mean() / 20
    expected = np.array([single, shared]) / energy
    np.testing.assert_allclose(ch08.single_and_shared(v, v_hat), expected)


def test_measured_errors_meet_their_law():
    cells = [Cell("plain", 2, 0.5), Cell("orthogonal", 2, 0.5)]
    ways = {"plain": RotatedQuantizer, "orthogonal": partial(RotatedQuantizer, sketch="hadamard")}
    seeds = np.random.SeedSequence(8).spawn(8)
    found = ch08.measure_shared_errors(ways, cells, heads=8, tokens=32, seeds=seeds)
    for cell in cells:
        law = ch08.errors_law(*cell)
        assert found[cell].shape == (8, 2)
        assert found[cell][:, 0].mean() == pytest.approx(law.single, rel=0.02)
        assert found[cell][:, 1].mean() == pytest.approx(law.shared, rel=0.3)


def test_a_threshold_without_a_saving_is_infinite():
    errors = {Cell("plain", 2, 0.5): np.ones((4, 2)), Cell("orthogonal", 2, 0.5): np.ones((4, 2))}
    errors[Cell("plain", 2, 0.5)][:, 1] = (0.9, 1.1, 0.9, 1.2)
    errors[Cell("orthogonal", 2, 0.5)][:, 0] = 2
    assert ch08.measured_threshold(errors, 2, 0.5).high == np.inf


def test_a_flat_mean_shares_the_squared_bias_of_its_one_point():
    (found,) = ch08.measure_mean_in_one_channel(
        {"one round": RotatedQuantizer},
        (2,),
        share=0.5,
        tokens=256,
        seeds=np.random.SeedSequence(1).spawn(16),
    ).values()
    assert found.estimate == pytest.approx(ch08.flat_mean_law(2, 0.5), rel=0.1)


def test_heads_are_measured_as_foretold():
    caches, seeds = {"tiny": tiny_cache()}, np.random.SeedSequence(3).spawn(1)
    haar = partial(RotatedQuantizer, rotation="haar")  # what the law averages over
    ways = {"plain": haar, "unbiased": partial(haar, scale="unbiased")}
    fixed = {"min-max": BlockQuantizer}
    heads = ch08.measure_heads(caches, ways, (2,), fixed=fixed, draws=2000, seeds=seeds)
    foretold = ch08.predict_heads(caches, (2,))
    assert heads.dims.tolist() == [16] * 4
    assert (heads.fact("effective_tokens") > 1).all()
    for way in ways:
        np.testing.assert_allclose(heads.of(way, 2), foretold["tiny", way, 2], rtol=0.1)
    # A least number and a step where the plain code has a norm: one more of 16 bits for 16 numbers.
    more = heads.priced("min-max", 2) / heads.over_plain("min-max", 2)
    np.testing.assert_allclose(more, 4)


def test_a_split_has_every_budget_and_the_exact_arrays():
    found = ch08.measure_split_on_heads(
        {"tiny": tiny_cache()},
        RotatedQuantizer,
        (2, 4, 6),
        draws=2,
        seeds=np.random.SeedSequence(4).spawn(1),
    )["tiny"]
    assert found.errors.shape == (4, 4, 4)
    assert found.errors[:, -1, -1].max() < 1e-10
    assert found.of_sum(8).shape == (3, 4)
    assert (found.even_over_best(8) >= 1).all()
    np.testing.assert_allclose(found.predicted_difference(), found.measured_difference(), atol=1)
