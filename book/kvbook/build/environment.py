"""Make the environment of the book, `.venv` or another folder, and keep it current.

Needs nothing but the standard library, and runs under old interpreters too: its first duty is
to say clearly what is missing. The file `environment.json` in it is written last, so that an
environment whose making was interrupted is never taken for a whole one.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

TYPE_CHECKING = False  # typing's own would have to be imported
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

OLDEST, NEWEST = (3, 11), (3, 13)
ROOT = Path(__file__).resolve().parents[3]
STAMP = "environment.json"


class EnvironmentProblem(Exception):
    """Something the user has to put right; the message says what and how."""


def supported(version: "Sequence[int]") -> bool:
    """Whether this (major, minor, ...) is an interpreter the pinned packages are made for."""
    return OLDEST <= tuple(version[:2]) <= NEWEST


def names(oldest: "tuple[int, int]" = OLDEST, newest: "tuple[int, int]" = NEWEST) -> "list[str]":
    """The names under which a supported interpreter may be installed, newest first."""
    return ["python3.%d" % minor for minor in range(newest[1], oldest[1] - 1, -1)]  # noqa: UP031


def version_of(interpreter: "str | Path") -> "tuple[int, ...]":
    """An interpreter's (major, minor); empty if it does not start."""
    try:
        told = subprocess.run(
            [str(interpreter), "-c", "import sys; print(*sys.version_info[:2])"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            check=False,
        ).stdout.split()
        return tuple(int(part) for part in told)
    except (OSError, ValueError):
        return ()


def works(interpreter: str) -> bool:
    """Whether an interpreter starts and is supported (a launcher on the PATH may be neither)."""
    return supported(version_of(interpreter))


def choose_interpreter(
    given: "Sequence[int] | None" = None,
    which: "Callable[[str], str | None]" = shutil.which,
    usable: "Callable[[str], bool]" = works,
) -> str:
    """Path of a supported interpreter: this one, or another on the PATH.

    Raises
    ------
    EnvironmentProblem
        If neither this interpreter nor any other found is supported.
    """
    version = tuple(sys.version_info[:2]) if given is None else given
    if supported(version):
        return sys.executable
    for name in names():
        found = which(name)
        if found and usable(found):
            return found
    raise EnvironmentProblem(
        "This book needs Python 3.11, 3.12 or 3.13, and this interpreter is {}.{}.\n"
        "Install one of these and repeat, or name it: make book PYTHON=/path/to/python3.12".format(
            *version[:2]
        )
    )


def require_venv(interpreter: "str | Path", run: "Callable[..., Any]" = subprocess.run) -> None:
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


def fingerprint(root: Path, venv: Path, python: str) -> "dict[str, str]":
    """Hashes of what the environment is made from, its place and its version of Python.

    Virtual environments hold absolute paths, so one that was moved must be made again.
    """

    def digest(name: str) -> str:
        return hashlib.sha256((root / name).read_bytes()).hexdigest()

    return {
        "requirements.txt": digest("requirements.txt"),
        "pyproject.toml": digest("pyproject.toml"),
        "place": str(venv),
        "python": python,
    }


def read_stamp(venv: Path) -> "dict[str, str] | None":
    """What the environment was made from, or None where its making never ended."""
    try:
        stamp = json.loads((venv / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return stamp if isinstance(stamp, dict) else None


def needed(venv: Path, wanted: "dict[str, str]") -> str:
    """Which steps are due: "nothing", "package" (kvlib alone) or "everything"."""
    stamp = read_stamp(venv)
    if stamp is None or not (venv / "bin" / "python").exists():
        return "everything"
    if any(stamp.get(key) != wanted[key] for key in ("requirements.txt", "place", "python")):
        return "everything"
    return "nothing" if stamp.get("pyproject.toml") == wanted["pyproject.toml"] else "package"


def call(command: "Sequence[str | Path]", what: str) -> None:
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


def make_venv(venv: Path, root: Path, interpreter: str) -> None:
    """Make the environment anew and install every pinned package, whose hash must be the known."""
    require_venv(interpreter)
    count = sum("==" in line for line in (root / "requirements.txt").read_text().splitlines())
    print(f"environment: making {venv.name}, installing {count} pinned packages (about a minute)")
    sys.stdout.flush()
    call([interpreter, "-m", "venv", "--clear", venv], f"making {venv.name}")
    command = [*pip(venv), "--require-hashes", "-r", root / "requirements.txt"]
    call(command, "installing requirements.txt")


def pip(venv: Path) -> "list[str | Path]":
    """The command that installs into the environment."""
    quiet = ["--quiet", "--disable-pip-version-check", "--no-input"]
    return [venv / "bin" / "python", "-m", "pip", "install", *quiet]


def ensure(root: Path = ROOT, venv: "Path | None" = None, named: bool = False) -> str:
    """Bring the environment up to date with requirements.txt and pyproject.toml.

    Parameters
    ----------
    root : Path
        The repository.
    venv : Path, optional
        The environment, if not `.venv`.
    named : bool
        Whether the user named this interpreter: then the environment must have its version, and
        is made anew if it has another. Otherwise any supported one will do.

    Returns
    -------
    str
        What was due, see :func:`needed`.
    """
    venv = root / ".venv" if venv is None else venv
    has = version_of(venv / "bin" / "python")
    which = (lambda name: None) if named else shutil.which
    interpreter = choose_interpreter(which=which) if named or not supported(has) else ""
    version = version_of(interpreter) if interpreter else has
    wanted = fingerprint(root, venv, ".".join(map(str, version)))
    steps = needed(venv, wanted)
    if steps == "nothing":
        return steps
    begin = time.time()
    if steps == "everything":
        require_own(venv, root)
        interpreter = interpreter or choose_interpreter()
        wanted["python"] = ".".join(map(str, version_of(interpreter)))
    if (venv / STAMP).exists():
        (venv / STAMP).unlink()
    if steps == "everything":
        make_venv(venv, root, interpreter)
    # setuptools is pinned, so neither the build nor the dependencies need anything further.
    command = [*pip(venv), "--no-deps", "--no-build-isolation", "--editable", root]
    call(command, "installing kvlib")
    partial = venv / (STAMP + ".{}.part".format(os.getpid()))  # noqa: UP032
    partial.write_text(json.dumps(wanted, indent=1) + "\n", encoding="utf-8")
    os.replace(str(partial), str(venv / STAMP))
    print(f"environment: {venv.name} is ready after {time.time() - begin:.0f} s")
    return steps


def status_of(
    work: "Callable[[], object]",
    refused: "tuple[type[Exception], ...]" = (EnvironmentProblem,),
    stopped: str = "stopped; the same command begins again",
) -> int:
    """Do some work; returns the exit status.

    What the work returns if it is a number and otherwise 0; 1 where something is refused, 3 where
    the system refuses (disk full, no permission), 130 where it was interrupted, each with one
    message.
    """
    try:
        status = work()
        return status if isinstance(status, int) else 0
    except refused as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        print(stopped, file=sys.stderr)
        return 130


def require_own(venv: Path, root: Path) -> None:
    """Refuse to clear a folder that is no environment of this book.

    One whose making was interrupted has no stamp; it lies in the repository, as VENV is meant to.
    """
    if not venv.exists() or not any(venv.iterdir()) or (venv / STAMP).exists():
        return
    if not (venv / "pyvenv.cfg").exists() or root.resolve() not in venv.resolve().parents:
        raise EnvironmentProblem(
            f"{venv} is there and is no environment of this book; name another folder "
            "(VENV=.venv-3.13)"
        )


def main(argv: "Sequence[str] | None" = None) -> int:
    """Entry point of `make environment`."""
    parser = argparse.ArgumentParser(description="Make the book's environment, or update it.")
    parser.add_argument("--venv", default=".venv", help="its folder, from the repository")
    parser.add_argument("--named", action="store_true", help="it must have this Python's version")
    options = parser.parse_args(argv)
    for name in ("PYTHONHOME", "PYTHONPATH"):  # the user's modules are not pip's
        os.environ.pop(name, None)
    return status_of(lambda: ensure(ROOT, ROOT / options.venv, options.named))


if __name__ == "__main__":
    sys.exit(main())
