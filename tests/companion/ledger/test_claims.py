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
    # rule, inside, outside, astride
    (ledger.Within(1.0, 0.1), (0.95, 1.05), (1.2, 1.3), (1.05, 1.2)),
    (ledger.Below(1.0), (0.2, 0.9), (1.1, 1.2), (0.9, 1.1)),
    (ledger.Above(1.0), (1.1, 1.2), (0.2, 0.9), (0.9, 1.1)),
    (ledger.tie(), (0.96, 1.04), (0.8, 0.9), (0.9, 1.1)),
]


@pytest.mark.parametrize(("rule", "inside", "outside", "astride"), RULES)
def test_each_rule_reaches_each_outcome(rule, inside, outside, astride):
    assert rule.judge(*inside) == "holds"
    assert rule.judge(*outside) == "fails"
    assert rule.judge(*astride) == "undecided"


def test_an_interval_wider_than_the_tolerance_never_holds():
    assert ledger.Within(1.0, 0.1).judge(0.5, 1.5) == "undecided"


def test_a_difference_that_is_not_shown_is_no_tie():
    assert ledger.tie(0.05).judge(0.9, 1.12) == "undecided"


@pytest.mark.parametrize(
    ("rule", "region"),
    [
        (ledger.Within(1.0, 0.25), ("within", 0.75, 1.25)),
        (ledger.Below(2.0), ("below", None, 2.0)),
        (ledger.Above(2.0), ("above", 2.0, None)),
    ],
)
def test_the_region_is_recorded_in_numbers(rule, region):
    assert tuple(rule.record().values()) == region


# ------------------------------------------------------- from checks to verdicts


H, F, U = "holds", "fails", "undecided"
VALUES = {
    H: Interval(0.5, 0.4, 0.6),
    F: Interval(2.0, 1.9, 2.1),
    U: Interval(1.0, 0.9, 1.1),
}


def judged(*checks, claim="C08", missing=""):
    """The verdict of checks given as (outcome, options of their prediction)."""
    predictions, measured = [], {}
    for i, (outcome, options) in enumerate(checks):
        label = f"check {i}"
        predictions.append(ledger.Prediction(label, ledger.Below(1), "more", **options))
        measured[label] = VALUES[outcome]
    foretold = ledger.Predictions(claim, predictions, missing=missing)
    return foretold.verdict(measured, what_is_true="So it is.")


def instances(*outcomes):
    """Instances of a general statement, each with a name for its exception."""
    return [(outcome, {"exception": f"case {i}"}) for i, outcome in enumerate(outcomes)]


@pytest.mark.parametrize(
    ("checks", "expected"),
    [
        ([(H, {}), (H, {})], "HOLDS"),
        ([(H, {}), (F, {})], "FAILS"),
        ([(H, {}), (U, {})], "INCONCLUSIVE"),
        ([(F, {}), (U, {})], "FAILS"),
        (instances(H, H, H), "HOLDS"),
        (instances(H, H, F), "HOLDS WITH EXCEPTIONS"),
        (instances(H, H, U), "HOLDS WITH EXCEPTIONS"),
        (instances(H, H, H, F, U), "HOLDS WITH EXCEPTIONS"),
        (instances(H, F), "FAILS"),
        (instances(H, U), "INCONCLUSIVE"),
        (instances(H, H, H, F, U, U), "INCONCLUSIVE"),
        (instances(H, F, F), "FAILS"),
        ([(F, {}), *instances(H, H, H)], "FAILS"),
        ([(U, {}), *instances(H, H, F)], "INCONCLUSIVE"),
        ([(H, {}), *instances(H, H, F)], "HOLDS WITH EXCEPTIONS"),
        # What is not the claim's own decides nothing, either way.
        ([(H, {}), (F, {"scope": "ours"}), (U, {"scope": "shown"})], "HOLDS"),
        ([(F, {}), (H, {"scope": "ours"}), (H, {"scope": "shown"})], "FAILS"),
    ],
)
def test_a_statement_is_all_its_checks(checks, expected):
    assert judged(*checks).verdict == expected
    renamed = {"HOLDS": "CONFIRMED", "FAILS": "REFUTED"}
    words = {**renamed, "HOLDS WITH EXCEPTIONS": "CONFIRMED WITH EXCEPTIONS"}
    assert judged(*checks, claim="T05").verdict == words.get(expected, expected)


