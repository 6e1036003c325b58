"""What kvlib's times are held against: the packages it is compared with, and what it should reach.

Measuring is kvlib's; what a time ought to be is the book's opinion.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kvlib import bench
from kvlib.bench import Ratio, Row

PEERS = (
    "turbovec",
    "faiss-cpu",
    "faiss-cpu dense",
    "turboquant-space",
    "turboquant-torch",
)
"""Other packages that rows may come from, as they are called in ``impl``."""


@dataclass(frozen=True)
class Reading:
    """A measured number that an aim is held against: which, and its spread."""

    bits: int | None
    against: str
    value: Ratio


@dataclass(frozen=True)
class Aim:
    """Something the times should show.

    Attributes
    ----------
    text : str
    readings : callable
        Rows to readings; none if the rows do not hold what is needed.
    least, most : float or None
        Every reading's median should be at least, or at most, so much.
    unit : str
    """

    text: str
    readings: Callable[[Sequence[Row]], list[Reading]]
    least: float | None = None
    most: float | None = None
    unit: str = "times"

    def met(self, reading: Reading) -> bool:
        """Whether one reading is as it should be."""
        value = reading.value.median
        above = self.least is None or value >= self.least
        return above and (self.most is None or value <= self.most)


@dataclass(frozen=True)
class _Ratios:
    """Ratios of two kinds of row that were timed in the same rounds, one a budget."""

    over: tuple[str, tuple[str, ...], int]  # work, implementations, threads
    under: tuple[str, str, int]
    where: Mapping[str, Any]

    def __call__(self, rows: Sequence[Row]) -> list[Reading]:
        work, impl, threads = self.under
        found = []
        for low in bench.find(rows, work=work, impl=impl, threads=threads, **self.where):
            if low.bits is None:  # a copy has no budget: each budget is held against it
                highs = self._partners(rows, low)
                budgets = sorted({row.bits for row in highs if row.bits is not None})
                candidates = [[row for row in highs if row.bits == bits] for bits in budgets]
                candidates = candidates or [highs]
            else:
                partners = self._partners(rows, low)
                candidates = [[row for row in partners if row.bits in (low.bits, None)]]
            # Of several packages the fastest is the one to beat.
            fastest = [min(c, key=lambda row: row.seconds_median or 0.0) for c in candidates if c]
            for row in fastest:
                bits = row.bits if low.bits is None else low.bits
                found.append(Reading(bits, row.impl, bench.ratio(row, low)))
        return found

    def _partners(self, rows: Sequence[Row], low: Row) -> list[Row]:
        work, impls, threads = self.over
        timed = bench.find(rows, work=work, threads=threads, run=low.extra.get("run"), **self.where)
        return [row for row in timed if row.impl in impls and row.seconds and low.seconds]


def _extra_memory(rows: Sequence[Row]) -> list[Reading]:
    """Megabytes beyond the result, as a number without spread."""
    sizes = [(row, row.extra["extra_bytes"] / 1e6) for row in bench.find(rows, work="memory")]
    return [Reading(row.bits, f"{row.rows:,} rows", Ratio(*3 * (size,))) for row, size in sizes]


def _ratios(
    over: str,
    over_impl: Sequence[str],
    under: str,
    under_impl: str,
    *,
    threads: tuple[int, int] = (1, 1),
    **where: Any,
) -> Callable[[Sequence[Row]], list[Reading]]:
    first, second = (over, tuple(over_impl), threads[0]), (under, under_impl, threads[1])
    return _Ratios(first, second, where or {"dim": 128})


AIMS = (
    Aim(
        "encode: fastest peer over kvlib",
        _ratios("encode", PEERS, "encode", "kvlib"),
        least=2.5,
    ),
    Aim("decode: faiss-cpu over kvlib", _ratios("decode", PEERS, "decode", "kvlib"), least=4),
    Aim("encode: kvlib over a copy", _ratios("encode", ["kvlib"], "copy", "memory"), most=5),
    Aim("decode: kvlib over a copy", _ratios("decode", ["kvlib"], "copy", "memory"), most=4),
    Aim(
        "decode into given memory: kvlib over a copy",
        _ratios("decode", [bench.GIVEN_MEMORY], "copy", "memory"),
        most=4,
    ),
    Aim(
        "encode: one thread over two",
        _ratios("encode", ["kvlib"], "encode", "kvlib", threads=(1, 2)),
        least=1.8,
    ),
    Aim(
        "decode: one thread over two",
        _ratios("decode", ["kvlib"], "decode", "kvlib", threads=(1, 2)),
        least=1.8,
    ),
    Aim(
        "decode into given memory: one thread over two",
        _ratios("decode", [bench.GIVEN_MEMORY], "decode", bench.GIVEN_MEMORY, threads=(1, 2)),
        least=1.8,
    ),
    Aim(
        "encode with a Gaussian sketch: over its matrix product",
        _ratios("encode_sketch", ["kvlib gaussian"], "sketch_product", "numpy"),
        most=2,
    ),
    Aim(
        "encode with a Hadamard sketch: over encode",
        _ratios("encode_sketch", ["kvlib hadamard"], "encode", "kvlib"),
        most=2,
    ),
    Aim("encode: memory beyond the result", _extra_memory, most=8, unit="MB"),
    *(
        Aim(
            f"energy test, 2000 + 2000 points: {said} over kvlib",
            _ratios("permutation_test", [impl], "permutation_test", "kvlib", rows=4000, dim=6),
            least=100,
        )
        for impl, said in (
            ("scipy", "scipy, distances anew,"),
            ("scipy indexed", "scipy, one matrix of distances,"),
        )
    ),
)
"""What kvlib is meant to reach at d = 128 and n = 2, 3, 4, on one thread unless said otherwise."""


def aims_table(rows: Sequence[Row]) -> str:
    """Each aim with what was measured, as text; aims that the rows cannot answer are left out."""
    lines = []
    for aim in AIMS:
        for reading in aim.readings(rows):
            sign, limit = (">=", aim.least) if aim.least is not None else ("<=", aim.most)
            bits = "" if reading.bits is None else f", n = {reading.bits}"
            value = reading.value
            lines.append(
                f"  {'met' if aim.met(reading) else 'MISSED':<7}{value.median:8.2f} "
                f"[{value.low:.2f}, {value.high:.2f}] {sign} {limit:g} {aim.unit}  "
                f"{aim.text}{bits} ({reading.against})"
            )
    return "\n".join(lines)
