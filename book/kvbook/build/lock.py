"""Pin requirements.txt again from pyproject.toml, with hashes, for every Python and system at once.

Versions that are pinned already and still fit stay as they are.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import venv
from collections.abc import Sequence

from kvbook.build.chapters import ROOT, ChapterProblem
from kvbook.build.command import obey

UV = "uv==0.13.9"
COMPILE = (
    "pip compile pyproject.toml --extra book --extra test --universal --fork-strategy fewest "
    "--python-version 3.11 --no-emit-package kvlib --generate-hashes --quiet -o requirements.txt"
)


def pin() -> int:
    """Write requirements.txt anew."""
    place = ROOT / "_build" / "uv"
    venv.create(place, clear=True, with_pip=True)
    # The header of the file shows this text instead of a command with local paths.
    shown = {"UV_CUSTOM_COMPILE_COMMAND": "make lock"}
    try:
        subprocess.run(
            [place / "bin" / "python", "-m", "pip", "install", "--quiet", UV], check=True
        )
        subprocess.run(
            [place / "bin" / "uv", *COMPILE.split()], check=True, cwd=ROOT, env=os.environ | shown
        )
    except subprocess.CalledProcessError as error:
        raise ChapterProblem("requirements.txt is as it was: the packages' index failed") from error
    print("requirements.txt is pinned again; `make book` will install it")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `make lock`."""
    argparse.ArgumentParser(description="Pin requirements.txt again.").parse_args(argv)
    return obey(pin)


if __name__ == "__main__":
    sys.exit(main())
