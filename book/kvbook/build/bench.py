"""`make bench`: an environment of its own, the stages one after the other, one file of rows.

Only the standard library here: the stages run in the environment that this makes. Each stage is
a process of its own, because some packages fix their number of threads when they are imported.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from kvbook.build import environment

ROOT = environment.ROOT
REQUIREMENTS = ROOT / "book" / "kvbook" / "bench" / "requirements.txt"
BUILD = ROOT / "_build"
VENV = BUILD / "bench-venv"
STAMP = VENV / "bench.json"

# Name, threads, whether it runs unless asked for, what it does.
STAGES = {
    "codec-1": (1, True, "encode, decode and sketch on one thread, every package"),
    "codec-2": (2, True, "the same on two threads, packages that have threads"),
    "sizes": (1, True, "encode at 10^4 to 10^7 vectors of 32 to 1024 coordinates"),
    "inputs": (1, True, "error on outliers and sparse vectors"),
    "kl": (1, True, "accuracy and time of the KL divergence"),
    "permutation": (1, True, "energy test at 500 to 4000 points"),
    "null": (1, True, "how often a true null hypothesis is rejected"),
    "sweep": (1, False, "a sweep of 20,000 cells: one worker, two, Dask, killed and resumed"),
}


@dataclass(frozen=True)
class Section:
    """A part of requirements.txt that is installed by itself."""

    name: str
    apart: bool
    lines: tuple[str, ...]


def sections(text: str) -> list[Section]:
    """Sections of the requirements file, in order.

    Parameters
    ----------
    text : str
        Lines under headings such as ``# section: NAME`` or ``# section: NAME, apart``.
    """
    found: list[tuple[str, bool, list[str]]] = []
    for line in text.splitlines():
        if line.startswith("# section:"):
            name, _, apart = line.partition(":")[2].strip().partition(", ")
            found.append((name, apart == "apart", []))
        elif line.strip() and not line.startswith("#") and found:
            found[-1][2].append(line.strip())
    return [Section(name, apart, tuple(lines)) for name, apart, lines in found]


def install(section: Section, venv: Path = VENV) -> str:
    """Install one section; returns an empty string, or what went wrong."""
    wanted = BUILD / "bench-requirements.txt"
    wanted.write_text("\n".join(section.lines) + "\n", encoding="utf-8")
    command = [*environment.pip(venv), "--retries", "1", "-r", wanted]
    if section.apart:
        command += ["--no-deps", "--upgrade", "--target", venv / "peers" / section.name]
    done = subprocess.run(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    wanted.unlink()
    lines = done.stdout.strip().splitlines()
    errors = [line for line in lines if line.startswith("ERROR")] or lines[-1:]
    return (errors[0] if errors else "pip failed") if done.returncode else ""


def prepare(venv: Path = VENV) -> dict[str, str]:
    """Make or complete the environment; returns what could not be installed, with reasons."""
    wanted = sections(REQUIREMENTS.read_text(encoding="utf-8"))
    have: dict[str, list[str]] = {}
    if STAMP.exists():
        have = json.loads(STAMP.read_text(encoding="utf-8"))
    else:
        interpreter = environment.choose_interpreter()
        environment.require_venv(interpreter)
        print("bench: making _build/bench-venv (once; a few minutes, 1.8 GB)", flush=True)
        environment.call([interpreter, "-m", "venv", "--clear", venv], "making bench-venv")
    missing = {}
    for section in wanted:
        if have.get(section.name) == list(section.lines):
            continue
        print(f"bench: installing {section.name}", flush=True)
        problem = install(section, venv)
        if problem and section.name == "kvlib":
            raise environment.EnvironmentProblem(f"what kvlib needs is not to be had: {problem}")
        if problem:
            print(f"bench: {section.name} cannot be installed, left out: {problem}", flush=True)
            missing[section.name] = problem
            have.pop(section.name, None)
        else:
            have[section.name] = list(section.lines)
        STAMP.write_text(json.dumps(have, indent=1) + "\n", encoding="utf-8")
    return missing


def stage_environment(threads: int) -> dict[str, str]:
    """Variables of a stage's process: its threads, and the packages of this checkout."""
    packages = os.pathsep.join([str(ROOT), str(ROOT / "book")])
    changed = dict(os.environ, PYTHONPATH=packages, PYTHONHASHSEED="0")
    for library in ("OMP", "OPENBLAS", "MKL", "RAYON", "NUMBA", "KVLIB"):
        changed[library + "_NUM_THREADS"] = str(threads)
    changed.pop("KVLIB_KERNELS", None)
    return changed


def stage_command(name: str, *options: str) -> list[str]:
    """The command of one stage."""
    command = [str(VENV / "bin" / "python"), "-m", "kvbook.bench.stages", name]
    return [*command, "--folder", str(BUILD / "bench"), *options]


def run_stage(name: str, options: argparse.Namespace) -> int:
    """One stage in a process of its own; returns its exit status."""
    command = stage_command(name, *["--quick"] * options.quick)
    process = subprocess.Popen(command, env=stage_environment(STAGES[name][0]), cwd=ROOT)
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.wait()  # the signal reached it too: it stores what is finished
        raise


def merge(missing: dict[str, str]) -> None:
    """Put the stages' rows into _build/bench.json, and print what they show."""
    command = stage_command("summary", "--missing", json.dumps(missing))
    subprocess.run(command, env=stage_environment(1), cwd=ROOT, check=False)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Options of the command line."""
    listed = "\n".join(f"  {name:<12} {entry[2]}" for name, entry in STAGES.items())
    parser = argparse.ArgumentParser(
        description="Time kvlib beside other packages (`make bench`).",
        epilog=f"stages (all but sweep by default):\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--stages", nargs="*", default=[], metavar="STAGE", help="only these")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it works")
    options = parser.parse_args(argv)
    options.stages = [name for given in options.stages for name in given.split()]
    unknown = sorted(set(options.stages) - set(STAGES))
    if unknown:
        parser.error(f"no such stage: {', '.join(unknown)}; there are {', '.join(STAGES)}")
    return options


def run_stages(chosen: Sequence[str], options: argparse.Namespace) -> int:
    """Every stage in turn; returns the exit status."""
    status = 0
    for name in chosen:
        print(f"\nbench: {name}: {STAGES[name][2]}", flush=True)
        if run_stage(name, options):
            print(f"bench: {name} failed; the rest goes on", file=sys.stderr)
            status = 1
    return status


def compare(options: argparse.Namespace) -> int:
    """Do what the command line asks; returns the exit status."""
    chosen = options.stages or [name for name, entry in STAGES.items() if entry[1]]
    begin = time.time()
    missing: dict[str, str] = {}
    try:
        (BUILD / "bench").mkdir(parents=True, exist_ok=True)
        missing = prepare()
        if not options.stages:  # a whole run starts from nothing; named stages join the others
            for old in (BUILD / "bench").glob("*.json"):
                old.unlink()
        status = run_stages(chosen, options)
    except KeyboardInterrupt:
        print("\nbench: interrupted; finished rows are kept", file=sys.stderr)
        if not STAMP.exists():
            return 130
        status = 130
    merge(missing)
    print(f"bench: {time.time() - begin:.0f} s; rows in _build/bench.json")
    return status


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `make bench`."""
    options = parse(argv)
    return environment.status_of(lambda: compare(options))


if __name__ == "__main__":
    sys.exit(main())
