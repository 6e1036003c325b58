"""Appendix: what the stored rows of `make bench` say about speed, errors and sizes.

Nothing is timed here: :func:`load_timings` reads copies of what was written on the machine that
the page names.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kvbook.bench.aims import AIMS, Aim, Reading
from kvlib import bench
from kvlib.bench import Row

BITS = (2, 3, 4)
"""Budgets that were timed at d = 128."""
DATA = Path(__file__).resolve().parents[2] / "data"


def seconds(row: Row) -> float:
    """Median time of a row that times something."""
    if row.seconds_median is None:
        raise ValueError(f"{row.work} by {row.impl} was not timed")
    return row.seconds_median


def times(over: Row, under: Row) -> float:
    """Time of one row over that of another: the median over their common rounds."""
    return bench.ratio(over, under).median


@dataclass(frozen=True)
class Timings:
    """Rows of a run of the bench, and the machine they were measured on."""

    rows: Sequence[Row]
    machine: Mapping[str, Any]

    def find(self, **columns: Any) -> list[Row]:
        """Rows with these values."""
        return bench.find(self.rows, **columns)

    def one(self, **columns: Any) -> Row:
        """The one row with these values."""
        found = self.find(**columns)
        if len(found) != 1:
            raise LookupError(f"expected one row with {columns}, found {len(found)}")
        return found[0]

    def timed(self, work: str, impl: str, bits: int, *, threads: int = 1, process: int = 1) -> Row:
        """A row of the d = 128 comparison.

        Parameters
        ----------
        work, impl : str
            What was done, and by whom.
        bits : int
            Budget of the comparison; its copies and matrix products have none of their own.
        threads : int
            Threads that did the work.
        process : int
            Threads that the process of this comparison was started with.
        """
        run = f"{process} thread{'s' * (process > 1)}, n = {bits}"
        budget = None if work in ("copy", "sketch_product") else bits
        return self.one(work=work, impl=impl, bits=budget, threads=threads, run=run)

    def compared(self, work: str) -> list[str]:
        """Who did some work on one thread at four bits, the fastest first."""
        found = self.find(work=work, run="1 thread, n = 4", threads=1)
        impls = sorted({row.impl for row in found})
        return sorted(impls, key=lambda impl: seconds(self.timed(work, impl, 4)))

    def readings(self) -> list[tuple[Aim, Reading]]:
        """Every measurement that had an aim."""
        return [(aim, reading) for aim in AIMS for reading in aim.readings(self.rows)]

    def input_error(self, impl: str, bits: int, family: str) -> float:
        """Relative squared error on a kind of input; not a number where it was not measured."""
        found = self.find(work="input_encode", impl=impl, bits=bits, family=family)
        return float("nan") if not found or found[0].rel_mse is None else found[0].rel_mse

    @property
    def families(self) -> list[str]:
        """Kinds of input, in the order they were measured in."""
        found = (r.extra["family"] for r in self.rows if r.work == "input_encode")
        return list(dict.fromkeys(found))


def load_timings(folder: Path = DATA) -> Timings:
    """The rows that the book keeps, copies of what `make bench` wrote to _build."""
    machine = json.loads((folder / "bench-machine.json").read_text(encoding="utf-8"))
    return Timings(bench.read(folder / "bench.json"), machine)


def headline_numbers(timings: Timings, bits: int = 4) -> dict[str, float]:
    """What the opening says, by the names it uses."""
    encode, decode, copy = (
        timings.timed(work, impl, bits)
        for work, impl in (("encode", "kvlib"), ("decode", "kvlib"), ("copy", "memory"))
    )
    readings = timings.readings()
    by_aim = {(aim.text, reading.bits): reading.value.median for aim, reading in readings}
    gaussian, hadamard = (
        timings.timed("encode_sketch", f"kvlib {kind}", bits) for kind in ("gaussian", "hadamard")
    )
    return {
        "encode-rate": encode.rows / seconds(encode) / 1e6,
        "decode-rate": decode.rows / seconds(decode) / 1e6,
        "encode-peer": by_aim["encode: fastest peer over kvlib", bits],
        "decode-peer": by_aim["decode: faiss-cpu over kvlib", bits],
        "encode-copy": times(encode, copy),
        "decode-copy": times(decode, copy),
        "aims": float(len(readings)),
        "aims-met": float(sum(aim.met(reading) for aim, reading in readings)),
        "sketch-plain": times(gaussian, encode),
        "hadamard-plain": times(hadamard, encode),
    }


def thread_gain(timings: Timings, work: str, impl: str) -> float:
    """Time on one thread over time on two in the same rounds: median over the budgets."""
    pairs = [[timings.timed(work, impl, n, threads=t) for t in (1, 2)] for n in BITS]
    return float(np.median([times(single, double) for single, double in pairs]))


def thread_gain_apart(timings: Timings, work: str, impl: str) -> float:
    """The same where one process ran one thread and another two: not in the same rounds."""
    single = [seconds(timings.timed(work, impl, n)) for n in BITS]
    double = [seconds(timings.timed(work, impl, n, threads=2, process=2)) for n in BITS]
    return float(np.median(np.divide(single, double)))


def limit_numbers(timings: Timings) -> dict[str, float]:
    """What the text says about threads, memory and products, by the names it uses."""
    copy = timings.timed("copy", "memory", 4)
    kl = [timings.one(work="kl", impl="kvlib, float32 keys", threads=t) for t in (1, 2)]
    most = max(timings.find(work="memory"), key=lambda row: row.rows)
    test = timings.one(work="permutation_test", impl="kvlib", rows=4000)
    return {
        "copy-new": times(timings.timed("copy", "new memory", 4), copy),
        "product-two": thread_gain(timings, "sketch_product", "numpy"),
        "encode-two": thread_gain(timings, "encode", "kvlib"),
        "decode-two": thread_gain(timings, "decode", "kvlib"),
        "decode-ms": 1e3 * min(seconds(timings.timed("decode", "kvlib", n)) for n in BITS),
        "encode-ms": 1e3 * max(seconds(timings.timed("encode", "kvlib", n)) for n in BITS),
        "copy-two": thread_gain_apart(timings, "copy", "memory"),
        "faiss-two": thread_gain_apart(timings, "encode", "faiss-cpu dense"),
        "kl-two": times(*kl),
        "given-copy": times(timings.timed("decode", bench.GIVEN_MEMORY, 4), copy),
        "memory-rows": float(most.rows),
        "memory-extra": most.extra["extra_bytes"] / 1e6,
        "memory-output": most.extra["output_bytes"] / 1e6,
        "test-gflops": test.rows**2 * test.extra["permutations"] / seconds(test) / 1e9,
    }


def at_kl(timings: Timings, impl: str, kl: float) -> Row:
    """The accuracy of an implementation where the divergence is nearest to ``kl``."""
    found = timings.find(work="kl_accuracy", impl=impl)
    return min(found, key=lambda row: float(abs(np.log(row.extra["kl"] / kl))))


def largest_of_each_budget(aim: Aim, rows: Sequence[Row]) -> list[Reading]:
    """Readings of an aim; of memory, the largest input of each budget says it all."""
    found: Iterable[Reading] = aim.readings(rows)
    if aim.unit != "MB":
        return list(found)
    by_budget = [[r for r in found if r.bits == n] for n in BITS]
    return [max(readings, key=lambda r: r.value.median) for readings in by_budget]
