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

from __future__ import annotations

import argparse
import ast
import base64
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nbformat import NotebookNode

from kvbook import ledger
from kvbook.build import parameters
from kvbook.build.chapters import ROOT, ChapterProblem, Run, chapters, label, read
from kvbook.build.command import building, obey
from kvbook.build.execute import read_times
from kvbook.build.render import stage
from kvbook.ledger import rows, stability
from kvbook.ledger.rows import Row, table
from kvbook.ledger.words import NOT_YET_TESTED
from kvlib.files import write_if_changed

MARK = "<!-- generated: {name} -->"
END = "<!-- end of generated: {name} -->"
INTRODUCTION = """\
<!-- Written by kvbook.build.pages from the executed notebooks; do not edit. -->
(claims)=
# The claims, one by one

We have read the paper's abstract, its figure captions and a public review of it, not its full
text. Statements below are in our words, after those of abstract and captions; where a definition
is not known we name the one that we chose.

Every row is read off the executed chapters. A verdict is computed by a rule that the chapter
stated before it measured, and links to the cell that computed it. A claim has one verdict on its
*statement* and, where it prints a number, one on the *number*.

- **HOLDS**: every check of the claim holds: its whole interval lies where the claim puts it.
- **HOLDS WITH EXCEPTIONS**: true as a general statement; fewer than half of its instances fail or
  stay undecided, and the row names them.
- **ONE READING ONLY**, **SOME READINGS ONLY**: the words allow several readings, and not all of
  them give it. The row says how many were tried and which hold. One is enough for the claim.
- **FAILS**; **NOT REPRODUCED** for a number: a check without which the claim is not what it says,
  or half of its instances, lie outside with their whole interval.
- **INCONCLUSIVE**: intervals straddle the boundary, or the verdict depends on the seed.
- **NOT TESTABLE HERE**: what one would need is named, and nobody here has it.

Results of the book are **CONFIRMED**, **CONFIRMED WITH EXCEPTIONS**, **REFUTED** or INCONCLUSIVE.

"9 of 12 checks hold" counts the checks inside the claim's own scope; only they decide. Checks "of
ours" go beyond it: other sketches than the paper's Gaussian one, other budgets, other data. Each
row shows one check that holds and one that fails, with intervals; the chapter's cell shows all. †
marks rules of which a tolerance or a size was settled after a pilot run.
"""

HEADINGS = {
    "paper": "What the paper claims",
    "review": "What the paper's reviewer asks",
    "result": "What the book derives",
}


def title(path: Path) -> str:
    """A chapter's title: its first heading."""
    for cell in read(path).cells:
        if cell.cell_type == "markdown":
            match = re.search(r"^# +(.+)$", cell.source, re.MULTILINE)
            if match:
                return str(match.group(1).strip())
    raise ChapterProblem(f"{path.name} has no title (a first heading)")


def claims_page(found: Sequence[Row], titles: Mapping[str, tuple[str, str]]) -> str:
    """The text of `book/claims.md`.

    Parameters
    ----------
    found : list of dict
        As from `kvbook.ledger.read_ledger`.
    titles : dict
        Chapter ("7", "A1") to (path from the repository, title), of the chapters there are.
    """
    kinds = {kind: [row for row in found if row["kind"] == kind] for kind in HEADINGS}
    text = [INTRODUCTION]
    for kind, heading in HEADINGS.items():
        text.append(f"## {heading}\n")
        numbers = [row for row in kinds[kind] if row["number_verdict"]]
        ending = f"; numbers: {rows.tally(numbers, 'number_verdict')}." if numbers else "."
        text.append(f"{rows.tally(kinds[kind])}{ending}\n")
        text += rows.sections(kinds[kind], titles)
    text += rows.seeds_section(found)
    return "\n".join(text).rstrip("\n") + "\n"


# Tables between markers ------------------------------------------------------------------------


def chapter_table(found: Sequence[Row], folder: Path, times: Mapping[str, Any]) -> str:
    """The README's table: chapter, claims with verdicts, run time."""
    lines = []
    for path in chapters(folder):
        place = path.relative_to(folder).as_posix()
        judged = [row for row in found if row["notebook"] == place]
        claims = ", ".join(row["id"] for row in judged) or "—"
        verdicts = "<br>".join(f"{row['id']} {rows.in_words(row)}" for row in judged) or "—"
        seconds = times.get("chapters", {}).get(path.name)
        shown = "—" if seconds is None else f"{seconds:.0f} s"
        lines.append([f"{label(path)}. [{title(path)}]({place})", claims, verdicts, shown])
    waiting = [row["id"] for row in found if row["verdict"] == NOT_YET_TESTED]
    text = table(["chapter", "judges", "verdict", "run time"], lines)
    return text + (f"\n\nNot yet tested: {', '.join(waiting)}." if waiting else "")


def times_table(root: Path, times: Mapping[str, Any]) -> str:
    """The run times of the chapters, as `make times` measured them."""
    if not times:
        return "Run times have not been measured yet (`make times`)."
    lines = [
        [f"[{title(path)}](../{path.relative_to(root).as_posix()})", f"{seconds:.1f} s"]
        for path in chapters(root)
        if (seconds := times["chapters"].get(path.name)) is not None
    ]
    lines.append([f"all together, on {times['cores']} cores", f"{times['together']:.1f} s"])
    heading = f"Measured with Python {times['python']}, each chapter alone in a fresh process."
    return f"{heading}\n\n{table(['chapter', 'run time'], lines)}"


