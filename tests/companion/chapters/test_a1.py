"""What the appendix on speed reads off rows of the bench."""

import numpy as np
import pytest
from kvbook.bench.aims import AIMS
from kvbook.experiments import a1
from kvbook.experiments.a1 import Timings

from kvlib.bench import Row


def row(impl, seconds, *, work="encode", bits=4, threads=1, run=None, **extra):
    """A row of the comparison that began with one thread."""
    run = run or f"1 thread, n = {bits}"
    return Row(work, impl, bits, threads, 100, 128, seconds, 0.01, {"run": run, **extra})


def rows():
    """Two implementations, one of them on two threads, too, at every budget."""
    found = []
    for n in a1.BITS:
        found += [row("kvlib", (1.0, 1.1, 0.9), bits=n), row("other", (3.0, 3.3, 2.7), bits=n)]
        found.append(row("kvlib", (0.5, 0.55, 0.45), bits=n, threads=2))
        found.append(row("kvlib", (0.25,), bits=n, threads=2, run=f"2 threads, n = {n}"))
    return found


def test_one_row_is_found_or_missed_by_name():
    timings = Timings(rows(), {})
    assert timings.timed("encode", "kvlib", 3).bits == 3
    assert timings.timed("encode", "kvlib", 3, threads=2, process=2).seconds == (0.25,)
    with pytest.raises(LookupError, match="expected one row"):
        timings.one(work="encode", impl="kvlib")


def test_the_fastest_comes_first():
    assert Timings(rows(), {}).compared("encode") == ["kvlib", "other"]


def test_a_gain_of_threads_is_taken_round_by_round_or_apart():
    timings = Timings(rows(), {})
    assert a1.thread_gain(timings, "encode", "kvlib") == pytest.approx(2)
    assert a1.thread_gain_apart(timings, "encode", "kvlib") == pytest.approx(4)


def test_what_was_not_timed_has_no_time():
    with pytest.raises(ValueError, match="was not timed"):
        a1.seconds(row("kvlib", ()))


def test_inputs_that_were_not_measured_have_no_error():
    timings = Timings([row("kvlib", (), work="input_encode", bits=2, family="spike")], {})
    assert timings.families == ["spike"]
    assert timings.input_error("kvlib", 2, "spike") == 0.01
    assert np.isnan(timings.input_error("turbovec", 2, "spike"))


def test_the_kept_rows_answer_every_aim():
    timings = a1.load_timings()
    assert {aim.text for aim, _ in timings.readings()} == {aim.text for aim in AIMS}
    for aim in AIMS:
        readings = a1.largest_of_each_budget(aim, timings.rows)
        assert 0 < len(readings) <= len(aim.readings(timings.rows))
