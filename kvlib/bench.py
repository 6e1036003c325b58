"""How long encoding, decoding and sketching take, beside a memory copy and plain numpy.

Implementations of one work run in turns on the same vectors, and the error of what they computed
stands beside their times, so that a fast wrong one shows. ``python -m kvlib bench`` prints the
table for kvlib alone; ``make bench`` of the book adds other packages, with :class:`Task` objects
of its own.

Works: ``copy`` (of the vectors, into memory that exists, and into new memory), ``encode`` (float32
vectors to packed bytes), ``decode`` (back), ``encode_sketch`` (one bit of the budget is a sketched
sign), ``sketch_product`` (the matrix product of a Gaussian sketch alone) and ``memory`` (what a
call allocates beyond its result).
"""

from __future__ import annotations

import contextlib
import os
import platform
import tracemalloc
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from kvlib.checks import FloatArray, check_bits, check_dim, check_int, check_power_of_two
from kvlib.measure import metrics
from kvlib.quantize import RotatedEncoded, RotatedQuantizer, codebooks, packing, rotations, sketches
from kvlib.quantize.kernels import runtime
from kvlib.timing import Ratio, Row, Task, measure, ratio, read, write

__all__ = [
    "GIVEN_MEMORY",
    "Dense",
    "Ratio",
    "Row",
    "Task",
    "codec_tasks",
    "configured",
    "copy_tasks",
    "find",
    "machine",
    "measure",
    "memory_row",
    "own_rows",
    "quality",
    "ratio",
    "read",
    "sketch_tasks",
    "table",
    "tagged",
    "vectors",
    "write",
]

GIVEN_MEMORY = "kvlib, given memory"
"""Implementation that decodes into an array which is there already."""

_Result = TypeVar("_Result")

JUDGED_ROWS = 4096
"""Vectors whose error is computed: enough for three digits of the mean at d = 128."""


# Tasks -----------------------------------------------------------------------------------------


def quality(x: FloatArray, x_hat: FloatArray, nbytes: int | None = None) -> dict[str, float]:
    """Columns of a reconstruction: mean relative squared error, and bytes a vector stores.

    Parameters
    ----------
    x, x_hat : array, shape (rows, d)
        ``x_hat`` may hold the first rows only.
    nbytes : int, optional
        Stored size of all rows of ``x``.
    """
    count = min(len(x_hat), JUDGED_ROWS)
    columns = {"rel_mse": float(metrics.relative_mse(x[:count], x_hat[:count]).mean())}
    if nbytes is not None:
        columns["bytes_per_vector"] = nbytes / len(x)
    return columns


def copy_tasks(x: FloatArray, *, threads: int = 1) -> list[Task]:
    """Memory copies of ``x``: the least that reading the input can cost."""
    target = np.empty_like(x)
    parts = np.array_split(np.arange(len(x)), threads)
    slices = [slice(part[0], part[-1] + 1) for part in parts if part.size]

    def into_existing() -> None:
        if len(slices) == 1:
            np.copyto(target, x)
            return
        with ThreadPoolExecutor(len(slices)) as pool:
            list(pool.map(lambda here: np.copyto(target[here], x[here]), slices))

    def task(impl: str, run: Callable[[], Any], used: int) -> Task:
        return Task("copy", impl, None, used, len(x), x.shape[1], run)

    return [
        task("memory", into_existing, threads),
        task("new memory", x.copy, 1),
    ]


def codec_tasks(
    x: FloatArray, bits: int, *, threads: Sequence[int] = (1,), peers: Sequence[Task] = ()
) -> list[Task]:
    """Encode and decode by kvlib compiled, by kvlib's numpy code, and by a dense matrix.

    Parameters
    ----------
    x : float32 array, shape (rows, d)
    bits : int
        n, 1 to 8.
    threads : sequence of int
        Of the compiled kernels, one pair of tasks each; the others use one, except that the matrix
        products use what the process was started with.
    peers : sequence of Task
        Put between kvlib's own.
    """
    quantizer = RotatedQuantizer(bits)
    found = []
    if runtime.kernels("rows") is not None:
        encoded, target = quantizer.encode(x), np.empty_like(x)
        for count in threads:
            found += [
                _encode_task("encode", "kvlib", quantizer, x, count),
                _decode_task("kvlib", encoded, x, count),
                # Into memory that exists, as the first of the copies does.
                _decode_task(GIVEN_MEMORY, encoded, x, count, out=target),
            ]
    in_numpy = _encode_task("encode", "kvlib numpy", quantizer, x, 1)
    found += [*peers, in_numpy, _decode_task("kvlib numpy", in_numpy.run(), x, 1)]
    dense = Dense.draw(x.shape[1], bits)
    stored = dense.encode(x)
    size = stored[0].nbytes + stored[1].nbytes
    return [
        *found,
        _task("encode", "dense matrix", bits, x, lambda: dense.encode(x), _by(x, dense, size)),
        _task(
            "decode",
            "dense matrix",
            bits,
            x,
            lambda: dense.decode(*stored),
            lambda x_hat: quality(x, x_hat, size),
        ),
    ]


