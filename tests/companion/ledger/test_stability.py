"""Verdicts under other seeds: what is executed, what is stored, and what the ledger makes of it."""

import copy
import json
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
import small_book
from kvbook import ledger
from kvbook.build import chapters, pages, storing, verdicts
from kvbook.ledger import stability
from kvbook.ledger.__main__ import main
from kvbook.ledger.stability import Stability, dump_stability, read_stability
from small_book import put, tool

ROOT = Path(__file__).resolve().parents[3]

# ------------------------------------------------------------------------ the ledger


def document(
    verdict="CONFIRMED",
    measured=1.0,
    name="T03",
    code="judge()",
    parameters="seed = 1  # of all",
    label="first",
    rule="within",
    number=None,
):
    """An executed notebook with one verdict of two checks, as JSON."""
    first = "fails" if verdict == "REFUTED" else "holds" if "CONFIRMED" in verdict else "undecided"
    check = {"rule": rule, "prediction": "1 ± 2", "measured": measured}
    pairs = ((label, first), ("second", "holds"))
    checks = [check | {"label": text, "verdict": outcome} for text, outcome in pairs]
    verdicts = {"id": name, "verdict": verdict, "number_verdict": number}
    record = small_book.ledger_record(measured=measured, note="why", checks=checks, **verdicts)
    output = {"output_type": "display_data", "data": {ledger.MIME_TYPE: record}, "metadata": {}}
    cells = [
        {"cell_type": "markdown", "source": "prose"},
        {"cell_type": "code", "source": parameters, "metadata": {"tags": ["parameters"]}},
        {"cell_type": "code", "source": code, "outputs": [output], "metadata": {}},
        {
            "cell_type": "code",
            "source": "plot()",
            "outputs": [],
            "metadata": {"tags": ["nbval-ignore-output"]},
        },
    ]
    return {"cells": cells}


def record_of(notebook):
    """The one verdict record of a notebook."""
    (record,) = ledger.verdict_records(notebook)
    return record


def measured(own, others):
    """The stability of a notebook's verdict, given those under seeds 101, 102, ..."""
    return Stability.measured(own, record_of(own), dict(enumerate(others, start=101)))


def ledger_row(folder, own, entry):
    """What the ledger says of T03 when a notebook and a stability record lie in a folder."""
    (folder / "01_x.ipynb").write_text(json.dumps(own), encoding="utf-8")
    file = folder / "verdict_stability.json"
    if entry is not None:
        file.write_text(dump_stability({"T03": entry}), encoding="utf-8")
        assert read_stability(file) == {"T03": entry}
    return next(row for row in ledger.read_ledger(folder, file) if row["id"] == "T03")


def test_a_stable_verdict_stands(tmp_path):
    own = document()
    row = ledger_row(tmp_path, own, measured(own, [record_of(document(measured=1.1))] * 3))
    assert (row["verdict"], row["note"]) == ("CONFIRMED", "why")
    assert row["stability"]["summary"] == "CONFIRMED on 4 of 4 seeds"
    assert row["stability"]["moved"] == {}


@pytest.mark.parametrize("own_verdict", ["CONFIRMED", "CONFIRMED WITH EXCEPTIONS"])
@pytest.mark.parametrize("other", ["REFUTED", "INCONCLUSIVE", None])
def test_a_verdict_that_flips_is_inconclusive(tmp_path, own_verdict, other):
    own = document(own_verdict)
    flipped = None if other is None else record_of(document(other))
    row = ledger_row(tmp_path, own, measured(own, [record_of(own), flipped, record_of(own)]))
    assert row["verdict"] == "INCONCLUSIVE"
    counted = f"{own_verdict} on 3 of 4 seeds, {other or 'NO RESULT'} on 1"
    assert row["note"] == f"The verdict depends on the seed: {counted}. why"
    assert row["stability"]["page"] == own_verdict
    assert next(iter(row["stability"]["moved"])) == "first"


def test_the_page_s_own_seed_counts(tmp_path):
    own = document("REFUTED")
    row = ledger_row(tmp_path, own, measured(own, [record_of(document())] * 3))
    assert row["verdict"] == "INCONCLUSIVE"
    assert row["stability"]["summary"] == "REFUTED on 1 of 4 seeds, CONFIRMED on 3"


