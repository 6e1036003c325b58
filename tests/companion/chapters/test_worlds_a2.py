"""The appendix on tests in worlds where they keep their size and where they do not."""

import numpy as np
import worlds
from kvbook.experiments import a2, ch07

from kvlib import stats

SIZES = worlds.sizes("A2")


def calibration(holds):
    """Tests of exactly the nominal size, ties or not, or tests that reject and waste pairs."""
    rng = np.random.default_rng(8)
    shape = (SIZES["repetitions"], len(ch07.REGIMES))
    by_query = rng.standard_normal((*shape, 32)) + 3 * rng.standard_normal((*shape, 1))
    gain = 0.1 * rng.standard_normal((SIZES["repetitions"], len(ch07.REGIMES), 1))

    def log_kl(cell):
        return 10 * gain + (0.3 * np.abs(gain) + 0.05 if cell == ch07.WHT else 0)

    def broken(x, y, *, paired=False):
        lost = len(x) != 10 or paired
        return stats.rank_biserial([0.0, 1.0], [0.0, 1.0]) if lost else far_apart

    def sound_pvalues(x, y, rng):
        sound = {test: rng.uniform() for test in a2.TESTS}
        return sound | {a2.TIES_NOT_COUNTED: 0.3 * rng.uniform()}

    def broken_pvalues(x, y, rng):
        wrong = dict.fromkeys(a2.TESTS, 0.001)
        return wrong | {a2.TIES_NOT_COUNTED: 1.0}

    far_apart = stats.rank_biserial(np.arange(20.0), np.arange(20.0) + 100)
    kl = {
        (128, cell, bits): np.exp(log_kl(cell) * np.ones(3))[..., None]
        for cell in (ch07.WHT, ch07.EDEN)
        for bits in ch07.BUDGETS
    }
    tests = {} if holds else {"rank_test": broken}
    return a2.judge_t17(
        a2.predict_t17(),
        a2.measure_levels(
            SIZES["trials"],
            seed=np.random.SeedSequence(707),
            pvalues=sound_pvalues if holds else broken_pvalues,
        ),
        a2.exact_levels_on_signs(**({} if holds else {"rank_test": lambda *_, **__: far_apart})),
        a2.measure_false_alarms(by_query, **tests),
        a2.measure_power(ch07.Factorial(kl), **tests),
    )


WORLDS = {"T17": calibration}
test_verdict_follows_the_world = worlds.follow(WORLDS)


def test_queries_of_one_draw_are_not_repetitions():
    """What is independent is a pair of draws."""
    rng = np.random.default_rng(1)
    shared = 3 * rng.standard_normal((12, 10, 1)) + rng.standard_normal((12, 10, 32))
    assert a2.measure_false_alarms(shared).shape == (6,)
    assert a2.measure_false_alarms(shared).mean() > 0.5
    assert a2.measure_false_alarms(rng.standard_normal((12, 10, 32))).mean() < 0.15


def test_only_counting_ties_keeps_a_permutation_test_at_its_size():
    levels = a2.measure_levels(400, seed=np.random.SeedSequence(3))
    for test, level in a2.exact_levels_on_signs().items():
        assert abs(levels[test, "signs"].mean() - level) < 0.03
    assert levels["energy distance", "signs"].mean() < 0.06
    assert levels[a2.TIES_NOT_COUNTED, "signs"].mean() > 0.1