def reading(name, *outcomes):
    """Checks of one reading."""
    return [(outcome, {"reading": name}) for outcome in outcomes]


@pytest.mark.parametrize(
    ("checks", "expected", "holding"),
    [
        (reading("a", H, H) + reading("b", F), "ONE READING ONLY", ["a"]),
        (reading("a", H) + reading("b", U), "ONE READING ONLY", ["a"]),
        (reading("a", H) + reading("b", H) + reading("c", F), "SOME READINGS ONLY", ["a", "b"]),
        (reading("a", H) + reading("b", H), "HOLDS", ["a", "b"]),
        (reading("a", H, F) + reading("b", F, H), "FAILS", []),
        (reading("a", F) + reading("b", U), "INCONCLUSIVE", []),
        ([(F, {}), *reading("a", H), *reading("b", H)], "FAILS", []),
        ([(H, {}), *reading("a", H), *reading("b", F)], "ONE READING ONLY", ["a"]),
    ],
)
def test_readings_are_joined_by_any(checks, expected, holding):
    record = judged(*checks).record()
    assert record["verdict"] == expected
    assert record["readings_holding"]["statement"] == holding


def test_a_check_may_belong_to_several_readings():
    both = [(F, {"reading": ("a", "b")}), *reading("c", H)]
    assert judged(*both, *reading("a", H), *reading("b", H)).verdict == "ONE READING ONLY"
    record = judged((H, {"reading": ("a", "b")}), *reading("b", F)).record()
    assert record["readings_holding"]["statement"] == ["a"]
    assert record["checks"][0]["readings"] == ["a", "b"]


def test_two_readings_that_exclude_each_other_do_not_refute():
    """The mistake that the rule is for: 1.2 cannot be both 1.2 and 2.4."""
    one = {"part": "number", "reading": "as it is"}
    other = {"part": "number", "reading": "doubled"}
    verdict = judged((H, {}), (H, one), (F, other))
    assert (verdict.verdict, verdict.number_verdict) == ("HOLDS", "ONE READING ONLY")


def test_statement_and_number_are_judged_apart():
    verdict = judged((H, {}), (F, {"part": "number"}))
    assert (verdict.verdict, verdict.number_verdict) == ("HOLDS", "NOT REPRODUCED")
    assert judged((H, {})).number_verdict is None
    assert judged((F, {}), (H, {"part": "number"})).number_verdict == "HOLDS"


def test_what_nobody_here_has_is_not_testable():
    verdict = judged((H, {"scope": "ours"}), claim="C18", missing="table 4")
    assert verdict.verdict == "NOT TESTABLE HERE"
    assert "without table 4" in verdict._repr_mimebundle_()["text/html"]
    half = judged((H, {}), claim="C04", missing="the end of the caption")
    assert half.verdict == "HOLDS"


def test_exceptions_are_named():
    record = judged(*instances(H, H, H, F, U)).record()
    assert record["exceptions"]["statement"] == ["case 3", "case 4 (undecided)"]


def test_the_record_counts_and_shows_one_of_each():
    record = judged((F, {"scope": "ours"}), *instances(H, H, F)).record()
    assert (record["held"], record["total"]) == (2, 3)
    assert (record["ours_held"], record["ours_total"]) == (0, 1)
    assert record["prediction"].startswith("check 1")  # the claim's own first check
    assert record["example_that_holds"]["label"] == "check 1"
    assert record["example_that_fails"]["label"] == "check 3"
    fails = judged((H, {}), (F, {"scope": "ours"})).record()["example_that_fails"]
    assert (fails["label"], fails["scope"]) == ("check 1", "ours")


# --------------------------------------------------------------- display and reading


