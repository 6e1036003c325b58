"""Command line: ``python -m kvlib`` sweep and bench; ``--help`` after each says more."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

_SWEEP = """\
Measure schemes on synthetic keys, values and queries over a grid, into one Parquet table.

A cell is one draw: a family, rank, dimension, number of tokens and repetition. Every scheme,
budget and logit scale is measured on that same draw, a row each. Interrupted or killed, the same
command goes on where it was; the table has the same bytes in the end."""

_SWEEP_NOTES = """\
families:
  gaussian              independent standard normal coordinates
  student_t:nu=3        heavy tails
  low_rank              a random subspace; its dimension from --ranks
  low_rank_t:nu=3       the same with heavy tails
  spike:energy=0.5      one coordinate a vector holds half of the energy
  common_mean:energy=0.5  a mean shared by all tokens holds half of the energy

example:
  python -m kvlib sweep kl.parquet --schemes KV WHT QKQV --bits 2 3 4 --dims 64 128 \\
      --families gaussian student_t:nu=3 low_rank --ranks 4 16 --repetitions 100
  python -c "from kvlib import sweeps; print(sweeps.read('kl.parquet').groupby(
      ['family', 'dim', 'scheme', 'bits']).kl_mean.median())"

exit status: 0 done, 1 done but some rows failed, 2 refused or unfinished, 130 interrupted"""


def _add_sweep(commands: Any) -> None:
    sweep = commands.add_parser(
        "sweep",
        help="a grid of schemes and inputs to one table of errors",
        description=_SWEEP,
        epilog=_SWEEP_NOTES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sweep.add_argument("path", type=Path, help="Parquet file to write (pieces in PATH.parts)")
    what = sweep.add_argument_group("what is measured")
    _add_axis(what, "schemes", str, ("KV", "WHT", "KQV", "QKV", "QKQV"), "named schemes")
    _add_axis(what, "bits", int, (2, 3, 4), "budgets a coordinate, 1 to 8")
    _add_axis(what, "rotations", str, ("hadamard",), "hadamard, haar or none")
    _add_axis(what, "sketches", str, ("gaussian",), "gaussian, haar or hadamard")
    _add_axis(what, "sketch-scales", str, ("unbiased",), "unbiased or mmse")
    _add_axis(what, "scales", str, ("norm",), "stored scale of a vector, norm or unbiased")
    on = sweep.add_argument_group("on what")
    _add_axis(on, "families", str, ("gaussian",), "laws of keys and values, see below")
    _add_axis(on, "ranks", int, (), "for the low-rank families")
    _add_axis(on, "dims", int, (64,), "coordinates of a vector, powers of two for hadamard")
    _add_axis(on, "tokens", int, (256,), "keys and values of a cell")
    _add_axis(on, "logit-scales", float, (1.0,), "factors on the queries")
    on.add_argument("--repetitions", type=int, default=1, metavar="R", help="draws (default: 1)")
    on.add_argument("--queries", type=int, default=64, metavar="Q", help="a cell (default: 64)")
    on.add_argument(
        "--query-law",
        default="gaussian",
        metavar="LAW",
        help="gaussian, or keys: in the keys' family and subspace (default: gaussian)",
    )
    on.add_argument("--seed", type=int, default=0, help="root of all randomness (default: 0)")
    how = sweep.add_argument_group("how")
    how.add_argument("--workers", type=int, metavar="W", help="processes (default: one a core)")
    how.add_argument("--dask", metavar="ADDRESS", help="scheduler to use instead, tcp://HOST:PORT")
    how.add_argument("--retry", action="store_true", help="compute failed rows again")
    how.add_argument("--dry-run", action="store_true", help="check the grid, print its size, stop")
    sweep.set_defaults(run=_sweep)


def _add_axis(group: Any, name: str, kind: type, default: Sequence[object], text: str) -> None:
    shown = " ".join(str(value) for value in default) or "none"
    group.add_argument(
        f"--{name}",
        nargs="+",
        type=kind,
        default=default,
        metavar=name[0].upper(),
        help=f"{text} (default: {shown})",
    )


def _sweep(options: argparse.Namespace) -> int:
    from kvlib import sweeps

    axes = {field.name: getattr(options, field.name) for field in fields(sweeps.Grid)}
    grid = sweeps.Grid(**axes)
    size = f"{grid.cell_count:,} cells of {grid.rows_per_cell:,} rows: {grid.row_count:,} rows"
    print(size, file=sys.stderr)
    if options.dry_run:
        return 0
    try:
        outcome = sweeps.run(
            grid, options.path, workers=options.workers, dask=options.dask, retry=options.retry
        )
    except KeyboardInterrupt:
        print(
            "kvlib: interrupted; what is finished is stored, run the same command to go on",
            file=sys.stderr,
        )
        return 130
    for failure in outcome.failures:
        print(f"kvlib: failed: {failure}", file=sys.stderr)
    if outcome.failed:
        print(f"kvlib: {outcome.failed:,} rows failed; --retry tries again", file=sys.stderr)
    print(f"{outcome.path}: {outcome.rows:,} rows, {outcome.computed:,} cells computed now")
    return 1 if outcome.failed else 0


_BENCH = """\
Time encoding and decoding on this machine: compiled kernels, the same in numpy, and a dense matrix
with a binary search, beside a memory copy of the vectors.

