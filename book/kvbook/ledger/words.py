"""The words of the ledger: what a check, a statement and a published number may come to."""

from __future__ import annotations

# One check: the measured interval against the predicted region.
MET = "holds"
MISSED = "fails"
UNDECIDED = "undecided"

# A claim's statement, and its published number.
HOLDS = "HOLDS"
HOLDS_WITH_EXCEPTIONS = "HOLDS WITH EXCEPTIONS"
ONE_READING = "ONE READING ONLY"
SOME_READINGS = "SOME READINGS ONLY"
FAILS = "FAILS"
NOT_REPRODUCED = "NOT REPRODUCED"
"""In place of FAILS, for a published number."""
INCONCLUSIVE = "INCONCLUSIVE"
NOT_TESTABLE = "NOT TESTABLE HERE"

# A result that the book derives.
CONFIRMED = "CONFIRMED"
CONFIRMED_WITH_EXCEPTIONS = "CONFIRMED WITH EXCEPTIONS"
REFUTED = "REFUTED"

# In place of a verdict.
NO_RESULT = "NO RESULT"
"""Where a chapter failed, or judged nothing, under a seed."""
NOT_YET_TESTED = "NOT YET TESTED"
"""Where no chapter judges a claim."""

IN_TERMS_OF_NUMBERS = {FAILS: NOT_REPRODUCED}
IN_TERMS_OF_RESULTS = {
    HOLDS: CONFIRMED,
    HOLDS_WITH_EXCEPTIONS: CONFIRMED_WITH_EXCEPTIONS,
    FAILS: REFUTED,
}
"""What a verdict is called where a result of the book is judged."""

VERDICTS = (
    HOLDS,
    HOLDS_WITH_EXCEPTIONS,
    ONE_READING,
    SOME_READINGS,
    CONFIRMED,
    CONFIRMED_WITH_EXCEPTIONS,
    FAILS,
    NOT_REPRODUCED,
    REFUTED,
    INCONCLUSIVE,
    NOT_TESTABLE,
    NOT_YET_TESTED,
    NO_RESULT,
)

# What a check is about, and what it decides.
STATEMENT = "statement"
NUMBER = "number"
CLAIM = "claim"
"""Inside the claim's own scope: it decides."""
OURS = "ours"
"""An extension of the book: shown beside the verdict, decides nothing."""
SHOWN = "shown"
"""True by construction, a count, a clamp, or a guess at unseen text: decides nothing."""
