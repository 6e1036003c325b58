"""Negative controls for the verdicts of chapter 6, and its machinery piece by piece."""

import math

import matplotlib.pyplot as plt
import numpy as np
import pytest
import worlds
from kvbook.experiments import ch06
from kvbook.experiments.common import distortion
from kvbook.figures.ch06 import plots
from worlds import FAILS, HOLDS, about, around

from kvlib.laws.splitting import Cover
from kvlib.measure import metrics
from kvlib.quantize import codebooks

PUBLISHED = (2, 3, 5)


def key_errors(ahead, draws=24):
    """Errors of sketched keys in a ratio to plain ones that depends on the budget alone."""
    shape = (draws, len(ch06.BUDGETS), len(ch06.MEASURES), len(ch06.KINDS))
    noise = about(1.0, draws)[:, None, None, None] * np.ones(shape)
    sketched = noise * np.asarray(ahead)[:, None, None]
    return ch06.KeyErrors(np.ones(shape), dict.fromkeys(ch06.SKETCHES, sketched))


PATTERN, BEHIND = [0.8, 0.8, 1.2, 0.8, 1.2], [2.0] * 5


def no_crossover(holds):
    """Cells that one more bit improves enough, and ratios as derived; or neither."""
    cover = Cover(boxes=1, worst=0.9 if holds else 1.2)
    ratios = {
        label: around((1 if holds else 1.5) * case.foretold)
        for label, case in ch06.RANDOM_DIRECTIONS.items()
    }
    equal_bytes = 3.0 if holds else 0.5
    covers = ch06.Covers((cover,), cover)
    return ch06.judge_t09(ch06.predict_t09(), covers, ratios, equal_bytes)


def crossover(holds):
    """Sketched keys ahead exactly at n = 2, 3 and 5, or behind at every budget."""
    return ch06.judge_c10(ch06.predict_c10(), key_errors(PATTERN if holds else BEHIND))


def setting(winning, sketch="MMSE"):
    """A codebook family of the search with the set that a sketch wins."""
    family = ch06.CodebookFamily(256, 14, ch06.FULL_RANGE, 100, (0.5,) * 6)
    return ch06.Setting(family, sketch, winning)


def artefact(holds, hit_by="MMSE"):
    """Damaged codebooks that give the published set, or none of them but all the intact ones."""
    found = PUBLISHED if holds else ()
    return ch06.judge_t10(
        ch06.predict_t10(),
        trial={total: [found] * 80 for total in (100, 300)},
        search=[setting(found, hit_by)] * 3 + [setting((2,))],
        explained=[holds] * 48,
        exhibit=key_errors(PATTERN if holds else BEHIND),
        converged=0 if holds else 3,
        on_law=[setting(() if holds else PUBLISHED)],
    )


def binding(holds):
    """A condition that binds at n = 4 alone, or never."""
    share = np.array([0.1, 0.1, 0.9, 0.1, 0.1]) if holds else np.full(5, 0.5)
    draws = about(1.0)[:, None, None] * share[:, None] * np.ones((24, 5, 6))
    synthetic = dict.fromkeys((ch06.EXACT, "KQV", "QKQV"), draws)
    return ch06.judge_c11(ch06.predict_c11(), synthetic, about(1.0)[:, None] * share)


WORLDS = {"C10": crossover, "C11": binding, "T09": no_crossover, "T10": artefact}
# That the set is never found and that a Gaussian sketch finds it exclude each other.
EXEMPT = {"T10": ch06.GAUSSIAN_CONTROL}

test_verdict_follows_the_world = worlds.follow(WORLDS, EXEMPT)


def test_the_exempt_check_can_fail():
    verdict = artefact(HOLDS, hit_by="Gaussian")
    assert worlds.disagreeing(verdict, HOLDS) == [EXEMPT["T10"]]
    assert worlds.disagreeing(artefact(FAILS), FAILS) == [EXEMPT["T10"]]


# ---------------------------------------------------------------- the rule and its sketches


def test_the_best_sketch_leaves_what_one_bit_leaves():
    for dim in (2, 3, 64):
        c = ch06.sketch_constant(ch06.ORTHOGONAL_MMSE, dim)
        assert c == pytest.approx(distortion(dim, 1), rel=1e-12)


def test_winning_set_by_hand():
    assert ch06.winning_set([1.0, 0.9, 0.8, 0.1, 0.09, 0.01], c=0.5) == PUBLISHED
    assert ch06.winning_set([1.0, 0.5, 0.25, 0.125, 0.0625, 0.03125], c=0.5) == ()


def test_winning_budgets_of_errors_are_those_with_a_ratio_below_one():
    errors = key_errors(PATTERN)
    assert errors.winning_sets(ch06.GAUSSIAN) == [PUBLISHED] * len(ch06.KINDS)
    assert errors.tally(ch06.GAUSSIAN) == ch06.Count(36, 0, 24)
    assert errors.lowest_ratio() == pytest.approx(0.8, rel=1e-2)


@pytest.mark.parametrize("bits", [2, 5])
def test_the_shared_code_gives_the_errors_of_the_scheme_alone(bits):
    assert ch06.agrees_with_named(dim=64, bits=bits, seed=7)


