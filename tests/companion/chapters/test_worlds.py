"""Every verdict of the book has its two worlds, and every rule can come out at the page's size."""

import importlib
import json
from pathlib import Path

import pytest
import worlds
from kvbook import ledger
from kvbook.ledger import words

HERE = Path(__file__).parent
RECORDS = [
    record
    for path in sorted((HERE.parents[2] / "notebooks").glob("*.ipynb"))
    for record in ledger.verdict_records(json.loads(path.read_text(encoding="utf-8")))
]


def controls():
    """Keys of all worlds: claims, or claims and readings."""
    found = []
    for path in sorted(HERE.glob("test_worlds_*.py")):
        found += importlib.import_module(path.stem).WORLDS
    return found


def too_wide(check):
    """Whether an interval could not lie in the region that its rule predicts, wherever it lay."""
    bottom, top = check["region_low"], check["region_high"]
    if bottom is None or top is None:
        return False  # the worlds show whether a one-sided rule can come out
    return check["high"] - check["low"] > (top - bottom) * (1 + 1e-3)  # of rounded numbers


def test_every_verdict_and_every_reading_has_a_control():
    found = controls()
    assert len(found) == len(set(found))
    assert {key.partition("/")[0] for key in found} == {record["id"] for record in RECORDS}
    for record in RECORDS:
        readings = {reading for c in record["checks"] for reading in c["readings"]}
        asked = {f"{record['id']}/{reading}" for reading in readings}
        assert asked <= set(found), record["id"]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record["id"])
def test_every_interval_of_the_page_fits_its_tolerance(record):
    judged = [c for c in record["checks"] if c["scope"] != words.SHOWN]
    assert [c["label"] for c in judged if too_wide(c)] == []


def test_an_interval_wider_than_its_region_is_found():
    wide = {"region_low": 0.9, "region_high": 1.1, "low": 0.89, "high": 1.15}
    assert too_wide(wide)
    assert not too_wide(wide | {"low": 0.95})
    assert not too_wide(wide | {"region_low": None})


def test_published_numbers_are_judged_or_said_to_be_untestable():
    for record in RECORDS:
        claim = ledger.CLAIMS[record["id"]]
        expected = claim.of_paper and bool(claim.published)
        assert (record["number_verdict"] is not None) == expected, record["id"]


def test_a_world_that_contradicts_its_verdict_is_found():
    foretold = ledger.Predictions("T05", [ledger.Prediction("one", ledger.Below(1), "more")])

    def stubborn(holds):
        return foretold.verdict({"one": worlds.around(0.5)}, what_is_true="It is small.")

    test = worlds.follow({"T05": stubborn})
    test("T05", worlds.HOLDS)
    with pytest.raises(AssertionError):
        test("T05", worlds.FAILS)