@pytest.mark.parametrize(
    ("stronger", "weaker"),
    [
        ("HOLDS", "HOLDS WITH EXCEPTIONS"),
        ("CONFIRMED", "CONFIRMED WITH EXCEPTIONS"),
        ("SOME READINGS ONLY", "ONE READING ONLY"),
    ],
)
def test_a_verdict_that_moves_by_a_degree_is_the_weaker(tmp_path, stronger, weaker):
    for first, second in ((stronger, weaker), (weaker, stronger)):
        own = document(first)
        row = ledger_row(tmp_path, own, measured(own, [record_of(document(second))] * 2))
        assert row["verdict"] == weaker


def test_the_number_is_held_against_the_seeds_by_itself(tmp_path):
    own = document(number="HOLDS")
    others = [record_of(document(number=n)) for n in ("HOLDS", "NOT REPRODUCED")]
    row = ledger_row(tmp_path, own, measured(own, others))
    assert (row["verdict"], row["number_verdict"]) == ("CONFIRMED", "INCONCLUSIVE")
    known = row["stability"]
    assert known["number_summary"] == "HOLDS on 2 of 3 seeds, NOT REPRODUCED on 1"
    assert row["note"].startswith("The verdict on the number depends on the seed: HOLDS on 2")
    steady = ledger_row(tmp_path, own, measured(own, [record_of(own)] * 2))
    assert (steady["number_verdict"], steady["note"]) == ("HOLDS", "why")


def test_a_check_may_move_without_the_verdict(tmp_path):
    own = document("REFUTED")
    other = copy.deepcopy(record_of(own))
    other["checks"][1]["verdict"] = "undecided"
    row = ledger_row(tmp_path, own, measured(own, [other, record_of(own)]))
    assert row["verdict"] == "REFUTED"
    assert row["stability"]["moved"] == {"second": ["undecided", "holds"]}


@pytest.mark.parametrize(
    "changed",
    [
        document(measured=1.001),
        document(label="another"),
        document(rule="below"),
        document(parameters="seed = 2"),
        document(parameters="seed = 1\ntrials = 3"),
    ],
    ids=["number", "label", "rule", "parameter", "more parameters"],
)
def test_an_old_record_is_shown_and_decides_nothing(tmp_path, changed):
    entry = measured(document(), [record_of(document("REFUTED"))] * 2)
    assert ledger_row(tmp_path, document(), entry)["verdict"] == "INCONCLUSIVE"
    row = ledger_row(tmp_path, changed, entry)
    assert row["verdict"] == "CONFIRMED"
    assert row["stability"]["stale"] is True
    assert "earlier version" in row["stability"]["summary"]


def test_what_moves_no_number_does_not_make_a_record_old(tmp_path):
    own = document()
    entry = measured(own, [record_of(own)] * 2)
    changed = document(code="experiments.judge()", parameters="# the root\nseed = 1")
    changed["cells"][0]["source"] = "other prose"
    changed["cells"][-1]["source"] = "plot('blue')"
    record_of(changed)["note"] = "other words"
    assert ledger_row(tmp_path, changed, entry)["stability"]["stale"] is False


def test_without_a_record_nothing_is_said(tmp_path):
    row = ledger_row(tmp_path, document(), None)
    assert (row["verdict"], row["stability"]) == ("CONFIRMED", None)
    other = document(name="T04")
    entry = measured(other, [record_of(other)] * 2)
    (tmp_path / "s.json").write_text(dump_stability({"T04": entry}), encoding="utf-8")
    rows = ledger.read_ledger(tmp_path, tmp_path / "s.json")
    assert all(row["stability"] is None for row in rows)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "{}",
        '{"claims": {"T03": {}}}',
        '{"claims": {"T03": {"seeds": [1, 2], "verdicts": ["REFUTED"],'
        ' "number_verdicts": [], "fingerprint": "", "moved": {}}}}',
        '{"claims": {"T03": {"seeds": [1, 1], "verdicts": ["REFUTED", "REFUTED"],'
        ' "number_verdicts": [], "fingerprint": "", "moved": {}}}}',
        '{"claims": {"C05": {"seeds": [1, 2], "verdicts": ["HOLDS", "HOLDS"],'
        ' "number_verdicts": ["HOLDS"], "fingerprint": "", "moved": {}}}}',
    ],
)
def test_a_broken_record_is_refused(tmp_path, text, capsys):
    path = tmp_path / "s.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match="stability must be a record of `make verdicts`"):
        read_stability(path)
    (tmp_path / "01_x.ipynb").write_text(json.dumps(document()), encoding="utf-8")
    assert main(["--notebooks", str(tmp_path), "--stability", str(path)]) == 2
    assert "stability must be a record" in capsys.readouterr().err


