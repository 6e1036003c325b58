"""Execute the chapters that are out of date, side by side, each in a process of its own.

    python -m kvbook.build.execute                          # all that changed
    python -m kvbook.build.execute --chapter 02             # one, whatever its state
    python -m kvbook.build.execute --parameters "seed=7"    # into _build/runs/, not notebooks/
    python -m kvbook.build.execute --times                  # rewrite book/run_times.json

A chapter is executed away from its file and replaces it in one step, and only if something
in it differs; a chapter that fails leaves the last good one as it was.
"""

import argparse
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from kvbook.build import parameters
from kvbook.build.chapters import (
    ROOT,
    ChapterProblem,
    Run,
    chapters,
    find_chapter,
    fingerprint,
    load_record,
    normalise,
    read,
    save_record,
    serialise,
    snapshot,
    unfinished,
    why_stale,
    write_if_changed,
)
from kvbook.build.progress import Progress

TIMES = "run_times.json"


# -------------------------------------------------------------- the child's side


def work(source, cwd, values, channel):
    """Execute one notebook and report through `channel`, one JSON object a line.

    Parameters
    ----------
    source : Path
        The notebook.
    cwd : Path
        Working folder of its kernel.
    values : dict
        Papermill parameters.
    channel : file object
        Receives events "cell", then one of "done" (with the notebook) and "failed".
    """
    import papermill
    from papermill.engines import NBClientEngine, papermill_engines

    def tell(**event):
        channel.write(json.dumps(event) + "\n")
        channel.flush()

    total = len([c for c in read(source).cells if c.cell_type == "code"])

    class ReportingEngine(NBClientEngine):
        """Papermill's engine, telling which code cell has begun."""

        @classmethod
        def execute_managed_notebook(cls, nb_man, kernel_name, **options):
            begin, seen = nb_man.cell_start, []

            def cell_start(cell, *args, **keywords):
                if cell.cell_type == "code":
                    seen.append(cell)
                    tell(kind="cell", number=len(seen), total=max(total, len(seen)))
                return begin(cell, *args, **keywords)

            nb_man.cell_start = cell_start
            return super().execute_managed_notebook(nb_man, kernel_name, **options)

    papermill_engines.register("reporting", ReportingEngine)
    try:
        notebook = papermill.execute_notebook(
            str(source),
            None,
            parameters=values,
            engine_name="reporting",
            kernel_name="python3",
            cwd=str(cwd),
            progress_bar=False,
            start_timeout=120,
        )
    except papermill.PapermillExecutionError as error:
        tell(kind="failed", message=describe(error))
        return
    problems = unfinished(normalise(notebook))
    if problems:
        tell(kind="failed", message="\n".join(problems))
    else:
        tell(kind="done", text=serialise(notebook))


def describe(error):
    """Cell, its first line and the error of a papermill failure."""
    lines = [line for line in error.source.splitlines() if line.strip()] or [""]
    return f"code cell {error.exec_count}, `{lines[0].strip()}`\n{error.ename}: {error.evalue}"


# ------------------------------------------------------------- the parent's side


def environment(root):
    """Variables of the kernels: one thread, fixed hashing, nothing from the user's home."""
    fixed = {
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "PYTHONHASHSEED": "0",
        "PYTHONNOUSERSITE": "1",
        "IPYTHONDIR": str(root / "_build" / "ipython"),
        "MPLCONFIGDIR": str(root / "_build" / "matplotlib"),
        # The chapters must meet this tree's packages and nobody else's.
        "PYTHONPATH": os.pathsep.join([str(root), str(root / "book")]),
    }
    return {**os.environ, **fixed}


def prepare(root):
    """Folders and caches the kernels share, made before they race for them."""
    for name in ("ipython", "matplotlib", "logs"):
        (root / "_build" / name).mkdir(parents=True, exist_ok=True)
    if not list((root / "_build" / "matplotlib").glob("fontlist*.json")):
        # Building the font list takes seconds and writes to stderr, in whichever chapter is first.
        subprocess.run(
            [sys.executable, "-c", "import matplotlib.font_manager"],
            env=environment(root),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )


