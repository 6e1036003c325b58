"""The ledger: what is claimed, what was predicted, what was measured, and the verdicts by rule.

A chapter states its predictions before it measures::

    predictions = ledger.Predictions("C05", [
        ledger.Prediction("Gaussian, rho = 0", rule, falsifier, part="number", reading="..."),
        ...
    ])
    predictions                      # shown on the page, folded
    ...                              # the experiment
    predictions.verdict({"Gaussian, rho = 0": interval, ...}, what_is_true="...")

The verdict cell's output carries a machine-readable record. :func:`read_ledger` collects those
from executed notebooks and from nowhere else, so a verdict cannot be typed.
"""

from kvbook.ledger.checks import Check, Prediction
from kvbook.ledger.claims import CLAIMS, Claim
from kvbook.ledger.predictions import Predictions
from kvbook.ledger.read import read_document, read_ledger, verdict_records
from kvbook.ledger.rules import Above, Below, Estimate, Rule, Within, tie
from kvbook.ledger.verdicts import MIME_TYPE, Verdict

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
    "read_document",
    "read_ledger",
    "tie",
    "verdict_records",
]
