"""Build the book from the executed notebooks, every warning an error.

The pages are built afresh beside the old ones and replace them only when all went well:
incremental builds miss removed labels and chapters, and a failed one leaves half a book.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from kvbook.build import parameters
from kvbook.build.chapters import ROOT, ChapterProblem, Run
from kvbook.build.command import building, obey
from kvbook.build.isolation import isolated
from kvlib.files import write_atomically

STAGED = ("_config.yml", "_toc.yml", "book")
_FRESH = "fresh-"


def stage(run: Run) -> None:
    """Lay prose and settings next to the notebooks of a run with parameters of its own."""
    for name in STAGED:
        source, target = run.root / name, run.folder / name
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True)
        else:
            shutil.copy2(source, target)


def build(folder: Path) -> Path:
    """Build the book that lies in a folder, into `_build/html` there.

    Returns
    -------
    Path
        The book's first page.

    Raises
    ------
    ChapterProblem
        If Sphinx warned about anything.
    """
    place = folder / "_build"
    place.mkdir(parents=True, exist_ok=True)
    for left in place.glob(f"{_FRESH}*"):  # by a build that was killed
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=_FRESH, dir=place) as fresh:
        made = _sphinx(folder, Path(fresh))
        old, target = Path(fresh) / "old", place / "html"
        if target.exists():
            target.rename(old)
        made.rename(target)
    return target / "index.html"


def _sphinx(folder: Path, fresh: Path) -> Path:
    """The built pages' folder below `fresh`; what Sphinx said goes to `_build/logs/book.log`."""
    start = "import sys; from jupyter_book.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", start, "build", str(folder)]
    command += ["--all", "-W", "-n", "--keep-going", "--path-output", str(fresh)]
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        env=isolated(ROOT),
    )
    made = fresh / "_build" / "html"
    log = folder / "_build" / "logs" / "book.log"
    write_atomically(log, done.stdout)
    if done.returncode or not (made / "index.html").is_file():
        raise ChapterProblem(f"the book does not build:\n{complaints(done.stdout)}\n(all: {log})")
    return made


def complaints(output: str) -> str:
    """The warnings and errors of a build without colours, or its last lines."""
    lines = re.sub(r"\x1b\[[\d;]*m", "", output).splitlines()
    found = [line for line in lines if re.search(r"WARNING|ERROR|CRITICAL|^[\w.]+Error: \S", line)]
    return "\n".join(found or lines[-30:])


def render(run: Run) -> None:
    """Build the book of a run and say where it lies."""
    begin = time.monotonic()
    index = build(run.folder).relative_to(run.root)
    seconds = time.monotonic() - begin
    print(f"book: built in {seconds:.0f} s without a warning; open {index}")


def command(options: argparse.Namespace) -> int:
    """Do what the command line asks."""
    run = Run(options.root.resolve(), parameters.parse(options.parameters))
    with building(run.root):
        render(run)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `make html`."""
    parser = argparse.ArgumentParser(description="Build the book from the executed notebooks.")
    parser.add_argument("--root", type=Path, default=ROOT, help="the repository")
    parser.add_argument("--parameters", default="", help="those of the run to build")
    options = parser.parse_args(argv)
    return obey(lambda: command(options))


if __name__ == "__main__":
    sys.exit(main())
