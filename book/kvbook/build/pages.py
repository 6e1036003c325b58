"""Write the parts of the book that are read off the ledger and the run times.

    python -m kvbook.build.pages            # rewrite what is not current
    python -m kvbook.build.pages --check    # only say whether all is current

These are `book/claims.md` (all of it, the verdicts under other seeds included), the tables between
markers in `README.md`, `book/index.md` and `book/reproduce.md`, the glued numbers of the README,
written there as
``<!-- glue: 02_sphere::distance:.3f -->0.012<!-- /glue -->``, and the figures that the README
or a page of prose shows from `book/figures/`: each is the output of the cell of that name.
The numbers come from the executed notebooks and from nowhere else.
"""

import argparse
import ast
import base64
import math
import re
import sys
from itertools import groupby
from pathlib import Path

from kvbook.build import parameters
from kvbook.build.chapters import ROOT, ChapterProblem, Run, chapters, label, read, write_if_changed
from kvbook.build.execute import read_times
from kvbook.build.render import stage
from kvbook.build.verdicts import STABILITY

NOT_TESTED = "NOT YET TESTED"
MARK = "<!-- generated: {name} -->"
END = "<!-- end of generated: {name} -->"
INTRODUCTION = """\
<!-- Written by kvbook.build.pages from the executed notebooks; do not edit. -->
(claims)=
# The claims, one by one

Every row is read off the executed chapters when the book is built. A verdict is computed by a
rule that the chapter fixed before it measured; it links to the cell that computed it.

- **SUPPORTED**: the whole interval of every measurement lies where the prediction said.
- **NOT SUPPORTED**: the whole interval lies outside.
- **PARTIAL**: some checks of the claim hold and some fail.
- **INCONCLUSIVE**: an interval straddles the boundary, so these measurements cannot decide.
- **NOT YET TESTED**: no chapter has measured it; the column "predicted" says what we expect.

Where a claim has several checks, the row shows the one its verdict hangs on; the cell shows all.
"""
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
    "SUPPORTED": "S",
    "PARTIAL": "P",
    "NOT SUPPORTED": "N",
    "INCONCLUSIVE": "I",
    "NO RESULT": "×",
}


# ------------------------------------------------------------------ small parts


def escape(text):
    """Plain text as markdown that shows it literally, within one table cell."""
    return re.sub(r"([\\`*_<>|\[\]$~#^])", r"\\\1", " ".join(str(text).split()))


def number(value):
    """A measured value; a whole one without a decimal point."""
    return str(value) if isinstance(value, str) else f"{value:.4g}"


def measured(row):
    """Value and interval of a row, or a dash."""
    if row["measured"] is None:
        return "—"
    if row["low"] is None or row["low"] == row["high"]:
        return f"{escape(number(row['measured']))} (exact)"
    return escape(f"{number(row['measured'])} [{number(row['low'])}, {number(row['high'])}]")


def badge(row):
    """The verdict in its colour, linked to the cell that computed it."""
    css = "not-tested" if row["verdict"] == NOT_TESTED else row["verdict"].lower().replace(" ", "-")
    text = f'<span class="kv-badge {css}">{row["verdict"]}</span>'
    if not row["notebook"]:
        return text
    page = "../" + row["notebook"].removesuffix(".ipynb") + ".html"
    return f'<a href="{page}#{row["anchor"]}">{text}</a>'


def title(path):
    """A chapter's title: its first heading."""
    for cell in read(path).cells:
        if cell.cell_type == "markdown":
            match = re.search(r"^# +(.+)$", cell.source, re.MULTILINE)
            if match:
                return match.group(1).strip()
    raise ChapterProblem(f"{path.name} has no title (a first heading)")


