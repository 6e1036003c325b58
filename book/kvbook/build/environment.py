"""Make `.venv`, the environment of the book, and keep it current.

Needs nothing but the standard library, and runs under old interpreters too: its first duty is
to say clearly what is missing. The file `.venv/environment.json` is written last, so that an
environment whose making was interrupted is never taken for a whole one.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

OLDEST, NEWEST = (3, 11), (3, 13)
ROOT = Path(__file__).resolve().parents[3]
STAMP = "environment.json"


class EnvironmentProblem(Exception):
    """Something the user has to put right; the message says what and how."""


def supported(version):
    """Whether this (major, minor, ...) is an interpreter the pinned packages are made for."""
    return OLDEST <= tuple(version[:2]) <= NEWEST


def names(oldest=OLDEST, newest=NEWEST):
    """The names under which a supported interpreter may be installed, newest first."""
    return ["python3.%d" % minor for minor in range(newest[1], oldest[1] - 1, -1)]  # noqa: UP031


def works(interpreter):
    """Whether an interpreter starts and is supported (a launcher on the PATH may be neither)."""
    try:
        told = subprocess.run(
            [interpreter, "-c", "import sys; print(*sys.version_info[:2])"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            check=False,
        ).stdout.split()
        return supported(tuple(int(part) for part in told))
    except (OSError, ValueError):
        return False


def choose_interpreter(version=None, which=shutil.which, usable=works):
    """Path of a supported interpreter: this one, or another on the PATH.

    Raises
    ------
    EnvironmentProblem
        If neither this interpreter nor any other found is supported.
    """
    version = sys.version_info if version is None else version
    if supported(version):
        return sys.executable
    for name in names():
        found = which(name)
        if found and usable(found):
            return found
    raise EnvironmentProblem(
        "This book needs Python 3.11, 3.12 or 3.13, and `python3` here is {}.{}.\n"
        "Install one of these and repeat, or name it: make book PYTHON=/path/to/python3.12".format(
            *version[:2]
        )
    )


def require_venv(interpreter, run=subprocess.run):
    """Refuse early where the interpreter cannot make a virtual environment with pip in it."""
    probe = run(
        [str(interpreter), "-c", "import venv, ensurepip"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    if probe.returncode:
        raise EnvironmentProblem(
            f"{interpreter} cannot make virtual environments: its venv or ensurepip module is "
            "missing.\nOn Debian and Ubuntu: sudo apt-get install python3-venv (or, for one "
            "version, python3.12-venv).\nOn Fedora: sudo dnf install python3-libs. "
            "Then repeat the command."
        )


def fingerprint(root):
    """Hashes of what the environment is made from, and the place it is made for.

    Virtual environments hold absolute paths, so one that was moved must be made again.
    """

    def digest(name):
        return hashlib.sha256((root / name).read_bytes()).hexdigest()

    return {
        "requirements.txt": digest("requirements.txt"),
        "pyproject.toml": digest("pyproject.toml"),
        "place": str(root),
    }


def read_stamp(venv):
    """What the environment was made from, or None where its making never ended."""
    try:
        stamp = json.loads((venv / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return stamp if isinstance(stamp, dict) else None


def needed(venv, wanted):
    """Which steps are due: "nothing", "package" (kvlib alone) or "everything"."""
    stamp = read_stamp(venv)
    if stamp is None or not (venv / "bin" / "python").exists():
        return "everything"
    if any(stamp.get(key) != wanted[key] for key in ("requirements.txt", "place")):
        return "everything"
    return "nothing" if stamp.get("pyproject.toml") == wanted["pyproject.toml"] else "package"


def call(command, what):
    """Run one step, showing its output only when it fails."""
    done = subprocess.run(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    if done.returncode:
        tail = "\n".join(done.stdout.decode(errors="replace").strip().splitlines()[-25:])
        raise EnvironmentProblem(f"{what} failed:\n{tail}")


def make_venv(venv, root):
    """Make the environment anew and install every pinned package into it."""
    interpreter = choose_interpreter()
    require_venv(interpreter)
    count = sum("==" in line for line in (root / "requirements.txt").read_text().splitlines())
    print(f"environment: making .venv, installing {count} pinned packages (about a minute)")
    sys.stdout.flush()
    call([interpreter, "-m", "venv", "--clear", venv], "making .venv")
    call([*pip(venv), "-r", root / "requirements.txt"], "installing requirements.txt")


def pip(venv):
    """The command that installs into the environment."""
    quiet = ["--quiet", "--disable-pip-version-check", "--no-input"]
    return [venv / "bin" / "python", "-m", "pip", "install", *quiet]


def ensure(root=ROOT):
    """Bring `.venv` up to date with requirements.txt and pyproject.toml."""
    venv = root / ".venv"
    wanted = fingerprint(root)
    steps = needed(venv, wanted)
    if steps == "nothing":
        return steps
    begin = time.time()
    if (venv / STAMP).exists():
        (venv / STAMP).unlink()
    if steps == "everything":
        make_venv(venv, root)
    # setuptools is pinned, so neither the build nor the dependencies need anything further.
    editable = ["--no-deps", "--no-build-isolation", "--editable", root]
    call([*pip(venv), *editable], "installing kvlib")
    partial = venv / (STAMP + ".part")
    partial.write_text(json.dumps(wanted, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, venv / STAMP)
    print(f"environment: ready in {time.time() - begin:.0f} s")
    return steps


def main():
    """Entry point of `make environment`."""
    try:
        ensure()
    except EnvironmentProblem as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
