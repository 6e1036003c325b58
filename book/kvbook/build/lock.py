"""Pin requirements.txt again from pyproject.toml, for every Python and system at once."""

import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
UV = "uv==0.13.9"


def main():
    """Entry point of `make lock`."""
    place = ROOT / "_build" / "lock"
    venv.create(place, clear=True, with_pip=True)
    python = place / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", UV], check=True)
    command = [place / "bin" / "uv", "pip", "compile", "pyproject.toml"]
    command += ["--extra", "book", "--extra", "test", "--universal", "--fork-strategy", "fewest"]
    command += ["--python-version", "3.11", "--no-emit-package", "kvlib"]
    command += ["--quiet", "-o", "requirements.txt"]
    # The header of the file shows this text instead of a command with local paths.
    shown = {"UV_CUSTOM_COMPILE_COMMAND": "make lock"}
    subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, **shown})
    print("requirements.txt is pinned again; `make book` will install it")
    return 0


if __name__ == "__main__":
    sys.exit(main())
