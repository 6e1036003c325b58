"""The stages of `make bench`, run inside its environment, one process each."""

import argparse
import contextlib
import hashlib
import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
import scipy.stats

from kvbook.bench import aims, peers
from kvlib import bench, stats, sweeps
from kvlib.bench import Row, Task
from kvlib.data import synthetic
from kvlib.measure import attention
from kvlib.quantize import RotatedQuantizer

BITS = (2, 3, 4)
DIM = 128


class Sink:
    """Where a stage's rows go: to its file after every group, so that none is lost."""

    def __init__(self, path):
        self.path = path
        self.rows = []
        self.missing = {}

    def add(self, rows, **columns):
        """Keep a group of rows and show it."""
        self.rows += [bench.tagged(row, **columns) for row in rows]
        bench.write(self.path, self.rows)
        print(bench.table(self.rows[-len(rows) :]), flush=True)


def say(text):
    """One line that is written over, where somebody watches."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text[:79]}", end="", file=sys.stderr, flush=True)


# ------------------------------------------------------------------- encoding


def codec_1(sink, quick):
    """Every package on one thread, and the kernels on two beside them."""
    codec(sink, quick, threads=1)


def codec_2(sink, quick):
    """Two threads; plain numpy and the dense matrix have been measured."""
    codec(sink, quick, threads=2)


def codec(sink, quick, threads):
    """Copy, encode, decode and sketch, a budget at a time."""
    x = bench.vectors(1 << (12 if quick else 16), DIM)  # more than the caches hold
    for bits in BITS:
        used = (1, 2) if threads == 1 else (threads,)
        others = peers.tasks(peers.CODECS, x, bits, threads, sink.missing)
        tasks = [*bench.copy_tasks(x, threads=threads)]
        tasks += bench.codec_tasks(x, bits, threads=used, peers=others)
        if threads == 1:
            sketches = peers.tasks(peers.SKETCHES, x, bits, threads, sink.missing)
            tasks += bench.sketch_tasks(x, bits, peers=sketches)
        else:
            tasks = [task for task in tasks if task.impl not in ("kvlib numpy", "dense matrix")]
        rows = bench.measure(tasks, seconds=0.05 if quick else 0.7, most=31, report=say)
        sink.add(rows, run=f"{threads} thread{'s' * (threads > 1)}, n = {bits}")
        if threads == 1:
            sink.add([bench.memory_row(x, bits)])


# ----------------------------------------------------------------------- size

BLOCK_BYTES = 1 << 29  # of vectors held at once; more are encoded block by block


def sizes(sink, quick):
    """Encode against the number of vectors and their dimension, four bits, one thread."""
    bits = 4
    for dim in (32, 64, 128, 256, 512, 1024):
        most = BLOCK_BYTES // (4 * dim)
        for rows in (10**4, 10**5, 10**6, 10**7)[: 2 if quick else 4]:
            x = bench.vectors(min(rows, most), dim)
            tasks = [blockwise(x, rows, bits)]
            if rows <= most:
                tasks += bench.copy_tasks(x)[:1]
            least = 1 if rows * dim > 2 * 10**9 else 3  # a few seconds each
            measured = bench.measure(tasks, seconds=0.3, least=least, report=say)
            named = [replace(row, work=f"size_{row.work}") for row in measured]
            sink.add(named, run=f"sizes, d = {dim}", blocks=-(-rows // len(x)))
    for rows in (10**4, 10**5, 10**6):
        sink.add([bench.memory_row(bench.vectors(rows, DIM), bits)])


def blockwise(x, rows, bits):
    """Encode so many rows, as calls on the same block where they do not fit at once."""
    quantizer = RotatedQuantizer(bits)
    whole, rest = divmod(rows, len(x))

    def run():
        for _ in range(whole):
            encoded = quantizer.encode(x)
        if rest:
            quantizer.encode(x[:rest])
        return encoded

    def judge(encoded):
        return bench.quality(x, encoded.decode(), encoded.nbytes)

    return Task("encode", "kvlib", bits, 1, rows, x.shape[1], run, judge)


# --------------------------------------------------------------------- inputs


GROUP = 128  # vectors that share a mean, or channels; one rotation meets many of them


def input_families(rows, dim, rng):
    """Vectors that are not Gaussian, by name."""
    normal = rng.standard_normal((rows, dim))
    one_hot, few = np.zeros((2, rows, dim))
    channels = normal.copy()
    one_hot[np.arange(rows), rng.integers(dim, size=rows)] = rng.choice([-1, 1], rows)
    for row in few:
        row[rng.choice(dim, 4, replace=False)] = rng.standard_normal(4)
    for start in range(0, rows, GROUP):
        channels[start : start + GROUP, rng.choice(dim, 4, replace=False)] *= 30
    heads = (rows // GROUP,)
    mean = synthetic.draw(synthetic.common_mean(0.9), GROUP, dim, rng=rng, heads=heads)
    return {
        "gaussian": normal,
        "Student t, 3 degrees": rng.standard_t(3, (rows, dim)),
        "Student t, 1.05 degrees": rng.standard_t(1.05, (rows, dim)),
        "spike, 90% of energy": synthetic.draw(synthetic.spike(0.9), rows, dim, rng=rng),
        "common mean, 90% of energy": mean.reshape(rows, dim),
        "four channels x 30": channels,
        "four nonzeros": few,
        "one nonzero": one_hot,
    }


def inputs(sink, quick):
    """Relative error of each package on each kind of input."""
    rng = np.random.default_rng(1)
    rows = 256 if quick else 2048
    for name, vectors in input_families(rows, DIM, rng).items():
        # Within float16's range, whatever the law's tails are.
        scaled = vectors / np.abs(vectors).max(axis=1, keepdims=True)
        x = np.ascontiguousarray(scaled, dtype=np.float32)
        for bits in BITS:
            tasks = bench.codec_tasks(x, bits)
            tasks += own_variants(x, bits)
            tasks += peers.tasks(peers.CODECS, x, bits, 1, sink.missing)
            tasks += peers.tasks(peers.SKETCHES, x, bits, 1, sink.missing)
            chosen = [task for task in tasks if task.work != "decode"]
            rows_of = bench.measure(chosen, seconds=0.001, most=3, report=say)
            named = [replace(row, work=f"input_{row.work}") for row in rows_of]
            sink.add(named, run=name, family=name)


def own_variants(x, bits):
    """kvlib's other rotations, and its sketch."""
    variants = {
        "kvlib, two rounds": RotatedQuantizer(bits, rounds=2),
        "kvlib, Haar": RotatedQuantizer(bits, rotation="haar"),
        "kvlib, no rotation": RotatedQuantizer(bits, rotation="none"),
        "kvlib gaussian": RotatedQuantizer(bits, sketch="gaussian"),
        "kvlib hadamard": RotatedQuantizer(bits, sketch="hadamard"),
    }
    return [own_task(x, bits, name, quantizer) for name, quantizer in variants.items()]


