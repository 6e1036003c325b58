"""Chapter 9: worlds in which T19 holds or fails, and the pieces of its experiment."""

from functools import partial

import numpy as np
import pytest
import worlds
from kvbook.experiments import ch09, varying
from kvbook.experiments.ch09 import OURS, PAPERS, Damage, HeadDamage

from kvlib import named
from kvlib.data import synthetic
from kvlib.data.captured import KVCache
from kvlib.measure import attention
from kvlib.quantize import RotatedQuantizer, codebooks

SIZES = worlds.sizes("09")
BUDGETS = (2, 3, 4)
SCALES = {"Gaussian": (0.5, 1, 2, 4), "Student t": (1,), "common mean": (1,)}
GUESSES = {(name, n): 1.1 for name in ("Gaussian", "Student t") for n in BUDGETS}
GUESSES["common mean", 4] = 2.0
MODELS = np.repeat(["one", "two", "three"], (8, 8, 16))
UNCENTRED = ("WHT", "matched", "EDEN")


def scattered(rng, shape, spread):
    """Factors around one, as the page's own draws and rotations scatter."""
    return np.exp(spread * rng.standard_normal(shape))


def doctored_heads(holds):
    """Every scheme of the paper twice as bad as C-EDEN on every head, or half as bad.

    Heads and rotations scatter as on the page: much together, schemes with one key little apart.
    """
    rng, count = np.random.default_rng(19), SIZES["rotations"]
    schemes = (*PAPERS, *UNCENTRED, OURS)
    values = np.ones((32, 3, 2, len(schemes), count))
    values *= scattered(rng, (32, 1, 1, 1, count), 0.5)
    uncentred = scattered(rng, (32, 3, 1, 1, count), 0.3)
    for i, name in enumerate(schemes):
        values[:, :, :, i] *= scattered(rng, (32, 3, 2, count), 0.03)
        values[:, :, :, i] *= 1 if name == OURS else uncentred[:, :, :, 0]
        values[:, :, :, i] *= (2.0 if holds else 0.5) if name in PAPERS else 1.4 if holds else 1.0
    at = schemes.index("matched")
    values[:, 0, :, at] *= 0.96 if holds else 1.2
    values[:, 1:, :, at] *= 1.0 if holds else 1.2
    return HeadDamage(values, BUDGETS, schemes, MODELS)


def doctored_family(name, holds):
    """Draws on which C-EDEN gains what is foretold, or twice as much."""
    rng, count = np.random.default_rng(20), SIZES["draws"]
    off, scales, schemes = (1.0 if holds else 2.0), SCALES[name], (*PAPERS, *UNCENTRED, OURS)
    values = np.ones((count, 3, 2, len(schemes), len(scales)))
    values *= scattered(rng, (count, 1, 1, 1, 1), 0.3) * scattered(rng, values.shape, 0.02)
    values[:, :, :, [scheme != OURS for scheme in schemes]] *= off * GUESSES[name, 4]
    if name == "Gaussian":
        first = ch09.output_gain_law(2, 128) / GUESSES[name, 4]
        values[:, 0, 1, schemes.index("KV")] *= first
        law = ch09.isotropic_gain_law(2, 128, 1, over="matched", under="norm")
        values[:, :, :, schemes.index("matched")] *= law * off
    return Damage(values, BUDGETS, schemes, scales)


def improved_scheme(holds):
    """T19: C-EDEN ahead as foretold on heads and draws, or behind, or ahead by more."""
    rng, count = np.random.default_rng(21), SIZES["draws"]
    foretold = {
        (name, n): np.stack(
            [
                np.full((count, len(scales)), GUESSES.get((name, n), 1.0)),
                np.ones((count, len(scales))),
            ]
        )
        for name, scales in SCALES.items()
        for n in BUDGETS
    }
    top = scattered(rng, (24, SIZES["rotations"]), 0.3) * (1.0 if holds else 2.0)
    values = scattered(rng, (32, SIZES["rotations"]), 0.02) * (1.01 if holds else 1.2)
    return ch09.judge_t19(
        ch09.predict_t19(GUESSES, 128),
        heads=doctored_heads(holds),
        quiet_over_foretold=varying.over_rotations(top, np.ones_like(top)),
        families={name: doctored_family(name, holds) for name in SCALES},
        foretold=foretold,
        values_matched=varying.over_rotations(values, np.ones_like(values)),
    )


WORLDS = {"T19": improved_scheme}
test_verdict_follows_the_world = worlds.follow(WORLDS)


def test_an_interval_over_rotations_is_for_the_heads_given():
    rng = np.random.default_rng(1)
    heads = np.exp(rng.standard_normal((32, 1)))  # far apart
    top = heads * scattered(rng, (32, 8), 0.01)
    found = varying.over_rotations(top, np.ones_like(top))
    assert found.estimate == pytest.approx(np.exp(np.log(top.mean(axis=1)).mean()))
    assert found.high / found.low < 1.01
    assert found.n == 8