def sketch_tasks(x: FloatArray, bits: int, *, peers: Sequence[Task] = ()) -> list[Task]:
    """Encoding with a sketched sign, beside the matrix product of a Gaussian sketch alone."""
    matrix = np.asarray(sketches.SignSketch("gaussian", x.shape[1]).project(np.eye(x.shape[1])))
    transposed = np.ascontiguousarray(matrix.astype(np.float32))
    halves = np.array_split(x, 2)

    def product_in_halves() -> None:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda half: half @ transposed, halves))

    found = [
        _task("sketch_product", "numpy", None, x, lambda: x @ transposed, None),
        # Work without any of kvlib's code: what two threads of this machine can gain.
        _task("sketch_product", "numpy", None, x, product_in_halves, None, 2),
    ]
    if runtime.kernels("rows") is not None:
        found += [
            _encode_task(
                "encode_sketch", f"kvlib {kind}", RotatedQuantizer(bits, sketch=kind), x, 1
            )
            for kind in ("gaussian", "hadamard")
        ]
    return [*found, *peers]


def own_rows(
    *,
    rows: int = 1 << 16,
    dim: int = 128,
    bits: Sequence[int] = (2, 3, 4),
    threads: Sequence[int] = (1,),
    seconds: float = 2.0,
    seed: int = 0,
    report: Callable[[str], None] | None = None,
) -> Iterator[list[Row]]:
    """Measure kvlib without other packages: the rows of one budget at a time.

    Parameters
    ----------
    rows, dim : int
        Standard normal float32 vectors; ``dim`` a power of two.
    bits : sequence of int
        Budgets, 2 to 8: a sketched sign takes one of them.
    threads : sequence of int
        Of the compiled kernels.
    seconds : float
        Time for each task, see :func:`measure`.
    report : callable, optional
        Told what goes on.

    Raises
    ------
    ValueError
        If a size is not allowed, before anything runs.
    """
    rows, dim = check_int(rows, "rows", low=1), check_power_of_two(check_dim(dim))
    threads = [check_int(count, "threads", low=1) for count in threads]
    bits = [check_bits(n, low=2) for n in bits]
    x = vectors(rows, dim, seed=check_int(seed, "seed", low=0))
    for n in bits:
        run = {"run": f"n = {n}"}
        with _one_thread_for_products():
            tasks = [*copy_tasks(x), *codec_tasks(x, n, threads=threads), *sketch_tasks(x, n)]
            measured = measure(tasks, seconds=seconds, report=report)
        yield [tagged(row, **run) for row in measured]
        yield [tagged(memory_row(x, n), **run)]


def _one_thread_for_products() -> contextlib.AbstractContextManager[Any]:
    """Keep numpy's matrix products to one thread, where threadpoolctl is installed."""
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        return contextlib.nullcontext()
    limits: contextlib.AbstractContextManager[Any] = threadpool_limits(1)
    return limits


def tagged(row: Row, **columns: Any) -> Row:
    """The row with further columns."""
    return replace(row, extra={**row.extra, **columns})


def _task(
    work: str,
    impl: str,
    bits: int | None,
    x: FloatArray,
    run: Callable[[], Any],
    judge: Callable[[Any], Mapping[str, Any]] | None,
    threads: int = 1,
) -> Task:
    return Task(work, impl, bits, threads, len(x), x.shape[1], run, judge)


def _by(x: FloatArray, dense: Dense, size: int) -> Callable[[Any], Mapping[str, Any]]:
    return lambda stored: quality(x, dense.decode(*(part[:JUDGED_ROWS] for part in stored)), size)


def _encode_task(
    work: str, impl: str, quantizer: RotatedQuantizer, x: FloatArray, threads: int
) -> Task:
    """Encoding by one quantizer; the kernels are off in the one called numpy."""
    kernels = not impl.endswith("numpy")
    run = configured(lambda: quantizer.encode(x), threads=threads, kernels=kernels)

    def judge(result: RotatedEncoded) -> dict[str, float]:
        return quality(x, result.decode(), result.nbytes)

    return _task(work, impl, quantizer.bits, x, run, judge, threads)


def _decode_task(
    impl: str,
    encoded: RotatedEncoded,
    x: FloatArray,
    threads: int,
    *,
    out: FloatArray | None = None,
) -> Task:
    """Decoding what ``x`` was encoded to, into ``out`` if given; kernels as in encoding."""
    kernels = not impl.endswith("numpy")
    run = configured(lambda: encoded.decode(out=out), threads=threads, kernels=kernels)

    def judge(x_hat: FloatArray) -> dict[str, float]:
        return quality(x, x_hat, encoded.nbytes)

    return _task("decode", impl, encoded.quantizer.bits, x, run, judge, threads)


