"""Sweeps: the same bytes whatever the order, workers, backend or interruption."""

import contextlib
import dataclasses
import importlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from joblib.externals.loky import get_reusable_executor
from scipy.special import log_softmax, softmax

from kvlib import KVCache, load, quantize, save, sweeps
from kvlib.cli import main
from kvlib.sweeps import Grid, backends, store, sweep
from kvlib.sweeps import cell as cells_module
from kvlib.sweeps.store import Store

TINY = Grid(
    schemes=("KV", "WHT", "QKQV"),
    bits=(1, 3),
    dims=(8, 16),
    families=("gaussian", "student_t:nu=3", "low_rank"),
    ranks=(2, 4),
    tokens=(12,),
    logit_scales=(1.0, 2.0),
    repetitions=5,
    queries=4,
)
# 32 shards of about 50 ms: long enough to be stopped half way.
SLOW = Grid(schemes=("KV", "QKQV"), bits=(2,), dims=(128,), tokens=(256,), repetitions=64)
SLOW_ARGUMENTS = "--schemes KV QKQV --bits 2 --dims 128 --tokens 256 --repetitions 64"


def bytes_of(grid, path, **options):
    return sweeps.run(grid, path, **options).path.read_bytes()


def manifest_lines(path):
    manifest = Path(f"{path}.parts") / "manifest.jsonl"
    return manifest.read_text(encoding="utf-8").splitlines() if manifest.exists() else []