def own_task(x, bits, name, quantizer):
    """Encoding by one quantizer of kvlib."""

    def judge(encoded):
        return bench.quality(x, encoded.decode(), encoded.nbytes)

    work = "encode" if quantizer.sketch is None else "encode_sketch"
    return Task(work, name, bits, 1, *x.shape, lambda: quantizer.encode(x), judge)


# ------------------------------------------------------------------------- KL


def log_softmax_kl(q, k, k_hat):
    """KL divergence as the difference of two log-softmax rows, in the precision of the input."""
    from scipy.special import log_softmax

    scale = q.dtype.type(1 / np.sqrt(q.shape[-1]))
    first, second = (log_softmax(q @ keys.T * scale, axis=-1) for keys in (k, k_hat))
    return (np.exp(first) * (first - second)).sum(-1)


def exact_kl(q, k, k_hat):
    """The same with fifty digits, from the stored numbers, query by query."""
    from mpmath import mp, mpf

    with mp.workdps(50):
        scale = 1 / mp.sqrt(q.shape[-1])
        values = []
        for query in q:
            rows = []
            for keys in (k, k_hat):
                products = [
                    mp.fdot(
                        zip(map(mpf, map(float, query)), map(mpf, map(float, key)), strict=True)
                    )
                    for key in keys
                ]
                rows.append([scale * product for product in products])
            totals = [mp.log(mp.fsum(map(mp.exp, row))) for row in rows]
            shift = totals[1] - totals[0]
            values.append(
                mp.fsum(mp.exp(a - totals[0]) * (a - b + shift) for a, b in zip(*rows, strict=True))
            )
        return np.array([float(value) for value in values])


KL_METHODS = {
    "kvlib, float32 keys": (attention.attention_kl, np.float32),
    "kvlib, float64 keys": (attention.attention_kl, np.float64),
    "log_softmax, float32": (log_softmax_kl, np.float32),
    "log_softmax, float64": (log_softmax_kl, np.float64),
}