def table(header, rows):
    """A markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


# ------------------------------------------------------------------ claims page


def claims_page(ledger, titles):
    """The text of `book/claims.md`.

    Parameters
    ----------
    ledger : list of dict
        As from `kvlib.claims.read_ledger`.
    titles : dict
        Chapter ("7", "7b") to (path from the repository, title), of the chapters there are.
    """
    paper = [row for row in ledger if row["kind"] == "paper"]
    results = [row for row in ledger if row["kind"] != "paper"]
    text = [INTRODUCTION, "## What the paper claims\n", tally(paper) + "\n"]
    text += sections(paper, titles)
    text += ["## What the book derives\n", tally(results) + "\n"]
    text += sections(results, titles)
    text += seeds_section(ledger)
    return "\n".join(text).rstrip("\n") + "\n"


def tally(rows):
    """How many rows have which verdict."""
    verdicts = [row["verdict"] for row in rows]
    kinds = sorted(set(verdicts), key=lambda kind: (kind == NOT_TESTED, kind))
    parts = [f"{verdicts.count(kind)} {kind.lower()}" for kind in kinds]
    return f"{len(rows)} in all: {', '.join(parts)}."


def sections(rows, titles):
    """One table for the rows of each chapter."""
    ordered = sorted(rows, key=lambda row: (reading_order(chapter_of(row)), row["id"]))
    for chapter, group in groupby(ordered, key=chapter_of):
        if chapter in titles:
            path, name = titles[chapter]
            yield f"### Chapter {chapter}: [{name}](../{path})\n"
        else:
            yield f"### To be tested in chapter {chapter}\n"
        yield ":::{div} kv-claims"
        yield claims_table(list(group))
        yield ":::\n"


def chapter_of(row):
    """The chapter that judged a claim ("7", "7b", "A1"), or the one that will."""
    return label(Path(row["notebook"])) if row["notebook"] else str(row["chapter"])


def reading_order(chapter):
    """Key that sorts "7", "7b", "10" and "A1" as the book does."""
    number = re.match(r"\d+", chapter)
    return (int(number[0]) if number else math.inf, chapter)


def claims_table(rows):
    """The rows of one chapter."""
    paper = rows[0]["kind"] == "paper"
    header = ["verdict", "claim" if paper else "result", "predicted", "measured"]
    return table(header, [claim_row(row) for row in rows])


def claim_row(row):
    """One row of the claims page, which cross references can name by its id."""
    statement = escape(row["statement"])
    place = "; ".join(escape(row[key]) for key in ("published", "place") if row[key])
    if place:
        statement += f"<br><small>{'Paper: ' if row['kind'] == 'paper' else ''}{place}</small>"
    name = f'<strong id="{row["id"].lower()}">{row["id"]}</strong><br>{badge(row)}'
    if seeds_tried(row):
        name += f"<br><small>{seeds_in_words(row)}</small>"
    return [name, statement, escape(row["prediction"]), measured(row)]


# ------------------------------------------------------------- verdicts under other seeds


def seeds_tried(row):
    """What is known of a row's verdict under other seeds, or None."""
    return row.get("stability")


def seeds_in_words(row):
    """How a verdict fared under other seeds, linked to the table of all."""
    known = seeds_tried(row)
    total = len(known["seeds"]) + 1
    alike = not known["stale"] and set(known["verdicts"]) == {known["page"]}
    text = f"on all {total} seeds" if alike else escape(known["summary"])
    return f'<a href="claims.html#seeds">{text}</a>'


def seeds_section(ledger):
    """The table of verdicts by seed; nothing where no seed was tried."""
    rows = [row for row in ledger if seeds_tried(row)]
    if not rows:
        return
    tried = sorted({seed for row in rows for seed in seeds_tried(row)["seeds"]})
    yield SEEDS.format(first=tried[0], last=tried[-1])
    yield f"{seeds_tally(rows)}\n"
    legend = ", ".join(f"{mark(kind)} {kind.lower()}" for kind in MARKS)
    yield f"{legend}.\n"
    yield ":::{div} kv-seeds"
    yield table(["claim", "by seed", "checks that move"], [seeds_row(row) for row in rows])
    yield ":::\n"


def seeds_tally(rows):
    """How many verdicts are the same under all seeds, depend on the seed, or are out of date."""
    stale = [row for row in rows if seeds_tried(row)["stale"]]
    fresh = [row for row in rows if not seeds_tried(row)["stale"]]
    flip = [r for r in fresh if set(seeds_tried(r)["verdicts"]) != {seeds_tried(r)["page"]}]
    alike = (
        f"Of {len(rows)} verdicts {len(fresh) - len(flip)} are the same under all of their seeds."
    )
    parts = {"Depending on the seed": flip, "Tried on an earlier version of the chapter": stale}
    named = [f" {text}: {', '.join(row['id'] for row in of)}." for text, of in parts.items() if of]
    return alike + "".join(named)


