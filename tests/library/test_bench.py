"""Timing in turns, what rows say, and the comparison's own tools. No test asserts a speed."""

import itertools
import json
import os
from pathlib import Path

import numpy as np
import pytest
from kvbook.bench import aims, peers, stages
from kvbook.build import bench as tool

from kvlib import bench, timing
from kvlib.bench import Ratio, Row, Task
from kvlib.cli import main

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "book" / "kvbook" / "bench"
PROMISED = {
    "work",
    "impl",
    "bits",
    "threads",
    "rows",
    "dim",
    "seconds_median",
    "seconds_low",
    "seconds_high",
    "rel_mse",
}


def row(work="encode", impl="kvlib", seconds=(1.0,), *, bits=4, threads=1, rel_mse=None, **extra):
    return Row(work, impl, bits, threads, 100, 128, tuple(seconds), rel_mse, extra)


def task(name, run, judge=None):
    return Task("encode", name, 4, 1, 10, 8, run, judge)


class Clock:
    """Time that passes only when a task says so."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def spend(self, seconds):
        self.now += seconds


# ------------------------------------------------------------------------ turns


def test_tasks_run_in_turns_each_round_from_another_one():
    seen = []
    tasks = [task(name, lambda name=name: seen.append(name)) for name in "abc"]
    bench.measure(tasks, seconds=1.0, most=3)
    first, rounds = seen[:3], [seen[i : i + 3] for i in (3, 6, 9)]
    assert first == ["a", "b", "c"]
    assert rounds == [["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"]]
    assert len(seen) == 12


def test_the_first_run_is_not_timed_and_slow_tasks_stop_early():
    clock = Clock()
    slow_times = itertools.chain([100.0], itertools.repeat(2.0))
    tasks = [
        task("slow", lambda: clock.spend(next(slow_times))),
        task("fast", lambda: clock.spend(0.1)),
    ]
    slow, fast = bench.measure(tasks, seconds=1.0, most=8, least=3, clock=clock)
    assert slow.seconds == pytest.approx((2.0, 2.0, 2.0))
    assert fast.seconds == pytest.approx((0.1,) * 8)


def test_rows_keep_the_order_of_tasks_and_what_judges_found():
    tasks = [
        task("one", lambda: 3, lambda result: {"rel_mse": result / 10, "bytes_per_vector": 66.0}),
        task("two", lambda: None),
    ]
    one, two = bench.measure(tasks, seconds=0.01, most=3)
    assert (one.impl, one.rel_mse, one.extra) == ("one", 0.3, {"bytes_per_vector": 66.0})
    assert (two.impl, two.rel_mse, two.extra) == ("two", None, {})


@pytest.mark.parametrize(
    ("options", "word"), [({"seconds": 0.0}, "seconds"), ({"most": 2, "least": 3}, "most")]
)
def test_measure_refuses(options, word):
    with pytest.raises(ValueError, match=word):
        bench.measure([], **options)


# ------------------------------------------------------------------------- rows


def test_a_row_stores_what_is_promised_and_comes_back(tmp_path):
    rows = [row(seconds=(3.0, 1.0, 2.0), rel_mse=0.01, run="n = 4"), row("memory", seconds=())]
    path = tmp_path / "deep" / "bench.json"
    bench.write(path, rows)
    stored = json.loads(path.read_text(encoding="utf-8"))
    assert isinstance(stored, list)
    assert all(set(entry) >= PROMISED for entry in stored)
    assert stored[0]["seconds_median"] == 2.0
    assert stored[1]["seconds_median"] is None
    assert bench.read(path) == rows
    assert [p.name for p in path.parent.iterdir()] == ["bench.json"]


def test_an_empty_list_of_rows_is_a_list(tmp_path):
    bench.write(tmp_path / "none.json", [])
    assert bench.read(tmp_path / "none.json") == []


def test_reading_another_file_says_so(tmp_path):
    (tmp_path / "x.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ValueError, match="list of rows, got dict"):
        bench.read(tmp_path / "x.json")


def test_low_median_high_are_in_order_and_quantiles():
    times = np.random.default_rng(0).exponential(size=21)
    measured = row(seconds=times)
    assert measured.seconds_low <= measured.seconds_median <= measured.seconds_high
    assert measured.seconds_low == pytest.approx(np.sort(times)[2])
    assert measured.seconds_high == pytest.approx(np.sort(times)[18])


def test_a_ratio_is_taken_round_by_round():
    # The second round met a slow spell; the quotient of the rounds does not see it.
    over, under = row(seconds=(4.0, 40.0, 4.0, 4.0)), row(seconds=(2.0, 20.0, 2.0))
    assert bench.ratio(over, under) == Ratio(2.0, 2.0, 2.0)
    with pytest.raises(ValueError, match="must have times"):
        bench.ratio(over, row(seconds=()))


# ------------------------------------------------------------- kvlib's own tasks


@pytest.fixture(scope="module")
def own():
    found = bench.own_rows(rows=300, dim=64, bits=(2, 4), threads=(1, 2), seconds=1e-6)
    return list(itertools.chain(*found))


def test_own_rows_hold_every_implementation(own):
    encoders = {(r.impl, r.bits, r.threads) for r in own if r.work == "encode"}
    assert encoders == {
        (impl, bits, threads)
        for bits in (2, 4)
        for impl, threads in (
            ("kvlib", 1),
            ("kvlib", 2),
            ("kvlib numpy", 1),
            ("dense matrix", 1),
        )
    }
    assert {r.work for r in own} == {
        "copy",
        "encode",
        "decode",
        "encode_sketch",
        "sketch_product",
        "memory",
    }


def test_own_rows_agree_in_error_and_size(own):
    for bits in (2, 4):
        errors = {r.impl: r.rel_mse for r in own if r.work == "encode" and r.bits == bits}
        sizes = {r.extra["bytes_per_vector"] for r in own if r.bits == bits and r.work == "decode"}
        assert errors["kvlib"] == pytest.approx(errors["kvlib numpy"], rel=1e-3)
        assert errors["kvlib"] == pytest.approx(errors["dense matrix"], rel=0.1)
        assert sizes == {64 * bits / 8 + 2}


def test_decoding_into_given_memory_gives_the_same_vectors(own):
    found = {(r.impl, r.bits, r.threads): r.rel_mse for r in own if r.work == "decode"}
    for bits, threads in itertools.product((2, 4), (1, 2)):
        assert found[bench.GIVEN_MEMORY, bits, threads] == found["kvlib", bits, threads]


def test_a_fast_wrong_implementation_shows():
    x = bench.vectors(200, 64)
    wrong = Task("encode", "wrong", 4, 1, 200, 64, lambda: 0, lambda _: bench.quality(x, -x))
    right = [t for t in bench.codec_tasks(x, 4, peers=[wrong]) if t.work == "encode"]
    rows = bench.measure(right, seconds=1e-6)
    errors = {r.impl: r.rel_mse for r in rows}
    assert errors.pop("wrong") == pytest.approx(4.0)
    assert max(errors.values()) < 0.02
    line = next(text for text in bench.table(rows).splitlines() if " wrong " in text)
    assert line.split()[-1] == "4"


def test_the_dense_baseline_stores_what_kvlib_stores():
    x = bench.vectors(50, 32)
    dense = bench.Dense.draw(32, 3)
    packed, norms = dense.encode(x)
    assert packed.shape == (50, 12)
    assert packed.dtype == np.uint8
    error = bench.quality(x, dense.decode(packed, norms))["rel_mse"]
    assert error == pytest.approx(dense.codebook.distortion, rel=0.15)


def test_numpy_alone_leaves_the_environment_as_it_was(monkeypatch):
    monkeypatch.setenv("KVLIB_NUM_THREADS", "7")
    monkeypatch.delenv("KVLIB_KERNELS", raising=False)
    for each in bench.codec_tasks(bench.vectors(20, 8), 2):
        each.run()
    assert "KVLIB_KERNELS" not in os.environ
    assert os.environ["KVLIB_NUM_THREADS"] == "7"


def test_copies_copy():
    x = bench.vectors(10, 4)
    into, new = bench.copy_tasks(x, threads=3)
    assert (into.threads, new.threads) == (3, 1)
    into.run()
    assert np.array_equal(new.run(), x)


def test_memory_beyond_the_result_is_seen():
    small = bench.memory_row(bench.vectors(100, 64), 4).extra
    assert small["output_bytes"] == 100 * 34
    assert 0 <= small["extra_bytes"] < 8e6


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"rows": 0}, "rows"),
        ({"dim": 48}, "power of two"),
        ({"bits": (1,)}, "bits"),
        ({"bits": (9,)}, "bits"),
        ({"threads": (0,)}, "threads"),
    ],
)
def test_own_rows_refuse_before_anything_runs(options, word):
    with pytest.raises(ValueError, match=word):
        next(bench.own_rows(**options))


# ------------------------------------------------------------------------- aims


def judged(rows):
    return {
        (aim.text, reading.bits, reading.against): aim.met(reading)
        for aim in aims.AIMS
        for reading in aim.readings(rows)
    }


def test_aims_compare_rows_of_one_run_with_the_fastest_peer():
    rows = [
        row(seconds=(1.0,), run="a"),
        row(impl="turbovec", seconds=(2.6,), run="a"),
        row(impl="faiss-cpu", seconds=(9.0,), run="a"),
        row(impl="turbovec", seconds=(0.1,), run="b"),  # timed apart: says nothing
        row("copy", "memory", (0.15,), bits=None, run="a"),
        row(threads=2, seconds=(0.5,), run="a"),
    ]
    assert judged(rows) == {
        ("encode: fastest peer over kvlib", 4, "turbovec"): True,
        ("encode: kvlib over a copy", 4, "kvlib"): False,
        ("encode: one thread over two", 4, "kvlib"): True,
    }
    printed = aims.aims_table(rows)
    assert "MISSED" in printed
    assert "2.60 [2.60, 2.60] >= 2.5 times" in printed


def test_aims_on_memory_and_on_tests():
    test = {"bits": None, "run": "t"}
    rows = [
        row("memory", seconds=(), extra_bytes=9_000_000),
        Row("permutation_test", "kvlib", None, 1, 4000, 6, (1.0,), None, {"run": "t"}),
        Row("permutation_test", "scipy", None, 1, 4000, 6, (150.0,), None, {"run": "t"}),
        row("permutation_test", "scipy", (1.0,), **test),  # other sizes: says nothing
    ]
    assert judged(rows) == {
        ("encode: memory beyond the result", 4, "100 rows"): False,
        ("energy test, 2000 + 2000 points: scipy, distances anew, over kvlib", None, "scipy"): True,
    }


def test_no_rows_no_aims():
    assert aims.aims_table([]) == ""
    assert bench.table([]) == ""


def test_the_table_gives_ratios_first():
    rows = [row(impl="slow", seconds=(3.0,), rel_mse=0.5), row(seconds=(1.0,), rel_mse=0.25)]
    lines = bench.table(rows).splitlines()
    assert lines[0] == "encode, n = 4, 100 rows, d = 128"
    assert [line.split()[:2] for line in lines[2:]] == [["1.00", "kvlib"], ["3.00", "slow"]]


# ----------------------------------------------------------------- command line


def test_command_line_writes_and_prints(tmp_path, capsys):
    path = tmp_path / "b.json"
    sizes = ["--rows", "64", "--dim", "16", "--bits", "2", "--seconds", "1e-6"]
    assert main(["bench", *sizes, "--output", str(path)]) == 0
    assert {"encode", "decode", "copy"} <= {r.work for r in bench.read(path)}
    assert "encode, n = 2, 64 rows, d = 16" in capsys.readouterr().out


def test_command_line_refuses(capsys):
    assert main(["bench", "--dim", "48"]) == 2
    assert "power of two" in capsys.readouterr().err


def test_interrupted_it_keeps_what_is_finished(tmp_path, capsys, monkeypatch):
    def interrupted(**options):
        yield [row(seconds=(1.0,))]
        raise KeyboardInterrupt

    monkeypatch.setattr(bench, "own_rows", interrupted)
    path = tmp_path / "b.json"
    assert main(["bench", "--output", str(path)]) == 130
    assert len(bench.read(path)) == 1


# ------------------------------------------------------------ the book's own tool


def pins(text):
    lines = [line.partition(";")[0].strip(" \\") for line in text.splitlines()]
    return dict(line.lower().replace("_", "-").split("==") for line in lines if "==" in line)


def test_shared_packages_are_those_of_the_book():
    ours = pins((FOLDER / "requirements.txt").read_text(encoding="utf-8"))
    book = pins((ROOT / "requirements.txt").read_text(encoding="utf-8"))
    shared = set(ours) & set(book)
    assert {"numpy", "scipy", "numba", "pandas", "distributed"} <= shared
    assert {name: ours[name] for name in shared} == {name: book[name] for name in shared}


def test_sections_of_the_requirements():
    text = "# said\n# section: a\nx==1\n\n# section: b, apart\n--option url\n# why\ny==2; marker\n"
    assert tool.sections(text) == [
        tool.Section("a", False, ("x==1",)),
        tool.Section("b", True, ("--option url", "y==2; marker")),
    ]
    names = [s.name for s in tool.sections((FOLDER / "requirements.txt").read_text("utf-8"))]
    assert names[0] == "kvlib"
    assert {"turbovec", "faiss-cpu", "turboquant-space", "turboquant-torch"} <= set(names)


def test_a_package_that_cannot_be_installed_is_reported_and_the_rest_goes_on(
    monkeypatch, tmp_path, capsys
):
    venv = tmp_path / "venv"
    venv.mkdir()
    monkeypatch.setattr(tool, "STAMP", venv / "bench.json")
    monkeypatch.setattr(tool.environment, "call", lambda command, what: None)
    tried = []

    def install(section, where):
        tried.append(section.name)
        return "ERROR: no such version" if section.name == "turbovec" else ""

    monkeypatch.setattr(tool, "install", install)
    assert tool.prepare(venv) == {"turbovec": "ERROR: no such version"}
    assert "turbovec cannot be installed, left out" in capsys.readouterr().out
    assert tried[0] == "kvlib"
    assert "hyppo" in tried
    tried.clear()
    tool.prepare(venv)  # what is there stays, what is not is tried again
    assert tried == ["turbovec"]


def test_unknown_stages_are_named(capsys):
    with pytest.raises(SystemExit):
        tool.parse(["--stages", "codec-1", "typo"])
    assert "no such stage: typo" in capsys.readouterr().err


def test_interrupted_the_finished_stages_are_joined(monkeypatch, tmp_path, capsys):
    began, joined = [], []

    def interrupted(name, options):
        began.append(name)
        if name == "kl":
            raise KeyboardInterrupt
        return 0

    stamp = tmp_path / "stamp"
    stamp.touch()
    monkeypatch.setattr(tool, "STAMP", stamp)
    monkeypatch.setattr(tool, "BUILD", tmp_path)
    monkeypatch.setattr(tool, "prepare", dict)
    monkeypatch.setattr(tool, "run_stage", interrupted)
    monkeypatch.setattr(tool, "merge", joined.append)
    assert tool.main(["--stages", "codec-1 kl", "null"]) == 130
    assert began == ["codec-1", "kl"]
    assert joined == [{}]
    assert "finished rows are kept" in capsys.readouterr().err


def test_a_missing_package_is_noted_and_the_others_are_measured():
    x = bench.vectors(20, 8)

    def absent(x, bits, threads):
        raise ImportError("No module named 'absent'")

    def broken(x, bits, threads):
        raise AttributeError("it changed")

    def present(x, bits, threads):
        return [task("present", lambda: None)]

    missing = {}
    found = peers.tasks([absent, broken, present], x, 4, 1, missing)
    assert [t.impl for t in found] == ["present"]
    assert missing == {
        "absent": "ImportError: No module named 'absent'",
        "broken": "AttributeError: it changed",
    }


def test_extrapolation_takes_the_time_of_one_permutation():
    def pilot(measured, *seconds):
        extra = {"measured": measured, "statistic": 0.5}
        return Row("pilot", "scipy", None, 1, 500, 6, seconds, None, extra)

    # 10 seconds to begin with and 2 for each permutation.
    whole = stages.full_time([pilot(2, 14.0, 14.0), pilot(8, 26.0, 26.0)])
    assert whole.seconds == pytest.approx((10 + 2 * 999,) * 2)
    assert whole.extra["extrapolated"] is True
    assert stages.full_time([pilot(999, 1.5)]).extra["extrapolated"] is False


def test_the_public_names_are_one_module():
    assert bench.measure is timing.measure
    assert set(bench.__all__) <= set(dir(bench))
