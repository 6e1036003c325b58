"""`make book`: execute what changed, write the pages read off it, build the book; one lock."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from kvbook.build import execute, pages, parameters, render
from kvbook.build.chapters import ROOT, Run
from kvbook.build.command import building, obey
from kvlib.quantize.kernels.runtime import core_count


def command(options: argparse.Namespace) -> int:
    """Do what the command line asks."""
    run = Run(options.root.resolve(), parameters.parse(options.parameters))
    with building(run.root):
        execute.update(run, options.jobs)
        pages.write(run)
        render.render(run)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `make book`."""
    parser = argparse.ArgumentParser(description="Execute what changed, then build the book.")
    parser.add_argument("--root", type=Path, default=ROOT, help="the repository")
    parser.add_argument("--parameters", default="", help='such as "seed=7 trials=100"')
    parser.add_argument("--jobs", type=int, default=core_count(), help="chapters at a time")
    options = parser.parse_args(argv)
    return obey(lambda: command(options))


if __name__ == "__main__":
    sys.exit(main())
