"""The ledger: rules decide from intervals, verdicts follow, and only notebooks are read."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

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
    return {"cells": cells}


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


@pytest.mark.parametrize("name", ["C99", "T3", None, ["T03"]])
def test_a_verdict_of_no_known_claim_is_refused(tmp_path, name):
    document = _notebook(tmp_path, "01_x.ipynb", _verdict())
    document["cells"][0]["outputs"][0]["data"][ledger.MIME_TYPE]["id"] = name
    (tmp_path / "01_x.ipynb").write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(ValueError, match=r"01_x\.ipynb judges .*, which is not in the claims"):
        ledger.read_ledger(tmp_path)


@pytest.mark.parametrize("text", ["{}", "[]", "{", '{"cells": 1}', '{"cells": [1]}', "\xff"])
def test_a_file_that_is_no_notebook_is_one_line(tmp_path, text, capsys):
    (tmp_path / "01_x.ipynb").write_bytes(text.encode("latin-1"))
    assert main(["--notebooks", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("kvbook.ledger: 01_x.ipynb is not a readable notebook")
    assert error.count("\n") == 1


def test_what_the_system_refuses_is_one_line(tmp_path, capsys):
    _notebook(tmp_path, "01_x.ipynb", _verdict())
    assert main(["--notebooks", str(tmp_path), "--stability", str(tmp_path)]) == 3
    assert capsys.readouterr().err.startswith("kvbook.ledger: [Errno 21] Is a directory")


def test_a_reader_that_goes_away_and_a_plain_terminal_are_no_error():
    command = [sys.executable, "-m", "kvbook.ledger"]
    root = Path(__file__).resolve().parents[3]
    reader = subprocess.Popen(
        command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    reader.stdout.readline()
    reader.stdout.close()
    assert (reader.wait(timeout=60), reader.stderr.read()) == (0, "")
    reader.stderr.close()
    plain = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, cwd=root, env=plain, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


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


def test_predictions_cannot_be_added_after_the_fact():
    one, two = (ledger.Prediction(name, ledger.Below(1), "more") for name in ("a", "b"))
    given = [one]
    predictions = ledger.Predictions("T03", given)
    given.append(two)
    assert [p.label for p in predictions.predictions] == ["a"]
