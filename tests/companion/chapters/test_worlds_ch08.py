"""Chapter 8: worlds in which T15 holds or fails, and the pieces of its experiment."""

from functools import partial

import numpy as np
import pytest
import worlds
from kvbook.experiments import ch08, varying
from kvbook.experiments.ch08 import Cell

from kvlib.data.captured import KVCache
from kvlib.quantize import BlockQuantizer, RotatedQuantizer

SIZES = worlds.sizes("08")
SPREADS = {1: 0.04, 2: 0.07, 3: 0.18, 4: 0.37, 5: 0.8}
"""Standard deviation from draw to draw of the shared error of plain codes, over its mean."""
PRIVATE = {2: 0.015, 3: 0.035, 4: 0.2, 5: 0.4}
"""The same of what a way does not have in common with plain codes of the same draw."""


def doctored_errors(holds):
    """Single and shared errors of every cell as derived, or neither, scattered as on the page."""
    rng, count, found = np.random.default_rng(15), SIZES["draws"], {}
    # A draw's mean moves the shared errors of codes of the same bits together.
    common = {n: 1 + SPREADS[n] * rng.standard_normal(count) for n in SPREADS}
    for cell in ch08.threshold_grid():
        way = cell.way.removesuffix(", Haar")
        single, shared = ch08.errors_law(way, cell.bits, cell.share)
        plain = ch08.errors_law("plain", cell.bits, cell.share)
        noise = PRIVATE[cell.bits] * plain.shared if cell.share else 8e-4 * plain.single
        factor = common[cell.bits - (way == "gaussian")]
        if way == "gaussian":
            noise = 0.08 * shared
        if way == "centred plain":
            shared, noise = (0.001 if holds else 0.5) * plain.shared, 0.1 * plain.shared
        if not holds:
            single *= 1 if way != "orthogonal" else 3 if cell.share else 0.3
            shared *= 1.5 if way == "gaussian" else 1
        found[cell] = np.stack(
            [
                single * (1 + 0.01 * rng.standard_normal(count)),
                shared * factor + noise * rng.standard_normal(count),
            ],
            axis=1,
        )
    return found


def doctored_weights(holds):
    """Outputs under unequal weights that are as the formula says, or half as much again."""
    rng, count = np.random.default_rng(16), SIZES["draws"]
    errors = np.stack([1 + 0.01 * rng.standard_normal(count), np.zeros(count)], axis=1)
    output = (1 + 0.08 * rng.standard_normal(count)) * (0.1 if holds else 0.15)
    return ch08.UnequalWeights(output, errors, np.full((count, 16), 10.0))


def shared_errors(holds):
    """T15: values whose errors are as derived, or are not."""
    rng = np.random.default_rng(17)
    of_heads = np.exp(0.1 * rng.standard_normal((32, SIZES["real_draws"])))
    return ch08.judge_t15(
        ch08.predict_t15(),
        doctored_errors(holds),
        unequal=doctored_weights(holds),
        heads_over_foretold=varying.over_rotations(
            of_heads * (1.0 if holds else 1.5), np.ones_like(of_heads)
        ),
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