def wait_for_shards(path, count, process=None):
    """Wait until so many shards are entered in the manifest."""
    end = time.monotonic() + 60
    while len(manifest_lines(path)) < count:
        assert time.monotonic() < end, "no shard was stored within a minute"
        assert process is None or process.poll() is None, "the sweep ended too early"
        time.sleep(0.002)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The table of TINY and its bytes, computed in this process."""
    path = tmp_path_factory.mktemp("tiny") / "tiny.parquet"
    outcome = sweeps.run(TINY, path, workers=1)
    assert outcome.computed == TINY.cell_count
    return outcome.table(), path.read_bytes()


@pytest.fixture(scope="module")
def slow_bytes(tmp_path_factory):
    """The bytes of SLOW from an uninterrupted run."""
    return bytes_of(SLOW, tmp_path_factory.mktemp("slow") / "slow.parquet", workers=1)


# ---------------------------------------------------------------------- the grid


@pytest.mark.parametrize(
    ("axes", "words"),
    [
        ({"families": ["cauchy"]}, "families.*cauchy"),
        ({"families": ["student_t"]}, "families.*nu"),
        ({"families": ["student_t:nu"]}, "families.*name:parameter=number.*student_t:nu"),
        ({"families": ["student_t:nu=3,nu=4"]}, "families.*name:parameter=number"),
        ({"metrics": ["bits"]}, "metrics must not have the name of another column"),
        ({"families": ["student_t:nu=-1"]}, "families: nu.*-1"),
        ({"families": ["low_rank:rank=2"]}, "families.*ranks"),
        ({"families": ["low_rank"]}, "ranks.*at least one value.*low_rank"),
        ({"ranks": [4]}, "ranks.*must be empty"),
        ({"families": ["low_rank"], "ranks": [4, 32], "dims": [64, 16]}, "ranks.*16.*32"),
        ({"families": ["low_rank"], "ranks": [0]}, "ranks.*>= 1.*0"),
        ({"bits": [2, 0]}, "bits.*from 1 to 8.*0"),
        ({"bits": []}, "bits.*at least one value"),
        ({"bits": [2, 2]}, "bits.*repeat.*2 twice"),
        ({"dims": [1]}, "dims.*>= 2.*1"),
        ({"tokens": [0]}, "tokens.*>= 1.*0"),
        ({"schemes": ["QQ"]}, "schemes.*QQ"),
        ({"schemes": ()}, "schemes.*at least one value"),
        ({"sketches": ["sparse"]}, "sketches.*sparse"),
        ({"scales": ["max"]}, "scales.*max"),
        ({"logit_scales": [0.0]}, "logit_scales.*> 0"),
        ({"logit_scales": [float("nan")]}, "logit_scales.*finite"),
        ({"repetitions": 0}, "repetitions.*>= 1.*0"),
        ({"queries": 0}, "queries.*>= 1.*0"),
        ({"query_laws": ["uniform"]}, "query_laws.*uniform"),
        ({"seed": -1}, "seed.*>= 0.*-1"),
    ],
)
def test_bad_grid_is_named_before_anything_runs(axes, words, tmp_path, capsys):
    with pytest.raises(ValueError, match=words):
        Grid(**axes)
    command = ["sweep", str(tmp_path / "t.parquet")]
    for name, value in axes.items():
        values = value if isinstance(value, (list, tuple)) else [value]
        if not values and name != "families":
            return  # the parser itself refuses an option without a value
        command += [f"--{name.replace('_', '-')}", *map(str, values)]
    assert main(command) == 2
    assert re.search(words, capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "axes", [{"bits": 3}, {"schemes": "KV"}, {"bits": [2.5]}, {"families": [3]}, {"dims": ["64"]}]
)
def test_wrong_types_are_named(axes):
    with pytest.raises(TypeError, match=next(iter(axes))):
        Grid(**axes)


def test_dimension_needs_no_power_of_two():
    assert Grid(schemes=["KV"], dims=[96]).row_count == 3
    grid = Grid(schemes=["WHT", "KQV"], sketches=["hadamard"], dims=[80], families=["gaussian"])
    assert np.isfinite(sweeps.measure(grid).kl_mean).all()


def test_options_a_scheme_lacks_do_not_multiply_its_rows():
    grid = Grid(bits=(2,), sketches=("gaussian", "hadamard"), rotations=("hadamard", "haar"))
    count = {name: sum(t.scheme == name for t in grid.treatments) for name in quantize.FACTORIAL}
    assert count == {"KV": 1, "WHT": 2, "KQV": 4, "QKV": 4, "QKQV": 4}


def test_the_sweep_takes_schemes_with_a_scale_of_their_own():
    grid = Grid(schemes=quantize.NAMES, scales=("norm", "unbiased"), bits=(2,))
    count = {name: sum(t.scheme == name for t in grid.treatments) for name in quantize.NAMES}
    assert count == {name: 1 if name in quantize.UNBIASED else 2 for name in quantize.NAMES}
    assert Grid().schemes == quantize.FACTORIAL
    for treatment in grid.treatments:
        assert treatment.build().key.scale == treatment.scale


def test_families_have_one_spelling():
    assert Grid(families=["student_t:nu=3.0"]) == Grid(families=["student_t:nu=3"])
    with pytest.raises(ValueError, match="families must not repeat"):
        Grid(families=["student_t:nu=3", "student_t:nu=3.0"])


def test_every_cell_appears_once():
    cells = list(TINY.cells())
    assert len(set(cells)) == len(cells) == 4 * 2 * 1 * 5


def test_grid_larger_than_memory_is_not_listed():
    huge = Grid(dims=(8,), tokens=(8,), repetitions=10**15)
    assert huge.row_count == 15 * 10**15
    assert huge.draw(huge.draw_count - 1)[-1].repetition == 10**15 - 1


# ------------------------------------------------------------------ the numbers


def test_measures_agree_with_their_definitions(tiny):
    """Recompute rows from the same draw with other formulas, in plain numpy and scipy."""
    table, _ = tiny
    grid, cells = TINY, list(TINY.cells())
    for index in (0, 17, grid.cell_count - 1):
        cell = cells[index]
        q_drawn, k, v, _ = cells_module.draw_head(cell, grid)
        seed = cells_module.scheme_seed(cell, grid.seed)
        rows = table.iloc[index * grid.rows_per_cell : (index + 1) * grid.rows_per_cell]
        for _, row in rows.iterrows():
            assert (row["dim"], row.repetition) == (cell.dim, cell.repetition)
            scheme = quantize.named(row.scheme, row.bits)
            encoded = scheme.encode(k, v, seed=seed)
            k_hat, v_hat = encoded.decode()
            q = row.logit_scale * q_drawn / np.sqrt(cell.dim)
            p, log_p = softmax(q @ k.T, -1), log_softmax(q @ k.T, -1)
            log_p_hat = log_softmax(q @ k_hat.T, -1)
            kl = (p * (log_p - log_p_hat)).sum(-1)
            assert row.kl_mean == pytest.approx(kl.mean(), rel=1e-9, abs=1e-13)
            assert row.kl_median == pytest.approx(np.median(kl), rel=1e-9, abs=1e-13)
            assert row.kl_p95 == pytest.approx(np.quantile(kl, 0.95), rel=1e-9, abs=1e-13)
            t, t_hat = p @ v, np.exp(log_p_hat) @ v_hat
            for name, x, y in (("k", k, k_hat), ("v", v, v_hat), ("t", t, t_hat)):
                mse = (((x - y) ** 2).sum(-1) / (x**2).sum(-1)).mean()
                cosine = (x * y).sum(-1) / np.linalg.norm(x, axis=-1) / np.linalg.norm(y, axis=-1)
                assert row[f"mse_{name}"] == pytest.approx(mse, rel=1e-9)
                assert row[f"rate_{name}"] == pytest.approx(-np.log2(mse) / 2, rel=1e-9)
                angle = (np.arccos(cosine.clip(-1, 1)) / np.pi).mean()
                assert row[f"angle_{name}"] == pytest.approx(angle, rel=1e-6)
            same = p.argmax(-1) == log_p_hat.argmax(-1)
            assert row.top1_agreement == pytest.approx(same.mean())
            assert row.bits_per_coordinate == 8 * encoded.nbytes / (k.size + v.size)


def test_rows_of_a_cell_are_paired(tiny):
    """Equal quantizers see equal vectors: KV's keys at two logit scales, QKQV's keys and QKV's."""
    table, _ = tiny
    cell = ["family", "rank", "dim", "repetition", "scheme", "bits"]
    assert (table.groupby(cell, dropna=False).mse_k.nunique() == 1).all()
    factorial = Grid(bits=(3,), dims=(16,), tokens=(12,), queries=4)
    assert len(factorial.treatments) == 5
    rows = [cells_module.compute(factorial, 0).values[i] for i in range(5)]
    mse = {t.scheme: row[3:5] for t, row in zip(factorial.treatments, rows, strict=True)}
    assert mse["WHT"][0] == mse["KQV"][0]
    assert mse["QKV"][0] == mse["QKQV"][0]
    assert mse["WHT"][1] == mse["QKV"][1]
    assert mse["WHT"][0] != mse["QKV"][0]


