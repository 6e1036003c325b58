"""Compute a grid, or what is missing of it, and write one table."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import json
import math
import os
import sys
from collections.abc import Generator, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kvlib.checks import check_int
from kvlib.quantize.kernels import runtime
from kvlib.sweeps.backends import check_cluster, here, in_processes, on_dask, versions
from kvlib.sweeps.cell import Computed, cells_of, compute
from kvlib.sweeps.grid import COORDINATES, Grid
from kvlib.sweeps.store import Store, differing_keys, write_table

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

_REPORTED_FAILURES = 20


# The table -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """What a sweep did.

    Attributes
    ----------
    path : Path
        The Parquet file.
    rows, failed : int
        Rows of the table, and those among them without measures.
    computed : int
        Cells computed in this run; the others were there.
    failures : tuple of str
        Coordinates and error of the first failed rows.
    """

    path: Path
    rows: int
    failed: int
    computed: int
    failures: tuple[str, ...]

    def table(self) -> pd.DataFrame:
        """The table, see :func:`read`."""
        return read(self.path)


def read(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read the table of a sweep: columns COORDINATES, the metrics and ``error``."""
    import pandas as pd

    return pd.read_parquet(path)


def _schema(grid: Grid, identity: dict[str, Any] | None = None) -> pa.Schema:
    import pyarrow as pa

    whole = ("rank", "layer", "head", "window", "dim", "tokens", "repetition", "bits")
    types = {
        **dict.fromkeys(COORDINATES, pa.string()),
        **dict.fromkeys(whole, pa.int64()),
        **dict.fromkeys(("logit_scale", *grid.metrics), pa.float64()),
        "error": pa.string(),
    }
    text = json.dumps(identity, sort_keys=True)
    return pa.schema(list(types.items()), metadata={"kvlib.sweep": text} if identity else None)


def _to_table(grid: Grid, computed: Computed) -> pa.Table:
    """Put the coordinates beside the measures of a shard."""
    import pyarrow as pa

    rows: dict[str, list[Any]] = {name: [] for name in COORDINATES}
    treatments = [asdict(treatment) for treatment in grid.treatments]
    for cell in cells_of(grid, computed.shard):
        shared = cell.row
        for treatment, logit_scale in itertools.product(treatments, grid.logit_scales):
            row = {**shared, **treatment, "logit_scale": logit_scale}
            for name in COORDINATES:
                rows[name].append(row[name])
    columns = dict(zip(grid.metrics, computed.values.T, strict=True))
    errors = [computed.errors.get(row) for row in range(len(computed.values))]
    return pa.table({**rows, **columns, "error": errors}, schema=_schema(grid))


def run(
    grid: Grid,
    path: str | os.PathLike[str],
    *,
    workers: int | None = None,
    dask: str | None = None,
    progress: bool | None = None,
    retry: bool = False,
) -> Outcome:
    """Compute a grid, or what is missing of it, and write the table.

    Parameters
    ----------
    grid : Grid
    path : path-like
        The Parquet file to write. Finished pieces are kept beside it in the folder
        ``path + ".parts"``, which may be deleted once the table is there.
    workers : int, optional
        Processes on this machine, by default one a core; one computes in this process.
    dask : str, optional
        Address of a Dask scheduler, such as ``"tcp://10.0.0.1:8786"``, to use instead. Its
        workers need this version of kvlib, and no shared file system; their linear algebra is
        held to one thread from then on.
    progress : bool, optional
        Show a bar with the time left; by default where standard error is a terminal.
    retry : bool
        Compute again the pieces with failed rows.

    Returns
    -------
    Outcome

    Raises
    ------
    ValueError
        If ``path`` or its parts belong to another grid or version, or the cluster cannot be used.
    WorkerLost
        If workers were killed and their work could not be done elsewhere.

    Notes
    -----
    The metrics of a row are those of :mod:`kvlib.measure.registry` that the grid names, by
    default: mean, median and 95th percentile over the queries of the KL divergence in nats; mean
    relative squared error of keys, values and output (``mse_k``, ``mse_v``, ``mse_t``); the six
    coordinates of :func:`kvlib.measure.metrics.error_vector_6d`, Shannon rates in bits and angles
    over pi; the share of queries whose top key is kept; bits per coordinate counted from the
    stored bytes. A row that fails has nulls there and its ``error``.

    Interrupted or killed at any point, the same call goes on where it was, and the file has the
    same bytes as that of an uninterrupted run. Numbers are the same on machines of one kind;
    between processors of different makes the last digits of linear algebra may differ.
    """
    path = Path(path)
    if workers is not None:
        check_int(workers, "workers", low=1)
        if dask is not None:
            raise ValueError("workers must be left out when dask is given")
    _require("pandas", "pyarrow", "joblib", "threadpoolctl", "tqdm")
    if dask is not None:
        _require("distributed")
    identity = {
        "grid": grid.identity(),
        "versions": versions(grid),
        "draws_per_shard": grid.draws_per_shard,
    }
    _check_target(path, identity)
    if dask is not None:
        check_cluster(dask, grid)  # before a folder is made that would claim the name
    with Store(path.with_name(path.name + ".parts"), identity) as store:
        if retry:
            store.forget_failed()
        missing = _missing(grid, store)
        with contextlib.closing(_backend(grid, missing, workers, dask)) as results:
            computed = _collect(grid, store, results, progress)
        return _assemble(grid, path, store, identity, computed)


