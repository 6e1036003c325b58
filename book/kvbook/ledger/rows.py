"""Rows of the ledger as the book's pages show them: cells of markdown tables and badges."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from kvbook.ledger import render
from kvbook.ledger.words import CLAIM, NO_RESULT, NOT_YET_TESTED, VERDICTS

Row = Mapping[str, Any]
"""As from :func:`kvbook.ledger.read_ledger`."""

SEEDS = """\
(seeds)=
## Do the verdicts depend on the seed?

Every chapter draws its data, rotations and sketches from one root seed. `make verdicts` executes
the chapters again under further seeds, {first} to {last}, with the same rules and sizes; what it
found is stored, and read when the book is built. **A verdict that is not the same under all seeds
is INCONCLUSIVE in the tables above**, whatever its page says; one that moves between holding and
holding with exceptions is the weaker of the two.
"""


# Small parts -----------------------------------------------------------------------------------


def escape(text: object) -> str:
    """Plain text as markdown that shows it literally, within one table cell."""
    return re.sub(r"([\\`*_<>|\[\]$~#^])", r"\\\1", " ".join(str(text).split()))


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def badge(row: Row, verdict: str) -> str:
    """A verdict in its colour, linked to the cell that computed it."""
    text = render.badge(verdict)
    if not row["notebook"]:
        return text
    page = "../" + row["notebook"].removesuffix(".ipynb") + ".html"
    return f'<a href="{page}#{row["anchor"]}">{text}</a>'


def badges(row: Row) -> str:
    """Both verdicts of a row, or the one there is."""
    text = badge(row, row["verdict"])
    if row["number_verdict"]:
        text += f"<br><small>number:</small> {badge(row, row['number_verdict'])}"
    return text + (" †" if row["pilots"] else "")


def link(row: Row) -> str:
    """A claim's id, linked to its row on the page of claims."""
    return f'<a href="claims.html#{row["id"].lower()}">{row["id"]}</a>'


def tally(rows: Sequence[Row], key: str = "verdict") -> str:
    """How many rows have which verdict, the best first."""
    verdicts = [row[key] for row in rows if row[key]]
    kinds = sorted(set(verdicts), key=VERDICTS.index)
    parts = [f"{verdicts.count(kind)} {kind.lower()}" for kind in kinds]
    return f"{len(verdicts)} in all: {', '.join(parts)}"


def counts(row: Row) -> str:
    """ "9 of 12 checks hold", with those of the book's own beside it."""
    parts = []
    if row["total"]:
        parts.append(f"{row['held']} of {row['total']} {_checks(row['total'])} hold")
    if row["ours_total"]:
        parts.append(f"{row['ours_held']} of {row['ours_total']} of ours")
    return "; ".join(parts)


def _checks(count: int) -> str:
    return "check" if count == 1 else "checks"


def example(check: Row) -> str:
    """One check in words: what was measured, with its interval, and what was predicted."""
    of = " (ours)" if check["scope"] != CLAIM else ""
    value = render.interval(check["measured"], check["low"], check["high"])
    return escape(f"{render.labelled(check)}{of}: {value}, predicted {check['prediction']}")


def evidence(row: Row) -> str:
    """What stands behind a row in small print: counts, a check that holds, one that fails."""
    parts = [counts(row)]
    for key, word in (("example_that_holds", "Holds"), ("example_that_fails", "Fails")):
        if row[key]:
            parts.append(f"*{word}:* {example(row[key])}")
    return ". ".join(part for part in parts if part)


def chapter_of(row: Row) -> str:
    """The chapter that judged a claim ("7", "A1"), or the one that will."""
    if not row["notebook"]:
        return str(row["chapter"])
    return Path(row["notebook"]).stem.split("_")[0].lstrip("0")


def reading_order(chapter: str) -> tuple[float, str]:
    """Key that sorts "7", "10" and "A1" as the book does."""
    number = re.match(r"\d+", chapter)
    return (int(number[0]) if number else math.inf, chapter)


# Tables of claims ------------------------------------------------------------------------------


def sections(rows: Sequence[Row], titles: Mapping[str, tuple[str, str]]) -> Iterator[str]:
    """One table for the rows of each chapter.

    Parameters
    ----------
    rows : sequence of mapping
    titles : mapping
        Chapter ("7", "A1") to (path from the repository, title), of the chapters there are.
    """
    ordered = sorted(rows, key=lambda row: (reading_order(chapter_of(row)), row["id"]))
    for chapter, group in groupby(ordered, key=chapter_of):
        if chapter in titles:
            path, name = titles[chapter]
            yield f"### Chapter {chapter}: [{name}](../{path})\n"
        else:
            yield f"### To be tested in chapter {chapter}\n"
        yield ":::{div} kv-claims"
        yield _claims_table(list(group))
        yield ":::\n"


def _claims_table(rows: Sequence[Row]) -> str:
    header = ["claim" if _of_paper(rows[0]) else "result", "verdict", "what is true"]
    return table(header, [_claim_row(row) for row in rows])


def _of_paper(row: Row) -> bool:
    return bool(row["kind"] != "result")