class Worker:
    """One chapter being executed in a process group of its own."""

    def __init__(self, path, run, events):
        self.path = path
        self.run = run
        self.state = snapshot(path, run.root)
        self.begin = time.monotonic()
        values = parameters.check(path, run.parameters)
        reader, writer = os.pipe()
        # The same chapter may run under several seeds at a time.
        name = path.stem + (f",{run.folder.name}" if run.parameters else "")
        self.log = run.root / "_build" / "logs" / f"{name}.log"
        job = {
            "source": str(path),
            "cwd": str(run.root / "notebooks"),
            "values": repr(values),
            "channel": writer,
            "environment": environment(run.root),
        }
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "kvbook.build.execute", "--worker", json.dumps(job)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment(ROOT),
                pass_fds=[writer],
                start_new_session=True,
            )
        os.close(writer)
        threading.Thread(target=self.listen, args=(reader, events), daemon=True).start()

    def listen(self, reader, events):
        """Pass the child's events on; a child that dies silently counts as failed."""
        ended = False
        with os.fdopen(reader, encoding="utf-8") as lines:
            for line in lines:
                event = json.loads(line)
                ended = ended or event["kind"] in ("done", "failed")
                events.put((self, event))
        self.process.wait()
        if not ended:
            tail = self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:]
            message = "\n".join([f"its process ended with {self.process.returncode}", *tail])
            events.put((self, {"kind": "failed", "message": message}))

    @property
    def seconds(self):
        """Wall-clock seconds since the start."""
        return time.monotonic() - self.begin

    def stop(self):
        """End the process and its kernel."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.process.pid, number)
            except (ProcessLookupError, PermissionError):
                return
            try:
                self.process.wait(timeout=2)
            except subprocess.TimeoutExpired:
                continue

    def store(self, text):
        """Put the executed notebook in its place; says whether anything differed.

        Raises
        ------
        ChapterProblem
            If the chapter was edited while it ran: the edit is worth more than the result.
        """
        before = self.state["inputs"][self.path.relative_to(self.run.root).as_posix()]
        if fingerprint(self.path)["sha256"] != before["sha256"]:
            raise ChapterProblem("it was edited while it ran; the edit is kept, run again")
        return write_if_changed(self.run.result(self.path), text)

    def remember(self, record):
        """Note under which inputs the stored result was made."""
        result = self.run.result(self.path)
        if result == self.path:
            name = self.path.relative_to(self.run.root).as_posix()
            self.state["inputs"][name] = fingerprint(result)
        record[self.path.name] = {**self.state, "result": fingerprint(result)["sha256"]}
        save_record(self.run.record_folder, record)


def execute(paths, run, jobs, progress):
    """Execute chapters of one run side by side and store what they give.

    Parameters
    ----------
    paths : list of Path
        The chapters, in the order in which to begin them.
    run : Run
        Parameters and the place of the results.
    jobs : int
        How many at a time.
    progress : Progress
        Told what happens.

    Returns
    -------
    dict
        Wall-clock seconds of each chapter.

    Raises
    ------
    ChapterProblem
        At the first chapter that fails; the others are stopped, finished ones are kept.
    """
    return execute_all([(path, run) for path in paths], jobs, progress)


def execute_all(tasks, jobs, progress, failed=None):
    """Execute chapters, each in the run it comes with.

    Parameters
    ----------
    tasks : list of (Path, Run)
        In the order in which to begin them; the runs share one root.
    jobs, progress
        As for `execute`.
    failed : callable, optional
        Called with the worker and the `ChapterProblem` of a chapter that fails, in place of
        stopping the others.

    Returns
    -------
    dict
        Wall-clock seconds of each chapter (of its last run, where there are several).

    Raises
    ------
    ChapterProblem
        At the first chapter that fails, unless `failed` is given; finished ones are kept.
    """
    for path, run in tasks:
        parameters.check(path, run.parameters)
    for root in {run.root for _, run in tasks}:
        prepare(root)
    records = {run.record_folder: load_record(run.record_folder) for _, run in tasks}
    waiting, running, seconds = list(tasks), [], {}
    events = queue.Queue()
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                running.append(Worker(*waiting.pop(0), events))
                progress.started(running[-1])
            try:
                worker, event = events.get(timeout=0.2)
            except queue.Empty:
                progress.tick()
                continue
            if event["kind"] == "cell":
                progress.cell(worker, event["number"], event["total"])
                continue
            try:
                changed = finish(worker, event, records[worker.run.record_folder])
            except ChapterProblem as problem:
                if failed is None:
                    raise
                running.remove(worker)
                failed(worker, problem)
                continue
            running.remove(worker)
            seconds[worker.path.name] = worker.seconds
            progress.finished(worker, changed)
    finally:
        progress.close()
        for worker in running:
            worker.stop()
    return seconds


def finish(worker, event, record):
    """Store one ended chapter, or say why it cannot be."""
    message = event.get("message")
    if event["kind"] == "done":
        try:
            changed = worker.store(event["text"])
            worker.remember(record)
            return changed
        except ChapterProblem as problem:
            message = str(problem)
    raise ChapterProblem(f"{worker.path.stem} failed after {worker.seconds:.0f} s: {message}")


def cores():
    """Number of processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def longest_first(paths, root):
    """Chapters ordered by their committed run time, so that none is left over at the end."""
    known = read_times(root).get("chapters", {})
    return sorted(paths, key=lambda path: -known.get(path.name, 1e9))


