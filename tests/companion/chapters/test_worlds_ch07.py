"""Chapter 7's claims in worlds where they hold and where they fail, and its machinery."""

import math

import numpy as np
import pytest
import worlds
from kvbook.experiments import ch07

from kvlib.stats import Interval, holm

SIZES = worlds.sizes("07")
REPETITIONS, ALIGNED_DRAWS = SIZES["repetitions"], SIZES["aligned_draws"]
CELLS = {
    *(cell for plan in ch07.PLANS.values() for cell in plan),
    *ch07.RANKED_KEYS.values(),
}
NOISE = 0.15
"""Of a cell's log KL about what is common to a draw: about that of Gaussian keys on the page."""


def made(effect, **measured):
    """A factorial whose log KL is a common draw plus the effect of a cell.

    `effect` gets dimension, cell and budget, and gives one number, or one for each of the regimes
    at d=128 and each spread.
    """
    common = 0.5 * np.random.default_rng(6).standard_normal((REPETITIONS, 1, 1))
    kl = {}
    for index, cell in enumerate(sorted(CELLS, key=repr)):
        for dim, bits in ((dim, bits) for dim in ch07.PLANS for bits in ch07.BUDGETS):
            size = len(ch07.regimes_at(dim))
            rng = np.random.default_rng([dim, bits, index])
            # Diffuse attention scatters less, so that the formulas can be told within 5%.
            noise = NOISE * rng.standard_normal((REPETITIONS, size, 3)) * np.array([0.3, 1, 1])
            found = np.broadcast_to(effect(dim, cell, bits), (len(ch07.REGIMES), 3))[:size]
            kl[dim, cell, bits] = np.exp(common + noise + found)[..., None]
    return ch07.Factorial(kl, **measured)


def priced(holds):
    """A sketch on the keys that costs KL in every cell, or saves it in every cell."""
    price = 0.5 if holds else -0.5
    return made(lambda dim, cell, bits: price if cell.sketch else 0.0)


def never_ahead(holds):
    return ch07.judge_c09(ch07.predict_c09(), priced(holds))


def law(cell, bits, kappa):
    """Log of the KL of a rotated cell over that of WHT, by the closed form."""
    kind = ("gaussian" if cell.sketch == "gaussian" else "hadamard") if cell.sketch else cell.scale
    return math.log(ch07.first_order_ratio_law(kind, max(bits, 2), kappa))


def aligned_draws(holds):
    """KL by shared rank as the formula has it, or with a scale that does harm."""
    ranks, rng = (2, 4, 8), np.random.default_rng(9)
    logs = {}
    for kind, cell in {"norm": ch07.WHT, **ch07.KINDS}.items():
        found = [
            math.log(ch07.first_order_ratio_law(kind, 4, ch07.shared_kappa(rank))) for rank in ranks
        ]
        effect = np.array(found) if holds else 0.5 * (kind != "norm")
        logs[cell, 4] = effect + NOISE * rng.standard_normal((ALIGNED_DRAWS, len(ranks)))
    return ch07.Alignment(ranks, logs)


def choices(holds):
    """Rotation, scale and sketch with the effects foretold, or with the opposite ones."""
    place = list(ch07.REGIMES).index
    constant = math.log(ch07.constant_gain_ratio_law(4, 4 / 128))

    def effect(dim, cell, bits):
        found = np.zeros((len(ch07.REGIMES), 3))
        if cell.sketch or cell.scale != "norm":
            found += law(cell, bits, 1.0) if holds else -3.0 if cell.sketch else 0.3
        if cell.scale != "norm" and not cell.sketch:
            found[place(ch07.ALIGNED)] = constant if holds else math.log(3.0)
        if cell.rotation == "none":
            found[place(ch07.HEAVY)] += 1.5 if holds else -2.0
            found[[place(ch07.EXTREME), place(ch07.SPIKE)]] += 1.5 if holds else -2.0
        if cell.rotation == "haar":
            found[place(ch07.SPIKE)] -= 0.7 if holds else 0.0
        return found

    factorial = made(effect)
    ranked = ch07.rank_keys(factorial, ch07.RANKED_KEYS)
    return ch07.judge_t16(ch07.predict_t16(), factorial, ranked, aligned_draws(holds))