def fill(text: str, name: str, content: str) -> str:
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


# Numbers and figures elsewhere -----------------------------------------------------------------

GLUE = re.compile(r"(<!-- glue: (\w+)::([\w-]+)(?::(\S+))? -->).*?(<!-- /glue -->)", re.DOTALL)
RECORD = "application/papermill.record/text/plain"
FIGURE = re.compile(r"\bfigures/(fig-[\w-]+)\.png")


def outputs(path: Path) -> list[tuple[NotebookNode, NotebookNode]]:
    """(cell, output) of every output of a notebook."""
    cells = [cell for cell in read(path).cells if cell.cell_type == "code"]
    return [(cell, output) for cell in cells for output in cell.outputs]


def glued(folder: Path, stem: str, name: str) -> Any:
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


def fill_numbers(text: str, folder: Path) -> str:
    """Text with the number between each pair of glue comments written anew."""

    def replace(match: re.Match[str]) -> str:
        begin, stem, name, form, end = match.groups()
        return f"{begin}{glued(folder, stem, name):{form or ''}}{end}"

    return GLUE.sub(replace, text)


def figures(folder: Path, texts: Iterable[str]) -> dict[Path, bytes]:
    """Path to content of the figures that some texts show.

    Raises
    ------
    ChapterProblem
        If no chapter draws a figure of that name.
    """
    wanted = sorted({name for text in texts for name in FIGURE.findall(text)})
    if not wanted:
        return {}
    drawn: dict[str, bytes] = {}
    for path in chapters(folder):
        for cell, output in outputs(path):
            name = cell.metadata.get("mystnb", {}).get("figure", {}).get("name")
            if name and "image/png" in output.get("data", {}):
                drawn[name] = base64.b64decode(output.data["image/png"])
    missing = [name for name in wanted if name not in drawn]
    if missing:
        raise ChapterProblem(f"no chapter draws {', '.join(missing)}, shown from book/figures/")
    return {folder / "book" / "figures" / f"{name}.png": drawn[name] for name in wanted}


# All of it -------------------------------------------------------------------------------------


def generated(folder: Path) -> dict[Path, bytes]:
    """Path to content of every generated page of a book, as it should be now."""
    try:
        found = ledger.read_ledger(folder / "notebooks", folder / "book" / stability.FILE)
    except ValueError as error:
        raise ChapterProblem(f"the ledger: {error}") from error
    times = read_times(folder)
    titles = {
        label(path): (path.relative_to(folder).as_posix(), title(path)) for path in chapters(folder)
    }
    readme, reproduce = folder / "README.md", folder / "book" / "reproduce.md"
    front = folder / "book" / "index.md"
    wanted = {folder / "book" / "claims.md": claims_page(found, titles)}
    if readme.exists():
        text = fill(readme.read_text("utf-8"), "chapters", chapter_table(found, folder, times))
        wanted[readme] = fill_numbers(text, folder)
    if front.exists():
        wanted[front] = fill(front.read_text("utf-8"), "verdicts", rows.front_table(found))
    if reproduce.exists():
        text = reproduce.read_text("utf-8")
        wanted[reproduce] = fill(text, "times", times_table(folder, times))
    prose = [path.read_text("utf-8") for path in (folder / "book").glob("*.md")]
    pictures = figures(folder, [*prose, wanted.get(readme, "")])
    return {path: text.encode() for path, text in wanted.items()} | pictures


def outdated(folder: Path) -> list[Path]:
    """Generated pages that are not what the notebooks say."""
    return [
        path
        for path, content in generated(folder).items()
        if not path.exists() or path.read_bytes() != content
    ]


def write(run: Run) -> None:
    """Write the generated pages of a run's book that are not current."""
    if run.parameters:
        stage(run)
    for path, content in generated(run.folder).items():
        if write_if_changed(path, content):
            print(f"pages: {path.relative_to(run.folder)} written")


def check(run: Run) -> None:
    """Refuse generated pages that are not current.

    Raises
    ------
    ChapterProblem
        If there is one.
    """
    names = [path.relative_to(run.folder).as_posix() for path in outdated(run.folder)]
    if names:
        raise ChapterProblem(f"not current, run `make book`: {', '.join(names)}")


def command(options: argparse.Namespace) -> int:
    """Do what the command line asks."""
    run = Run(options.root.resolve(), parameters.parse(options.parameters))
    if options.check:
        check(run)
        return 0
    with building(run.root):
        write(run)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `python -m kvbook.build.pages`."""
    parser = argparse.ArgumentParser(description="Write the pages that are read off the ledger.")
    parser.add_argument("--root", type=Path, default=ROOT, help="the repository")
    parser.add_argument("--parameters", default="", help="those of the run whose pages to write")
    parser.add_argument("--check", action="store_true", help="write nothing, fail if not current")
    options = parser.parse_args(argv)
    return obey(lambda: command(options))


if __name__ == "__main__":
    sys.exit(main())
