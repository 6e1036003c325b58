"""A grid of trials to one tidy table: paired draws, any number of workers, resumable.

A *cell* is one draw of keys, values and queries: a family, rank, dimension, number of tokens and
repetition. Every scheme, budget and logit scale of the grid is measured on that same draw, one
row of the table each, so that rows of a cell are paired. The random numbers of a cell derive
from its own coordinates and the seed, and from nothing else: order, number of workers, backend
and the rest of the grid do not matter.

>>> grid = Grid(schemes=("KV", "QKQV"), bits=(2, 4), dims=(64,), tokens=(128,), repetitions=3)
>>> grid.cell_count, grid.row_count
(3, 12)

:func:`run` computes it, and :func:`read` gives the table back.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import itertools
import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kvlib import _shards, attention, caches, metrics, rotations, schemes, sketches
from kvlib._validation import (
    check_bits,
    check_choice,
    check_dim,
    check_int,
    check_positive,
    check_power_of_two,
)

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

QUERY_LAWS = ("gaussian", "keys")

COORDINATES = (
    "family",
    "rank",
    "dim",
    "tokens",
    "repetition",
    "scheme",
    "rotation",
    "sketch",
    "sketch_scale",
    "scale",
    "bits",
    "logit_scale",
)
"""Columns that say which row it is; ``rank`` and the options a scheme lacks are null."""

MEASURES = (
    "kl_mean",
    "kl_median",
    "kl_p95",
    "mse_k",
    "mse_v",
    "mse_t",
    "rate_k",
    "angle_k",
    "rate_v",
    "angle_v",
    "rate_t",
    "angle_t",
    "top1_agreement",
    "bits_per_coordinate",
)
"""Measured columns, see :func:`run`."""

# Modules that no number of a sweep can come from.
_WITHOUT_INFLUENCE = (
    "_claims_table",
    "_shards",
    "_timing",
    "__main__",
    "bench",
    "capture",
    "claims",
    "inference",
    "plotting",
    "splitting",
    "theory",
)
_RANKED = ("low_rank", "low_rank_t")
_REPORTED_FAILURES = 20
_CONNECT_SECONDS = 10
_MAX_CELLS_PER_SHARD = 256
# A small grid is still cut into pieces enough to keep several workers busy.
_MIN_SHARDS = 32


# The grid --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Treatment:
    """One scheme with its options and budget, as coordinates of a row; None where it has none."""

    scheme: str
    rotation: str | None
    sketch: str | None
    sketch_scale: str | None
    scale: str
    bits: int

    def build(self) -> schemes.Scheme:
        """The scheme itself."""
        given = {
            name: value
            for name in ("rotation", "sketch", "sketch_scale")
            if (value := getattr(self, name)) is not None
        }
        return schemes.named(self.scheme, self.bits, scale=self.scale, **given)


@dataclass(frozen=True)
class Cell:
    """Coordinates of one draw."""

    family: caches.Family
    dim: int
    tokens: int
    repetition: int


@dataclass(frozen=True)
class Grid:
    """The axes of a sweep; a row for every combination that makes sense.

    Axes take any sequence, without repeated values. Options that a scheme does not have
    (sketches of KV, ranks of a Gaussian) do not multiply its rows.

    Parameters
    ----------
    schemes : sequence of str
        Names from :data:`kvlib.schemes.NAMES`.
    bits : sequence of int
        Budgets n a coordinate, 1 to 8.
    rotations, sketches, sketch_scales, scales : sequence of str
        Options of :func:`kvlib.schemes.named`.
    families : sequence of str
        Names as in :func:`kvlib.caches.family` with parameters: ``"gaussian"``,
        ``"student_t:nu=3"``, ``"spike:energy=0.5"``, ``"common_mean:energy=0.5"``,
        ``"low_rank"``, ``"low_rank_t:nu=3"``.
    ranks : sequence of int
        For the low-rank families; empty if there is none.
    dims, tokens : sequence of int
    logit_scales : sequence of float
        Factors on the queries.
    repetitions : int
        Independent draws of each cell.
    queries : int
        Queries a cell.
    query_law : {"gaussian", "keys"}
        Standard normal queries, or queries of the keys' family that share with them the subspace
        or the mean.
    seed : int
        Root of all randomness.

    Raises
    ------
    TypeError, ValueError
        If an axis is empty, repeats a value or holds an impossible one; the message names it.
    """

    schemes: Sequence[str] = schemes.FACTORIAL
    bits: Sequence[int] = (2, 3, 4)
    rotations: Sequence[str] = ("hadamard",)
    sketches: Sequence[str] = ("gaussian",)
    sketch_scales: Sequence[str] = ("unbiased",)
    scales: Sequence[str] = ("norm",)
    families: Sequence[str] = ("gaussian",)
    ranks: Sequence[int] = ()
    dims: Sequence[int] = (64,)
    tokens: Sequence[int] = (256,)
    logit_scales: Sequence[float] = (1.0,)
    repetitions: int = 1
    queries: int = 64
    query_law: str = "gaussian"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, check in _AXES.items():
            self._normalise(name, check)
        check_choice(self.query_law, "query_law", QUERY_LAWS)
        for name, low in (("repetitions", 1), ("queries", 1), ("seed", 0)):
            object.__setattr__(self, name, check_int(getattr(self, name), name, low=low))
        self._check_ranks()
        if any(t.rotation == "hadamard" or t.sketch == "hadamard" for t in self.treatments):
            for dim in self.dims:
                check_power_of_two(dim, "dims")

    def _normalise(self, name: str, check: Callable[[Any, str], Any]) -> None:
        given = getattr(self, name)
        if isinstance(given, str) or not isinstance(given, Iterable):
            raise TypeError(f"{name} must be a sequence of values, got {given!r}")
        values = tuple(check(value, name) for value in given)
        if not values and name != "ranks":
            raise ValueError(f"{name} must hold at least one value, got none")
        repeated = [value for value in dict.fromkeys(values) if values.count(value) > 1]
        if repeated:
            raise ValueError(f"{name} must not repeat a value, got {repeated[0]!r} twice")
        object.__setattr__(self, name, values)

    def _check_ranks(self) -> None:
        ranked = [spec for spec in self.families if spec.partition(":")[0] in _RANKED]
        if ranked and not self.ranks:
            raise ValueError(f"ranks must hold at least one value for {ranked[0]!r}, got none")
        if self.ranks and not ranked:
            raise ValueError(
                f"ranks must be empty unless families holds one of {', '.join(_RANKED)}, "
                f"got {list(self.ranks)}"
            )
        if self.ranks and max(self.ranks) > min(self.dims):
            raise ValueError(
                f"ranks must be at most the smallest of dims, {min(self.dims)}, "
                f"got {max(self.ranks)}"
            )

    @functools.cached_property
    def treatments(self) -> tuple[Treatment, ...]:
        """Schemes with options and budget, in the order of the rows of a cell."""
        combinations = itertools.product(
            self.schemes, self.rotations, self.sketches, self.sketch_scales, self.scales, self.bits
        )
        return tuple(dict.fromkeys(_treatment(*values) for values in combinations))

    @functools.cached_property
    def sources(self) -> tuple[caches.Family, ...]:
        """Families crossed with the ranks of those that have one."""
        made = []
        for spec in self.families:
            name, parameters = _parse_family(spec)
            if name in _RANKED:
                made += [caches.family(name, **parameters, rank=rank) for rank in self.ranks]
            else:
                made.append(caches.family(name, **parameters))
        return tuple(made)

    @property
    def cell_count(self) -> int:
        """Number of draws."""
        return len(self.sources) * len(self.dims) * len(self.tokens) * self.repetitions

    @property
    def rows_per_cell(self) -> int:
        """Number of measurements on one draw."""
        return len(self.treatments) * len(self.logit_scales)

    @property
    def row_count(self) -> int:
        """Number of rows of the table."""
        return self.cell_count * self.rows_per_cell

    def cell(self, index: int) -> Cell:
        """The cell of an index below ``cell_count``, repetitions running fastest."""
        index, repetition = divmod(index, self.repetitions)
        index, token = divmod(index, len(self.tokens))
        source, dim = divmod(index, len(self.dims))
        return Cell(self.sources[source], self.dims[dim], self.tokens[token], repetition)

    @property
    def cells_per_shard(self) -> int:
        """Cells stored together: about a second of work, so that little is lost when killed."""
        tokens, dim = max(self.tokens), max(self.dims)
        encode = 8 * tokens * dim * (20 + dim)
        attend = 10 * tokens * (dim + 20) * self.queries
        seconds = self.rows_per_cell * (1e-3 + (encode + attend) / 1e10)
        size = min(_MAX_CELLS_PER_SHARD, max(1, int(1 / seconds)))
        return min(size, math.ceil(self.cell_count / _MIN_SHARDS))

    def as_dict(self) -> dict[str, Any]:
        """The axes in JSON types."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def _treatment(
    scheme: str, rotation: str, sketch: str, sketch_scale: str, scale: str, bits: int
) -> Treatment:
    sketched = scheme in ("KQV", "QKV", "QKQV")
    return Treatment(
        scheme,
        None if scheme == "KV" else rotation,
        sketch if sketched else None,
        sketch_scale if sketched else None,
        "unbiased" if scheme in schemes.UNBIASED else scale,
        bits,
    )