def mark(verdict, title=None):
    """One verdict as a letter in its colour."""
    css = verdict.lower().replace(" ", "-")
    text = f' title="{title}"' if title else ""
    return f'<span class="kv-badge {css}"{text}>{MARKS[verdict]}</span>'


def seeds_row(row):
    """One row of the table of verdicts by seed."""
    known = seeds_tried(row)
    own = mark(known["page"], f"the page's own seed: {known['page']}")
    pairs = zip(known["seeds"], known["verdicts"], strict=True)
    others = " ".join(mark(verdict, f"seed {seed}: {verdict}") for seed, verdict in pairs)
    moved = [f"{escape(label)}: {letters(v)}" for label, v in known["moved"].items()]
    text = "<br>".join(moved) or "none"
    if known["stale"]:
        text = f"*tried on an earlier version of the chapter*<br>{text}"
    link = f'<a href="claims.html#{row["id"].lower()}">{row["id"]}</a>'
    return [link, f"{own}&ensp;{others}", text]


def letters(verdicts):
    """Verdicts of one check, one letter a seed."""
    return "".join(MARKS[verdict] for verdict in verdicts)


# --------------------------------------------------------- tables between markers


def front_table(ledger):
    """The front page's table: each claim of the paper and its verdict."""
    paper = [row for row in ledger if row["kind"] == "paper"]
    rows = []
    for row in paper:
        link = f'<a href="claims.html#{row["id"].lower()}">{row["id"]}</a>'
        seeds = ""
        if seeds_tried(row) and row["verdict"] != seeds_tried(row)["page"]:
            seeds = f"<br><small>{seeds_in_words(row)}</small>"
        rows.append([link, escape(row["statement"]), badge(row) + seeds])
    return f"{tally(paper)}\n\n:::{{div}} kv-front\n{table(['', 'claim', 'verdict'], rows)}\n:::"


def chapter_table(ledger, folder, times):
    """The README's table: chapter, claims with verdicts, run time."""
    rows = []
    for path in chapters(folder):
        place = path.relative_to(folder).as_posix()
        judged = [row for row in ledger if row["notebook"] == place]
        claims = ", ".join(row["id"] for row in judged) or "—"
        verdicts = "<br>".join(f"{row['id']} {in_words(row)}" for row in judged) or "—"
        seconds = times.get("chapters", {}).get(path.name)
        shown = "—" if seconds is None else f"{seconds:.0f} s"
        name = f"{label(path)}. [{title(path)}]({place})"
        rows.append([name, claims, verdicts, shown])
    waiting = [row["id"] for row in ledger if row["verdict"] == NOT_TESTED]
    text = table(["chapter", "judges", "verdict", "run time"], rows)
    if waiting:
        text += f"\n\nNot yet tested: {', '.join(waiting)}."
    return text


def in_words(row):
    """A verdict, with the seeds that changed it."""
    known = seeds_tried(row)
    if known and row["verdict"] != known["page"]:
        return f"{row['verdict']} ({known['summary']})"
    return row["verdict"]


def times_table(root, times):
    """The run times of the chapters, as `make times` measured them."""
    if not times:
        return "Run times have not been measured yet (`make times`)."
    rows = [
        [f"[{title(path)}](../{path.relative_to(root).as_posix()})", f"{seconds:.1f} s"]
        for path in chapters(root)
        if (seconds := times["chapters"].get(path.name)) is not None
    ]
    rows.append([f"all together, on {times['cores']} cores", f"{times['together']:.1f} s"])
    heading = f"Measured with Python {times['python']}, each chapter alone in a fresh process."
    return f"{heading}\n\n{table(['chapter', 'run time'], rows)}"


def fill(text, name, content):
    """Text with what stands between the two markers of a name replaced.

    Raises
    ------
    ChapterProblem
        If the markers are not there, once each.
    """
    begin, end = MARK.format(name=name), END.format(name=name)
    if text.count(begin) != 1 or text.count(end) != 1:
        raise ChapterProblem(f"the markers of the generated part {name!r} are missing or repeated")
    before, _, rest = text.partition(begin)
    return f"{before}{begin}\n{content}\n{end}{rest.partition(end)[2]}"


# ------------------------------------------------------- numbers and figures elsewhere

GLUE = re.compile(r"(<!-- glue: (\w+)::([\w-]+)(?::(\S+))? -->).*?(<!-- /glue -->)", re.DOTALL)
RECORD = "application/papermill.record/text/plain"
FIGURE = re.compile(r"\bfigures/(fig-[\w-]+)\.png")


