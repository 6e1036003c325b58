"""Execute the chapters under further root seeds and store which verdicts they reach.

    python -m kvbook.build.verdicts --seeds 10                # every chapter with a seed
    python -m kvbook.build.verdicts --seeds 10 --chapter 7    # one; the others' entries stay

What a seed gives goes to `_build/runs/`, and a chapter is executed under a seed only where no
current result lies there: after an interruption, or a change to one chapter, the same command
does the rest. The table goes to `book/verdict_stability.json`, which the ledger reads: a
verdict that is not the same under all seeds is INCONCLUSIVE there. A chapter that fails under a
seed does not stop the others; it counts as a verdict of its own, NO RESULT, and is tried again
the next time.
"""

import argparse
import json
import signal
import sys
import time

from kvbook.build import parameters
from kvbook.build.chapters import (
    ROOT,
    ChapterProblem,
    Run,
    chapters,
    code_cells,
    find_chapter,
    fingerprint,
    label,
    load_record,
    read,
    snapshot,
    unfinished,
    write_if_changed,
)
from kvbook.build.execute import cores, execute_all, longest_first, read_times
from kvbook.build.progress import Progress

STABILITY = "verdict_stability.json"
# None of these is a seed of a chapter; they were fixed before any was tried.
FIRST_SEED = 101
FEWEST = 2


# --------------------------------------------------------------- what there is to do


def eligible(path):
    """Whether a chapter's verdicts may depend on a root seed."""
    return not label(path).startswith("A") and "seed" in parameters.known(path)


def chosen(root, chapter):
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


def seeds(text):
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


def content(state, path):
    """What of a chapter's snapshot can change a number: contents, not times, without its text."""
    inputs = {name: entry["sha256"] for name, entry in state["inputs"].items()}
    inputs = {name: sha for name, sha in inputs.items() if not name.endswith(f"/{path.name}")}
    return state["python"], inputs


def code(notebook):
    """A notebook's code, without what papermill put in."""
    cells = code_cells(notebook)
    return [c.source for c in cells if "injected-parameters" not in c.metadata.get("tags", [])]


def current(path, run, state):
    """Whether a run holds the result of a chapter as it is now.

    Parameters
    ----------
    path : Path
        The chapter.
    run : Run
        The run with another seed.
    state : dict
        `chapters.snapshot` of the chapter, taken now.
    """
    result, entry = run.result(path), load_record(run.record_folder).get(path.name)
    if entry is None or not result.exists():
        return False
    if content(entry, path) != content(state, path):
        return False
    if entry.get("result") != fingerprint(result)["sha256"]:
        return False
    stored = read(result)
    return not unfinished(stored) and code(stored) == code(read(path))


def missing(paths, runs, root):
    """The (chapter, run) pairs to execute, seed by seed, the longest chapter first."""
    states = {path: snapshot(path, root) for path in paths}
    ordered = longest_first(paths, root)
    return [(p, run) for run in runs for p in ordered if not current(p, run, states[p])]


# ------------------------------------------------------------------------ execution


class SeedProgress(Progress):
    """One line for each seed that is finished, besides the live lines of a terminal.

    Parameters
    ----------
    stream : file object
    tasks : list of (Path, Run)
        All that is to be executed.
    expected : dict
        Chapter's file name to the seconds it takes, as far as known.
    jobs : int
        How many at a time.
    """

    width = 32

    def __init__(self, stream, tasks, expected, jobs):
        super().__init__(stream)
        self.left = [(path.name, run.parameters["seed"]) for path, run in tasks]
        self.expected = expected
        self.jobs = jobs
        self.seconds = {}

    def started(self, worker):
        """A chapter begins; nothing to say off a terminal."""
        self.rows[worker] = "starting its kernel"
        self.tick(force=True)

    def finished(self, worker, changed):
        """A chapter is stored."""
        self.ended(worker)

    def failed(self, worker, problem):
        """A chapter failed under one seed."""
        self.say(f"seed {worker.run.parameters['seed']}: {problem}")
        self.ended(worker)

    def ended(self, worker):
        """Take a chapter off the list, and say so if it was its seed's last one."""
        self.erase()
        self.rows.pop(worker, None)
        seed = worker.run.parameters["seed"]
        self.left.remove((worker.path.name, seed))
        self.seconds.setdefault(worker.path.name, []).append(worker.seconds)
        if all(other != seed for _, other in self.left):
            self.say(f"seed {seed}: done; {self.remaining()}")

    def remaining(self):
        """What is left, in words, from the run times met so far."""
        if not self.left:
            return "that was the last"

        def guess(name):
            met = self.seconds.get(name)
            return sum(met) / len(met) if met else self.expected.get(name, 20.0)

        minutes = sum(guess(name) for name, _ in self.left) / self.jobs / 60
        return f"{len(self.left)} chapters left, about {max(1, round(minutes))} min"

    def name(self, worker):
        """What a live line calls a chapter: with its seed."""
        return f"{worker.path.stem} seed {worker.run.parameters['seed']}"


