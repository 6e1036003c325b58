"""Where shards are computed: here, in processes, or on a Dask cluster."""

from __future__ import annotations

import functools
import hashlib
import importlib
import itertools
import os
import signal
import socket
import threading
import time
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import CancelledError
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from kvlib import files, sources
from kvlib.quantize.kernels import runtime
from kvlib.sweeps.cell import Computed, cells_of, compute
from kvlib.sweeps.grid import Grid
from kvlib.sweeps.store import differing_keys

_CONNECT_SECONDS = 10
_REPORTED_LOSSES = 20


def _compute_in_worker(grid: Grid, shard: int) -> Computed:
    """As :func:`compute`, in a process of ours or of a cluster."""
    _prepare_worker(grid.modules)
    return compute(grid, shard)


@functools.cache
def _prepare_worker(modules: tuple[str, ...]) -> None:
    """Know the formats and metrics of others, and use one thread for linear algebra.

    The work is parallel already, and sums keep one order.
    """
    import threadpoolctl

    threadpoolctl.threadpool_limits(1)
    for module in modules:
        importlib.import_module(module)


def _compute_in_child(grid: Grid, shard: int, parent: int) -> Computed:
    """As :func:`_compute_in_worker`, in a process that lives and dies with its parent."""
    _follow_parent(parent)
    return _compute_in_worker(grid, shard)


@functools.cache
def _follow_parent(parent: int) -> None:
    """Leave interrupts to the parent, and end soon after a parent that was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


# Backends: shards in, computed shards out, in any order -----------------------------------------


class WorkerLost(RuntimeError):
    """Workers died and took shards with them; what is stored stays, and can be resumed."""


def here(grid: Grid, shards: Iterable[int]) -> Generator[Computed]:
    """Compute shards in this process, one after the other."""
    import threadpoolctl

    # Finding the libraries takes milliseconds, a shard of a small grid not many more.
    controller = threadpoolctl.ThreadpoolController()
    for shard in shards:
        with controller.limit(limits=1):
            computed = compute(grid, shard)
        yield computed


def in_processes(grid: Grid, shards: Iterable[int], workers: int) -> Generator[Computed]:
    import joblib
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    with joblib.parallel_config("loky", inner_max_num_threads=1):
        pool = joblib.Parallel(
            n_jobs=workers,
            return_as="generator_unordered",
            batch_size=1,
            pre_dispatch="2 * n_jobs",
        )
    tasks = (joblib.delayed(_compute_in_child)(grid, shard, os.getpid()) for shard in shards)
    try:
        yield from pool(tasks)
    except TerminatedWorkerError as error:
        raise WorkerLost(
            "a worker process was killed, perhaps for want of memory; what is finished is "
            "stored: run again to go on, with fewer workers if it happens again"
        ) from error


def on_dask(grid: Grid, shards: Iterable[int], address: str) -> Generator[Computed]:
    """Run shards on a cluster; those of a worker that dies are run on another."""
    distributed: Any = importlib.import_module("distributed")
    lost: list[int] = []
    with _connect(address) as client:
        running: dict[Any, int] = {}
        for future in _submitted(client, grid, iter(shards), running):
            shard = running.pop(future)
            try:
                computed = future.result()
            except distributed.KilledWorker:  # it took several workers with it
                lost.append(shard)
            except CancelledError as error:
                raise WorkerLost(
                    f"the scheduler at {address} went away; what is finished is stored: run "
                    "again to go on"
                ) from error
            else:
                yield computed
    if lost:
        cells = [cells_of(grid, shard)[0] for shard in lost[:_REPORTED_LOSSES]]
        raise WorkerLost(
            f"{len(lost)} shards each killed several workers, perhaps for want of memory; the "
            f"rest is stored. Their first cells: {'; '.join(map(str, cells))}"
        )


def _submitted(
    client: Any, grid: Grid, shards: Iterator[int], running: dict[Any, int]
) -> Iterator[Any]:
    """Yield futures as they finish, keeping two a thread of the cluster in ``running``."""
    distributed: Any = importlib.import_module("distributed")
    finished = distributed.as_completed(loop=client.loop)
    while True:
        room = max(2, 2 * sum(client.nthreads().values())) - len(running)
        for shard in itertools.islice(shards, max(0, room)):
            future = client.submit(_compute_in_worker, grid, shard, pure=False)
            running[future] = shard
            finished.add(future)
        if not running:
            return
        yield next(finished)


def check_cluster(address: str, grid: Grid) -> None:
    """Refuse what is not the scheduler of a cluster that would compute the same numbers."""
    with _connect(address) as client:
        _check_workers(client, address, grid)


def _connect(address: str) -> Any:
    """A client of the scheduler at an address."""
    distributed: Any = importlib.import_module("distributed")
    _check_address(address)
    try:
        return distributed.Client(address, timeout=_CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"dask must be the address of a scheduler, got {address!r}") from error


def _check_address(address: str) -> None:
    """Refuse at once what cannot be an address, or where nobody listens."""
    scheme, _, place = str(address).partition("://")
    host, _, port = place.rpartition(":")
    if not (scheme and host and port.isdecimal() and int(port) < 1 << 16):
        raise ValueError(f"dask must be of the form tcp://HOST:PORT, got {address!r}")
    if scheme == "tcp":
        try:
            socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()
        except OSError as error:
            raise ValueError(
                f"dask must be the address of a scheduler, got {address!r} ({error})"
            ) from error


def _check_workers(client: Any, address: str, grid: Grid) -> None:
    """Refuse a cluster whose workers would compute other numbers than this process."""
    if not client.nthreads():
        raise ValueError(f"dask must be a cluster with workers, got {address!r} without any")
    here = versions(grid)
    for worker, there in client.run(versions, grid).items():
        differs = differing_keys(here, there)
        if differs:
            raise ValueError(
                f"dask: worker {worker} must have the same versions as this process, "
                f"differs in {', '.join(differs)}"
            )


def versions(grid: Grid) -> dict[str, Any]:
    """What decides the numbers besides the grid.

    numpy, scipy and numba (or its absence: compiled kernels round otherwise in the last digits),
    kvlib's own code as far as a cell reaches it, and the modules that define formats or metrics
    of the grid.
    """
    import scipy

    digest = hashlib.sha256()
    packages = {"kvlib": Path(__file__).parents[1]}
    for _, file in sorted(sources.closure({"kvlib.sweeps.cell"}, packages).items()):
        digest.update(file.read_bytes())
    compiled = runtime.kernels("rows")
    return {
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "kernels": "numpy" if compiled is None else f"numba {metadata.version('numba')}",
        "kvlib": digest.hexdigest()[:16],
        "modules": {module: _digest_of(module) for module in grid.modules},
    }


def _digest_of(module: str) -> str:
    """Of a module's file; empty where it has none."""
    file = getattr(importlib.import_module(module), "__file__", None)
    return files.sha256(file)[:16] if file else ""