def _parse_family(spec: str) -> tuple[str, dict[str, float]]:
    """Split ``name:parameter=number,...``."""
    name, _, rest = spec.partition(":")
    parameters = {}
    for item in filter(None, rest.split(",")):
        key, equals, number = item.partition("=")
        try:
            parameters[key] = float(number)
        except ValueError:
            equals = ""
        if not equals:
            raise ValueError(f"families must read name:parameter=number, got {spec!r}")
    return name, parameters


def _check_family(spec: object, axis: str) -> str:
    """Return the one spelling of a family, which is what the table's column holds."""
    if not isinstance(spec, str):
        raise TypeError(f"{axis} must hold names such as 'student_t:nu=3', got {spec!r}")
    name, parameters = _parse_family(spec)
    if "rank" in parameters:
        raise ValueError(f"{axis} must leave the rank to the axis ranks, got {spec!r}")
    try:
        caches.family(name, **parameters, **({"rank": 1} if name in _RANKED else {}))
    except ValueError as error:
        raise ValueError(f"{axis}: {error}") from None
    return _spell(name, parameters)


def _spell(name: str, parameters: dict[str, float]) -> str:
    numbers = [f"{key}={parameters[key]!r}".removesuffix(".0") for key in sorted(parameters)]
    return f"{name}:{','.join(numbers)}" if numbers else name