def test_numbers_depend_on_a_cells_own_coordinates_only(tiny, tmp_path):
    """A part of the grid gives that part of the table; another seed gives another table."""
    table, _ = tiny
    part = {"schemes": ("QKQV",), "bits": (3,), "dims": (16,), "families": ("student_t:nu=3",)}
    axes = {**TINY.as_dict(), **part, "ranks": (), "repetitions": 2, "logit_scales": (2.0,)}
    alone = sweeps.run(Grid(**axes), tmp_path / "part.parquet", workers=1).table()
    within = table[
        (table.scheme == "QKQV")
        & (table.bits == 3)
        & (table["dim"] == 16)
        & (table.family == "student_t:nu=3")
        & (table.repetition < 2)
        & (table.logit_scale == 2)
    ].reset_index(drop=True)
    pd.testing.assert_frame_equal(alone, within, check_exact=True)
    other = sweeps.run(Grid(**axes | {"seed": 1}), tmp_path / "other.parquet", workers=1).table()
    assert (other.kl_mean != within.kl_mean).all()


def test_seeds_of_all_cells_differ():
    cells = list(TINY.cells())
    drawn = {cells_module.draw_head(cell, TINY)[1].tobytes() for cell in cells}
    assert len(drawn) == len(cells)
    # Rotation and sketch are shared by the families of a shape and a repetition, and by no others.
    seeds = {cells_module.scheme_seed(cell, 0) for cell in cells}
    assert len(seeds) == len(cells) // len(TINY.sources) == TINY.draw_count


def test_queries_can_share_the_subspace_of_the_keys():
    axes = {"families": ("low_rank",), "ranks": (2,), "dims": (8,), "tokens": (12,), "queries": 4}
    shared, free = (Grid(**axes, query_laws=(law,)) for law in ("keys", "gaussian"))
    for grid, rank in ((shared, 2), (free, 6)):
        q, k, _, _ = cells_module.draw_head(grid.draw(0)[0], grid)
        assert q.shape == (4, 8)
        assert k.shape == (12, 8)
        assert np.linalg.matrix_rank(np.vstack([k, q])) == rank


def test_heads_measured_together_are_those_measured_alone(monkeypatch):
    """Families of a shape are encoded and measured in one go, to the same last digit."""
    together = cells_module.compute(TINY, 0).values
    monkeypatch.setattr(cells_module, "_MOST_NUMBERS", 1)
    np.testing.assert_array_equal(cells_module.compute(TINY, 0).values, together)


def test_logits_of_unit_spread():
    for law in sweeps.QUERY_LAWS:
        grid = Grid(logit_unit="spread", query_laws=(law,), families=("student_t:nu=3",))
        q, k, _, _ = cells_module.draw_head(grid.draw(0)[0], grid)
        logits = q @ k.T / np.sqrt(grid.dims[0])
        assert logits.std(axis=-1).max() < 30
        assert np.square(logits - logits.mean(-1, keepdims=True)).mean() == pytest.approx(1)


def test_float32_draws_are_the_rounded_float64_ones():
    wide, narrow = (Grid(dtype=dtype, families=("gaussian",)) for dtype in ("float64", "float32"))
    for a, b in zip(
        cells_module.draw_head(wide.draw(0)[0], wide)[:3],
        cells_module.draw_head(narrow.draw(0)[0], narrow)[:3],
        strict=True,
    ):
        assert b.dtype == np.float32
        np.testing.assert_array_equal(b, a.astype(np.float32))


# --------------------------------------------------- captured caches, and others' formats


@pytest.fixture
def cache(tmp_path):
    """A file with two layers of three heads, two windows of 16 tokens each."""
    q, k, v = np.random.default_rng(7).standard_normal((3, 2, 3, 2, 16, 8)).astype(np.float32)
    path = tmp_path / "small.npz"
    save(path, KVCache(q, k, v, causal=True, name="small", layers=(0, 5), heads=(0, 1, 3)))
    return path