def _claim_row(row: Row) -> list[str]:
    """One row of the claims page, which cross references can name by its id."""
    statement = f'<strong id="{row["id"].lower()}">{row["id"]}</strong> {escape(row["statement"])}'
    place = "; ".join(escape(row[key]) for key in ("published", "place") if row[key])
    if place:
        statement += f"<br><small>{'Paper: ' if row['kind'] == 'paper' else ''}{place}</small>"
    moved = f"<br><small>{_seeds_in_words(row)}</small>" if _moves(row) else ""
    small = [evidence(row), *(escape(remark) for remark in render.remarks(row))]
    text = f"{_truth(row)}<br><small>{'<br>'.join(part for part in small if part)}</small>"
    return [statement, badges(row) + moved, text]


def _truth(row: Row) -> str:
    if row["verdict"] == NOT_YET_TESTED:
        return f"We expect: {escape(row['prediction'])}"
    return escape(row["what_is_true"])


def front_table(rows: Sequence[Row]) -> str:
    """The front page's table: each claim of the paper, its verdicts and what is true."""
    paper = [row for row in rows if row["kind"] == "paper"]
    lines = []
    for row in paper:
        moved = f"<br><small>{_seeds_in_words(row)}</small>" if _moves(row) else ""
        claim = f"{link(row)} {escape(row['statement'])}"
        if row["published"]:
            claim += f"<br><small>Paper: {escape(row['published'])}</small>"
        truth = f"{_truth(row)}<br><small>{evidence(row)}</small>"
        lines.append([claim, badges(row) + moved, truth])
    text = f"Statements: {tally(paper)}. Published numbers: {tally(paper, 'number_verdict')}."
    rules = "† marks rules that a pilot run shaped."
    body = table(["claim", "verdict", "what is true"], lines)
    return f"{text} {rules}\n\n:::{{div}} kv-front\n{body}\n:::"


def in_words(row: Row) -> str:
    """The verdicts of a row, with the seeds that changed them."""
    number = f", number {row['number_verdict']}" if row["number_verdict"] else ""
    text = f"{row['verdict']}{number}"
    return f"{text} ({row['stability']['summary']})" if _moves(row) else text


# Verdicts under other seeds --------------------------------------------------------------------


def seeds_tried(row: Row) -> Mapping[str, Any] | None:
    """What is known of a row's verdict under other seeds."""
    return row.get("stability")


def _moves(row: Row) -> bool:
    """Whether the seeds changed a row's verdicts."""
    known = seeds_tried(row)
    own = known and (known["page"], known["number_page"])
    return known is not None and (row["verdict"], row["number_verdict"]) != own


def _seeds_in_words(row: Row) -> str:
    """How a verdict fared under other seeds, linked to the table of those that move."""
    known = row["stability"]
    parts = [known["summary"]]
    if known["number_page"] != row["number_verdict"]:
        parts.append(f"number: {known['number_summary']}")
    return f'<a href="claims.html#seeds">{escape("; ".join(parts))}</a>'


def seeds_section(ledger: Sequence[Row]) -> Iterator[str]:
    """The verdicts and checks that move with the seed; nothing where no seed was tried."""
    rows = [row for row in ledger if seeds_tried(row)]
    if not rows:
        return
    tried = sorted({seed for row in rows for seed in row["stability"]["seeds"]})
    yield SEEDS.format(first=tried[0], last=tried[-1])
    yield f"{_seeds_tally(rows)}\n"
    moving = [row for row in rows if row["stability"]["moved"] or row["stability"]["stale"]]
    if moving:
        yield ":::{div} kv-seeds"
        header = ["claim", "verdict under all seeds", "checks that move"]
        yield table(header, [_seeds_row(row) for row in moving])
        yield ":::\n"


def _seeds_tally(rows: Sequence[Row]) -> str:
    """How many verdicts are the same under all seeds, depend on the seed, or are out of date."""
    stale = [row for row in rows if row["stability"]["stale"]]
    fresh = [row for row in rows if row not in stale]
    flip = [row for row in fresh if _differs(row["stability"])]
    alike = (
        f"Of {len(rows)} rows {len(fresh) - len(flip)} have the same verdicts, on statement and "
        "number, under all of their seeds."
    )
    parts = {"Depending on the seed": flip, "Tried on an earlier version of the chapter": stale}
    named = [f" {text}: {', '.join(r['id'] for r in of)}." for text, of in parts.items() if of]
    return alike + "".join(named)


def _differs(known: Mapping[str, Any]) -> bool:
    numbers = {known["number_page"], *known["number_verdicts"]}
    return len({known["page"], *known["verdicts"]}) > 1 or len(numbers) > 1


def _seeds_row(row: Row) -> list[str]:
    """One row of the table of what moves with the seed."""
    known = row["stability"]
    summary = escape(known["summary"])
    if known["number_summary"]:
        summary += f"<br>number: {escape(known['number_summary'])}"
    moved = [f"{escape(label)}: {_under_seeds(v)}" for label, v in known["moved"].items()]
    text = "<br>".join(moved) or "none"
    if known["stale"]:
        text = f"*tried on an earlier version of the chapter*<br>{text}"
    return [link(row), summary, text]


def _under_seeds(verdicts: Sequence[str]) -> str:
    """What one check says under the further seeds, counted."""
    kinds = sorted(set(verdicts), key=lambda kind: (kind == NO_RESULT, kind))
    return ", ".join(f"{kind} on {verdicts.count(kind)}" for kind in kinds)