def test_an_interval_over_models_has_a_mean_a_model():
    ratios = np.where(MODELS == "one", 1.0, np.where(MODELS == "two", 2.0, 4.0))
    assert varying.by_model(ratios, MODELS) == pytest.approx({"one": 1, "two": 2, "three": 4})
    found = varying.over_models(ratios, MODELS)
    assert found.estimate == pytest.approx(2)
    assert found.n == 3


@pytest.fixture(scope="module")
def heads():
    """Four causal heads of one window and 64 tokens around a mean."""
    rng = np.random.default_rng(8)
    q, k, v = rng.standard_normal((3, 2, 2, 64, 16), dtype=np.float32)
    cache = KVCache(q, k + 1, v + 1, causal=True, name="tiny", layers=(0, 1), heads=(0, 1))
    return ch09.real_heads({"tiny": cache}, rows=8)


def test_damage_is_that_of_the_stored_cache(heads):
    head, schemes = heads.heads[0], [named("KV", 3), named("KQV", 3)]
    q, k, v = head.q, head.k, head.v
    found = ch09.damage_of_rows(q, k, v, schemes, 5, causal=True)
    assert found.shape == (2, 2, 1, 8)
    for i, scheme in enumerate(schemes):
        k_hat, v_hat = scheme.encode(k, v, seed=5).decode()
        np.testing.assert_allclose(found[0, i], attention.attention_kl(q, k, k_hat, causal=True))
        off = attention.attention_output(q, k_hat, v_hat, causal=True)
        off -= attention.attention_output(q, k, v, causal=True)
        np.testing.assert_allclose(found[1, i], (off**2).sum(-1), rtol=1e-9)


def test_queries_are_averaged_scale_by_scale():
    seeds = np.random.SeedSequence(1).spawn(2)
    cases = ch09.draw_cases(synthetic.GAUSSIAN, seeds=seeds, scales=(1, 3), dim=8, queries=4)
    q = cases.cases[0].q
    np.testing.assert_allclose(q[4:], 3 * q[:4])
    norms = cases.by_scale(np.linalg.norm(q, axis=-1))
    assert norms[1] == pytest.approx(3 * norms[0])


def test_a_kl_is_foretold_that_comes_true():
    seeds = np.random.SeedSequence(2).spawn(6)
    cases = ch09.draw_cases(synthetic.common_mean(0.5), seeds=seeds, dim=128)
    makers = {name: partial(named, name) for name in ("WHT", "C-EDEN")}
    foretold = ch09.foretell_cases(cases, [make(4).key for make in makers.values()])
    measured = ch09.measure_cases(cases, makers, (4,))
    for kl, name in zip(foretold, makers, strict=True):
        assert measured.of(name, 4).mean() == pytest.approx(kl.mean(), rel=0.1)


@pytest.mark.parametrize("beta", [0, 1])
def test_scales_meet_at_their_border(beta):
    pair = ("norm", "matched")
    kappa = ch09.scale_border_law(3, 128, *pair, beta=beta)
    one, two = (ch09.gaussian_kl_law(x, 3, 128, beta, kappa=kappa) for x in pair)
    assert one == pytest.approx(two)
    above = [ch09.gaussian_kl_law(x, 3, 128, beta, kappa=2 * kappa) for x in pair]
    assert above[0] < above[1]


def test_the_scale_breaks_even_where_its_gain_is_one():
    beta = np.sqrt(ch09.break_even_law(2, 128))
    assert ch09.isotropic_gain_law(2, 128, beta) == pytest.approx(1)
    assert ch09.isotropic_gain_law(2, 128, 0.9 * beta) < 1


def test_second_order_meets_first_order_at_small_errors():
    second = ch09.second_order_output_gain_law(8, 1024, 1.0)
    assert second == pytest.approx(ch09.output_gain_law(8, 1024), rel=10 / 1024)  # up to O(1/d)


def test_the_unbiased_scale_has_the_derived_squared_error():
    quantizer = RotatedQuantizer(4, scale="unbiased", side_dtype="float32")
    found = ch09.measure_squared_error(quantizer, 128, np.random.SeedSequence(3))
    law = ch09.key_error_law(4, 128, "unbiased").across
    assert found.estimate == pytest.approx(law, rel=0.01)
    assert found.estimate < codebooks.lloyd_max(128, 4).distortion


def test_a_prefix_of_all_tokens_is_the_mean(heads):
    seeds = ch09.seeds_by_head(heads, 2, np.random.SeedSequence(4)) // 4
    prefix = ch09.measure_prefix_mean(heads, named("EDEN", 3), 64, seeds)
    whole = ch09.measure_heads(heads, {OURS: partial(named, OURS)}, (3,), seeds)
    for i, what in enumerate(("kl", "output")):
        np.testing.assert_allclose(prefix[i], whole.each(OURS, 3, what), rtol=0.01)


def test_values_without_a_mean_have_nothing_to_remove(heads):
    facts = ch09.value_facts(heads)
    assert facts.coherence.shape == facts.attended.shape == (4,)
    assert (facts.attended < 1).all()