def read_times(root):
    """The committed run times; empty where there are none."""
    try:
        return json.loads((root / "book" / TIMES).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def update(run, jobs, progress):
    """Execute the chapters that are out of date; returns how many there were."""
    paths = chapters(run.root)
    if not paths:
        raise ChapterProblem("there is no chapter in notebooks/")
    for path in paths:
        parameters.check(path, run.parameters)
    record = load_record(run.record_folder)
    reasons = {path: why_stale(path, run.result(path), run.root, record) for path in paths}
    stale = [path for path in paths if reasons[path]]
    for path in stale:
        progress.say(f"{path.stem}: to execute, {reasons[path]}")
    if not stale:
        progress.say(f"chapters: all {len(paths)} are up to date, nothing to execute")
        return 0
    begin = time.monotonic()
    execute(longest_first(stale, run.root), run, jobs, progress)
    progress.say(f"chapters: {len(stale)} executed in {time.monotonic() - begin:.0f} s")
    return len(stale)


def measure(root, jobs, progress):
    """Time each chapter alone, then all together, and store book/run_times.json.

    Results go to a scratch folder: timing must not touch the committed chapters.
    """
    scratch = Scratch(root, {})
    paths = chapters(root)
    alone = {}
    for path in paths:
        alone.update(execute([path], scratch, 1, progress))
    begin = time.monotonic()
    execute(sorted(paths, key=lambda p: -alone[p.name]), scratch, jobs, progress)
    table = {
        "chapters": {name: round(value, 1) for name, value in sorted(alone.items())},
        "together": round(time.monotonic() - begin, 1),
        "cores": jobs,
        "python": f"{sys.version_info[0]}.{sys.version_info[1]}",
    }
    write_if_changed(root / "book" / TIMES, json.dumps(table, indent=1) + "\n")


class Scratch(Run):
    """A run without parameters whose results are thrown away."""

    @property
    def folder(self):
        """Folder below `_build`."""
        return self.root / "_build" / "timing"

    @property
    def record_folder(self):
        """The same folder: the book's own record must not hear of these runs."""
        return self.folder


def arguments(argv):
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=ROOT, help="the repository")
    parser.add_argument("--chapter", help="number of the one chapter to execute")
    parser.add_argument("--parameters", default="", help='such as "seed=7 trials=100"')
    parser.add_argument("--times", action="store_true", help="rewrite book/run_times.json")
    parser.add_argument("--jobs", type=int, default=cores(), help="chapters at a time")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def command(options):
    """Do what the command line asks."""
    root = options.root.resolve()
    run = Run(root, parameters.parse(options.parameters))
    progress = Progress(sys.stdout)
    if options.times:
        measure(root, options.jobs, progress)
    elif options.chapter is not None:
        execute([find_chapter(root, options.chapter)], run, 1, progress)
    else:
        update(run, options.jobs, progress)
    if run.parameters:
        progress.say(f"results: {run.folder.relative_to(root)}/notebooks (notebooks/ is untouched)")


def main(argv=None):
    """Entry point of `make book` and `make chapter`."""
    options = arguments(argv)
    if options.worker:
        import ast

        job = json.loads(options.worker)
        with os.fdopen(job["channel"], "w", encoding="utf-8") as channel:
            values = ast.literal_eval(job["values"])
            # The kernel's, not this process's own: the tools may lie in another tree.
            os.environ.update(job["environment"])
            work(Path(job["source"]), Path(job["cwd"]), values, channel)
        return 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        command(options)
    except ChapterProblem as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; finished chapters are kept", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