def _predictions():
    return ledger.Predictions(
        "T03",
        [
            ledger.Prediction("first", ledger.Within(1, 0.5), "outside"),
            ledger.Prediction("second", ledger.Below(2), "above <two>", exception="second"),
            ledger.Prediction("third", ledger.Below(2), "above two", exception="third"),
            ledger.Prediction("fourth", ledger.Below(2), "above two", exception="fourth"),
        ],
        pilots="the bound 2 was settled after a pilot run",
    )


def _verdict(first=1.0, second=1.0):
    measured = {name: Interval(1, 1, 1) for name in ("third", "fourth")}
    measured["first"] = Interval(first, first - 0.1, first + 0.1)
    measured["second"] = Interval(second, second, second)
    return _predictions().verdict(measured, what_is_true="It <is>.", note="a <note>")


def test_the_display_carries_text_html_and_record():
    bundle = _verdict(first=1.00004999)._repr_mimebundle_()
    assert bundle["text/plain"].splitlines()[0] == "T03: CONFIRMED"
    html = bundle["text/html"]
    for part in ('id="verdict-t03"', "a &lt;note&gt;", "It &lt;is&gt;.", "† the bound 2"):
        assert part in html
    record = bundle[ledger.MIME_TYPE]
    assert record["measured"] == 1.0  # four significant digits
    assert json.loads(json.dumps(record)) == record


def test_predictions_are_folded_and_whole():
    bundle = _predictions()._repr_mimebundle_()
    assert bundle["text/html"].startswith("<details")
    assert "4 predictions, stated before the run" in bundle["text/html"]
    assert "above &lt;two&gt;" in bundle["text/html"]


def test_a_number_without_interval_is_not_called_exact():
    assert "exact" not in repr(_verdict())


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
    assert rows["T03"]["verdict"] == "CONFIRMED"
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
    keys = {"id", "statement", "verdict", "number_verdict", "what_is_true", "held", "total"}
    keys |= {"prediction", "measured", "low", "high", "notebook"}
    assert all(keys <= set(row) for row in rows)
    assert main(["--notebooks", str(tmp_path)]) == 0
    assert "T03  CONFIRMED" in capsys.readouterr().out
    assert main(["--notebooks", str(tmp_path / "none")]) == 2
    assert "notebooks must be a folder" in capsys.readouterr().err


def test_the_reviewer_s_question_is_no_claim_of_the_paper():
    kinds = {claim.id: claim.kind for claim in ledger.CLAIMS.values()}
    assert (kinds["C18"], kinds["C19"], kinds["T01"]) == ("paper", "review", "result")


def test_the_table_is_complete():
    assert [c for c in ledger.CLAIMS if c.startswith("C")] == [f"C{i:02}" for i in range(1, 20)]
    assert [c for c in ledger.CLAIMS if c.startswith("T")] == [f"T{i:02}" for i in range(1, 20)]
    assert all(c.statement and c.expectation for c in ledger.CLAIMS.values())


def _foretold(claim="C08", **options):
    return ledger.Predictions(claim, [ledger.Prediction("a", ledger.Below(1), "more", **options)])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ledger.Within(1, -1), "tolerance must be non-negative"),
        (lambda: ledger.Below(float("nan")), "bound must be finite"),
        (lambda: ledger.Predictions("C99", []), "claim_id must be one of C01"),
        (lambda: ledger.Predictions("C01", []), "distinct labels"),
        (lambda: _predictions().verdict({}, what_is_true="x"), "exactly the predicted labels"),
        (lambda: _verdict(first=float("inf")), "must be finite"),
        (lambda: _foretold(part="claim"), "part must be 'statement' or 'number', got 'claim'"),
        (lambda: _foretold(scope="paper"), "scope must be 'claim', 'ours' or 'shown', got"),
        (lambda: _foretold("C09", part="number"), "C09 has no published number"),
        (lambda: _foretold("C18", scope="ours"), "C18 needs a check of its statement"),
        (lambda: _foretold("T03", reading="another"), "T03 is a result of the book"),
        (lambda: _foretold().verdict({"a": VALUES[H]}, what_is_true=" "), "what_is_true must say"),
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