def measure(grid: Grid) -> pd.DataFrame:
    """Compute a grid in this process and return its table, without a file.

    For a grid of seconds; the rows are those of :func:`run`.

    Raises
    ------
    RuntimeError
        If a row fails, with its coordinates and error.
    """
    _require("pandas", "pyarrow", "threadpoolctl")
    import pyarrow as pa
    import threadpoolctl

    shards = range(math.ceil(grid.draw_count / grid.draws_per_shard))
    tables = []
    with threadpoolctl.threadpool_limits(1):
        for computed in (compute(grid, shard) for shard in shards):
            tables.append(_to_table(grid, computed))
            if computed.errors:
                row = tables[-1].slice(min(computed.errors), 1).to_pylist()[0]
                raise RuntimeError(f"a row failed, the first: {_describe(row)}")
    table: pd.DataFrame = pa.concat_tables(tables).to_pandas()
    return table


def _backend(
    grid: Grid, shards: list[int], workers: int | None, dask: str | None
) -> Generator[Computed]:
    if dask is not None and shards:
        return on_dask(grid, shards, dask)
    processes = min(workers or runtime.core_count(), len(shards))
    if processes > 1 and "__main__" in grid.modules:
        raise ValueError(
            "schemes and metrics defined in __main__ are known to this process only: put them in "
            "a module, or compute with workers=1"
        )
    return in_processes(grid, shards, processes) if processes > 1 else here(grid, shards)


def _missing(grid: Grid, store: Store) -> list[int]:
    """Shards to compute, shuffled in a fixed way: cheap and dear cells mix, and the time left
    shown on the way is about right."""
    count = math.ceil(grid.draw_count / grid.draws_per_shard)
    order = np.random.default_rng(0).permutation(count)
    return [shard for shard in order.tolist() if shard not in store.done]


def _collect(grid: Grid, store: Store, results: Iterable[Computed], progress: bool | None) -> int:
    """Store shards as they come; returns the number of cells computed."""
    from tqdm import tqdm

    before = sum(len(cells_of(grid, shard)) for shard in store.done)
    failed = sum(entry.failed for entry in store.done.values())
    shown = sys.stderr.isatty() if progress is None else progress
    with tqdm(
        total=grid.cell_count, initial=before, unit="cell", desc="sweep", disable=not shown
    ) as bar:
        for computed in results:
            store.add(computed.shard, _to_table(grid, computed), len(computed.errors))
            failed += len(computed.errors)
            if failed:
                bar.set_postfix(failed_rows=failed)
            bar.update(len(cells_of(grid, computed.shard)))
    return sum(len(cells_of(grid, shard)) for shard in store.done) - before


def _assemble(
    grid: Grid, path: Path, store: Store, identity: dict[str, Any], computed: int
) -> Outcome:
    """Stream the shards into the table, noting failed rows on the way."""
    failures: list[str] = []

    def noted() -> Iterator[pa.Table]:
        for table in store.tables():
            if table["error"].null_count < table.num_rows and len(failures) < _REPORTED_FAILURES:
                rows = table.filter(table["error"].is_valid()).to_pylist()
                failures.extend(_describe(row) for row in rows[:_REPORTED_FAILURES])
            yield table

    rows = write_table(path, noted(), _schema(grid, identity))
    if rows != grid.row_count:
        raise RuntimeError(f"{path}: wrote {rows} rows of {grid.row_count}")
    failed = sum(entry.failed for entry in store.done.values())
    return Outcome(path, rows, failed, computed, tuple(failures[:_REPORTED_FAILURES]))


def _describe(row: dict[str, Any]) -> str:
    given = (f"{name}={row[name]}" for name in COORDINATES if row[name] is not None)
    return f"{' '.join(given)}: {row['error']}"


def _check_target(path: Path, identity: dict[str, Any]) -> None:
    """Refuse to replace a file that is not an earlier table of this very sweep."""
    if not path.exists():
        if not path.parent.is_dir():
            raise ValueError(f"path must lie in an existing folder, got {str(path)!r}")
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        stored = (pq.read_schema(path).metadata or {}).get(b"kvlib.sweep")
    except (pa.ArrowInvalid, OSError):
        stored = None
    if stored is None:
        raise ValueError(f"path must not be a file of something else, got {str(path)!r}")
    differs = differing_keys(json.loads(stored), json.loads(json.dumps(identity)))
    if differs:
        raise ValueError(
            f"path must not hold another sweep (different: {', '.join(differs)}), "
            f"got {str(path)!r}; write to another file, or delete it"
        )


def _require(*packages: str) -> None:
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        extra = "dask" if "distributed" in missing else "sweep"
        raise ImportError(
            f"sweeps need {', '.join(missing)}: in kvlib's checkout, python -m pip install "
            f"-e '.[{extra}]'"
        )
