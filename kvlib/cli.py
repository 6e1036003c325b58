"""Command line: ``python -m kvlib`` formats, sweep, plot and bench; ``--help`` says more."""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from kvlib import __version__

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
  python -m kvlib sweep mine.parquet --schemes EDEN mymodule:my_scheme --caches cache.npz \\
      --families --repetitions 4
  python -m kvlib plot kl.parquet kl.png --facets family

exit status: 0 done, 1 done but some rows failed, 2 refused or unfinished, 3 the system refused
(disk full, no permission), 130 interrupted"""


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
    _add_axis(what, "schemes", str, ("KV", "WHT", "KQV", "QKV", "QKQV"), "formats, see `formats`")
    _add_axis(what, "bits", int, (2, 3, 4), "budgets a coordinate, 1 to 8")
    _add_axis(what, "rotations", str, ("hadamard",), "hadamard, haar or none")
    _add_axis(what, "sketches", str, ("gaussian",), "gaussian, haar or hadamard")
    _add_axis(what, "sketch-scales", str, ("unbiased",), "unbiased or mmse")
    _add_axis(what, "scales", str, ("norm",), "stored scale: norm, matched or unbiased")
    _add_axis(what, "metrics", str, None, "names of metrics (default: fourteen, see `formats`)")
    _add_value(what, "side-dtype", str, "float16", "storage of scales and norms, or float32")
    on = sweep.add_argument_group("on what")
    _add_axis(on, "families", str, ("gaussian",), "laws of keys and values, see below", least=0)
    _add_axis(on, "ranks", int, (), "for the low-rank families")
    _add_axis(on, "caches", str, (), "files of captured caches; every head is measured")
    _add_axis(on, "dims", int, (64,), "coordinates of a vector, powers of two for hadamard")
    _add_axis(on, "tokens", int, (256,), "keys and values of a cell")
    _add_axis(on, "logit-scales", float, (1.0,), "factors on the queries")
    _add_axis(on, "query-laws", str, ("gaussian",), "gaussian, or keys: in the keys' family")
    _add_value(on, "logit-unit", str, "nats", "of the factors; spread: of a head's logits")
    _add_value(on, "repetitions", int, 1, "draws")
    _add_value(on, "queries", int, 64, "rows a cell")
    _add_value(on, "dtype", str, "float64", "of the vectors, or float32")
    _add_value(on, "seed", int, 0, "root of all randomness")
    how = sweep.add_argument_group("how")
    how.add_argument("--workers", type=int, metavar="W", help="processes (default: one a core)")
    how.add_argument("--dask", metavar="ADDRESS", help="scheduler to use instead, tcp://HOST:PORT")
    how.add_argument("--retry", action="store_true", help="compute failed rows again")
    how.add_argument("--dry-run", action="store_true", help="check the grid, print its size, stop")
    sweep.set_defaults(run=_sweep)


def _add_axis(
    group: Any, name: str, kind: type, default: Sequence[object] | None, text: str, least: int = 1
) -> None:
    shown = "" if default is None else f" (default: {' '.join(map(str, default)) or 'none'})"
    group.add_argument(
        f"--{name}",
        nargs="+" if least else "*",
        type=kind,
        default=default,
        metavar=name[0].upper(),
        help=f"{text}{shown}",
    )


def _add_value(group: Any, name: str, kind: type, default: object, text: str) -> None:
    group.add_argument(
        f"--{name}",
        type=kind,
        default=default,
        metavar=name[0].upper(),
        help=f"{text} (default: {default})",
    )


def _sweep(options: argparse.Namespace) -> int:
    from kvlib import sweeps

    given = {field.name: getattr(options, field.name) for field in fields(sweeps.Grid)}
    axes = {name: value for name, value in given.items() if value is not None}
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


# Plot and formats ------------------------------------------------------------------------------


def _add_plot(commands: Any) -> None:
    plot = commands.add_parser(
        "plot",
        help="a figure from the table of a sweep",
        description="Draw a metric of a sweep's table, one line a scheme, with 95% intervals.",
    )
    plot.add_argument("table", type=Path, help="Parquet file that `sweep` wrote")
    plot.add_argument("figure", type=Path, help="file to write, .png, .svg or .pdf")
    for name, default in (("x", "bits"), ("y", "kl_mean"), ("by", "scheme"), ("facets", None)):
        plot.add_argument(f"--{name}", default=default, help=f"column (default: {default})")
    plot.add_argument("--linear", action="store_true", help="linear y axis, arithmetic means")
    plot.set_defaults(run=_plot)


def _plot(options: argparse.Namespace) -> int:
    from kvlib import sweeps

    if options.figure.suffix not in (".png", ".svg", ".pdf"):
        raise ValueError(f"figure must end in .png, .svg or .pdf, got {options.figure.name!r}")
    figure = sweeps.plot(
        sweeps.read(options.table),
        x=options.x,
        y=options.y,
        by=options.by,
        facets=options.facets,
        log=not options.linear,
    )
    figure.savefig(options.figure, dpi=144)
    print(options.figure)
    return 0


def _add_formats(commands: Any) -> None:
    formats = commands.add_parser(
        "formats",
        help="every named format, with the bits it stores",
        description="List the registered formats with the bits a coordinate they store for keys "
        "and for values, counted from an encoded cache, and the metrics that sweeps know.",
    )
    formats.add_argument("--dim", type=int, default=128, help="coordinates (default: 128)")
    formats.add_argument("--tokens", type=int, default=4096, help="tokens (default: 4096)")
    formats.add_argument("--bits", type=int, default=4, help="budget n (default: 4)")
    formats.add_argument("--json", action="store_true", help="print a list of JSON objects")
    formats.set_defaults(run=_formats)


def _formats(options: argparse.Namespace) -> int:
    import numpy as np

    from kvlib import quantize
    from kvlib.checks import check_dim, check_int
    from kvlib.measure.registry import known_metrics

    shape = check_int(options.tokens, "tokens", low=1), check_dim(options.dim)
    vectors = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    rows = []
    for name, entry in quantize.formats().items():
        with warnings.catch_warnings():  # of what a mean costs: that is what is shown
            warnings.simplefilter("ignore", quantize.FewTokensWarning)
            stored = quantize.named(name, options.bits).encode(vectors, vectors)
        bits = [quantize.bits_per_coordinate(part) for part in (stored.key, stored.value)]
        traits = sorted(entry.traits)
        rows.append(
            {"name": name, "key_bits": bits[0], "value_bits": bits[1], "traits": traits}
            | {"summary": entry.summary}
        )
    if options.json:
        print(json.dumps(rows, indent=2))
        return 0
    print(f"stored bits a coordinate at n = {options.bits}, d = {shape[1]}, {shape[0]} tokens")
    for row in rows:
        sizes = f"{row['key_bits']:7.3f} {row['value_bits']:7.3f}"
        print(f"  {row['name']:<8} {sizes}  {row['summary']}")
    print("metrics: " + ", ".join(known_metrics()))
    return 0


# Bench -----------------------------------------------------------------------------------------


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

exit status: 0 done, 2 refused, 3 the system refused, 130 interrupted (finished budgets are
printed and stored)"""


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

    if options.output is not None and options.output.is_dir():
        raise ValueError(f"output must be a file to write, got the folder {str(options.output)!r}")
    if options.output is not None and not options.output.parent.is_dir():
        raise ValueError(f"output must lie in an existing folder, got {str(options.output)!r}")
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
    if options.output is not None:
        bench.write(options.output, finished)
    return status


def _live(text: str) -> None:
    """One line that is written over, where somebody watches."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text[:79]}", end="", file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m kvlib", description=__doc__ or "")
    parser.add_argument("--version", action="version", version=f"kvlib {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    for add in (_add_formats, _add_sweep, _add_plot, _add_bench):
        add(commands)
    return run(lambda: parser.parse_args(arguments))


def run(parse: Callable[[], argparse.Namespace], name: str = "kvlib") -> int:
    """Do what a command line asks, and turn what goes wrong into one line and an exit status.

    Parameters
    ----------
    parse : callable
        Returns the parsed arguments; their ``run`` does the work and returns the exit status.
    name : str
        Starts the line.

    Returns
    -------
    int
        2 where something is refused, 3 where the system refuses (disk full, no permission, no
        such file), 130 interrupted; a reader that went away (``| head``) ends it quietly.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal without UTF-8 shows what it can
            stream.reconfigure(errors="replace")
    try:
        options = parse()
        status = int(options.run(options))
        if sys.stdout is not None:  # closed by the caller
            sys.stdout.flush()
        return status
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 3
    except (ImportError, RuntimeError, TypeError, ValueError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 130