def outputs(path):
    """(cell, output) of every output of a notebook."""
    cells = [cell for cell in read(path).cells if cell.cell_type == "code"]
    return [(cell, output) for cell in cells for output in cell.outputs]


def glued(folder, stem, name):
    """A value that a chapter glued.

    Raises
    ------
    ChapterProblem
        If there is no such chapter, or it glues nothing of that name.
    """
    path = folder / "notebooks" / f"{stem}.ipynb"
    if path.exists():
        for _, output in outputs(path):
            if output.get("metadata", {}).get("scrapbook", {}).get("name") == name:
                return ast.literal_eval(output.data[RECORD])
    raise ChapterProblem(f"no value {name!r} is glued in notebooks/{stem}.ipynb")


def fill_numbers(text, folder):
    """Text with the number between each pair of glue comments written anew."""

    def replace(match):
        begin, stem, name, form, end = match.groups()
        return f"{begin}{glued(folder, stem, name):{form or ''}}{end}"

    return GLUE.sub(replace, text)


def figures(folder, texts):
    """Path to content of the figures that some texts show.

    Raises
    ------
    ChapterProblem
        If no chapter draws a figure of that name.
    """
    wanted = sorted({name for text in texts for name in FIGURE.findall(text)})
    if not wanted:
        return {}
    drawn = {}
    for path in chapters(folder):
        for cell, output in outputs(path):
            name = cell.metadata.get("mystnb", {}).get("figure", {}).get("name")
            if name and "image/png" in output.get("data", {}):
                drawn[name] = base64.b64decode(output.data["image/png"])
    missing = [name for name in wanted if name not in drawn]
    if missing:
        raise ChapterProblem(f"no chapter draws {', '.join(missing)}, shown from book/figures/")
    return {folder / "book" / "figures" / f"{name}.png": drawn[name] for name in wanted}


# ------------------------------------------------------------------------- all of it


def generated(folder):
    """Path to content (bytes) of every generated page of a book, as it should be now."""
    from kvbook.ledger import read_ledger

    try:
        ledger = read_ledger(folder / "notebooks", folder / "book" / STABILITY)
    except ValueError as error:
        raise ChapterProblem(f"the ledger: {error}") from error
    times = read_times(folder)
    titles = {
        label(path): (path.relative_to(folder).as_posix(), title(path)) for path in chapters(folder)
    }
    readme, reproduce = folder / "README.md", folder / "book" / "reproduce.md"
    front = folder / "book" / "index.md"
    wanted = {folder / "book" / "claims.md": claims_page(ledger, titles)}
    if readme.exists():
        text = fill(readme.read_text("utf-8"), "chapters", chapter_table(ledger, folder, times))
        wanted[readme] = fill_numbers(text, folder)
    if front.exists():
        wanted[front] = fill(front.read_text("utf-8"), "verdicts", front_table(ledger))
    if reproduce.exists():
        text = reproduce.read_text("utf-8")
        wanted[reproduce] = fill(text, "times", times_table(folder, times))
    prose = [path.read_text("utf-8") for path in (folder / "book").glob("*.md")]
    pictures = figures(folder, [*prose, wanted.get(readme, "")])
    return {path: text.encode() for path, text in wanted.items()} | pictures


def outdated(folder):
    """Generated pages that are not what the notebooks say."""
    return [
        path
        for path, content in generated(folder).items()
        if not path.exists() or path.read_bytes() != content
    ]


def main(argv=None):
    """Entry point of the step between execution and build."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=ROOT, help="the repository")
    parser.add_argument("--parameters", default="", help="those of the run whose pages to write")
    parser.add_argument("--check", action="store_true", help="write nothing, fail if not current")
    options = parser.parse_args(argv)
    try:
        run = Run(options.root.resolve(), parameters.parse(options.parameters))
        if run.parameters:
            stage(run)
        if options.check:
            names = [path.relative_to(run.folder).as_posix() for path in outdated(run.folder)]
            if names:
                raise ChapterProblem(f"not current, run `make book`: {', '.join(names)}")
            return 0
        for path, content in generated(run.folder).items():
            if write_if_changed(path, content):
                print(f"pages: {path.relative_to(run.folder)} written")
    except ChapterProblem as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
