"""Every verdict of the book has its two worlds."""

import importlib
import json
from pathlib import Path

from kvbook import ledger

HERE = Path(__file__).parent


def test_every_verdict_has_a_control():
    judged = {
        record["id"]
        for path in (HERE.parents[2] / "notebooks").glob("*.ipynb")
        for record in ledger.verdict_records(json.loads(path.read_text(encoding="utf-8")))
    }
    controlled = set()
    for path in HERE.glob("test_worlds_*.py"):
        worlds = importlib.import_module(path.stem).WORLDS
        assert not controlled & set(worlds), path.name
        controlled |= set(worlds)
    assert controlled == judged
    assert judged <= set(ledger.CLAIMS)
