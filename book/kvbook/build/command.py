"""What the build's commands share: one lock, one line for what goes wrong, one exit status."""

from __future__ import annotations

import contextlib
import io
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from kvbook.build.chapters import ChapterProblem
from kvbook.build.environment import status_of
from kvlib import files

_LOCK = "build.lock"


def whole(text: str) -> int:
    """A number of jobs from the command line.

    Raises
    ------
    ValueError
        If it is no whole number above zero, which argparse reports.
    """
    if (number := int(text)) < 1:
        raise ValueError(f"must be a whole number above zero, got {text!r}")
    return number


@contextlib.contextmanager
def building(root: Path) -> Iterator[None]:
    """Be the only build of a repository.

    Raises
    ------
    ChapterProblem
        If another one is under way.
    """
    held = files.lock(root / "_build" / _LOCK)
    if held is None:
        raise ChapterProblem("another build of this book is under way; wait for it to end")
    try:
        yield
    finally:
        held.close()


def obey(work: Callable[[], int]) -> int:
    """Do some work; returns the exit status.

    1 where something is wrong with a chapter or a request; for the others see
    :func:`kvbook.build.environment.status_of`.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal without UTF-8 shows what it can
            stream.reconfigure(errors="replace")
    kept = "stopped; what is finished is kept, the same command does the rest"
    return status_of(work, (ChapterProblem, ValueError), kept)