def kl(sink, quick):
    """Relative error of the KL divergence, from large to tiny, and its time."""
    rng = np.random.default_rng(2)
    queries, tokens, dim = (4, 32, 32) if quick else (16, 128, 64)
    q, k, noise = (rng.standard_normal((n, dim)) for n in (queries, tokens, tokens))
    for level in (1e-1, 3e-2, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6):
        rows = []
        for name, (method, dtype) in KL_METHODS.items():
            given = [a.astype(dtype) for a in (q, k, k + level * noise)]
            truth = exact_kl(*given)
            error = np.abs(method(*given) - truth) / truth
            extra = {
                "kl": float(np.median(truth)),
                "error_median": float(np.median(error)),
                "error_worst": float(error.max()),
            }
            rows.append(Row("kl_accuracy", name, None, 1, queries, dim, (), None, extra))
        sink.add(rows)
        print(f"KL about {rows[0].extra['kl']:.1e}: median relative error", end="")
        print(*(f"\n  {row.impl:<22} {row.extra['error_median']:.1e}" for row in rows))
    queries, tokens = (8, 256) if quick else (256, 4096)
    q, k, noise = (rng.standard_normal((n, DIM)) for n in (queries, tokens, tokens))
    tasks = []
    for name, (method, dtype) in KL_METHODS.items():
        given = [a.astype(dtype) for a in (q, k, k + 0.01 * noise)]
        run = partial(method, *given)
        tasks.append(Task("kl", name, None, 1, tokens, DIM, bench.configured(run)))
        if method is attention.attention_kl and dtype is np.float32:
            two = bench.configured(run, threads=2)
            tasks.append(Task("kl", name, None, 2, tokens, DIM, two))
            plain = bench.configured(run, kernels=False)
            tasks.append(Task("kl", "kvlib numpy", None, 1, tokens, DIM, plain))
    sink.add(bench.measure(tasks, seconds=1.0, report=say), run="kl", queries=queries)


# ---------------------------------------------------------------- permutation


def scipy_anew(x, y, permutations, seed):
    """scipy.stats.permutation_test with the distances computed from the points each time."""
    from scipy.spatial.distance import cdist

    points = np.concatenate([x, y])

    def mean(i, j):
        return cdist(points[i], points[j]).mean()

    return scipy_test(len(x), len(y), mean, permutations, seed)


def scipy_indexed(x, y, permutations, seed):
    """scipy.stats.permutation_test with indices into one matrix of distances."""
    from scipy.spatial.distance import cdist

    points = np.concatenate([x, y])
    distances = cdist(points, points)

    def mean(i, j):
        return distances[np.ix_(i, j)].mean()

    return scipy_test(len(x), len(y), mean, permutations, seed)


def scipy_test(n, m, mean, permutations, seed):
    """The p-value and the statistic, from the mean distance between two lists of points.

    scipy permutes numbers, not points, so that it is given the points' places.
    """

    def statistic(i, j):
        return 2 * mean(i, j) - mean(i, i) - mean(j, j)

    labels = np.arange(n + m)
    result = scipy.stats.permutation_test(
        (labels[:n], labels[n:]),
        statistic,
        n_resamples=permutations,
        vectorized=False,
        alternative="greater",
        rng=np.random.default_rng(seed),
    )
    return float(result.pvalue), float(result.statistic)


def dcor_test(x, y, permutations, seed):
    """dcor.homogeneity.energy_test; its statistic is the squared distance times nm/(n + m)."""
    import dcor

    result = dcor.homogeneity.energy_test(x, y, num_resamples=permutations, random_state=seed)
    return float(result.pvalue), float(result.statistic) * (1 / len(x) + 1 / len(y))


def hyppo_test(x, y, permutations, seed):
    """hyppo's k-sample Dcorr, whose permutation test is that of the energy distance."""
    from hyppo.ksample import KSample

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns below 1,000 permutations
        result = KSample("Dcorr").test(
            x, y, reps=permutations, workers=1, auto=False, random_state=seed
        )
    return float(result[1]), None


def kvlib_test(x, y, permutations, seed):
    """kvlib.inference.energy_test."""
    rng = np.random.default_rng(seed)
    result = stats.energy_test(x, y, permutations=permutations, rng=rng)
    return result.pvalue, result.statistic


TESTS = {
    "kvlib": kvlib_test,
    "scipy": scipy_anew,
    "scipy indexed": scipy_indexed,
    "dcor": dcor_test,
    "hyppo": hyppo_test,
}
FULL = 999
# Two numbers of permutations of 4,000 points, whose difference gives the time of one.
PILOT = {"scipy": (2, 22), "scipy indexed": (2, 12), "dcor": (2, 42), "hyppo": (2, 4)}


