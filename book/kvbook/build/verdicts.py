"""Execute the chapters under further root seeds and store which verdicts they reach.

    python -m kvbook.build.verdicts --seeds 10                # every chapter with a seed
    python -m kvbook.build.verdicts --seeds 10 --chapter 7    # one; the others' entries stay

What a seed gives goes to `_build/runs/`, and a chapter is executed under a seed only where no
current result lies there: after an interruption, or a change to one chapter, the same command
does the rest. The table goes to `book/verdict_stability.json`, which the ledger reads: a
verdict, on a statement or a number, that is not the same under all seeds is INCONCLUSIVE there. A
chapter that fails under a seed does not stop the others; it counts as a verdict of its own, NO
RESULT, and is tried again the next time.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from kvbook.build import parameters
from kvbook.build.chapters import ROOT, ChapterProblem, Run, chapters, find_chapter
from kvbook.build.command import building, obey, whole
from kvbook.build.execute import (
    Task,
    Worker,
    execute_all,
    longest_first,
    progress_of,
)
from kvbook.build.staleness import load_record, snapshot, why_stale
from kvbook.ledger import read_document, read_ledger, stability, verdict_records
from kvbook.ledger.stability import Stability
from kvlib.files import write_if_changed
from kvlib.quantize.kernels.runtime import core_count

# None of these is a seed of a chapter; they were fixed before any was tried.
FIRST_SEED = 101
FEWEST = 2


# What there is to do ---------------------------------------------------------------------------


def eligible(path: Path) -> bool:
    """Whether a chapter's verdicts may depend on a root seed."""
    return "seed" in parameters.known(path)


def chosen(root: Path, chapter: str) -> list[Path]:
    """The chapters to try: all with a seed, or the one that is named.

    Raises
    ------
    ChapterProblem
        If there is none.
    """
    paths = [find_chapter(root, chapter)] if chapter else chapters(root)
    able = [path for path in paths if eligible(path)]
    if not able:
        raise ChapterProblem("no chapter to try: none of those asked for has a parameter seed")
    return able


def seeds(text: str) -> list[int]:
    """The root seeds to try, from how many there shall be.

    Raises
    ------
    ChapterProblem
        If that is no whole number, or fewer than two.
    """
    count = int(text) if text.strip().isdecimal() else 0
    if count < FEWEST:
        raise ChapterProblem(
            f"SEEDS must be a whole number, {FEWEST} or more, got {text!r} "
            "(example: make verdicts SEEDS=10)"
        )
    return list(range(FIRST_SEED, FIRST_SEED + count))


def missing(paths: Sequence[Path], runs: Iterable[Run], root: Path) -> list[Task]:
    """The chapters to execute and the runs they lack in, seed by seed, the longest first."""
    states = {path: snapshot(path, root) for path in paths}
    ordered = longest_first(paths, root)
    found = []
    for run in runs:
        record = load_record(run.record_folder)
        for path in ordered:
            if why_stale(path, run.result(path), root, record, states[path]):
                found.append((path, run))
    return found


# Execution -------------------------------------------------------------------------------------


def try_seeds(paths: Sequence[Path], runs: Sequence[Run], jobs: int) -> int:
    """Execute what is missing; returns how many chapters failed."""
    root = runs[0].root
    tasks = missing(paths, runs, root)
    there = len(paths) * len(runs) - len(tasks)
    kept = f", {there} results are there already" if there else ""
    print(f"verdicts: {len(paths)} chapters under {len(runs)} seeds{kept}", flush=True)
    if not tasks:
        return 0
    progress = progress_of(runs[0], tasks)
    failures = []

    def failed(worker: Worker, problem: ChapterProblem) -> None:
        failures.append(worker)
        # The result of an earlier version must not be taken for this one's.
        worker.run.result(worker.path).unlink(missing_ok=True)
        progress.say(f"seed {worker.run.parameters['seed']}: {problem}")

    begin = time.monotonic()
    execute_all(tasks, jobs, progress, failed)
    minutes = (time.monotonic() - begin) / 60
    print(f"verdicts: {len(tasks)} chapters executed in {minutes:.1f} min")
    return len(failures)


# The table -------------------------------------------------------------------------------------


def records(path: Path) -> dict[str, Any]:
    """Claim id to verdict record of an executed chapter; empty where there is no such file."""
    if not path.exists():
        return {}
    return {record["id"]: record for record in verdict_records(read_document(path))}


def tabulate(path: Path, runs: Iterable[Run]) -> dict[str, Stability]:
    """Claim id to `Stability` of the claims that one chapter judges."""
    document = read_document(path)
    by_seed = {run.parameters["seed"]: records(run.result(path)) for run in runs}
    return {
        name: Stability.measured(
            document, own, {seed: found.get(name) for seed, found in by_seed.items()}
        )
        for name, own in records(path).items()
    }


def store(root: Path, paths: Sequence[Path], runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Write the table anew, keeping the entries of chapters that were not tried.

    Returns
    -------
    list of dict
        The rows of the ledger that the chapters judge, seeds considered.
    """
    file = root / "book" / stability.FILE
    judged = {name for path in chapters(root) for name in records(path)}
    tried = {name for path in paths for name in records(path)}
    table = {n: e for n, e in stability.read_stability(file).items() if n in judged - tried}
    for path in paths:
        table |= tabulate(path, runs)
    write_if_changed(file, stability.dump_stability(table))
    return [row for row in read_ledger(root / "notebooks", file) if row["id"] in tried]


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Execute the chapters under further root seeds.")
    parser.add_argument("--root", type=Path, default=ROOT, help="the repository")
    parser.add_argument("--seeds", default="10", help="how many root seeds (default: 10)")
    parser.add_argument("--chapter", default="", help="number of the one chapter to try")
    parser.add_argument("--jobs", type=whole, default=core_count(), help="chapters at a time")
    return parser.parse_args(argv)


def command(options: argparse.Namespace) -> int:
    """Do what the command line asks; returns the exit status."""
    root = options.root.resolve()
    runs = [Run(root, {"seed": seed}) for seed in seeds(options.seeds)]
    with building(root):
        paths = chosen(root, options.chapter)
        failures = try_seeds(paths, runs, options.jobs)
        for row in store(root, paths, runs):
            known = row["stability"]
            number = f"; number: {known['number_summary']}" if known["number_summary"] else ""
            print(f"{row['id']}  {known['summary']}{number}")
    print(f"table: book/{stability.FILE}")
    if failures:
        raise ChapterProblem(f"{failures} runs failed, see above and _build/logs")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `make verdicts`."""
    options = arguments(argv)
    return obey(lambda: command(options))


if __name__ == "__main__":
    sys.exit(main())
