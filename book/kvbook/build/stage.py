"""One stage of `make test`: commands in the book's surroundings, and what became of them.

    python -m kvbook.build.stage lint "ruff check ." "ruff format --check ."
    python -m kvbook.build.stage --forget              # before the first stage
    python -m kvbook.build.stage --summary lint types  # one line on all of them

A command is given without its interpreter, as for `python -m`. All commands of a stage run, even
where one fails, and none survives the stage.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kvbook.build.chapters import ROOT
from kvbook.build.command import obey
from kvbook.build.isolation import isolated, prepare, refuse_foreign_kernel
from kvlib.files import write_atomically
from kvlib.quantize.kernels.runtime import core_count

RESULTS = ROOT / "_build" / "stages"
_FEWEST_JOBS, _MOST_JOBS = 2, 8
_PATIENCE = ((signal.SIGINT, 5.0), (signal.SIGTERM, 2.0), (signal.SIGKILL, 2.0))
"""Signals to a command that has to end, and the seconds it is given after each."""


def perform(name: str, commands: Sequence[str], results: Path = RESULTS) -> int:
    """Run the commands of a stage and note its time, its skipped tests and how it ended.

    ``{jobs}`` in a command stands for the number of tests to run at a time.

    Returns
    -------
    int
        0 where all went well, otherwise 1.
    """
    print(f"\n=== {name}", flush=True)
    begin, good, skipped = time.monotonic(), True, 0
    jobs = str(min(max(_FEWEST_JOBS, core_count()), _MOST_JOBS))
    for command in commands:
        code, passed_over = _run(shlex.split(command.replace("{jobs}", jobs)))
        good, skipped = good and code == 0, skipped + passed_over
    seconds = time.monotonic() - begin
    print(f"=== {name}: {'passed' if good else 'FAILED'} in {seconds:.0f} s", flush=True)
    result = {"good": good, "seconds": seconds, "skipped": skipped}
    write_atomically(results / f"{name}.json", json.dumps(result) + "\n")
    return 0 if good else 1


def _run(command: Sequence[str]) -> tuple[int, int]:
    """Exit status of a command whose output is shown, and how many tests it skipped."""
    process = subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        stdin=subprocess.DEVNULL,
        start_new_session=True,  # so that it can be ended with all that it started
    )
    skipped = 0
    assert process.stdout is not None
    try:
        for line in process.stdout:
            sys.stdout.write(line)
            sys.stdout.flush()
            if match := re.search(r"\b(\d+) skipped\b", line):
                skipped = int(match[1])
        return process.wait(), skipped
    finally:
        _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    """End a command and whatever of its process group is left."""
    for number, seconds in _PATIENCE:
        if process.poll() is not None:
            number = signal.SIGKILL
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=seconds)
        if number == signal.SIGKILL:
            return


def summary(names: Sequence[str], results: Path = RESULTS) -> tuple[bool, str]:
    """Whether all stages held, and one line: what did not, what was skipped, how long it took."""
    found: dict[str, dict[str, Any]] = {}
    for name in names:
        with contextlib.suppress(FileNotFoundError):
            found[name] = json.loads((results / f"{name}.json").read_text(encoding="utf-8"))
    failed = [name for name in names if name in found and not found[name]["good"]]
    failed += [f"{name} (not run)" for name in names if name not in found]
    parts = [f"FAILED: {', '.join(failed)}" if failed else "PASSED"]
    parts += [f"{r['skipped']} skipped in {name}" for name, r in found.items() if r["skipped"]]
    total = sum(r["seconds"] for r in found.values())
    times = ", ".join(f"{name} {r['seconds']:.0f} s" for name, r in found.items())
    parts.append(f"{total:.0f} s" + (f" ({times})" if times else ""))
    return not failed, "; ".join(parts)


def command(options: argparse.Namespace) -> int:
    """Do what the command line asks."""
    if options.forget:
        shutil.rmtree(RESULTS, ignore_errors=True)
        return 0
    if options.summary:
        good, line = summary(options.summary)
        print(f"\n{line}")
        return 0 if good else 1
    surroundings = isolated(ROOT)
    os.environ.clear()
    os.environ.update(surroundings)
    prepare(ROOT)
    refuse_foreign_kernel("python3")
    return perform(options.name, options.commands)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the targets of `make test`."""
    parser = argparse.ArgumentParser(description="Run one stage of `make test`.")
    parser.add_argument("--forget", action="store_true", help="forget what became of the stages")
    parser.add_argument("--summary", nargs="+", metavar="NAME", help="say what became of these")
    parser.add_argument("name", nargs="?", help="name of the stage")
    parser.add_argument("commands", nargs="*", help="commands without their interpreter")
    options = parser.parse_args(argv)
    if not (options.forget or options.summary or options.commands):
        parser.error("a stage needs a name and commands")
    return obey(lambda: command(options))


if __name__ == "__main__":
    sys.exit(main())