All take turns on the same random vectors. The table gives ratios to kvlib first, then the median
time and the times that one repetition in ten stays below and exceeds, then the mean relative
squared error and the bytes stored for a vector. In the book's repository `make bench` adds other
packages."""

_BENCH_NOTES = """\
examples:
  python -m kvlib bench
  python -m kvlib bench --dim 64 --bits 4 --threads 1 2 4 --output bench.json

exit status: 0 done, 2 refused, 130 interrupted (finished budgets are printed and stored)"""


def _add_bench(commands: Any) -> None:
    bench = commands.add_parser(
        "bench",
        help="how fast this machine encodes and decodes",
        description=_BENCH,
        epilog=_BENCH_NOTES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    bench.add_argument("--rows", type=int, default=1 << 16, help="vectors (default: %(default)s)")
    bench.add_argument(
        "--dim", type=int, default=128, help="coordinates, a power of two (default: %(default)s)"
    )
    _add_axis(bench, "bits", int, (2, 3, 4), "budgets a coordinate, 2 to 8")
    _add_axis(bench, "threads", int, (1,), "threads of the kernels, one set of rows each")
    bench.add_argument(
        "--seconds", type=float, default=1.0, help="for each line (default: %(default)s)"
    )
    bench.add_argument("--seed", type=int, default=0, help="of the vectors (default: 0)")
    bench.add_argument("--output", type=Path, metavar="PATH", help="store the rows as JSON, too")
    bench.set_defaults(run=_bench)


def _bench(options: argparse.Namespace) -> int:
    from kvlib import bench

    finished: list[bench.Row] = []
    status = 0
    try:
        for rows in bench.own_rows(
            rows=options.rows,
            dim=options.dim,
            bits=options.bits,
            threads=options.threads,
            seconds=options.seconds,
            seed=options.seed,
            report=_live,
        ):
            finished += rows
    except KeyboardInterrupt:
        status = 130
    _live("")
    print(bench.table(finished))
    if held := bench.aims_table(finished):
        print(f"\naims:\n{held}")
    if options.output is not None:
        bench.write(options.output, finished)
    return status


def _live(text: str) -> None:
    """One line that is written over, where somebody watches."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text[:79]}", end="", file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m kvlib", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    _add_sweep(commands)
    _add_bench(commands)
    options = parser.parse_args(arguments)
    try:
        return int(options.run(options))
    except (ImportError, RuntimeError, TypeError, ValueError) as error:
        print(f"kvlib: {error}", file=sys.stderr)
        return 2