WORLDS = {
    "C09": never_ahead,
    "T16": choices,
}
test_verdict_follows_the_world = worlds.follow(WORLDS)


# ------------------------------------------------------------------------- machinery


@pytest.fixture(scope="module")
def small():
    """A factorial of few cells and draws."""
    return ch07.measure_factorial(
        {8: ch07.SMALL_PLAN, 128: (*ch07.CORE, ch07.C_EDEN)},
        ch07.PAIRS,
        repetitions=3,
        tokens={8: 12, 128: 16},
        queries=8,
        seed=np.random.SeedSequence(1),
    )


def test_a_factorial_has_every_cell_regime_and_spread(small):
    assert small.repetitions == 3
    assert small.kl[8, ch07.WHT, 3].shape == (3, len(ch07.regimes_at(8)), 3, 3)
    assert small.keys[128, ch07.QJL_GAUSSIAN, 1].shape == (3, 10, 3)
    assert small.values[ch07.C_EDEN, 4].shape == (3, 10, 2)
    assert small.outputs[ch07.WHT, ch07.EDEN, 2].shape == (3, 10, 2)
    assert small.by_query.shape == (3, 10, 8)
    assert len(small.values) == 6 * 6
    assert len(small.outputs) == len(ch07.PAIRS) * 6
    assert small.combinations == sum(x[0, ..., 0].size for x in small.kl.values())
    assert all(np.isfinite(x).all() for x in (*small.kl.values(), *small.outputs.values()))


def test_equal_seeds_give_equal_factorials(small):
    again = ch07.measure_factorial(
        {8: ch07.SMALL_PLAN},
        (),
        repetitions=3,
        tokens={8: 12},
        queries=8,
        seed=np.random.SeedSequence(1),
    )
    for at, kl in again.kl.items():
        np.testing.assert_array_equal(kl, small.kl[at])


def test_values_may_be_equal_steps_and_budgets_of_outputs_few():
    found = ch07.measure_factorial(
        {128: (ch07.WHT, ch07.MATCHED)},
        [(ch07.MATCHED, ch07.MIN_MAX)],
        repetitions=2,
        tokens={128: 8},
        queries=4,
        seed=np.random.SeedSequence(1),
        output_bits=(4,),
    )
    assert list(found.values) == [(ch07.MIN_MAX, 4)]
    assert list(found.outputs) == [(ch07.MATCHED, ch07.MIN_MAX, 4)]


def test_log_kl_is_nan_where_there_is_no_cell(small):
    sketched_unbiased = ch07.QJL_HADAMARD.with_unbiased_scale()
    assert np.isnan(small.log_kl(8, sketched_unbiased)).all()
    logs = small.log_kl(128, ch07.WHT)
    assert logs.shape == (3, 6, 10, 3)
    np.testing.assert_array_equal(logs[:, 3], np.log(small.kl[128, ch07.WHT, 4][..., 0]))


@pytest.mark.parametrize("cell", ch07.FULL_PLAN, ids=str)
def test_shared_codes_reconstruct_what_the_quantizer_does(cell):
    x = np.random.default_rng(2).standard_normal((2, 9, 128)).astype(np.float32)
    bits = 3
    shared = dict(ch07.reconstruction_errors(x, [cell], [bits], seed=5))[cell, bits]
    direct = cell.quantizer(bits).encode(x, seed=5).decode() - x
    np.testing.assert_allclose(shared, direct, atol=1e-4)


def test_shortcuts_agree_with_the_library():
    agreement = ch07.measure_agreement(tokens=16, queries=8)
    assert agreement.kl < 2e-3
    assert agreement.reconstructions


