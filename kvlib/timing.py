"""Interleaved timing of implementations of the same work; `kvlib.bench` is the public name."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from kvlib import files
from kvlib.checks import check_int, check_positive

TAIL = 0.1
"""Share of the repetitions below ``seconds_low``, and above ``seconds_high``."""

_COMPUTED = ("seconds_median", "seconds_low", "seconds_high")


@dataclass(frozen=True)
class _Subject:
    """What was timed; each field is a column of the stored rows."""

    work: str
    impl: str
    bits: int | None
    threads: int
    rows: int
    dim: int


_COLUMNS = tuple(column.name for column in fields(_Subject))


@dataclass(frozen=True)
class Task(_Subject):
    """One implementation of some work, ready to be timed.

    Attributes
    ----------
    work, impl : str
        What is done ("encode", "copy", ...), and whose code does it.
    bits : int or None
        Budget a coordinate; None where it has no meaning.
    threads, rows, dim : int
    run : callable
        Does the work once and returns its result. Only this is timed.
    judge : callable, optional
        Turns the result of one untimed run into further columns: ``rel_mse``, ``bytes_per_vector``
        and whatever else the work has.
    """

    run: Callable[[], Any]
    judge: Callable[[Any], Mapping[str, Any]] | None = None


@dataclass(frozen=True)
class Row(_Subject):
    """Times of one task, with what it computed.

    Attributes
    ----------
    work, impl, bits, threads, rows, dim
        As in :class:`Task`.
    seconds : tuple of float
        One entry a repetition, in the order of the rounds; empty for a row that times nothing.
    rel_mse : float or None
        Mean relative squared error of the reconstruction; None where nothing is reconstructed.
    extra : mapping
        Further columns.
    """

    seconds: tuple[float, ...]
    rel_mse: float | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def seconds_median(self) -> float | None:
        """Median over the repetitions."""
        return self._quantile(0.5)

    @property
    def seconds_low(self) -> float | None:
        """Time that one repetition in ten stays below."""
        return self._quantile(TAIL)

    @property
    def seconds_high(self) -> float | None:
        """Time that one repetition in ten exceeds."""
        return self._quantile(1 - TAIL)

    def _quantile(self, level: float) -> float | None:
        return float(np.quantile(self.seconds, level)) if self.seconds else None

    def as_dict(self) -> dict[str, Any]:
        """The row as it is stored: flat, and rounded to 5 significant digits."""
        head = {name: getattr(self, name) for name in _COLUMNS}
        times = {name: getattr(self, name) for name in _COMPUTED}
        tail = {"rel_mse": self.rel_mse, **self.extra, "seconds": list(self.seconds)}
        return {key: _rounded(value) for key, value in {**head, **times, **tail}.items()}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Row:
        """Inverse of :meth:`as_dict`."""
        known = {*_COLUMNS, *_COMPUTED, "rel_mse", "seconds"}
        columns: dict[str, Any] = {name: stored[name] for name in _COLUMNS}
        extra = {key: value for key, value in stored.items() if key not in known}
        times = tuple(stored["seconds"])
        return cls(**columns, seconds=times, rel_mse=stored["rel_mse"], extra=extra)


def _rounded(value: Any) -> Any:
    if isinstance(value, list):
        return [_rounded(entry) for entry in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def measure(
    tasks: Sequence[Task],
    *,
    seconds: float = 2.0,
    most: int = 15,
    least: int = 3,
    clock: Callable[[], float] = time.perf_counter,
    report: Callable[[str], None] | None = None,
) -> list[Row]:
    """Time tasks in turns, so that a slow spell of the machine meets all of them.

    Parameters
    ----------
    tasks : sequence of Task
        On the same data, if their times are to be compared.
    seconds : float
        A task leaves the rounds when it has taken so long in all, but not before ``least``
        repetitions: slow tasks are repeated less often.
    most, least : int
        Repetitions of a task.
    clock : callable
        Returns seconds.
    report : callable, optional
        Told what goes on, one short line at a time.

    Returns
    -------
    list of Row
        One a task, in the order of ``tasks``.

    Notes
    -----
    Every task runs once before, untimed: that run compiles, fills caches and is judged. Each round
    begins with another task, so that nobody always follows the same neighbour.
    """
    seconds, least = check_positive(seconds, "seconds"), check_int(least, "least", low=1)
    most = check_int(most, "most", low=least)
    say = report or (lambda text: None)
    judged: list[Mapping[str, Any]] = []
    for task in tasks:
        say(f"{task.work}, {task.impl}: first run")
        result = task.run()
        judged.append(task.judge(result) if task.judge is not None else {})
        del result
    taken: list[list[float]] = [[] for _ in tasks]
    for turn in range(most):
        say(f"{tasks[0].work if tasks else ''}: round {turn + 1} of {most}")
        for place in range(len(tasks)):
            index = (turn + place) % len(tasks)
            times = taken[index]
            if len(times) >= least and sum(times) >= seconds:
                continue
            begin = clock()
            result = tasks[index].run()
            times.append(clock() - begin)
            del result
    return [
        _row(task, tuple(times), columns)
        for task, times, columns in zip(tasks, taken, judged, strict=True)
    ]


def _row(task: Task, seconds: tuple[float, ...], columns: Mapping[str, Any]) -> Row:
    extra = dict(columns)
    rel_mse = extra.pop("rel_mse", None)
    head: dict[str, Any] = {name: getattr(task, name) for name in _COLUMNS}
    return Row(**head, seconds=seconds, rel_mse=rel_mse, extra=extra)


@dataclass(frozen=True)
class Ratio:
    """How many times as long one row takes as another, with its spread over the rounds."""

    median: float
    low: float
    high: float


def ratio(over: Row, under: Row) -> Ratio:
    """Time of ``over`` divided by that of ``under``, round by round.

    Two repetitions of one round are neighbours in time, so a slow spell of the machine cancels.
    ``low`` and ``high`` leave out one round in ten on either side.

    Raises
    ------
    ValueError
        If one of the rows has no times.
    """
    rounds = min(len(over.seconds), len(under.seconds))
    if not rounds:
        raise ValueError(f"over and under must have times, got {over.impl} and {under.impl}")
    each = np.array(over.seconds[:rounds]) / np.array(under.seconds[:rounds])
    low, median, high = np.quantile(each, [TAIL, 0.5, 1 - TAIL])
    return Ratio(float(median), float(low), float(high))


def write(path: str | os.PathLike[str], rows: Iterable[Row]) -> None:
    """Store rows as a JSON list, one row a line, replacing the file as a whole."""
    lines = ",\n".join(json.dumps(row.as_dict(), allow_nan=False) for row in rows)
    files.write_atomically(path, f"[\n{lines}\n]\n")


def read(path: str | os.PathLike[str]) -> list[Row]:
    """Rows from a file that :func:`write` made."""
    stored = json.loads(Path(path).read_text(encoding="utf-8"))
    if not isinstance(stored, list):
        raise ValueError(f"path must hold a JSON list of rows, got {type(stored).__name__}")
    return [Row.from_dict(entry) for entry in stored]