def test_errors_of_direction_are_those_of_the_metrics():
    rng = np.random.default_rng(4)
    x = rng.standard_normal((2, 16, 8))
    x_hat = x + 0.1 * rng.standard_normal(x.shape)
    found = ch06.reconstruction_errors(x, x_hat)
    assert found.shape == (len(ch06.MEASURES), 2)
    for row, reading in zip(found[1:], ("one-minus-cosine", "angle", "chord"), strict=True):
        wanted = metrics.direction_error(x, x_hat, reading).mean(axis=-1)
        np.testing.assert_allclose(row, wanted, rtol=1e-9)


def test_haar_matrices_are_orthogonal():
    matrices = ch06.haar_matrices(5, 3, np.random.default_rng(0))
    np.testing.assert_allclose(matrices @ matrices.transpose(0, 2, 1), [np.eye(3)] * 5, atol=1e-12)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_error_of_a_one_hot_key_is_that_of_one_level(bits):
    levels = codebooks.lloyd_max(64, bits).levels
    nearest = levels[np.abs(levels - 1 / 8).argmin()]
    assert ch06.spike_error_law(64, bits, 1.0) == pytest.approx((1 - 8 * nearest) ** 2)


# --------------------------------------------------------------------- damaged codebooks


def test_training_goes_on_where_it_stopped():
    rng = np.random.default_rng(5)
    sample = np.sort(rng.standard_normal(500) / 8)
    once = ch06.train(sample, 64, ch06.FULL_RANGE, (7,), rng)[7]
    twice = ch06.train(sample, 64, ch06.FULL_RANGE, (3, 7), rng)[7]
    for n in once:
        np.testing.assert_array_equal(once[n].levels, twice[n].levels)


def test_levels_far_from_the_data_die():
    (training,) = ch06.measure_trainings(
        256, 10, count=1, iterations=(30,), rng=np.random.default_rng(6)
    )
    live = training.live_levels(30)
    assert live[:2] == [2, 2]  # of the levels that start at ±1/3 and ±1 the outer two stay
    assert training.distortions(30)[1] > distortion(256, 1)


def test_a_step_on_the_exact_law_leaves_the_best_codebook():
    levels = codebooks.lloyd_max(64, 3).levels
    np.testing.assert_allclose(ch06.lloyd_step_on_law(levels, 64), levels, atol=1e-11)


def test_best_codebook_of_any_number_of_levels():
    assert ch06.best_distortion(64, 4) == pytest.approx(distortion(64, 2), rel=1e-6)
    assert distortion(64, 3) < ch06.best_distortion(64, 6) < distortion(64, 2)


def test_live_levels_that_stand_still_and_double_draw_the_published_set():
    law = ch06.LiveLevelLaw(256)
    for live in ([2, 2, 2, 4, 6, 12], [2, 2, 2, 6, 10, 18]):
        assert law.winning_set(live) == PUBLISHED
        assert tuple(live) in law.sequences()
    assert ch06.LiveLevelLaw(256, most=64).winning_set([2, 4, 8, 16, 32, 64]) == ()


@pytest.mark.parametrize(
    ("budgets", "kind"),
    [((), "none"), ((3,), "run"), ((2, 3), "run"), ((2, 4), "gap"), (PUBLISHED, "{2,3,5}")],
)
def test_pattern_of_a_set(budgets, kind):
    assert ch06.pattern(budgets) == kind


def test_search_counts_every_combination():
    families = ch06.measure_codebooks(
        dims=(64,),
        log_sizes=(8, 9),
        starts=("±3σ", "random"),
        iterations=(1, 2),
        repeats=1,
        seed=np.random.SeedSequence(1),
    )
    settings = ch06.settings_of(families)
    assert len(families) == 8
    assert len(settings) == 8 * len(ch06.CONSTANTS)
    assert all(math.isfinite(family.excess) and family.excess > 0 for family in families)


def test_padded_codes_cost_more_at_four_and_six():
    costs = {n: ch06.stored_bits(n) for n in ch06.BUDGETS}
    assert costs == {2: (2, 2), 3: (4, 3), 4: (4, 5), 5: (8, 5), 6: (8, 9)}


# ---------------------------------------------------------------------------- the figures


def test_ratios_are_drawn_where_they_were_measured():
    errors = key_errors(PATTERN)
    frame = plots.ratio_frame([errors, errors], [ch06.GAUSSIAN])
    assert len(frame) == len(ch06.BUDGETS) * 2 * len(ch06.KINDS)
    assert (frame["place"] - frame["budget"]).abs().max() < 0.5
    means = frame.groupby("budget")["ratio"].mean()
    np.testing.assert_allclose(means, PATTERN, rtol=1e-2)


def test_every_setting_counts_in_the_bars():
    settings = [setting(PUBLISHED), setting(()), setting((2,)), setting((2,))]
    fig = plots.winning_set_map(settings, {(256, 14): [PUBLISHED], (512, 14): [()]})
    bars = [bar.get_height() for bar in fig.axes[0].patches if bar.get_height() > 0]
    assert sorted(bars) == pytest.approx([0.25, 0.25, 0.5])
    assert [text.get_text() for text in fig.axes[1].texts] == ["235\n100%", "none\n100%"]
    plt.close(fig)
