"""How predictions and verdicts look on a chapter's page, and numbers anywhere."""

from __future__ import annotations

import html
from collections.abc import Sequence


def number(value: float) -> str:
    """A number to four significant digits."""
    return f"{value:.4g}"


def interval(measured: float, low: float, high: float) -> str:
    """A measured value with its interval in words."""
    if low == high:
        return f"{number(measured)} (exact)"
    return f"{number(measured)} [{number(low)}, {number(high)}]"


def css_class(verdict: str) -> str:
    """The class of the style sheet that gives a verdict its colour."""
    return verdict.lower().replace(" ", "-")


def prediction_box(claim: str, rows: Sequence[Sequence[str]]) -> str:
    """The box of predictions: rows of quantity, predicted region and falsifier."""
    return (
        f'<div class="kv-prediction"><p class="kv-title">{claim} — predicted before the run</p>'
        f"{_table(('quantity', 'predicted', 'falsified by'), rows)}</div>"
    )


def verdict_box(
    claim: str, verdict: str, rows: Sequence[Sequence[str]], *, anchor: str, note: str
) -> str:
    """The box of a verdict: rows of quantity, predicted region, measured value and verdict."""
    text = f"<p>{html.escape(note)}</p>" if note else ""
    return (
        f'<div class="kv-verdict {css_class(verdict)}" id="{anchor}">'
        f'<p class="kv-title">{claim} — {verdict}</p>'
        f"{_table(('quantity', 'predicted', 'measured', 'verdict'), rows)}{text}</div>"
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
