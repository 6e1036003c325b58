"""Build the book from the executed notebooks, every warning an error.

The pages are built afresh beside the old ones and replace them only when all went well:
incremental builds miss removed labels and chapters, and a failed one leaves half a book.
"""

import argparse
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from kvbook.build import parameters
from kvbook.build.chapters import ROOT, ChapterProblem, Run, write_atomically

STAGED = ("_config.yml", "_toc.yml", "book")


def stage(run):
    """Lay prose and settings next to the notebooks of a run with parameters of its own."""
    for name in STAGED:
        source, target = run.root / name, run.folder / name
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True)
        else:
            shutil.copy2(source, target)


def build(folder):
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
    fresh = folder / "_build" / "fresh"
    shutil.rmtree(fresh, ignore_errors=True)
    start = "import sys; from jupyter_book.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", start, "build", str(folder)]
    command += ["--all", "-W", "-n", "--keep-going", "--path-output", str(fresh)]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    made = fresh / "_build" / "html"
    log = folder / "_build" / "logs" / "book.log"
    write_atomically(log, done.stdout)
    if done.returncode or not (made / "index.html").is_file():
        raise ChapterProblem(f"the book does not build:\n{complaints(done.stdout)}\n(all: {log})")
    target = folder / "_build" / "html"
    shutil.rmtree(target, ignore_errors=True)
    made.rename(target)
    shutil.rmtree(fresh, ignore_errors=True)
    return target / "index.html"


def complaints(output):
    """The warnings and errors of a build without colours, or its last lines."""
    lines = re.sub(r"\x1b\[[\d;]*m", "", output).splitlines()
    found = [line for line in lines if re.search(r"WARNING|ERROR|CRITICAL|^[\w.]+Error: \S", line)]
    return "\n".join(found or lines[-30:])


def main(argv=None):
    """Entry point of the last step of `make book`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=ROOT, help="the repository")
    parser.add_argument("--parameters", default="", help="those of the run to build")
    options = parser.parse_args(argv)
    begin = time.monotonic()
    try:
        root = options.root.resolve()
        run = Run(root, parameters.parse(options.parameters))
        index = build(run.folder)
    except ChapterProblem as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    seconds = time.monotonic() - begin
    print(f"book: built in {seconds:.0f} s without a warning; open {index.relative_to(root)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
