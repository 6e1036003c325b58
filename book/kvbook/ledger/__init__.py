"""The ledger: what is claimed, what was predicted, what was measured, and the verdict by rule.

A chapter states its predictions before it measures::

    predictions = ledger.Predictions("T03", [ledger.Prediction("D(2) at d=128", rule, falsifier)])
    predictions                      # shown on the page
    ...                              # the experiment
    predictions.verdict({"D(2) at d=128": interval})   # shown, and read back by the ledger

The verdict cell's output carries a machine-readable record. :func:`read_ledger` collects those
from executed notebooks and from nowhere else, so a verdict cannot be typed.
"""

from kvbook.ledger.claims import CLAIMS, Claim
from kvbook.ledger.read import read_document, read_ledger, verdict_records
from kvbook.ledger.rules import (
    MIME_TYPE,
    Above,
    Below,
    Check,
    Estimate,
    Prediction,
    Predictions,
    Rule,
    Verdict,
    Within,
    overall,
)

__all__ = [
    "CLAIMS",
    "MIME_TYPE",
    "Above",
    "Below",
    "Check",
    "Claim",
    "Estimate",
    "Prediction",
    "Predictions",
    "Rule",
    "Verdict",
    "Within",
    "overall",
    "read_document",
    "read_ledger",
    "verdict_records",
]