def tests_that_work(sink):
    """The tests whose packages are here."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 8, 2))
    found = {}
    for name, test in TESTS.items():
        try:
            test(x, y, 3, 0)
            found[name] = test
        except Exception as error:
            sink.missing.setdefault(name, f"{type(error).__name__}: {error}"[:300])
    return found


def permutation(sink, quick):
    """Time of 999 permutations; of all but kvlib from few of them, times the rest."""
    dim, rng = 6, np.random.default_rng(3)
    for points in (500, 1000, 2000, 4000)[: 1 if quick else 4]:
        x, y = rng.standard_normal((2, points // 2, dim))
        tasks = []
        for name, test in tests_that_work(sink).items():
            few, many = PILOT.get(name, (FULL, FULL))
            # A permutation of half the points takes a quarter of the time.
            for count in sorted({few, min(FULL, many * (4000 // points))}):
                run = partial(test, x, y, count, 0)
                tasks.append(Task("pilot", name, None, 1, points, dim, run, as_columns(count)))
        pilots = bench.measure(tasks, seconds=0.1, most=5, least=2, report=say)
        rows = [
            full_time([r for r in pilots if r.impl == name])
            for name in TESTS
            if any(r.impl == name for r in pilots)
        ]
        sink.add(rows, run=f"energy test, {points} points")


def as_columns(count):
    """What a pilot stores: how many permutations it made, and the statistic it found."""
    return lambda result: {"measured": count, "statistic": result[1]}


def full_time(pilots):
    """One row from the pilots of a test: the time of all permutations, extrapolated or not."""
    first, last = pilots[0], pilots[-1]
    statistic = {"statistic": last.extra["statistic"], "permutations": FULL}
    if first is last:
        extra = {**statistic, "measured": [FULL], "extrapolated": False}
        return replace(first, work="permutation_test", extra=extra)
    few, many = first.extra["measured"], last.extra["measured"]
    rounds = min(len(first.seconds), len(last.seconds))
    pairs = zip(first.seconds[:rounds], last.seconds[:rounds], strict=True)
    seconds = tuple(a + (FULL - few) * max(b - a, 0.0) / (many - few) for a, b in pairs)
    extra = {**statistic, "measured": [few, many], "extrapolated": True}
    return replace(last, work="permutation_test", seconds=seconds, extra=extra)


def null(sink, quick):
    """Share of p-values at or below 5% where both samples have one law."""
    size, permutations = 20, 199
    trials = 20 if quick else 400
    laws = {
        "continuous": lambda rng: rng.standard_normal((2, size, 1)),
        "signs": lambda rng: rng.choice([-1.0, 1.0], (2, size, 1)),
    }
    for law, sample in laws.items():
        found = tests_that_work(sink)
        pvalues = {name: [] for name in found}
        seconds = {name: [] for name in found}
        for trial in range(trials):
            say(f"null, {law}: {trial + 1} of {trials}")
            x, y = sample(np.random.default_rng([4, trial]))
            for name, test in found.items():
                begin = time.perf_counter()
                pvalues[name].append(test(x, y, permutations, trial)[0])
                seconds[name].append(time.perf_counter() - begin)
        rows = []
        for name in found:
            count = int((np.array(pvalues[name]) <= 0.05 + 1e-12).sum())
            low, high = scipy.stats.binomtest(count, trials).proportion_ci(0.95)
            extra = {"law": law, "rejected": count, "trials": trials, "share": count / trials}
            extra |= {"share_low": float(low), "share_high": float(high)}
            extra["permutations"] = permutations
            times = tuple(np.sort(seconds[name])[:: max(1, trials // 20)])
            rows.append(Row("null", name, None, 1, 2 * size, 1, times, None, extra))
        sink.add(rows, run=f"null, {law}")
        for row in rows:
            share = {k: row.extra[k] for k in ("share", "share_low", "share_high")}
            print(f"  {row.impl:<16} rejects", *(f"{value:.3f}" for value in share.values()))


# ---------------------------------------------------------------------- sweep


def sweep_grid(quick):
    """1,000 draws, each measured under 20 treatments: 20,000 rows."""
    return sweeps.Grid(
        schemes=("KV", "WHT", "KQV", "QKV", "QKQV"),
        bits=(2, 3, 4, 5),
        families=("gaussian", "student_t:nu=3"),
        dims=(64,),
        tokens=(128,),
        repetitions=5 if quick else 500,
    )


def sweep(sink, quick):
    """One worker, two, Dask, and killed and resumed: times, and whether the tables agree."""
    grid = sweep_grid(quick)
    sums = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in ("one worker", "two workers", "Dask, two workers", "killed and resumed"):
            say(f"sweep: {name}")
            path = Path(folder) / f"{name.replace(' ', '-')}.parquet"
            extra = {}
            begin = time.perf_counter()
            if name.startswith("Dask"):
                with dask_cluster() as address:
                    begin = time.perf_counter()  # a cluster is there already
                    sweeps.run(grid, path, dask=address, progress=False)
            elif name.startswith("killed"):
                extra = killed_sweep(grid, path)
            else:
                workers = 1 if name.startswith("one") else 2
                sweeps.run(grid, path, workers=workers, progress=False)
            seconds = time.perf_counter() - begin
            sums[name] = hashlib.sha256(path.read_bytes()).hexdigest()
            extra |= {"draws": grid.cell_count, "sha256": sums[name][:16]}
            extra["same_table"] = sums[name] == sums["one worker"]
            threads = 1 if name.startswith("one") else 2
            row = Row("sweep", name, None, threads, grid.row_count, 64, (seconds,), None, extra)
            sink.add([row], run="sweep")


@contextlib.contextmanager
def dask_cluster():
    """A scheduler and two workers on this machine, by address."""
    from distributed import LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        yield cluster.scheduler_address


def killed_sweep(grid, path):
    """Start on two workers, kill everything about half way, and start again."""
    code = (
        "import json, sys; from kvlib import sweeps\n"
        "given = {k: tuple(v) if isinstance(v, list) else v for k, v in"
        " json.loads(sys.argv[1]).items()}\n"
        "sweeps.run(sweeps.Grid(**given), sys.argv[2], workers=2, progress=False)"
    )
    command = [sys.executable, "-c", code, json.dumps(grid.as_dict()), str(path)]
    process = subprocess.Popen(command, start_new_session=True)
    parts = path.with_name(path.name + ".parts")
    shards = -(-grid.cell_count // grid.cells_per_shard)
    while process.poll() is None and len(list(parts.glob("*.parquet"))) < shards // 2:
        time.sleep(0.05)
    done = len(list(parts.glob("*.parquet")))
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    outcome = sweeps.run(grid, path, workers=2, progress=False)
    return {"pieces_kept": done, "pieces": shards, "draws_after": outcome.computed}


# -------------------------------------------------------------------- summary

ORDER = ("codec-1", "codec-2", "sizes", "inputs", "kl", "permutation", "null", "sweep")


def summary(folder, missing):
    """Join the stages' files, describe the machine, and print the ratios."""
    rows, absent = [], dict(missing)
    for name in ORDER:
        path = folder / f"{name}.json"
        rows += bench.read(path) if path.exists() else []
        noted = folder / f"{name}.missing"
        absent |= json.loads(noted.read_text(encoding="utf-8")) if noted.exists() else {}
    bench.write(folder.parent / "bench.json", rows)
    described = {
        **bench.machine(),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "versions": versions(),
        "missing": absent,
    }
    text = json.dumps(described, indent=1) + "\n"
    (folder.parent / "bench-machine.json").write_text(text, encoding="utf-8")
    print(f"\nratios against the aims:\n{aims.aims_table(rows)}")
    for name, reason in absent.items():
        print(f"left out: {name}: {reason}")