def test_the_command_line_shows_the_seeds(tmp_path, capsys):
    own = document()
    ledger_row(tmp_path, own, measured(own, [record_of(document("REFUTED"))] * 2))
    command = ["--notebooks", str(tmp_path)]
    assert main([*command, "--stability", str(tmp_path / "verdict_stability.json")]) == 0
    text = capsys.readouterr().out
    assert "T03  INCONCLUSIVE" in text
    assert "seeds:  CONFIRMED on 1 of 3 seeds, REFUTED on 2" in text
    assert main([*command, "--stability", str(tmp_path / "none")]) == 0
    assert "T03  CONFIRMED" in capsys.readouterr().out


# ------------------------------------------------------------------------- the pages


def test_the_claims_page_tabulates_the_seeds(tmp_path):
    own = document(number="HOLDS")
    flip = ledger_row(tmp_path, own, measured(own, [record_of(document("REFUTED")), None]))
    text = pages.claims_page([flip], {})
    assert "further seeds, 101 to 102" in text
    tally = "Of 1 rows 0 have the same verdicts, on statement and number, under all of their seeds."
    assert f"{tally} Depending on the seed: T03.\n" in text
    assert "first: NO RESULT on 1, fails on 1" not in text
    assert "first: fails on 1, NO RESULT on 1" in text
    assert "CONFIRMED on 1 of 3 seeds, REFUTED on 1, NO RESULT on 1" in text
    assert "number: HOLDS on 1 of 3 seeds, NO RESULT on 2" in text
    assert "kv-badge inconclusive" in text

    stable = ledger_row(tmp_path, own, measured(own, [record_of(own)] * 2))
    text = pages.claims_page([stable], {})
    assert "Of 1 rows 1 have the same verdicts" in text
    assert "Depending" not in text
    assert "checks that move" not in text

    old = ledger_row(tmp_path, document(measured=2.0), measured(own, [None, None]))
    text = pages.claims_page([old], {})
    assert "Tried on an earlier version of the chapter: T03." in text
    assert "kv-badge confirmed" in text

    untried = stable | {"stability": None}
    assert "further seeds" not in pages.claims_page([untried], {})


# ------------------------------------------------------------------- the chapters again

JUDGE = """\
class Verdict:
    def _repr_mimebundle_(self, include=None, exclude=None):
        verdict = {rule}
        check = {{"label": "one", "rule": "within", "measured": {number}, "verdict": verdict}}
        record = {{"id": "{name}", "verdict": verdict, "note": "", "checks": [check]}}
        record["number_verdict"] = None
        return {{"text/plain": verdict, "{mime}": record}}
Verdict()"""


def judging(name, rule, number="seed"):
    """Code of a cell that reaches a verdict by an expression of the seed."""
    return JUDGE.format(name=name, rule=rule, number=number, mime=ledger.MIME_TYPE)


@pytest.fixture
def book(tmp_path):
    """A repository of chapters that judge at once and need no package."""
    small_book.make(tmp_path)
    put(tmp_path, "01_steady", judging("T01", "'CONFIRMED'"), parameters="seed = 1")
    put(tmp_path, "02_plain", judging("T02", "'CONFIRMED'"), parameters="size = 1")
    put(tmp_path, "A1_speed", "1 / 0", parameters="size = 1")
    return tmp_path


def executed(done):
    """How many chapters a run of the tool executed."""
    found = re.search(r"verdicts: (\d+) chapters executed", done.stdout)
    return int(found[1]) if found else 0


def stored(book):
    """Claim id to verdicts by seed, as the tool stored them."""
    entries = read_stability(book / "book" / stability.FILE)
    return {name: dict(zip(e.seeds, e.verdicts, strict=True)) for name, e in entries.items()}


def touch(path):
    """Give a file new times and the same bytes."""
    path.write_bytes(path.read_bytes())