def _choice_check(allowed: Sequence[str]) -> Callable[[Any, str], str]:
    return lambda value, name: check_choice(value, name, allowed)


_AXES: dict[str, Callable[[Any, str], Any]] = {
    "schemes": _choice_check(schemes.NAMES),
    "bits": lambda value, name: check_bits(value, name, low=1),
    "rotations": _choice_check(rotations.KINDS),
    "sketches": _choice_check(sketches.KINDS),
    "sketch_scales": _choice_check(sketches.SCALES),
    "scales": _choice_check(schemes.SCALES),
    "families": _check_family,
    "ranks": lambda value, name: check_int(value, name, low=1),
    "dims": check_dim,
    "tokens": lambda value, name: check_int(value, name, low=1),
    "logit_scales": check_positive,
}


# One cell --------------------------------------------------------------------------------------


def _seeds(cell: Cell, seed: int) -> list[np.random.SeedSequence]:
    """Independent streams for keys, values, queries and schemes, from the coordinates alone."""
    coordinates = json.dumps({"seed": seed, **asdict(cell)}, sort_keys=True)
    digest = hashlib.sha256(coordinates.encode()).digest()
    return np.random.SeedSequence(int.from_bytes(digest, "big")).spawn(4)


class _Draw:
    """The keys, values and queries of a cell, and what several of its rows share."""

    def __init__(self, cell: Cell, grid: Grid) -> None:
        *data, scheme = _seeds(cell, grid.seed)
        key_rng, value_rng, query_rng = map(np.random.default_rng, data)
        extra = grid.queries if grid.query_law == "keys" else 0
        keys = caches.draw(cell.family, cell.tokens + extra, cell.dim, rng=key_rng)
        self.k = np.ascontiguousarray(keys[: cell.tokens])
        self.v = caches.draw(cell.family, cell.tokens, cell.dim, rng=value_rng)
        self.q = (
            np.ascontiguousarray(keys[cell.tokens :])
            if extra
            else caches.draw(caches.GAUSSIAN, grid.queries, cell.dim, rng=query_rng)
        )
        # One seed for all schemes: they are paired in their rotation and sketch, too.
        self.scheme_seed = int(scheme.generate_state(1)[0])
        self._exact: dict[float, NDArray[np.float64]] = {}
        self._top: NDArray[np.intp] | None = None

    def exact_output(self, logit_scale: float) -> NDArray[np.float64]:
        """Attention output with exact keys and values, computed once a logit scale."""
        if logit_scale not in self._exact:
            q = logit_scale * self.q
            self._exact[logit_scale] = attention.attention_output(q, self.k, self.v)
        return self._exact[logit_scale]

    def top1_agreement(self, k_hat: NDArray[Any]) -> float:
        """Share of queries whose largest attention weight stays at the same key."""
        if self._top is None:
            self._top = _largest(self.q, self.k)
        return float(np.mean(_largest(self.q, k_hat) == self._top))