def try_seeds(paths, runs, jobs, stream):
    """Execute what is missing; returns how many chapters failed."""
    root = runs[0].root
    tasks = missing(paths, runs, root)
    progress = SeedProgress(stream, tasks, read_times(root).get("chapters", {}), jobs)
    there = len(paths) * len(runs) - len(tasks)
    kept = f", {there} results are there already" if there else ""
    progress.say(f"verdicts: {len(paths)} chapters under {len(runs)} seeds{kept}")
    if tasks:
        progress.say(f"to execute: {progress.remaining()}")
    failures = []

    def failed(worker, problem):
        failures.append(worker)
        # The result of an earlier version must not be taken for this one's.
        worker.run.result(worker.path).unlink(missing_ok=True)
        progress.failed(worker, problem)

    begin = time.monotonic()
    execute_all(tasks, jobs, progress, failed)
    if tasks:
        minutes = (time.monotonic() - begin) / 60
        progress.say(f"verdicts: {len(tasks)} chapters executed in {minutes:.1f} min")
    return len(failures)


# ------------------------------------------------------------------------ the table


def records(path):
    """Claim id to verdict record of an executed chapter; empty where there is no such file."""
    from kvbook.ledger import verdict_records

    if not path.exists():
        return {}
    document = json.loads(path.read_text(encoding="utf-8"))
    return {record["id"]: record for record in verdict_records(document)}


def tabulate(path, runs):
    """Claim id to `Stability` of the claims that one chapter judges."""
    from kvbook.ledger.stability import Stability

    document = json.loads(path.read_text(encoding="utf-8"))
    by_seed = {run.parameters["seed"]: records(run.result(path)) for run in runs}
    return {
        name: Stability.measured(
            document, own, {seed: found.get(name) for seed, found in by_seed.items()}
        )
        for name, own in records(path).items()
    }


def store(root, paths, runs):
    """Write the table anew, keeping the entries of chapters that were not tried.

    Returns
    -------
    list of dict
        The rows of the ledger that the chapters judge, seeds considered.
    """
    from kvbook.ledger import read_ledger
    from kvbook.ledger.stability import dump_stability, read_stability

    file = root / "book" / STABILITY
    judged = {name for path in chapters(root) for name in records(path)}
    tried = {name for path in paths for name in records(path)}
    kept = {n: e for n, e in read_stability(file).items() if n in judged - tried}
    for path in paths:
        kept |= tabulate(path, runs)
    write_if_changed(file, dump_stability(kept))
    return [row for row in read_ledger(root / "notebooks", file) if row["id"] in tried]


def arguments(argv):
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=type(ROOT), default=ROOT, help="the repository")
    parser.add_argument("--seeds", default="10", help="how many root seeds (default: 10)")
    parser.add_argument("--chapter", default="", help="number of the one chapter to try")
    parser.add_argument("--jobs", type=int, default=cores(), help="chapters at a time")
    return parser.parse_args(argv)


def command(options):
    """Do what the command line asks; returns the exit status."""
    root = options.root.resolve()
    runs = [Run(root, {"seed": seed}) for seed in seeds(options.seeds)]
    paths = chosen(root, options.chapter)
    failures = try_seeds(paths, runs, options.jobs, sys.stdout)
    for row in store(root, paths, runs):
        print(f"{row['id']}  {row['stability']['summary']}")
    print(f"table: book/{STABILITY}")
    if failures:
        print(f"error: {failures} runs failed, see above and _build/logs", file=sys.stderr)
    return 1 if failures else 0


def main(argv=None):
    """Entry point of `make verdicts`."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return command(arguments(argv))
    except (ChapterProblem, ValueError) as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; what is finished is kept, the same command does the rest", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
