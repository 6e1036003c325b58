"""Execute the chapters that are out of date, side by side, each in a process of its own.

    python -m kvbook.build.execute                          # all that changed
    python -m kvbook.build.execute --chapter 02             # one, whatever its state
    python -m kvbook.build.execute --parameters "seed=7"    # into _build/runs/, not notebooks/
    python -m kvbook.build.execute --times                  # rewrite book/run_times.json

A chapter is executed away from its file and replaces it in one step, and only if something
in it differs; a chapter that fails leaves the last good one as it was.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import nbformat

from kvbook.build import parameters
from kvbook.build.chapters import ROOT, ChapterProblem, Run, chapters, find_chapter, read
from kvbook.build.command import building, obey, whole
from kvbook.build.isolation import isolated, prepare, refuse_foreign_kernel
from kvbook.build.progress import Progress
from kvbook.build.staleness import (
    digest,
    digest_of_result,
    load_record,
    save_record,
    snapshot,
    why_stale,
)
from kvbook.build.storing import MOST_BYTES, normalise, same_result, serialise, unfinished
from kvlib.files import write_if_changed
from kvlib.quantize.kernels.runtime import core_count

TIMES = "run_times.json"
_CELL_SECONDS = 600
"""A cell that takes longer hangs: the longest takes some 20 s on two slow cores."""


# -------------------------------------------------------------- the child's side


def work(source: Path, cwd: Path, values: Mapping[str, Any], channel: TextIO) -> None:
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
    from nbclient.exceptions import DeadKernelError
    from papermill.engines import NBClientEngine, papermill_engines

    def tell(**event: Any) -> None:
        channel.write(json.dumps(event) + "\n")
        channel.flush()

    total = len([c for c in read(source).cells if c.cell_type == "code"])

    class ReportingEngine(NBClientEngine):  # type: ignore[misc]
        """Papermill's engine, telling which code cell has begun."""

        @classmethod
        def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **options: Any) -> Any:
            begin, seen = nb_man.cell_start, []

            def cell_start(cell: Any, *args: Any, **keywords: Any) -> Any:
                if cell.cell_type == "code":
                    seen.append(cell)
                    tell(kind="cell", number=len(seen), total=max(total, len(seen)))
                return begin(cell, *args, **keywords)

            nb_man.cell_start = cell_start
            return super().execute_managed_notebook(nb_man, kernel_name, **options)

    papermill_engines.register("reporting", ReportingEngine)
    try:
        refuse_foreign_kernel("python3")
        notebook = papermill.execute_notebook(
            str(source),
            None,
            parameters=dict(values),
            engine_name="reporting",
            kernel_name="python3",
            cwd=str(cwd),
            progress_bar=False,
            start_timeout=120,
            execution_timeout=_CELL_SECONDS,
        )
    except papermill.PapermillExecutionError as error:
        tell(kind="failed", message=describe(error))
    except DeadKernelError:
        tell(kind="failed", message="its kernel died (killed, perhaps for want of memory)")
    except (ChapterProblem, TimeoutError) as error:
        tell(kind="failed", message=str(error) or "a cell took too long")
    else:
        problems = unfinished(normalise(notebook))
        text = serialise(notebook)
        if not problems and len(text.encode()) > MOST_BYTES:
            size = len(text.encode()) / 1e6
            problems = [f"its outputs are {size:.1f} MB, allowed are {MOST_BYTES / 1e6:.0f} MB"]
        if problems:
            tell(kind="failed", message="\n".join(problems))
        else:
            tell(kind="done", text=text)


def describe(error: Any) -> str:
    """Cell, its first line and the error of a papermill failure."""
    lines = [line for line in error.source.splitlines() if line.strip()] or [""]
    return f"code cell {error.exec_count}, `{lines[0].strip()}`\n{error.ename}: {error.evalue}"


# ------------------------------------------------------------- the parent's side


class Worker:
    """One chapter being executed in a process group of its own."""

    def __init__(self, path: Path, run: Run, events: queue.Queue[tuple[Worker, Any]]) -> None:
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
            "environment": isolated(run.root),
        }
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "kvbook.build.execute", "--worker", json.dumps(job)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=isolated(ROOT),
                pass_fds=[writer],
                start_new_session=True,
            )
        os.close(writer)
        threading.Thread(target=self.listen, args=(reader, events), daemon=True).start()

    def listen(self, reader: int, events: queue.Queue[tuple[Worker, Any]]) -> None:
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
    def seconds(self) -> float:
        """Wall-clock seconds since the start."""
        return time.monotonic() - self.begin

    def stop(self) -> None:
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

    def store(self, text: str) -> bool:
        """Put the executed notebook in its place; says whether anything differed.

        Raises
        ------
        ChapterProblem
            If the chapter was edited while it ran: the edit is worth more than the result.
        """
        before = self.state["inputs"][self.path.relative_to(self.run.root).as_posix()]
        if digest(self.path) != before:
            raise ChapterProblem("it was edited while it ran; the edit is kept, run again")
        result = self.run.result(self.path)
        executed = nbformat.reads(text, as_version=4)  # type: ignore[no-untyped-call]
        # The text of the page may have been edited meanwhile; only what came out is taken over.
        if result.exists() and same_result(read(result), executed):
            return False
        return write_if_changed(result, text)

    def remember(self, record: dict[str, Any]) -> None:
        """Note under which inputs the stored result was made."""
        result = digest_of_result(self.run.result(self.path))
        record[self.path.name] = {**self.state, "result": result}
        save_record(self.run.record_folder, record)