def versions():
    """Versions of what was compared."""
    names = (
        "numpy",
        "scipy",
        "numba",
        "turbovec",
        "faiss-cpu",
        "turboquant-space",
        "torch",
        "turboquant-torch",
        "dcor",
        "hyppo",
        "distributed",
    )
    found = {}
    for name in names:
        where = [str(Path(sys.prefix) / "peers" / name), *sys.path]
        for distribution in importlib.metadata.distributions(name=name, path=where):
            found.setdefault(name, distribution.version)
    return found


STAGES = {
    "codec-1": codec_1,
    "codec-2": codec_2,
    "sizes": sizes,
    "inputs": inputs,
    "kl": kl,
    "permutation": permutation,
    "null": null,
    "sweep": sweep,
}


def main():
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", choices=[*STAGES, "summary"])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--missing", type=json.loads, default={})
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    if options.stage == "summary":
        summary(options.folder, options.missing)
        return 0
    sink = Sink(options.folder / f"{options.stage}.json")
    try:
        STAGES[options.stage](sink, options.quick)
    except KeyboardInterrupt:
        return 130
    finally:
        say("")
        noted = options.folder / f"{options.stage}.missing"
        noted.write_text(json.dumps(sink.missing) + "\n", encoding="utf-8")
        for name, reason in sink.missing.items():
            print(f"left out: {name}: {reason}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