def test_first_order_law_meets_the_factorial():
    """Gaussian keys and queries, diffuse: kappa is one."""
    factorial = ch07.measure_factorial(
        {128: (*ch07.CORE, ch07.MATCHED)},
        (),
        repetitions=6,
        tokens={128: 64},
        queries=32,
        seed=np.random.SeedSequence(3),
    )
    for kind, cell in ch07.KINDS.items():
        logs = factorial.log_ratio(128, cell, ch07.WHT, 3, ch07.GAUSSIAN, ch07.DIFFUSE)
        law = ch07.first_order_ratio_law(kind, 3)
        assert math.exp(logs.mean()) == pytest.approx(law, rel=0.05)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_gain_variance_law(bits):
    seed = np.random.SeedSequence(4)
    (measured,) = ch07.measure_gain_variance([bits], seed=seed, vectors=1 << 14)
    # The standard error of the variance is about a hundredth.
    assert measured == pytest.approx(ch07.gain_variance_law(bits), rel=0.04)


@pytest.mark.parametrize("kind", ["norm", "matched", "unbiased"])
@pytest.mark.parametrize("bits", [2, 4])
def test_the_parts_of_an_error_are_those_of_decoded_keys(kind, bits):
    cell = ch07.WHT.with_scale(kind)
    x = np.random.default_rng(3).standard_normal((1 << 13, 128)).astype(np.float32)
    decoded = cell.quantizer(bits).encode(x).decode()
    length = np.linalg.norm(x, axis=1)
    gain = (x * decoded).sum(axis=1) / length**2
    across = ((decoded - x) ** 2).sum(axis=1) / length**2 - (gain - 1) ** 2
    parts = ch07.error_parts_law(kind, bits)
    assert across.mean() == pytest.approx(parts.across, rel=0.02)
    assert (gain.mean() - 1) ** 2 == pytest.approx(parts.bias, rel=0.03, abs=1e-6)
    # What the law of the matched scale leaves out.
    assert gain.var() == pytest.approx(parts.radial, rel=0.06, abs=0.1 * parts.across / 128)


def test_border_is_where_both_first_order_laws_meet():
    kappa = ch07.border_law("hadamard", 2)
    assert ch07.first_order_ratio_law("hadamard", 2, kappa) == pytest.approx(1)


def test_ties_are_declared_and_absent_competitors_left_out():
    rng = np.random.default_rng(5)
    noise = 0.01 * rng.standard_normal((3, 20, 1, 2))
    logs = {"low": noise[0], "same": noise[1], "high": noise[2] + 1}
    logs["absent"] = np.full((20, 1, 2), np.nan)
    ranking = ch07.rank(logs)
    assert ranking.total == 2
    assert all(tied == {"low", "same"} for tied in ranking.tied.values())
    assert all(list(rivals)[-1] == "high" for rivals in ranking.rivals.values())
    assert ranking.count(lambda name: name == "high") == 0


def test_a_share_counts_what_is_shown_and_what_is_open():
    shown, open_, refuted = ((0.9, 0.8, 1.0), (1.0, 0.9, 1.2), (2.0, 1.9, 2.1))
    margins = {(0, i): Interval(*ends, 9) for i, ends in enumerate((shown, open_, refuted, shown))}
    share = ch07.share_within(margins, 0.05)
    assert (share.estimate, share.low, share.high) == (0.75, 0.5, 0.75)


def test_an_unrotated_key_counts_as_rotated_where_the_law_is_isotropic():
    """Unrotated keys far ahead everywhere: only tails and spikes are lost."""
    factorial = made(lambda dim, cell, bits: -2.0 * (cell.rotation == "none"))
    lost = ch07.places_ahead(ch07.rank_keys(factorial, ch07.RANKED_KEYS))
    assert {regime for _, regime, _ in lost} == set(ch07.REGIMES) - set(ch07.ISOTROPIC)
    assert len(lost) == 3 * len(ch07.PAPER_BUDGETS)


def test_a_family_is_corrected_as_a_whole():
    family = ch07.compare_family(priced(True), dims=(8, 128), sketches=("gaussian",))
    tally = family.tally()
    assert tally == (0, 0, tally.total)
    assert family.tally(dim=[8], bits=[1, 2]).total == 2 * 3 * len(ch07.regimes_at(8))
    assert family.uncorrected_wins() == []
    np.testing.assert_array_equal(
        list(family.adjusted.values()), holm(list(family.pvalues.values()))
    )
