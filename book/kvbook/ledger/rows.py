"""Rows of the ledger as the book's pages show them: cells of markdown tables and badges."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from kvbook.ledger import render
from kvbook.ledger.words import (
    INCONCLUSIVE,
    NO_RESULT,
    NOT_SUPPORTED,
    NOT_YET_TESTED,
    PARTIAL,
    SUPPORTED,
)

Row = Mapping[str, Any]
"""As from :func:`kvbook.ledger.read_ledger`."""

SEEDS = """\
(seeds)=
## Do the verdicts depend on the seed?

Every chapter draws its data, rotations and sketches from one root seed. `make verdicts` executes
the chapters again under further seeds, {first} to {last}, with the same rules and sizes. The first
mark below is the page's own seed. **A verdict that is not the same under all of them is
INCONCLUSIVE in the tables above**, whatever its page says; the last column names the checks that
move, which may happen without moving the verdict.
"""
MARKS = {
    SUPPORTED: "S",
    PARTIAL: "P",
    NOT_SUPPORTED: "N",
    INCONCLUSIVE: "I",
    NO_RESULT: "×",
}


# Small parts -----------------------------------------------------------------------------------


def escape(text: object) -> str:
    """Plain text as markdown that shows it literally, within one table cell."""
    return re.sub(r"([\\`*_<>|\[\]$~#^])", r"\\\1", " ".join(str(text).split()))


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def badge(row: Row) -> str:
    """The verdict in its colour, linked to the cell that computed it."""
    verdict = row["verdict"]
    css = "not-tested" if verdict == NOT_YET_TESTED else render.css_class(verdict)
    text = f'<span class="kv-badge {css}">{verdict}</span>'
    if not row["notebook"]:
        return text
    page = "../" + row["notebook"].removesuffix(".ipynb") + ".html"
    return f'<a href="{page}#{row["anchor"]}">{text}</a>'


def mark(verdict: str, title: str = "") -> str:
    """One verdict as a letter in its colour."""
    text = f' title="{title}"' if title else ""
    css = render.css_class(verdict)
    return f'<span class="kv-badge {css}"{text}>{MARKS[verdict]}</span>'


def link(row: Row) -> str:
    """A claim's id, linked to its row on the page of claims."""
    return f'<a href="claims.html#{row["id"].lower()}">{row["id"]}</a>'


def measured(row: Row) -> str:
    """Value and interval of a row, or a dash."""
    if row["measured"] is None:
        return "—"
    return escape(render.interval(row["measured"], row["low"], row["high"]))


def tally(rows: Sequence[Row]) -> str:
    """How many rows have which verdict."""
    verdicts = [row["verdict"] for row in rows]
    kinds = sorted(set(verdicts), key=lambda kind: (kind == NOT_YET_TESTED, kind))
    parts = [f"{verdicts.count(kind)} {kind.lower()}" for kind in kinds]
    return f"{len(rows)} in all: {', '.join(parts)}."


def chapter_of(row: Row) -> str:
    """The chapter that judged a claim ("7", "7b", "A1"), or the one that will."""
    if not row["notebook"]:
        return str(row["chapter"])
    return Path(row["notebook"]).stem.split("_")[0].lstrip("0")


def reading_order(chapter: str) -> tuple[float, str]:
    """Key that sorts "7", "7b", "10" and "A1" as the book does."""
    number = re.match(r"\d+", chapter)
    return (int(number[0]) if number else math.inf, chapter)


# Tables of claims ------------------------------------------------------------------------------