Task = tuple[Path, Run]


def execute(paths: Sequence[Path], run: Run, jobs: int, progress: Progress) -> dict[str, float]:
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


def execute_all(
    tasks: Sequence[Task],
    jobs: int,
    progress: Progress,
    failed: Callable[[Worker, ChapterProblem], None] | None = None,
) -> dict[str, float]:
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
    waiting, running = list(tasks), list[Worker]()
    seconds: dict[str, float] = {}
    events: queue.Queue[tuple[Worker, Any]] = queue.Queue()
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                running.append(Worker(*waiting.pop(0), events))
                progress.started(running[-1].path, running[-1].run)
            worker, event = events.get()
            if event["kind"] == "cell":
                progress.cell(worker.path, worker.run, event["number"], event["total"])
                continue
            try:
                changed = finish(worker, event, records[worker.run.record_folder])
            except ChapterProblem as problem:
                if failed is None:
                    raise
                running.remove(worker)
                failed(worker, problem)
                progress.ended(worker.path, worker.run)
                continue
            running.remove(worker)
            seconds[worker.path.name] = worker.seconds
            progress.finished(worker.path, worker.run, worker.seconds, changed)
    finally:
        progress.close()
        for worker in running:
            worker.stop()
    return seconds


def finish(worker: Worker, event: Mapping[str, Any], record: dict[str, Any]) -> bool:
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


def longest_first(paths: Sequence[Path], root: Path) -> list[Path]:
    """Chapters ordered by their committed run time, so that none is left over at the end."""
    known = read_times(root).get("chapters", {})
    return sorted(paths, key=lambda path: -known.get(path.name, 1e9))


def read_times(root: Path) -> dict[str, Any]:
    """The committed run times; empty where there are none."""
    try:
        found: dict[str, Any] = json.loads((root / "book" / TIMES).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found


def progress_of(run: Run, tasks: Sequence[Task]) -> Progress:
    """A bar over what is to be executed, weighed by the committed run times."""
    return Progress(sys.stdout, tasks, read_times(run.root).get("chapters", {}))


def update(run: Run, jobs: int) -> int:
    """Execute the chapters that are out of date; returns how many there were."""
    paths = chapters(run.root)
    if not paths:
        raise ChapterProblem("there is no chapter in notebooks/")
    for path in paths:
        parameters.check(path, run.parameters)
    record = load_record(run.record_folder)
    reasons = {path: why_stale(path, run.result(path), run.root, record) for path in paths}
    stale = longest_first([path for path in paths if reasons[path]], run.root)
    if not stale:
        print(f"chapters: all {len(paths)} are up to date, nothing to execute")
        return 0
    for path in sorted(stale):
        print(f"{path.stem}: to execute, {reasons[path]}")
    begin = time.monotonic()
    execute(stale, run, jobs, progress_of(run, [(path, run) for path in stale]))
    print(f"chapters: {len(stale)} executed in {time.monotonic() - begin:.0f} s")
    return len(stale)


def measure(root: Path, jobs: int) -> None:
    """Time each chapter alone, then all together, and store book/run_times.json.

    Results go to a scratch folder: timing must not touch the committed chapters.
    """
    scratch = Scratch(root, {})
    paths = chapters(root)
    alone: dict[str, float] = {}
    progress = progress_of(scratch, [(path, scratch) for path in (*paths, *paths)])
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
    def folder(self) -> Path:
        """Folder below `_build`."""
        return self.root / "_build" / "timing"

    @property
    def record_folder(self) -> Path:
        """The same folder: the book's own record must not hear of these runs."""
        return self.folder


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Execute the chapters that are out of date.")
    parser.add_argument("--root", type=Path, default=ROOT, help="the repository")
    parser.add_argument("--chapter", help="number of the one chapter to execute")
    parser.add_argument("--parameters", default="", help='such as "seed=7 trials=100"')
    parser.add_argument("--times", action="store_true", help="rewrite book/run_times.json")
    parser.add_argument("--jobs", type=whole, default=core_count(), help="chapters at a time")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def command(options: argparse.Namespace) -> int:
    """Do what the command line asks."""
    root = options.root.resolve()
    run = Run(root, parameters.parse(options.parameters))
    with building(root):
        if options.times:
            measure(root, options.jobs)
        elif options.chapter is not None:
            path = find_chapter(root, options.chapter)
            if run.parameters and not parameters.known(path):
                raise ChapterProblem(f"{path.name} has no parameters, got {options.parameters}")
            execute([path], run, 1, progress_of(run, [(path, run)]))
        else:
            update(run, options.jobs)
    if run.parameters:
        print(f"results: {run.folder.relative_to(root)}/notebooks (notebooks/ is untouched)")
    return 0


def serve_as_worker(text: str) -> int:
    """The child's entry point."""
    import ast

    job = json.loads(text)
    with os.fdopen(job["channel"], "w", encoding="utf-8") as channel:
        values = ast.literal_eval(job["values"])
        # The kernel's, not this process's own: the tools may lie in another tree.
        os.environ.clear()
        os.environ.update(job["environment"])
        work(Path(job["source"]), Path(job["cwd"]), values, channel)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `make book` and `make chapter`."""
    options = arguments(argv)
    if options.worker:
        return serve_as_worker(options.worker)
    return obey(lambda: command(options))


if __name__ == "__main__":
    sys.exit(main())