def test_each_seed_is_tried_once_and_a_failure_is_a_verdict(book):
    unlucky = "assert seed != 102, 'unlucky'"
    rule = "'CONFIRMED' if seed < 103 else 'REFUTED'"
    path = put(book, "03_flips", unlucky, judging("T03", rule))
    for name in ("1", "3"):
        assert tool(book, "execute", "--chapter", name).returncode == 0
    committed = path.read_bytes()

    first = tool(book, "verdicts", "--seeds", "3", "--jobs", "2")
    assert first.returncode == 1
    assert "verdicts: 2 chapters under 3 seeds" in first.stdout
    for seed in (101, 102, 103):
        assert len(re.findall(rf"^seed {seed}: done", first.stdout, flags=re.MULTILINE)) == 1
    assert "error: 1 runs failed, see above" in first.stderr
    assert re.search(
        r"seed 102: 03_flips failed .*`assert seed != 102.*\nAssertionError: unl", first.stdout
    )
    assert "T01  CONFIRMED on 4 of 4 seeds" in first.stdout
    assert "T03  CONFIRMED on 2 of 4 seeds, NO RESULT on 1, REFUTED on 1" in first.stdout
    assert stored(book) == {
        "T01": {101: "CONFIRMED", 102: "CONFIRMED", 103: "CONFIRMED"},
        "T03": {101: "CONFIRMED", 102: "NO RESULT", 103: "REFUTED"},
    }
    assert path.read_bytes() == committed

    # Only what failed is tried again; other times of the same bytes change nothing.
    touch(book / "notebooks" / "01_steady.ipynb")
    touch(book / "kvlib" / "__init__.py")
    again = tool(book, "verdicts", "--seeds", "3")
    assert executed(again) == 1
    assert "5 results are there already" in again.stdout

    # One chapter is judged anew, two seeds only; the other's entry stays. Prose is no change.
    put(book, "01_steady", judging("T01", "'REFUTED'"))
    assert tool(book, "execute", "--chapter", "1").returncode == 0
    other = chapters.read(path)
    other.cells[0].source = "# Another title"
    path.write_text(storing.serialise(other), encoding="utf-8")
    one = tool(book, "verdicts", "--seeds", "2", "--chapter", "1")
    assert (one.returncode, executed(one)) == (0, 2)
    assert stored(book)["T01"] == {101: "REFUTED", 102: "REFUTED"}
    assert stored(book)["T03"][103] == "REFUTED"
    assert (
        "4 results are there" not in tool(book, "verdicts", "--seeds", "3", "--chapter", "3").stdout
    )


def test_an_interrupted_run_goes_on_where_it_was(book):
    marker = book / "second"
    slow = f"import pathlib, time\nif seed == 102 and not pathlib.Path({str(marker)!r}).exists():\n"
    slow += f"    pathlib.Path({str(marker)!r}).touch()\n    time.sleep(60)"
    put(book, "01_steady", slow, judging("T01", "'CONFIRMED'"))
    assert tool(book, "execute", "--chapter", "1").returncode == 0
    options = ["--root", str(book), "--seeds", "2", "--jobs", "1"]
    command = small_book.command("verdicts", *options)
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not marker.exists():
        time.sleep(0.1)
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=30)
    assert child.returncode == 130
    assert "the same command does the rest" in errors
    assert not (book / "book" / stability.FILE).exists()

    rest = tool(book, "verdicts", "--seeds", "2", "--jobs", "1")
    assert rest.returncode == 0, rest.stdout + rest.stderr
    assert "1 results are there already" in rest.stdout
    assert executed(rest) == 1
    assert stored(book) == {"T01": {101: "CONFIRMED", 102: "CONFIRMED"}}


@pytest.mark.parametrize("count", ["", "1", "ten", "-3", "2.5"])
def test_too_few_seeds_are_refused(book, count):
    done = tool(book, "verdicts", f"--seeds={count}")
    assert done.returncode == 1
    assert "SEEDS must be a whole number, 2 or more" in done.stderr


def test_chapters_without_a_seed_are_left_out(book):
    assert [path.stem for path in verdicts.chosen(book, "")] == ["01_steady"]
    for chapter in ("2", "A1"):
        with pytest.raises(chapters.ChapterProblem, match="no chapter to try"):
            verdicts.chosen(book, chapter)


def test_an_appendix_with_a_seed_is_tried(book):
    put(book, "A2_tests", judging("T17", "'SUPPORTED'"), parameters="seed = 2")
    assert [path.stem for path in verdicts.chosen(book, "")] == ["01_steady", "A2_tests"]


def test_no_chapter_has_one_of_the_further_seeds():
    own = {verdicts.parameters.known(path).get("seed") for path in chapters.chapters(ROOT)}
    assert not own & set(verdicts.seeds("100"))