def test_captured_heads_are_rows_like_any_other(cache, tmp_path):
    grid = Grid(
        schemes=("WHT", "KIVI"),
        bits=(3,),
        families=(),
        caches=(cache,),
        repetitions=3,
        queries=5,
        dtype="float32",
    )
    table = sweeps.run(grid, tmp_path / "t.parquet", workers=1).table()
    assert len(table) == grid.row_count == 2 * 3 * 3 * 2
    assert set(table.cache) == {"small"}
    assert sorted(set(table.layer)) == [0, 5]
    assert table.family.isna().all()
    row = table[(table.layer == 5) & (table["head"] == 3) & (table.repetition == 1)]
    row = row[row.scheme == "WHT"].iloc[0]
    assert (row.window, row["dim"], row.tokens) == (1, 8, 16)
    stored = load(cache)
    q, k = (np.float64(x[1, 2, 1]) for x in (stored.q, stored.k))
    (cell,) = (c for c in grid.cells() if (c.layer, c.head, c.repetition) == (5, 3, 1))
    scheme = quantize.named("WHT", 3)
    seed = cells_module.scheme_seed(cell, grid.seed)
    k_hat = scheme.key.encode(np.float32(k), seed=2 * seed).decode()
    kl = [
        (p := softmax(q[i] @ k[: i + 1].T / np.sqrt(8)))
        @ np.log(p / softmax(q[i] @ k_hat[: i + 1].T / np.sqrt(8)))
        for i in range(11, 16)
    ]
    assert row.kl_mean == pytest.approx(np.mean(kl), rel=1e-6)


def test_captured_caches_in_processes_and_beside_families(cache, tmp_path):
    axes = {"schemes": ("EDEN",), "bits": (2,), "caches": (cache,), "queries": 4, "dims": (8,)}
    grid = Grid(**axes, tokens=(12,), repetitions=8)
    whole = bytes_of(grid, tmp_path / "one.parquet", workers=1)
    assert bytes_of(grid, tmp_path / "two.parquet", workers=2) == whole
    table = sweeps.read(tmp_path / "one.parquet")
    assert table.groupby("family", dropna=False).size().to_dict() == {"gaussian": 8, None: 48} or (
        table.family.isna().sum() == 48
    )


def test_another_file_under_the_same_name_is_another_sweep(cache, tmp_path):
    grid = Grid(schemes=("KV",), families=(), caches=(cache,), queries=4)
    sweeps.run(grid, tmp_path / "t.parquet", workers=1)
    stored = load(cache)
    save(cache, dataclasses.replace(stored, k=stored.k + np.float32(1)))
    with pytest.raises(ValueError, match="different: small"):
        sweeps.run(grid, tmp_path / "t.parquet", workers=1)


@pytest.mark.parametrize(
    ("axes", "error", "words"),
    [
        ({"caches": ("none.npz",)}, OSError, "none.npz"),
        ({"caches": (3,)}, TypeError, "caches must hold paths"),
        ({"families": ()}, ValueError, "families must hold at least one value unless"),
        ({"queries": 17, "CACHE": True}, ValueError, "queries must be at most the 16 of a window"),
        ({"families": {"gaussian"}}, TypeError, "families must be a sequence"),
        ({"metrics": ("speed",)}, ValueError, "metrics: name must be one of 'kl_mean'"),
        ({"logit_unit": "bits"}, ValueError, "logit_unit must be one of"),
        ({"dtype": "float16"}, ValueError, "dtype must be one of"),
    ],
)
def test_bad_caches_and_metrics_are_named(axes, error, words, cache):
    if axes.pop("CACHE", False):
        axes = {**axes, "caches": (cache,)}
    with pytest.raises(error, match=words):
        Grid(**axes)


OWN = """
import numpy as np
from kvlib import RotatedQuantizer, Scheme, register
from kvlib.measure.registry import register_metric

@register("OWN", color="#123456", marker="8")
def own(bits):
    return Scheme("OWN", RotatedQuantizer(bits), RotatedQuantizer(bits))

def late(bits):
    return own(bits)

@register_metric("kl_worst", "nats")
def worst(comparison):
    return comparison.kl.max(-1)
"""


