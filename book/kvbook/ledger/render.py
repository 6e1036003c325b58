"""How predictions and verdicts look on a chapter's page, and numbers anywhere."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from kvbook.ledger.words import CLAIM, NUMBER, OURS, SHOWN, STATEMENT

GROUPS = {
    (CLAIM, STATEMENT): "the statement",
    (CLAIM, NUMBER): "the published number",
    (OURS, None): "our extensions (decide nothing)",
    (SHOWN, None): "by construction, counts and guesses (decide nothing)",
}
"""Headings of the groups of checks in the box of a verdict."""


def number(value: float) -> str:
    """A number to four significant digits."""
    return f"{value:.4g}"


def interval(measured: float, low: float, high: float) -> str:
    """A measured value with its interval in words; one without an interval stands alone."""
    if low == high:
        return number(measured)
    return f"{number(measured)} [{number(low)}, {number(high)}]"


def css_class(verdict: str) -> str:
    """The class of the style sheet that gives a verdict its colour."""
    return verdict.lower().replace(" ", "-")


def badge(verdict: str) -> str:
    """A verdict in its colour."""
    return f'<span class="kv-badge {css_class(verdict)}">{verdict}</span>'


def prediction_box(claim: str, rows: Sequence[Sequence[str]]) -> str:
    """The folded box of predictions: rows of quantity, predicted region and falsifier."""
    count = "1 prediction" if len(rows) == 1 else f"{len(rows)} predictions"
    body = "".join(_row(map(html.escape, row)) for row in rows)
    return (
        f'<details class="kv-prediction"><summary class="kv-title">{claim} — {count}, stated '
        f"before the run</summary>{_table(('quantity', 'predicted', 'falsified by'), body)}"
        "</details>"
    )


def verdict_box(record: Mapping[str, Any]) -> str:
    """The box of a verdict, from its record: verdicts, what is true, and every check."""
    number_verdict = record["number_verdict"]
    title = f"{record['id']} — {badge(record['verdict'])}"
    if number_verdict:
        title += f" published number {badge(number_verdict)}"
    header = ("quantity", "predicted", "measured", "check")
    parts = [
        f'<p class="kv-title">{title}</p>',
        f"<p><strong>What is true.</strong> {html.escape(record['what_is_true'])}</p>",
        *(f"<p>{html.escape(remark)}</p>" for remark in remarks(record)),
        _table(header, "".join(_check_rows(record["checks"]))),
        f"<p>{html.escape(record['note'])}</p>" if record["note"] else "",
    ]
    css = css_class(record["verdict"])
    return f'<div class="kv-verdict {css}" id="{record["anchor"]}">{"".join(parts)}</div>'


def remarks(record: Mapping[str, Any]) -> Iterator[str]:
    """What a verdict needs beside it: exceptions, readings, what is missing, pilots."""
    for part, whose in ((STATEMENT, ""), (NUMBER, "The number: ")):
        exceptions = record["exceptions"][part]
        if exceptions:
            yield f"{whose}Exceptions: {'; '.join(exceptions)}."
        tried, holding = record["readings_tried"][part], record["readings_holding"][part]
        if tried:
            found = f"it holds by {', '.join(holding)}" if holding else "it holds by none"
            yield f"{whose}{len(tried)} readings tried ({', '.join(tried)}); {found}."
    if record["missing"]:
        yield f"Not testable here without {record['missing'].rstrip('.')}."
    if record["pilots"]:
        yield f"† {record['pilots'].rstrip('.')}."


def _check_rows(checks: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The checks group by group, under a heading where there is more than one group."""
    groups = {
        title: [c for c in checks if c["scope"] == scope and (part is None or c["part"] == part)]
        for (scope, part), title in GROUPS.items()
    }
    present = {title: found for title, found in groups.items() if found}
    for title, found in present.items():
        if len(present) > 1:
            yield f'<tr class="kv-group"><th colspan="4">{title}</th></tr>'
        for check in found:
            measured = interval(check["measured"], check["low"], check["high"])
            cells = (labelled(check), check["prediction"], measured)
            outcome = f'<span class="kv-check {check["verdict"]}">{check["verdict"]}</span>'
            yield _row([*map(html.escape, cells), outcome])


def labelled(check: Mapping[str, Any]) -> str:
    """A check's label, after its one reading unless that is named in it."""
    readings, label = check["readings"], str(check["label"])
    return label if len(readings) != 1 or readings[0] in label else f"{readings[0]}: {label}"


def _row(cells: Iterable[str]) -> str:
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _table(header: Sequence[str], body: str) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
