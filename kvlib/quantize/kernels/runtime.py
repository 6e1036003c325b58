"""Whether compiled kernels are to be had, how many threads may work, and the threads.

Environment: ``KVLIB_NUM_THREADS`` (else ``OMP_NUM_THREADS``, else the cores this process may use)
bounds the threads; ``KVLIB_KERNELS=numpy`` switches the kernels off.

Threads are Python's own and live as long as one call. Kernels and matrix products release the
interpreter's lock, nothing of numba's thread pools is used (its default one must not be entered
from two threads at once), so that callers may be threads or forked processes themselves. On Linux
they keep off the core that their caller runs on: the scheduler likes to start them right there, and
takes milliseconds to move one (65,536 vectors on two cores: 1.1 times as fast as with one thread
without this, 1.7 times with it).
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from types import ModuleType
from typing import TypeVar

from kvlib.checks import check_choice

_Item = TypeVar("_Item")

_MOST_THREADS = 64


def kernels(name: str) -> ModuleType | None:
    """The compiled module ``name`` of this package; None without numba or if switched off."""
    choice = os.environ.get("KVLIB_KERNELS", "").strip() or "auto"
    check_choice(choice, "KVLIB_KERNELS", ("auto", "numpy"))
    thread_count()  # refuses nonsense whether or not the kernels are used
    return _load(name) if choice == "auto" else None


@lru_cache(maxsize=8)
def _load(name: str) -> ModuleType | None:
    """Import what compiles; None without numba or, with a warning, where it does not compile."""
    if sys.byteorder != "little":
        return None
    try:
        numba = importlib.import_module("numba")
    except ImportError:
        return None
    if numba.config.DISABLE_JIT:  # under a debugger, say: what is here cannot run as Python
        return None
    try:
        return importlib.import_module(f"kvlib.quantize.kernels.{name}")
    except Exception as error:  # whatever a compiler may raise: numpy does the same work
        warnings.warn(
            f"kvlib's compiled kernels are not available, numpy is used instead ({error!r})",
            RuntimeWarning,
            stacklevel=2,
        )
        return None


def thread_count() -> int:
    """Threads to use, 1 to 64."""
    for name in ("KVLIB_NUM_THREADS", "OMP_NUM_THREADS"):
        text = os.environ.get(name, "").strip()
        if text.isdecimal() and int(text) > 0:
            return min(int(text), _MOST_THREADS)
        if text and name == "KVLIB_NUM_THREADS":
            raise ValueError(f"{name} must be an integer >= 1, got {text!r}")
    return min(core_count(), _MOST_THREADS)


def core_count() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run(work: Callable[[_Item], bool | None], items: Iterable[_Item]) -> bool:
    """Whether ``work`` returned False for no item; none is begun after that.

    The calling thread takes part. Each thread takes the next item when it has done one, so that
    a core that is slower or busy elsewhere holds up nothing but its last item.
    """
    queue = deque(items)
    allowed = thread_count()  # asked even where one item needs one thread: it refuses nonsense
    others = max(0, min(allowed, len(queue)) - 1)

    def take() -> _Item | None:
        try:
            return queue.popleft()
        except IndexError:
            return None

    def drain() -> bool:
        done = False
        try:
            done = all(work(item) is not False for item in iter(take, None))
        finally:
            if not done:  # refused or raised: nobody begins another one
                queue.clear()
        return done

    if not others:
        return drain()
    with ThreadPoolExecutor(others, initializer=_keep_off, initargs=(_core(),)) as pool:
        futures = [pool.submit(drain) for _ in range(others)]
        mine = drain()
        return all(future.result() for future in futures) and mine


@lru_cache(maxsize=1)
def _core_teller() -> Callable[[], int] | None:
    """The C library's sched_getcpu, where there is one."""
    try:
        return ctypes.CDLL(None).sched_getcpu
    except (OSError, TypeError, AttributeError):
        return None


def _core() -> int:
    """The core that the calling thread runs on, -1 where the system does not say."""
    teller = _core_teller()
    return -1 if teller is None else teller()


def _keep_off(core: int) -> None:
    """Let the calling thread run on any core of its own but this one."""
    if core < 0 or not hasattr(os, "sched_setaffinity"):
        return
    others = os.sched_getaffinity(0) - {core}
    if others:
        with contextlib.suppress(OSError):  # a sandbox may forbid it: only time is lost
            os.sched_setaffinity(0, others)