def test_formats_and_metrics_of_ones_own_reach_the_workers(tmp_path, monkeypatch):
    (tmp_path / "ownmodule.py").write_text(OWN, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    get_reusable_executor().shutdown(wait=True)  # workers of an earlier test know no such path
    formats = quantize.registry._FORMATS
    monkeypatch.setattr(formats, "rows", dict(formats.rows))
    importlib.import_module("ownmodule")
    grid = Grid(
        schemes=("ownmodule:late", "WHT", "OWN"),
        bits=(3,),
        metrics=("kl_mean", "ownmodule:worst"),
        dims=(8,),
        tokens=(12,),
        queries=4,
        repetitions=64,
    )
    assert grid.modules == ("ownmodule",)
    path = tmp_path / "t.parquet"
    assert bytes_of(grid, path, workers=2) == bytes_of(grid, tmp_path / "u.parquet", workers=1)
    table = sweeps.read(path)
    mine = table[table.scheme == "ownmodule:late"].reset_index(drop=True)
    hadamard = table[table.scheme == "WHT"].reset_index(drop=True)
    assert mine.rotation.isna().all()
    assert (mine["ownmodule:worst"] >= mine.kl_mean).all()
    np.testing.assert_array_equal(mine.kl_mean, hadamard.kl_mean)  # the same keys, paired
    # Another body under the same name does not add to the table.
    (tmp_path / "ownmodule.py").write_text(OWN + "# changed\n", encoding="utf-8")
    with pytest.raises(ValueError, match="different: ownmodule"):
        sweeps.run(grid, path, workers=1)
    sys.modules.pop("ownmodule")


def test_formats_of_the_main_module_are_refused_in_processes(tmp_path, monkeypatch):
    formats = quantize.registry._FORMATS
    monkeypatch.setattr(formats, "rows", dict(formats.rows))

    def build(bits):
        return quantize.named("KV", bits)

    build.__module__ = "__main__"
    quantize.register("HERE")(build)
    grid = Grid(schemes=("HERE",), bits=(2,), dims=(8,), tokens=(12,), queries=4, repetitions=64)
    with pytest.raises(ValueError, match="defined in __main__ are known to this process only"):
        sweeps.run(grid, tmp_path / "t.parquet", workers=2)
    assert sweeps.run(grid, tmp_path / "u.parquet", workers=1).failed == 0


# --------------------------------------------------------------------------- figures


def test_a_table_is_drawn_with_the_formats_own_looks(tiny, tmp_path):
    table, _ = tiny
    figure = sweeps.plot(table, facets="dim")
    assert len(figure.axes) == 2
    assert figure.axes[0].get_yscale() == "log"
    colors = {matplotlib.colors.to_hex(line.get_color()) for line in figure.axes[0].lines}
    wanted = {quantize.formats()[name].color.lower() for name in TINY.schemes}
    assert wanted <= colors
    drawn = [line for line in figure.axes[0].lines if len(line.get_xdata()) == 2]
    rows = table[(table.scheme == "KV") & (table["dim"] == 8) & (table.bits == 3)]
    mean = np.exp(np.log(rows.kl_mean).mean())
    assert any(np.isclose(line.get_ydata()[1], mean) for line in drawn)
    plt.close(figure)
    with pytest.raises(ValueError, match="y must be one of 'kl_mean'"):
        sweeps.plot(table, y="speed")
    with pytest.raises(ValueError, match="facets must be one of"):
        sweeps.plot(table, facets="colour")


def test_the_command_draws_and_refuses(tiny, tmp_path, capsys):
    sweeps.run(FAILING, tmp_path / "t.parquet", workers=1)
    arguments = ["plot", str(tmp_path / "t.parquet")]
    assert main([*arguments, str(tmp_path / "t.svg"), "--linear", "--by", "family"]) == 0
    assert (tmp_path / "t.svg").read_text().startswith("<?xml")
    assert main([*arguments, str(tmp_path / "t.gif")]) == 2
    assert "figure must end in" in capsys.readouterr().err
    assert main(["plot", str(tmp_path / "none"), str(tmp_path / "t.svg")]) == 3


# ------------------------------------------------- the same bytes, whatever the way


def test_processes_give_the_same_bytes(tiny, tmp_path):
    assert bytes_of(TINY, tmp_path / "t.parquet", workers=2) == tiny[1]


def test_a_small_grid_needs_no_file(tiny):
    pd.testing.assert_frame_equal(sweeps.measure(TINY), tiny[0], check_exact=True)
    with pytest.raises(RuntimeError, match="the first: family=student_t"):
        sweeps.measure(dataclasses.replace(FAILING, schemes=("KV",)))


def test_order_does_not_matter(tiny, tmp_path, monkeypatch):
    ordered = sweep._missing
    monkeypatch.setattr(sweep, "_missing", lambda *given: ordered(*given)[::-1])
    assert bytes_of(TINY, tmp_path / "t.parquet", workers=1) == tiny[1]


def test_running_again_computes_nothing(tiny, tmp_path):
    path = tmp_path / "t.parquet"
    sweeps.run(TINY, path, workers=1)
    again = sweeps.run(TINY, path, workers=1)
    assert again.computed == 0
    assert path.read_bytes() == tiny[1]


@pytest.mark.parametrize(
    "damage",
    [
        lambda parts: os.truncate(parts / "shard-00000003.parquet", 100),
        lambda parts: (parts / "shard-00000003.parquet").unlink(),
        lambda parts: flip_byte(parts / "shard-00000003.parquet"),
        lambda parts: os.truncate(parts / "manifest.jsonl", 200),
        lambda parts: (parts / "manifest.jsonl").unlink(),
        lambda parts: (parts / ".shard-00000003.parquet.1.part").write_bytes(b"PAR1"),
    ],
    ids=["truncated", "gone", "flipped byte", "torn manifest", "no manifest", "stray file"],
)
def test_half_written_files_are_never_read(damage, tiny, tmp_path):
    path = tmp_path / "t.parquet"
    sweeps.run(TINY, path, workers=1)
    path.unlink()
    damage(tmp_path / "t.parquet.parts")
    assert bytes_of(TINY, path, workers=1) == tiny[1]
    assert len(manifest_lines(path)) == TINY.draw_count == 10
    assert all(json.loads(line)["rows"] for line in manifest_lines(path))


def flip_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_shard_that_changes_during_the_run_is_refused(tmp_path):
    with Store(tmp_path / "s", {}) as store:
        store.add(0, pa.table({"x": [1, 2]}), 0)
        flip_byte(store.path(0))
        with pytest.raises(ValueError, match=r"shard-00000000\.parquet: changed"):
            list(store.tables())


def test_table_streams_in_row_groups_however_it_is_cut(tmp_path, monkeypatch):
    monkeypatch.setattr("kvlib.sweeps.store.ROWS_PER_GROUP", 10)
    whole = pa.table({"x": range(64), "name": [str(i % 3) for i in range(64)]})
    schema = whole.schema
    alive = []

    def pieces(size):
        for start in range(0, 64, size):
            alive.append(start)
            yield whole.slice(start, size)

    contents = []
    for size in (1, 7, 10, 25, 64):
        path = tmp_path / f"{size}.parquet"
        assert store.write_table(path, pieces(size), schema) == 64
        contents.append(path.read_bytes())
        assert pa.parquet.ParquetFile(path).num_row_groups == 7
        assert pa.parquet.read_table(path).equals(whole)
    assert len(set(contents)) == 1
    other = tmp_path / "other.parquet"
    store.write_table(other, iter([whole.take([1, 0, *range(2, 64)])]), schema)
    assert other.read_bytes() not in contents


# -------------------------------------------------------- interrupted and resumed


@pytest.fixture
def start_sweep():
    """Start SLOW as a command of its own session; what is left of it goes at the end."""
    processes = []

    def start(path, *options):
        command = [sys.executable, "-m", "kvlib", "sweep", str(path), *SLOW_ARGUMENTS.split()]
        process = subprocess.Popen(
            [*command, *options], stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def kill(process):
    """As kill -9 of the command, or the memory's end: the workers are left behind."""
    process.kill()


def press_control_c(process):
    """A terminal sends the signal to the workers, too."""
    os.killpg(process.pid, signal.SIGINT)


@pytest.mark.parametrize("stop", [kill, press_control_c])
def test_interrupted_sweep_goes_on_where_it_was(stop, start_sweep, slow_bytes, tmp_path):
    path = tmp_path / "slow.parquet"
    process = start_sweep(path, "--workers", "2")
    wait_for_shards(path, 3, process)
    stop(process)
    # Workers share the pipe: its end says that none of them outlived the command.
    _, errors = process.communicate(timeout=30)
    assert not path.exists()
    if stop is press_control_c:
        assert process.returncode == 130
        assert errors.splitlines()[-1].startswith("kvlib: interrupted; what is finished is stored")
        assert "Traceback" not in errors
    finished = complete_shards(path)
    assert 3 <= len(finished) < 32
    stored = {shard: Path(f"{path}.parts/shard-{shard:08d}.parquet") for shard in finished}
    before = {shard: file.stat().st_mtime_ns for shard, file in stored.items()}
    outcome = sweeps.run(SLOW, path, workers=1)
    assert outcome.computed == SLOW.cell_count - 2 * len(finished)
    assert {shard: file.stat().st_mtime_ns for shard, file in stored.items()} == before
    assert path.read_bytes() == slow_bytes


def complete_shards(path):
    """Shards with a whole line in the manifest; a killed process may leave half a line."""
    text = Path(f"{path}.parts/manifest.jsonl").read_text(encoding="utf-8")
    return [json.loads(line)["shard"] for line in text.splitlines(keepends=True) if "\n" in line]


def test_killed_worker_is_named_and_the_sweep_can_be_resumed(slow_bytes, tmp_path, monkeypatch):
    path = tmp_path / "slow.parquet"
    monkeypatch.setattr(backends, "_compute_in_child", die_at_last_shard)
    with pytest.raises(sweeps.WorkerLost, match=r"worker process was killed.*run again"):
        sweeps.run(SLOW, path, workers=2)
    monkeypatch.undo()
    outcome = sweeps.run(SLOW, path, workers=1)
    assert 0 < outcome.computed < SLOW.cell_count
    assert path.read_bytes() == slow_bytes


def die_at_last_shard(grid, shard, parent):
    if shard == 31:
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGKILL)
    return backends._compute_in_worker(grid, shard)


# ----------------------------------------------------------------- cells that fail

FAILING = Grid(
    schemes=("KV",),
    bits=(2,),
    families=("gaussian", "student_t:nu=0.001"),
    dims=(8,),
    tokens=(12,),
    repetitions=3,
    queries=4,
)
FAILING_ARGUMENTS = (
    "--schemes KV --bits 2 --families gaussian student_t:nu=0.001 --dims 8 --tokens 12 "
    "--repetitions 3 --queries 4"
)


def test_failing_cell_is_reported_and_the_rest_goes_on(tmp_path, capsys):
    path = tmp_path / "t.parquet"
    assert main(["sweep", str(path), *FAILING_ARGUMENTS.split(), "--workers", "1"]) == 1
    report = capsys.readouterr().err
    line = (
        "kvlib: failed: family=student_t:nu=0.001 query_law=gaussian dim=8 tokens=12 "
        "repetition=1 scheme=KV "
        "scale=norm bits=2 logit_scale=1.0: ValueError: student_t(nu=0.001) overflows float64"
    )
    assert line in report
    assert "3 rows failed" in report
    table = sweeps.read(path)
    measures = table[list(FAILING.metrics)]
    good = table.family == "gaussian"
    assert measures[good].notna().all(axis=None)
    assert measures[~good].isna().all(axis=None)
    assert table.error.notna().tolist() == (~good).tolist()
    # A finished failure is neither forgotten nor computed again.
    again = sweeps.run(FAILING, path, workers=1)
    assert (again.computed, again.failed, len(again.failures)) == (0, 3, 3)


def test_one_failing_row_leaves_the_others_of_its_cell(tmp_path, monkeypatch):
    path = tmp_path / "t.parquet"
    axes = TINY.as_dict() | {"families": ("gaussian",), "ranks": (), "repetitions": 2}
    grid = Grid(**axes)
    measure = cells_module._measure

    def fails_once(heads, treatment, grid, scales):
        if 2 in scales and treatment.bits == 3:
            raise MemoryError("no room")
        return measure(heads, treatment, grid, scales)

    monkeypatch.setattr(cells_module, "_measure", fails_once)
    outcome = sweeps.run(grid, path, workers=1)
    assert 0 < outcome.failed < grid.row_count / 2
    assert "logit_scale=2.0: MemoryError: no room" in outcome.failures[0]
    assert outcome.failed == outcome.table().error.notna().sum()
    monkeypatch.undo()
    retried = sweeps.run(grid, path, workers=1, retry=True)
    assert retried.failed == 0
    assert retried.computed > 0
    assert path.read_bytes() == bytes_of(grid, tmp_path / "clean.parquet", workers=1)


# ------------------------------------------------------------------- what is refused


def test_table_of_another_grid_is_never_replaced(tmp_path):
    path = tmp_path / "t.parquet"
    axes = FAILING.as_dict() | {"families": ("gaussian",)}
    content = bytes_of(Grid(**axes), path, workers=1)
    with pytest.raises(ValueError, match=r"another sweep \(different: bits, seed\)"):
        sweeps.run(Grid(**axes | {"bits": (3,), "seed": 5}), path, workers=1)
    assert path.read_bytes() == content
    path.unlink()
    with pytest.raises(ValueError, match=r"holds another sweep \(different: seed\)"):
        sweeps.run(Grid(**axes | {"seed": 5}), path, workers=1)


def test_other_code_or_libraries_do_not_add_to_a_table(tmp_path, monkeypatch):
    path = tmp_path / "t.parquet"
    sweeps.run(FAILING, path, workers=1)
    monkeypatch.setattr(sweep, "versions", lambda grid: {"numpy": "0"})
    with pytest.raises(ValueError, match="different: kernels, kvlib, modules, numpy, scipy"):
        sweeps.run(FAILING, path, workers=1)


def test_foreign_file_is_never_replaced(tmp_path):
    path = tmp_path / "notes.parquet"
    path.write_text("mine", encoding="utf-8")
    with pytest.raises(ValueError, match="something else"):
        sweeps.run(FAILING, path, workers=1)
    pd.DataFrame({"x": [1]}).to_parquet(path)
    with pytest.raises(ValueError, match="something else"):
        sweeps.run(FAILING, path, workers=1)
    with pytest.raises(ValueError, match="existing folder"):
        sweeps.run(FAILING, tmp_path / "no" / "t.parquet", workers=1)


def test_two_sweeps_do_not_write_to_one_table(tmp_path):
    pytest.importorskip("fcntl")
    with (
        Store(tmp_path / "s", {}),
        pytest.raises(RuntimeError, match="another sweep is writing"),
    ):
        Store(tmp_path / "s", {})
    Store(tmp_path / "s", {}).__exit__()


@pytest.mark.parametrize("workers", [0, -1])
def test_workers_are_positive(workers, tmp_path):
    with pytest.raises(ValueError, match="workers"):
        sweeps.run(FAILING, tmp_path / "t.parquet", workers=workers)


# ------------------------------------------------------------------ the command line


def test_command_line_has_the_defaults_of_the_grid(monkeypatch):
    seen = []
    monkeypatch.setattr(sweeps, "Grid", Recorder(seen))
    with pytest.raises(StopIteration):
        main(["sweep", "t.parquet"])
    assert Grid(**seen[0]) == Grid()
    assert set(seen[0]) == set(Grid().as_dict()) - {"metrics"}


class Recorder:
    """Stands for Grid, keeps what it was called with."""

    __dataclass_fields__ = Grid.__dataclass_fields__

    def __init__(self, seen):
        self.seen = seen

    def __call__(self, **axes):
        self.seen.append(axes)
        raise StopIteration


def test_dry_run_prints_the_size_and_writes_nothing(tmp_path, capsys):
    assert main(["sweep", str(tmp_path / "t.parquet"), "--repetitions", "100", "--dry-run"]) == 0
    assert "100 cells of 15 rows: 1,500 rows" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_help_names_every_axis_and_family(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["sweep", "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for name in Grid().as_dict():
        assert f"--{name.replace('_', '-')}" in text
    for family in ("gaussian", "student_t", "low_rank", "low_rank_t", "spike", "common_mean"):
        assert f"\n  {family}" in text
    assert max(map(len, text.splitlines())) <= 100


def test_progress_is_shown_when_asked_for_only(tmp_path, capsys):
    sweeps.run(FAILING, tmp_path / "a.parquet", workers=1)
    assert capsys.readouterr().err == ""
    sweeps.run(FAILING, tmp_path / "b.parquet", workers=1, progress=True)
    shown = capsys.readouterr().err
    assert "6/6" in shown
    assert "failed_rows=3" in shown


def test_import_is_cheap():
    code = (
        "import sys, kvlib.sweeps, kvlib.cli; "
        "print([m for m in ('pandas', 'pyarrow', 'joblib', 'dask', 'distributed', 'tqdm',"
        " 'threadpoolctl') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --------------------------------------------------------------------------- Dask


@pytest.fixture
def cluster(tmp_path):
    """A scheduler on loopback; call it for its address and a function that starts a worker."""
    pytest.importorskip("distributed")
    scheduler_file = tmp_path / "scheduler.json"
    processes = []

    def start(role, *options):
        command = [sys.executable, "-m", f"distributed.cli.dask_{role}", "--no-dashboard"]
        with (tmp_path / "dask.log").open("a") as log:
            process = subprocess.Popen(
                [*command, "--scheduler-file", scheduler_file, *options],
                cwd=tmp_path,
                stdout=log,
                stderr=log,
            )
        processes.append(process)
        return process

    start("scheduler", "--host", "127.0.0.1", "--port", "0")
    end = time.monotonic() + 60
    while not scheduler_file.exists():
        assert time.monotonic() < end, (tmp_path / "dask.log").read_text()
        time.sleep(0.05)
    address = json.loads(scheduler_file.read_text())["address"]
    yield address, lambda: start("worker", "--no-nanny", "--nthreads", "1")
    for process in reversed(processes):
        process.terminate()
    for process in reversed(processes):
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for_workers(address, count):
    import distributed

    with distributed.Client(address, set_as_default=False) as client:
        client.wait_for_workers(count, timeout=60)


def test_dask_loses_a_worker_and_gives_the_same_bytes(cluster, slow_bytes, tmp_path):
    address, start_worker = cluster
    with pytest.raises(ValueError, match="cluster with workers"):
        sweeps.run(SLOW, tmp_path / "none.parquet", dask=address)
    victim, survivor = start_worker(), start_worker()
    wait_for_workers(address, 2)
    path = tmp_path / "slow.parquet"
    at_death = []

    def kill_in_mid_sweep():
        wait_for_shards(path, 3)
        victim.kill()
        victim.wait()
        at_death.append(len(manifest_lines(path)))

    killer = threading.Thread(target=kill_in_mid_sweep)
    killer.start()
    outcome = sweeps.run(SLOW, path, dask=address)
    killer.join()
    assert at_death[0] < 32, "the worker died after the sweep"
    assert survivor.poll() is None
    assert outcome.computed == SLOW.cell_count
    assert path.read_bytes() == slow_bytes


def test_dask_address_without_a_scheduler_is_named(tmp_path, monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr(backends, "_CONNECT_SECONDS", 0.5)
    for address in ("tcp://127.0.0.1:1", "nonsense://x", "nonsense", "tcp://h:99999"):
        start = time.monotonic()
        with pytest.raises(ValueError, match=f"dask must be.*{address}"):
            sweeps.run(FAILING, tmp_path / "t.parquet", dask=address)
        assert time.monotonic() - start < 10  # it is not waited for
    assert list(tmp_path.iterdir()) == []  # and claims no name
    with pytest.raises(ValueError, match="workers must be left out"):
        sweeps.run(FAILING, tmp_path / "t.parquet", workers=2, dask="tcp://127.0.0.1:1")


def test_dask_workers_of_another_version_are_refused(monkeypatch):
    class Client:
        def nthreads(self):
            return {"tcp://a": 1}

        def run(self, function, grid):
            return {"tcp://a": function(grid) | {"numpy": "1.0"}}

    with pytest.raises(ValueError, match=r"worker tcp://a must have the same.*differs in numpy"):
        backends._check_workers(Client(), "tcp://s", FAILING)
