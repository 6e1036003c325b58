"""Negative controls: every verdict says what it should in a true world and in a false one.

For each claim there are two worlds: one made so that its deciding checks should hold, one so that
they should fail. Each goes through the chapter's own code, from the samples on to the verdict, at
the sizes that the page uses. A rule that could not say one of the two would be no rule.

A file ``test_worlds_chNN.py`` holds ``WORLDS``: a claim's id, or ``"C08/reading"`` where a claim
has several readings, to a function that is told which world to make and returns the verdict; and
``test_verdict_follows_the_world = worlds.follow(WORLDS)``.
"""

from pathlib import Path

import numpy as np
import pytest
from kvbook.build import chapters, parameters
from kvbook.ledger import words

from kvlib import stats

HOLDS, FAILS = True, False
ROOT = Path(__file__).resolve().parents[3]

TRUE = {
    words.HOLDS,
    words.ONE_READING,
    words.SOME_READINGS,
    words.CONFIRMED,
    words.NOT_TESTABLE,
    None,
}
FALSE = {words.FAILS, words.NOT_REPRODUCED, words.REFUTED, words.NOT_TESTABLE, None}
"""What statement and number may come to in each world."""


def sizes(number):
    """The parameters of a chapter ("07"): the sizes that its page uses."""
    return parameters.known(chapters.find_chapter(ROOT, number))


def about(value, count=24, spread=1e-3):
    """Measurements that scatter around a value by a thousandth."""
    return value * (1 + spread * np.random.default_rng(11).standard_normal(count))


def around(value, count=24):
    """The interval of such measurements."""
    return stats.mean_interval(about(value, count))


def disagreeing(verdict, holds, reading=""):
    """Labels of the checks that do not say what they should in a world.

    In the true world of one reading nothing is asked of the checks of the others.
    """
    wanted = words.MET if holds else words.MISSED
    asked = [c for c in verdict.checks if c.prediction.scope != words.SHOWN]
    if holds and reading:
        asked = [c for c in asked if not c.prediction.readings or reading in c.prediction.readings]
    return [c.prediction.label for c in asked if c.verdict != wanted]


def follow(made, exempt=None):
    """The test that the verdicts of a chapter follow their worlds.

    Parameters
    ----------
    made : dict
        Claim id, or id and reading, to a function of True (the true world) or False that returns
        the verdict.
    exempt : dict, optional
        The same key to the check, not a deciding one, that holds in the false world, too, because
        it excludes another.
    """
    exempt = exempt or {}

    @pytest.mark.parametrize("name", sorted(made))
    @pytest.mark.parametrize("holds", [HOLDS, FAILS], ids=["true", "false"])
    def test(name, holds):
        verdict = made[name](holds)
        claim, _, reading = name.partition("/")
        assert verdict.claim_id == claim
        spared = [exempt[name]] if name in exempt and not holds else []
        assert disagreeing(verdict, holds, reading) == spared, verdict
        allowed = TRUE if holds else FALSE
        assert verdict.verdict in allowed, verdict
        assert verdict.number_verdict in allowed, verdict

    return test
