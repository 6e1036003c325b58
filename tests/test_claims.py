"""The ledger: rules decide from intervals, verdicts follow, and only notebooks are read."""

import json
from dataclasses import dataclass

import pytest
from kvbook import ledger
from kvbook.ledger.__main__ import main


@dataclass(frozen=True)
class Interval:
    estimate: float
    low: float
    high: float


RULES = [
    # rule, supported, refuted, too wide to tell
    (ledger.Within(1.0, 0.1), (0.95, 1.05), (1.2, 1.3), (1.05, 1.2)),
    (ledger.Below(1.0), (0.2, 0.9), (1.1, 1.2), (0.9, 1.1)),
    (ledger.Above(1.0), (1.1, 1.2), (0.2, 0.9), (0.9, 1.1)),
]


@pytest.mark.parametrize(("rule", "inside", "outside", "astride"), RULES)
def test_each_rule_reaches_each_verdict(rule, inside, outside, astride):
    assert rule.judge(*inside) == "SUPPORTED"
    assert rule.judge(*outside) == "NOT SUPPORTED"
    assert rule.judge(*astride) == "INCONCLUSIVE"
    assert rule.margin(*inside) > 0 > rule.margin(*outside)


def test_an_interval_wider_than_the_tolerance_is_never_supported():
    assert ledger.Within(1.0, 0.1).judge(0.5, 1.5) == "INCONCLUSIVE"


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        (["SUPPORTED", "SUPPORTED"], "SUPPORTED"),
        (["NOT SUPPORTED"], "NOT SUPPORTED"),
        (["SUPPORTED", "NOT SUPPORTED", "INCONCLUSIVE"], "PARTIAL"),
        (["SUPPORTED", "INCONCLUSIVE"], "INCONCLUSIVE"),
        (["NOT SUPPORTED", "INCONCLUSIVE"], "INCONCLUSIVE"),
    ],
)
def test_overall(kinds, expected):
    assert ledger.overall(kinds) == expected


def _predictions():
    return ledger.Predictions(
        "T03",
        [
            ledger.Prediction("first", ledger.Within(1, 0.5), "outside"),
            ledger.Prediction("second", ledger.Below(2), "above two"),
        ],
    )


def _verdict(first=1.0, second=1.0):
    return _predictions().verdict(
        {
            "first": Interval(first, first - 0.1, first + 0.1),
            "second": Interval(second, second, second),
        },
        note="a <note>",
    )


def test_the_decisive_check_is_the_worst_then_the_tightest():
    assert _verdict().decisive.prediction.label == "first"
    assert _verdict(second=3.0).decisive.prediction.label == "second"
    assert _verdict(second=3.0).verdict == "PARTIAL"


def test_the_display_carries_text_html_and_record():
    bundle = _verdict(first=1.00004999)._repr_mimebundle_()
    assert bundle["text/plain"].splitlines()[0] == "T03: SUPPORTED"
    assert 'id="verdict-t03"' in bundle["text/html"]
    assert "a &lt;note&gt;" in bundle["text/html"]
    record = bundle[ledger.MIME_TYPE]
    assert record["measured"] == 1.0  # four significant digits
    assert json.loads(json.dumps(record)) == record


def _notebook(folder, name, *verdicts):
    outputs = [
        {"output_type": "display_data", "data": v._repr_mimebundle_(), "metadata": {}}
        for v in verdicts
    ]
    cells = [{"cell_type": "code", "source": "", "outputs": outputs}, {"cell_type": "markdown"}]
    (folder / name).write_text(json.dumps({"cells": cells}), encoding="utf-8")


def test_the_ledger_reads_executed_notebooks_only(tmp_path):
    _notebook(tmp_path, "01_x.ipynb", _verdict())
    rows = {row["id"]: row for row in ledger.read_ledger(tmp_path)}
    assert list(rows) == list(ledger.CLAIMS)
    assert rows["T03"]["verdict"] == "SUPPORTED"
    assert rows["T03"]["notebook"] == f"{tmp_path.name}/01_x.ipynb"
    assert rows["C01"]["verdict"] == "NOT YET TESTED"
    assert rows["C01"]["measured"] is None
    assert set(rows["C01"]) == set(rows["T03"])


def test_a_claim_judged_twice_is_refused(tmp_path):
    _notebook(tmp_path, "01_x.ipynb", _verdict())
    _notebook(tmp_path, "02_y.ipynb", _verdict(second=3.0))
    with pytest.raises(ValueError, match=r"T03 is judged twice: in .*01_x.* and in 02_y"):
        ledger.read_ledger(tmp_path)


def test_command_line(tmp_path, capsys):
    _notebook(tmp_path, "01_x.ipynb", _verdict())
    assert main(["--json", "--notebooks", str(tmp_path)]) == 0
    rows = json.loads(capsys.readouterr().out)
    keys = {"id", "verdict", "prediction", "measured", "low", "high", "notebook"}
    assert all(keys <= set(row) for row in rows)
    assert main(["--notebooks", str(tmp_path)]) == 0
    assert "T03  SUPPORTED" in capsys.readouterr().out
    assert main(["--notebooks", str(tmp_path / "none")]) == 2
    assert "notebooks must be a folder" in capsys.readouterr().err


def test_the_table_is_complete():
    assert [c for c in ledger.CLAIMS if c.startswith("C")] == [f"C{i:02}" for i in range(1, 20)]
    assert [c for c in ledger.CLAIMS if c.startswith("T")] == [f"T{i:02}" for i in range(1, 20)]
    assert all(c.statement and c.expectation for c in ledger.CLAIMS.values())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ledger.Within(1, -1), "tolerance must be non-negative"),
        (lambda: ledger.Below(float("nan")), "bound must be finite"),
        (lambda: ledger.Predictions("C99", []), "claim_id must be one of C01"),
        (lambda: ledger.Predictions("C01", []), "distinct labels"),
        (lambda: _predictions().verdict({}), "exactly the predicted labels"),
        (lambda: _verdict(first=float("inf")), "must be finite"),
        (lambda: ledger.overall([]), "one or more"),
        (
            lambda: _predictions().predictions[0].check(Interval(1, 2, 3)),
            "low <= estimate <= high",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
