"""Negative controls for the verdicts of chapter 6, and its machinery piece by piece."""

import math

import matplotlib.pyplot as plt
import numpy as np
import pytest
import worlds
from kvbook.experiments import ch06
from kvbook.experiments.common import distortion
from kvbook.figures.ch06 import plots, tables
from kvbook.ledger import words
from worlds import about

from kvlib import laws, stats
from kvlib.laws import splitting
from kvlib.measure import metrics
from kvlib.quantize import codebooks

SIZES = worlds.sizes("06")
PUBLISHED = (2, 3, 5)


def key_errors(ahead, draws=SIZES["draws"]):
    """Errors of sketched keys in a ratio to plain ones that depends on the budget alone."""
    shape = (draws, len(ch06.BUDGETS), len(ch06.MEASURES), len(ch06.KINDS))
    noise = about(1.0, draws, 0.05)[:, None, None, None] * np.ones(shape)
    sketched = noise * np.asarray(ahead)[:, None, None]
    return ch06.KeyErrors(np.ones(shape), dict.fromkeys(ch06.SKETCHES, sketched))


PATTERN, OPPOSITE = [0.8, 0.8, 1.2, 0.8, 1.2], [1.2, 1.2, 0.8, 1.2, 0.8]


def no_crossover(holds):
    """Cells that one more bit improves enough, as they do from d = 4 on, or as at d = 3."""
    dim = 4 if holds else 3
    limit = splitting.cover_dimension(dim, laws.one_bit_distortion(dim), most=3000)
    ratios = {}
    for label, case in ch06.RANDOM_DIRECTIONS.items():
        count = SIZES["directions" if case.dim >= 8 else "small_samples"]
        measured = about((1 if holds else 1.1) * case.foretold, count, 0.02)
        ratios[label] = stats.mean_interval(measured)
    return ch06.judge_t09(ch06.predict_t09(), ch06.Covers((limit,), limit), ratios)


def crossover(holds):
    """Sketched keys ahead exactly at n = 2, 3 and 5, or exactly at 4 and 6."""
    errors = key_errors(PATTERN if holds else OPPOSITE)
    heads = {"model": key_errors(PATTERN if holds else OPPOSITE, SIZES["rotations"])}
    return ch06.judge_c10(ch06.predict_c10(), errors, heads)


def only_by(sketches):
    """A world with the pattern for some sketches, and KQV ahead everywhere for the others."""
    errors, behind = key_errors(PATTERN), key_errors([2.0] * 5)
    mixed = {s: (errors if s in sketches else behind).sketched[s] for s in ch06.SKETCHES}
    whole = ch06.KeyErrors(errors.plain, mixed)
    return ch06.judge_c10(ch06.predict_c10(), whole, {"model": whole})


def setting(winning, sketch="MMSE"):
    """A codebook family of the search with the set that a sketch wins."""
    family = ch06.CodebookFamily(256, 14, ch06.FULL_RANGE, 100, (0.5,) * 6)
    return ch06.Setting(family, sketch, winning)


def artefact(holds):
    """Fixed points with dead levels that give the published set where slowness does not.

    Or the reverse: slowness alone gives it, and the codebooks of the start go on moving.
    """
    found = [PUBLISHED if holds and i % 3 else () for i in range(SIZES["samples"])]
    fixed = [holds] * (2 * SIZES["samples"] // 3)
    return ch06.judge_t10(
        ch06.predict_t10(),
        chosen=dict.fromkeys((ch06.FEW, ch06.MANY), found),
        fixed=fixed,
        explained=[holds] * 48,
        exhibit=key_errors(PATTERN if holds else OPPOSITE, SIZES["draws"] // 2),
        on_law=[setting(() if holds else PUBLISHED)] * 216,
        search=[setting(PUBLISHED if holds else (2,))],
        converged=0,
    )


def binding(holds):
    """A condition that binds at n = 4 alone, or at every budget alike."""
    share = np.array([0.1, 0.1, 0.9, 0.1, 0.1]) if holds else np.full(5, 0.5)
    draws = about(1.0, SIZES["draws"] // 2, 0.02)[:, None, None] * share[:, None] * np.ones((5, 6))
    models = {name: about(1.0, 8, 0.05)[:, None] * share for name in ("a", "b", "c")}
    return ch06.judge_c11(ch06.predict_c11(), {"KQV": draws, "QKQV": draws}, models)


WORLDS = {
    **{f"C10/{reading}": crossover for reading in ch06.READINGS},
    "C11": binding,
    "T09": no_crossover,
    "T10": artefact,
}

test_verdict_follows_the_world = worlds.follow(WORLDS)


@pytest.mark.parametrize("reading", ch06.READINGS)
def test_one_reading_that_shows_the_pattern_is_enough(reading):
    verdict = only_by(ch06.READINGS[reading])
    assert verdict.verdict == words.ONE_READING
    assert verdict.judgement("statement").holding == (reading,)
    assert verdict.judgement("number").holding == (reading,)


def test_half_of_the_claim_is_not_the_claim():
    # KQV ahead at 4 and 6 as claimed, and elsewhere too: the checks of that half hold.
    verdict = only_by(())
    assert (verdict.verdict, verdict.number_verdict) == (words.FAILS, words.NOT_REPRODUCED)
    held = [c.prediction.label for c in verdict.checks if c.verdict == words.MET]
    assert len(held) == len(ch06.READINGS)
    assert all("n = 4, 6" in label for label in held)


def test_c11_cannot_be_tested_whatever_the_world():
    assert {binding(holds).verdict for holds in (True, False)} == {words.NOT_TESTABLE}


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


def test_codebooks_with_dead_levels_end_as_fixed_points():
    (training,) = ch06.measure_trainings(
        256, 12, count=1, iterations=(1, 300, 301), rng=np.random.default_rng(6)
    )
    assert training.is_fixed(300, 301)
    assert not training.is_fixed(1, 300)


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
    assert [text.get_text() for text in fig.axes[1].texts] == ["{2,3,5}\n100%", "∅\n100%"]
    plt.close(fig)


def test_live_and_dead_levels_are_all_drawn():
    (training,) = ch06.measure_trainings(
        256, 12, count=1, iterations=(30,), rng=np.random.default_rng(6)
    )
    fig = plots.dead_levels(training, bits=3, iterations=30)
    top, bottom = ([len(lines.get_segments()) for lines in ax.collections[1:]] for ax in fig.axes)
    assert top == [training.live_levels(30)[2], 8 - training.live_levels(30)[2]]
    assert bottom == [8]
    plt.close(fig)


def test_rows_of_the_table_of_sets_add_up():
    settings = [setting(PUBLISHED), setting(()), setting((3, 4)), setting((2, 4))]
    shown = tables.set_table(settings).data
    counts = [row.split("<td>")[2] for row in shown.split("<tr>")[2:]]
    assert [int(count.split("<")[0]) for count in counts] == [1, 1, 2, 1]