def _largest(q: NDArray[Any], k: NDArray[Any]) -> NDArray[np.intp]:
    """Index of the key with the largest logit, in blocks of queries."""
    rows = max(1, attention.BLOCK_BYTES // (8 * len(k)))
    blocks = [(q[i : i + rows] @ k.T).argmax(-1) for i in range(0, len(q), rows)]
    return np.concatenate(blocks)


def _treat(draw: _Draw, treatment: Treatment, logit_scales: Sequence[float]) -> Iterator[Any]:
    """Yield the measures of one treatment at each logit scale, or the error in their place."""
    try:
        encoded = treatment.build().encode(draw.k, draw.v, seed=draw.scheme_seed)
        k_hat, v_hat = encoded.decode()
    except Exception as error:
        yield from itertools.repeat(error, len(logit_scales))
        return
    for logit_scale in logit_scales:
        try:
            yield _measure(draw, k_hat, v_hat, logit_scale, encoded.bits_per_coordinate)
        except Exception as error:
            yield error


def _measure(
    draw: _Draw, k_hat: NDArray[Any], v_hat: NDArray[Any], logit_scale: float, bits: float
) -> list[float]:
    """One row, in the order of MEASURES."""
    q, k, v = logit_scale * draw.q, draw.k, draw.v
    kl = attention.attention_kl(q, k, k_hat)
    t, t_hat = draw.exact_output(logit_scale), attention.attention_output(q, k_hat, v_hat)
    pairs = ((k, k_hat), (v, v_hat), (t, t_hat))
    return [
        float(kl.mean()),
        float(np.median(kl)),
        float(np.quantile(kl, 0.95)),
        *(float(metrics.relative_mse(x, x_hat).mean()) for x, x_hat in pairs),
        *map(float, metrics.error_vector_6d(k, k_hat, v, v_hat, t, t_hat)),
        draw.top1_agreement(k_hat),
        bits,
    ]


@dataclass(frozen=True, eq=False)
class _Computed:
    """Measures of the rows of a shard, and the message of each that failed."""

    shard: int
    values: NDArray[np.float64]
    errors: dict[int, str]


def _cells_of(grid: Grid, shard: int) -> range:
    size = grid.cells_per_shard
    return range(shard * size, min((shard + 1) * size, grid.cell_count))


def _compute(grid: Grid, shard: int) -> _Computed:
    """Measure every row of a shard; a row that fails does not stop the others."""
    results: list[Any] = []
    for index in _cells_of(grid, shard):
        try:
            draw = _Draw(grid.cell(index), grid)
        except Exception as error:
            results += [error] * grid.rows_per_cell
            continue
        for treatment in grid.treatments:
            results += _treat(draw, treatment, grid.logit_scales)
    values = np.full((len(results), len(MEASURES)), np.nan)
    errors = {}
    for row, result in enumerate(results):
        if isinstance(result, Exception):
            errors[row] = f"{type(result).__name__}: {result}"
        else:
            values[row] = result
    return _Computed(shard, values, errors)


def _compute_in_worker(grid: Grid, shard: int) -> _Computed:
    """As :func:`_compute`, in a process of ours or of a cluster."""
    _prepare_worker()
    return _compute(grid, shard)


@functools.cache
def _prepare_worker() -> None:
    """One thread for linear algebra: the work is parallel already, and sums keep one order."""
    import threadpoolctl

    threadpoolctl.threadpool_limits(1)


def _compute_in_child(grid: Grid, shard: int) -> _Computed:
    """As :func:`_compute_in_worker`, in a process that lives and dies with its parent."""
    _follow_parent()
    return _compute_in_worker(grid, shard)


@functools.cache
def _follow_parent() -> None:
    """Leave interrupts to the parent, and end soon after a parent that was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


# Backends: shards in, computed shards out, in any order -----------------------------------------


class WorkerLost(RuntimeError):
    """Workers died and took shards with them; what is stored stays, and can be resumed."""


def _here(grid: Grid, shards: Iterable[int]) -> Generator[_Computed]:
    import threadpoolctl

    for shard in shards:
        with threadpoolctl.threadpool_limits(1):
            computed = _compute(grid, shard)
        yield computed


def _in_processes(grid: Grid, shards: Iterable[int], workers: int) -> Generator[_Computed]:
    import joblib
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    with joblib.parallel_config("loky", inner_max_num_threads=1):
        pool = joblib.Parallel(
            n_jobs=workers,
            return_as="generator_unordered",
            batch_size=1,
            pre_dispatch="2 * n_jobs",
        )
    tasks = (joblib.delayed(_compute_in_child)(grid, shard) for shard in shards)
    try:
        yield from pool(tasks)
    except TerminatedWorkerError as error:
        raise WorkerLost(
            "a worker process was killed, perhaps for want of memory; what is finished is "
            "stored: run again to go on, with fewer workers if it happens again"
        ) from error


def _on_dask(grid: Grid, shards: Iterable[int], address: str) -> Generator[_Computed]:
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
        cells = [grid.cell(_cells_of(grid, shard)[0]) for shard in lost[:_REPORTED_FAILURES]]
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


def _connect(address: str) -> Any:
    """A client of the scheduler at an address, once its workers have been checked."""
    distributed: Any = importlib.import_module("distributed")
    try:
        client = distributed.Client(address, timeout=_CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"dask must be the address of a scheduler, got {address!r}") from error
    try:
        _check_workers(client, address)
    except BaseException:
        client.close()
        raise
    return client


def _check_workers(client: Any, address: str) -> None:
    """Refuse a cluster whose workers would compute other numbers than this process."""
    if not client.nthreads():
        raise ValueError(f"dask must be a cluster with workers, got {address!r} without any")
    here = _versions()
    for worker, there in client.run(_versions).items():
        differs = _shards.differing_keys(here, there)
        if differs:
            raise ValueError(
                f"dask: worker {worker} must have the same versions as this process, "
                f"differs in {', '.join(differs)}"
            )


def _versions() -> dict[str, str]:
    """What decides the numbers besides the grid: numpy, scipy, and kvlib's own code."""
    import scipy

    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        if path.stem not in _WITHOUT_INFLUENCE:
            digest.update(path.read_bytes())
    return {"numpy": np.__version__, "scipy": scipy.__version__, "kvlib": digest.hexdigest()[:16]}


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
    """Read the table of a sweep: columns COORDINATES, MEASURES and ``error``."""
    import pandas as pd

    return pd.read_parquet(path)


def _schema(identity: dict[str, Any] | None = None) -> pa.Schema:
    import pyarrow as pa

    whole = ("rank", "dim", "tokens", "repetition", "bits")
    types = {
        **dict.fromkeys(COORDINATES, pa.string()),
        **dict.fromkeys(whole, pa.int64()),
        **dict.fromkeys(("logit_scale", *MEASURES), pa.float64()),
        "error": pa.string(),
    }
    text = json.dumps(identity, sort_keys=True)
    return pa.schema(list(types.items()), metadata={"kvlib.sweep": text} if identity else None)


def _to_table(grid: Grid, computed: _Computed) -> pa.Table:
    """Put the coordinates beside the measures of a shard."""
    import pyarrow as pa

    rows: dict[str, list[Any]] = {name: [] for name in COORDINATES}
    for index in _cells_of(grid, computed.shard):
        cell = grid.cell(index)
        parameters = {
            name: value
            for name in ("nu", "energy")
            if (value := getattr(cell.family, name)) is not None
        }
        shared = {
            "family": _spell(cell.family.kind, parameters),
            "rank": cell.family.rank,
            "dim": cell.dim,
            "tokens": cell.tokens,
            "repetition": cell.repetition,
        }
        for treatment, logit_scale in itertools.product(grid.treatments, grid.logit_scales):
            row = {**shared, **asdict(treatment), "logit_scale": logit_scale}
            for name in COORDINATES:
                rows[name].append(row[name])
    columns = dict(zip(MEASURES, computed.values.T, strict=True))
    errors = [computed.errors.get(row) for row in range(len(computed.values))]
    return pa.table({**rows, **columns, "error": errors}, schema=_schema())


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
    Measures of a row: mean, median and 95th percentile over the queries of the KL divergence in
    nats; mean relative squared error of keys, values and output (``mse_k``, ``mse_v``,
    ``mse_t``); the six coordinates of :func:`kvlib.metrics.error_vector_6d`, Shannon rates in
    bits and angles over pi; the share of queries whose top key is kept; bits per coordinate
    counted from the stored bytes. A row that fails has nulls there and its ``error``.

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
        "grid": grid.as_dict(),
        "versions": _versions(),
        "cells_per_shard": grid.cells_per_shard,
    }
    _check_target(path, identity)
    with _shards.Store(path.with_name(path.name + ".parts"), identity) as store:
        if retry:
            store.forget_failed()
        missing = _missing(grid, store)
        with contextlib.closing(_backend(grid, missing, workers, dask)) as results:
            computed = _collect(grid, store, results, progress)
        return _assemble(grid, path, store, identity, computed)