def configured(
    run: Callable[[], _Result], *, threads: int = 1, kernels: bool = True
) -> Callable[[], _Result]:
    """``run`` with so many threads for kvlib, and with its compiled kernels or without."""
    choice = {
        "KVLIB_KERNELS": "auto" if kernels else "numpy",
        "KVLIB_NUM_THREADS": str(threads),
    }

    def configured_run() -> _Result:
        before = {name: os.environ.get(name) for name in choice}
        os.environ.update(choice)
        try:
            return run()
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value

    return configured_run


@dataclass(frozen=True, eq=False)
class Dense:
    """The obvious implementation: a dense rotation matrix and a binary search, packed alike."""

    matrix: FloatArray
    codebook: codebooks.Codebook

    @classmethod
    def draw(cls, dim: int, bits: int, *, seed: int = 0) -> Dense:
        """With a Haar-random rotation and the Lloyd-Max codebook."""
        matrix = rotations.Rotation("haar", dim, seed=seed).matrix().astype(np.float32)
        return cls(matrix, codebooks.lloyd_max(dim, bits))

    def encode(self, x: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Packed codes and float16 norms of float32 vectors, shape (rows, d)."""
        norms = np.linalg.norm(x, axis=1)
        unit = (x / norms[:, None]) @ self.matrix.T
        codes = np.searchsorted(self.codebook.edges.astype(np.float32), unit)
        return packing.pack(codes.astype(np.uint8), self.codebook.bits), norms.astype(np.float16)

    def decode(self, packed: FloatArray, norms: FloatArray) -> FloatArray:
        """The vectors, shape (rows, d)."""
        codes = packing.unpack(packed, self.codebook.bits, len(self.matrix))
        unit = self.codebook.levels.astype(np.float32)[codes] @ self.matrix
        return np.asarray(unit * norms.astype(np.float32)[:, None])


def memory_row(x: FloatArray, bits: int) -> Row:
    """What encoding ``x`` allocates at its peak beyond the stored result, in bytes."""
    quantizer = RotatedQuantizer(bits)
    quantizer.encode(x[:256])  # tables and compiled code are not the call's
    running = tracemalloc.is_tracing()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        encoded = quantizer.encode(x)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        if not running:
            tracemalloc.stop()
    extra = {"extra_bytes": peak - before - encoded.nbytes, "output_bytes": encoded.nbytes}
    threads = runtime.thread_count()
    return Row("memory", "kvlib", bits, threads, len(x), x.shape[1], (), None, extra)


def find(rows: Sequence[Row], /, **columns: Any) -> list[Row]:
    """Rows with the given values, of fields or of further columns."""

    def value(row: Row, name: str) -> Any:
        return getattr(row, name) if hasattr(row, name) else row.extra.get(name)

    return [row for row in rows if all(value(row, k) == v for k, v in columns.items())]


# What is printed -------------------------------------------------------------------------------


def table(rows: Sequence[Row]) -> str:
    """Rows as text: ratios to kvlib first, then times with their spread, then what came out."""
    lines = []
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        if row.seconds:
            key = (row.work, row.extra.get("run", ""), row.bits, row.rows, row.dim)
            groups.setdefault(key, []).append(row)
    for (work, run, bits, count, dim), members in groups.items():
        head = f"{work.replace('_', ' ')}, " + (f"n = {bits}, " if bits is not None else "")
        lines += ["", f"{head}{count:,} rows, d = {dim}" + (f" ({run})" if run else "")]
        lines.append(
            f"  {'x kvlib':>9}  {'implementation':<26}{'threads':>7}  "
            f"{'ms':>9}  {'low':>9}  {'high':>9}  {'rel. MSE':>9}  {'bytes':>6}"
        )
        ours = [row for row in members if row.impl == "kvlib"]
        base = min(ours, key=lambda row: row.threads) if ours else None
        ordered = sorted(members, key=lambda row: row.seconds_median or 0.0)
        lines += [_line(row, base) for row in ordered]
    return "\n".join(lines).strip("\n")


def _line(row: Row, base: Row | None) -> str:
    relative = f"{ratio(row, base).median:.2f}" if base is not None else ""
    times = [row.seconds_median, row.seconds_low, row.seconds_high]
    numbers = "  ".join(f"{1e3 * (t or 0):9.4g}" for t in times)
    error = "" if row.rel_mse is None else f"{row.rel_mse:.4g}"
    size = row.extra.get("bytes_per_vector")
    return (
        f"  {relative:>9}  {row.impl:<26}{row.threads:>7}  {numbers}  {error:>9}  "
        f"{'' if size is None else f'{size:.0f}':>6}"
    )


def machine() -> dict[str, Any]:
    """What the times were taken on: processor, cores, memory, interpreter and packages."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": _memory_gib(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "numpy": np.__version__,
    }


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory_gib() -> float | None:
    try:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None
    return round(size / 2**30, 1)


def vectors(rows: int, dim: int, *, seed: int = 0) -> FloatArray:
    """Standard normal float32 vectors, shape (rows, dim)."""
    return np.random.default_rng(seed).standard_normal((rows, dim), dtype=np.float32)