def sections(rows: Sequence[Row], titles: Mapping[str, tuple[str, str]]) -> Iterator[str]:
    """One table for the rows of each chapter.

    Parameters
    ----------
    rows : sequence of mapping
    titles : mapping
        Chapter ("7", "7b") to (path from the repository, title), of the chapters there are.
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
    header = ["verdict", "claim" if _of_paper(rows[0]) else "result", "predicted", "measured"]
    return table(header, [_claim_row(row) for row in rows])


def _of_paper(row: Row) -> bool:
    return bool(row["kind"] == "paper")


def _claim_row(row: Row) -> list[str]:
    """One row of the claims page, which cross references can name by its id."""
    statement = escape(row["statement"])
    place = "; ".join(escape(row[key]) for key in ("published", "place") if row[key])
    if place:
        statement += f"<br><small>{'Paper: ' if _of_paper(row) else ''}{place}</small>"
    name = f'<strong id="{row["id"].lower()}">{row["id"]}</strong><br>{badge(row)}'
    if seeds_tried(row):
        name += f"<br><small>{_seeds_in_words(row)}</small>"
    return [name, statement, escape(row["prediction"]), measured(row)]


def front_table(rows: Sequence[Row]) -> str:
    """The front page's table: each claim of the paper and its verdict."""
    paper = [row for row in rows if _of_paper(row)]
    lines = []
    for row in paper:
        note = f"<br><small>{_seeds_in_words(row)}</small>" if _flips(row) else ""
        lines.append([link(row), escape(row["statement"]), badge(row) + note])
    return f"{tally(paper)}\n\n:::{{div}} kv-front\n{table(['', 'claim', 'verdict'], lines)}\n:::"


def in_words(row: Row) -> str:
    """A verdict, with the seeds that changed it."""
    verdict: str = row["verdict"]
    return f"{verdict} ({row['stability']['summary']})" if _flips(row) else verdict


# Verdicts under other seeds --------------------------------------------------------------------


def seeds_tried(row: Row) -> Mapping[str, Any] | None:
    """What is known of a row's verdict under other seeds."""
    return row.get("stability")


def _flips(row: Row) -> bool:
    """Whether the seeds changed a row's verdict."""
    known = seeds_tried(row)
    return known is not None and row["verdict"] != known["page"]


def _seeds_in_words(row: Row) -> str:
    """How a verdict fared under other seeds, linked to the table of all."""
    known = row["stability"]
    alike = not known["stale"] and set(known["verdicts"]) == {known["page"]}
    text = f"on all {len(known['seeds']) + 1} seeds" if alike else escape(known["summary"])
    return f'<a href="claims.html#seeds">{text}</a>'


def seeds_section(ledger: Sequence[Row]) -> Iterator[str]:
    """The table of verdicts by seed; nothing where no seed was tried."""
    rows = [row for row in ledger if seeds_tried(row)]
    if not rows:
        return
    tried = sorted({seed for row in rows for seed in row["stability"]["seeds"]})
    yield SEEDS.format(first=tried[0], last=tried[-1])
    yield f"{_seeds_tally(rows)}\n"
    legend = ", ".join(f"{mark(kind)} {kind.lower()}" for kind in MARKS)
    yield f"{legend}.\n"
    yield ":::{div} kv-seeds"
    yield table(["claim", "by seed", "checks that move"], [_seeds_row(row) for row in rows])
    yield ":::\n"


def _seeds_tally(rows: Sequence[Row]) -> str:
    """How many verdicts are the same under all seeds, depend on the seed, or are out of date."""
    stale = [row for row in rows if row["stability"]["stale"]]
    fresh = [row["stability"] | {"id": row["id"]} for row in rows if row not in stale]
    flip = [known for known in fresh if set(known["verdicts"]) != {known["page"]}]
    alike = (
        f"Of {len(rows)} verdicts {len(fresh) - len(flip)} are the same under all of their seeds."
    )
    parts = {"Depending on the seed": flip, "Tried on an earlier version of the chapter": stale}
    named = [f" {text}: {', '.join(row['id'] for row in of)}." for text, of in parts.items() if of]
    return alike + "".join(named)


def _seeds_row(row: Row) -> list[str]:
    """One row of the table of verdicts by seed."""
    known = row["stability"]
    own = mark(known["page"], f"the page's own seed: {known['page']}")
    pairs = zip(known["seeds"], known["verdicts"], strict=True)
    others = " ".join(mark(verdict, f"seed {seed}: {verdict}") for seed, verdict in pairs)
    moved = [f"{escape(label)}: {_letters(v)}" for label, v in known["moved"].items()]
    text = "<br>".join(moved) or "none"
    if known["stale"]:
        text = f"*tried on an earlier version of the chapter*<br>{text}"
    return [link(row), f"{own}&ensp;{others}", text]


def _letters(verdicts: Sequence[str]) -> str:
    """Verdicts of one check, one letter a seed."""
    return "".join(MARKS[verdict] for verdict in verdicts)
