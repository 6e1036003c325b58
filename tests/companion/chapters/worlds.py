"""Negative controls: every verdict says NOT SUPPORTED where its claim is false, and the reverse.

For each claim there are two worlds: one made so that every check of the claim should hold, one so
that every check should fail. Each goes through the chapter's own code, from the samples on to the
verdict. A rule that could not say one of the two would be no rule.

A file ``test_worlds_chNN.py`` holds ``WORLDS``, claim id to a function that is told which world to
make and returns the verdict, and ``test_verdict_follows_the_world = worlds.follow(WORLDS)``.
"""

import numpy as np
import pytest

from kvlib import stats

HOLDS, FAILS = True, False


def about(value, count=24, spread=1e-3):
    """Measurements that scatter around a value by a thousandth."""
    return value * (1 + spread * np.random.default_rng(11).standard_normal(count))


def around(value, count=24):
    """The interval of such measurements."""
    return stats.mean_interval(about(value, count))


def disagreeing(verdict, holds):
    """Labels of the checks that do not say what they should in a world."""
    wanted = "SUPPORTED" if holds else "NOT SUPPORTED"
    return [c.prediction.label for c in verdict.checks if c.verdict != wanted]


def follow(worlds, exempt=None):
    """The test that the verdicts of a chapter follow their worlds.

    Parameters
    ----------
    worlds : dict
        Claim id to a function of True (the true world) or False that returns the verdict.
    exempt : dict, optional
        Claim id to the one check that holds in the false world, too, because it excludes another.
    """
    exempt = exempt or {}

    @pytest.mark.parametrize("name", sorted(worlds))
    @pytest.mark.parametrize("holds", [HOLDS, FAILS], ids=["true", "false"])
    def test(name, holds):
        verdict = worlds[name](holds)
        assert verdict.claim_id == name
        spared = [exempt[name]] if name in exempt and not holds else []
        assert disagreeing(verdict, holds) == spared, verdict
        one = "SUPPORTED" if holds else "NOT SUPPORTED"
        assert verdict.verdict == ("PARTIAL" if spared else one)

    return test