def _backend(
    grid: Grid, shards: list[int], workers: int | None, dask: str | None
) -> Generator[_Computed]:
    if dask is not None and shards:
        return _on_dask(grid, shards, dask)
    processes = min(workers or _cores(), len(shards))
    return _in_processes(grid, shards, processes) if processes > 1 else _here(grid, shards)


def _cores() -> int:
    """Cores this process may use, within the limits of a container."""
    import joblib

    return int(joblib.cpu_count())


def _missing(grid: Grid, store: _shards.Store) -> list[int]:
    """Shards to compute, shuffled in a fixed way: cheap and dear cells mix, and the time left
    shown on the way is about right."""
    count = math.ceil(grid.cell_count / grid.cells_per_shard)
    order = np.random.default_rng(0).permutation(count)
    return [shard for shard in order.tolist() if shard not in store.done]


def _collect(
    grid: Grid, store: _shards.Store, results: Iterable[_Computed], progress: bool | None
) -> int:
    """Store shards as they come; returns the number of cells computed."""
    from tqdm import tqdm

    before = sum(len(_cells_of(grid, shard)) for shard in store.done)
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
            bar.update(len(_cells_of(grid, computed.shard)))
    return sum(len(_cells_of(grid, shard)) for shard in store.done) - before


def _assemble(
    grid: Grid, path: Path, store: _shards.Store, identity: dict[str, Any], computed: int
) -> Outcome:
    """Stream the shards into the table, noting failed rows on the way."""
    failures: list[str] = []

    def noted() -> Iterator[pa.Table]:
        for table in store.tables():
            if table["error"].null_count < table.num_rows and len(failures) < _REPORTED_FAILURES:
                rows = table.filter(table["error"].is_valid()).to_pylist()
                failures.extend(_describe(row) for row in rows[:_REPORTED_FAILURES])
            yield table

    rows = _shards.write_table(path, noted(), _schema(identity))
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
    differs = _shards.differing_keys(json.loads(stored), json.loads(json.dumps(identity)))
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
            f"sweeps need {', '.join(missing)}: python -m pip install 'kvlib[{extra}]'"
        )
