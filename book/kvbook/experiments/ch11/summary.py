"""Which published numbers are reproduced, said by rule."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kvbook.experiments.ch11 import c15
from kvbook.experiments.ch11.c03 import Boxes
from kvbook.experiments.ch11.c04 import PRODUCT, Lengths, low_rank_by_reading
from kvbook.experiments.ch11.c08 import (
    PUBLISHED_R,
    PUBLISHED_RATIO,
    KeyKl,
    ReadingC08,
    sample_sizes,
)
from kvbook.experiments.ch11.c13 import LOGIT_SCALES, Bridge
from kvbook.experiments.ch11.c14 import ReadingC14
from kvbook.experiments.ch11.c15 import EnergyReading, ReadingC15
from kvbook.experiments.ch11.planes import Planes
from kvbook.experiments.ch11.readings import Search
from kvbook.ledger import Verdict, words
from kvlib.stats import Interval

NEAREST_SKETCH = "Gaussian, least squares"
YES, SOME, NONE = KINDS = "yes", "by some readings", "by none tried"
"""What a published number may come to."""


@dataclass(frozen=True)
class Searches:
    """The searches of the page; those for a part of a claim's numbers are made of them."""

    c08: Search[ReadingC08]
    c14: Search[ReadingC14]
    c15: Search[ReadingC15]
    energy: Search[EnergyReading]

    def by_name(self) -> dict[str, Search[Any]]:
        """Every search, also those for some of a claim's numbers alone."""
        return {
            "C08 ratio": self.c08.marginal([0], lambda x: x),
            "C08": self.c08,
            "C14": self.c14,
            "C15 KQV": c15.kqv_alone(self.c15),
            "C15 KV": c15.kv_alone(self.c15),
            "C15": self.c15,
            "energy": self.energy,
        }

    def chances(self, stream: np.random.SeedSequence) -> dict[str, float]:
        """Share of made-up targets that each would have matched."""
        return {name: search.chance(stream) for name, search in self.by_name().items()}


@dataclass(frozen=True)
class Reproduction:
    """What became of one published number; ``tried`` and on are None where nothing was searched."""

    claim: str
    published: str
    outcome: str
    reading: str
    value: str
    tried: int | None = None
    matches: int | None = None
    chance: float | None = None


def outcome(natural: bool, hits: int) -> str:
    """Reproduced by the natural reading, by some reading of a search, or by none."""
    if natural:
        return YES
    return SOME if hits else NONE


def count_outcomes(found: Sequence[Reproduction]) -> dict[str, int]:
    """How many published numbers came out, by some reading, or by none."""
    outcomes = [x.outcome for x in found]
    return {
        name: outcomes.count(kind)
        for name, kind in zip(("yes", "some", "none"), KINDS, strict=True)
    }


def count_statements(verdicts: Sequence[Verdict]) -> dict[str, int]:
    """How many statements hold, hold by some readings, fail, are open or cannot be tested."""
    kinds = {
        "holding": (words.HOLDS, words.HOLDS_WITH_EXCEPTIONS),
        "by-reading": (words.ONE_READING, words.SOME_READINGS),
        "failing": (words.FAILS,),
        "undecided": (words.INCONCLUSIVE,),
        "untestable": (words.NOT_TESTABLE,),
    }
    return {name: sum(v.verdict in kind for v in verdicts) for name, kind in kinds.items()}


def interval_text(x: Interval, digits: int = 3) -> str:
    """Estimate and interval to some significant digits."""
    return f"{x.estimate:.{digits}g} [{x.low:.{digits}g}, {x.high:.{digits}g}]"


def _near(x: Interval, target: float, tolerance: float) -> bool:
    return abs(x.estimate - target) <= tolerance


def collect_reproductions(
    boxes: Boxes,
    lengths: Lengths,
    keys: KeyKl,
    bridge: Bridge,
    planes: Planes,
    searches: Searches,
    chances: Mapping[str, float],
    distance: Interval | None = None,
) -> list[Reproduction]:
    """A row for each published number; the energy distance comes from planes if left out."""
    named = searches.by_name()
    return [
        _figure_7(boxes, lengths),
        *_abstract(keys, named, chances),
        *_figure_3(bridge),
        _figure_5(searches.c14, chances["C14"]),
        *_figure_6_directions(planes, named, chances),
        _figure_6_distance(
            distance or c15.natural_energy(planes), searches.energy, chances["energy"]
        ),
    ]


def _figure_7(boxes: Boxes, lengths: Lengths) -> Reproduction:
    sizes = [nats for _, nats in low_rank_by_reading(boxes, lengths).values()][:3]
    matches = sum(x.low >= 1 and x.high <= 10 for x in sizes)
    return Reproduction(
        "C04",
        "KL of 10^0 to 10^1 nats",
        outcome(False, matches),
        "unscaled product of two factors",
        interval_text(lengths.nats(PRODUCT)),
        len(sizes),
        matches,
    )


def _abstract(
    keys: KeyKl, searches: Mapping[str, Search[Any]], chances: Mapping[str, float]
) -> Iterator[Reproduction]:
    sizes = "{} to {}".format(*sample_sizes(PUBLISHED_R, 1e-24, 1e-23, 2))
    ratio, both = searches["C08 ratio"], searches["C08"]
    natural = _near(keys.ratio("Gaussian"), PUBLISHED_RATIO, 0.05 * PUBLISHED_RATIO)
    yield Reproduction(
        "C08",
        "KL ratio 2.25",
        outcome(natural, ratio.found),
        "Gaussian sketch, least-squares scale",
        interval_text(keys.ratio(NEAREST_SKETCH)),
        len(ratio),
        ratio.found,
        chances["C08 ratio"],
    )
    yield Reproduction(
        "C08",
        "with r = −0.983",
        outcome(False, both.found),
        "the same, a query for each key",
        interval_text(keys.r(NEAREST_SKETCH)),
        len(both),
        both.found,
        chances["C08"],
    )
    yield Reproduction("C08", "p &lt; 1e-23", YES, "arithmetic: samples a scheme, two-sided", sizes)


def _figure_3(bridge: Bridge) -> Iterator[Reproduction]:
    near = [abs(bridge.largest_kl(scale) - 4) <= 1 for scale in LOGIT_SCALES]
    yield Reproduction(
        "C13",
        "KL up to 4 nats",
        outcome(near[0], 0),
        "worst query of KV, logit scale 1",
        f"{bridge.largest_kl():.2f}",
        len(near),
        sum(near),
    )


def _figure_5(search: Search[ReadingC14], chance: float) -> Reproduction:
    return Reproduction(
        "C14",
        "five r at n = 2 to 6",
        outcome(False, search.found),
        "nearest, worst miss",
        f"{search.worst_miss.min():.2f}",
        len(search),
        search.found,
        chance,
    )


def _figure_6_directions(
    planes: Planes, searches: Mapping[str, Search[Any]], chances: Mapping[str, float]
) -> Iterator[Reproduction]:
    published, angle = 0.027, c15.natural_directions(planes)["KQV, n=4, angle/π"]
    kqv, kv, all_three = (searches[name] for name in ("C15 KQV", "C15 KV", "C15"))
    yield Reproduction(
        "C15",
        "direction error 0.027",
        outcome(_near(angle, published, 0.05 * published), kqv.found),
        "angle/π, one round, Lloyd–Max",
        interval_text(angle),
        len(kqv),
        kqv.found,
        chances["C15 KQV"],
    )
    yield Reproduction(
        "C15",
        "0.645 and 0.202",
        outcome(False, kv.found),
        "several",
        "",
        len(kv),
        kv.found,
        chances["C15 KV"],
    )
    yield Reproduction(
        "C15",
        "all three together",
        outcome(False, all_three.found),
        "nearest, worst miss",
        f"{np.expm1(all_three.worst_miss.min()):.0%}",
        len(all_three),
        all_three.found,
        chances["C15"],
    )


def _figure_6_distance(
    distance: Interval, search: Search[EnergyReading], chance: float
) -> Reproduction:
    natural = _near(distance, c15.PUBLISHED_ENERGY, c15.ENERGY_TOLERANCE)
    return Reproduction(
        "C15",
        f"energy distance {c15.PUBLISHED_ENERGY}",
        outcome(natural, search.found),
        "natural: root, six errors",
        f"{distance.estimate:.2f}",
        len(search),
        search.found,
        chance,
    )


# ------------------------------------------------------------------------------- scoreboard

SAID = {
    "C03": "4-bit MSE has lower KL than 3-bit MSE + QJL, three laws, d = 2, 8, 128",
    "C04": "at d = 1024 low rank is one to two orders above heavy tail",
    "C08": "at n = 4 KQV wins on every measure",
    "C13": "three clouds apart; down the chain they are one",
    "C14": "KQV against KV in 6-D: wins at 2, 3, 5 bits, neutral at 4, loses at 6",
    "C15": "KQV's keys stay at a small direction error, KV's do not",
    "C16": "both V caches move toward the Lloyd-Max line",
    "C17": "no failure mode under fat tails",
    "C18": "table 4, the best scheme by regime",
}
"""The claims of the page in a few words."""


@dataclass(frozen=True)
class Score:
    """A row of the scoreboard: a statement of the paper, or one of its numbers."""

    claim: str
    published: str
    ours: str
    reading: str
    verdict: str


def scoreboard(verdicts: Sequence[Verdict], numbers: Sequence[Reproduction]) -> list[Score]:
    """For every claim its statement, then its published numbers."""
    rows = []
    for verdict in verdicts:
        claim = verdict.claim_id
        judged = verdict.judgement("statement")
        assert judged is not None
        checks = [c for c in verdict.checks if c.decides and c.prediction.part == "statement"]
        held = sum(c.verdict == "holds" for c in checks)
        ours = f"{held} of {len(checks)} checks" if checks else "no check possible"
        if judged.tried:
            ours = f"{len(judged.holding)} of {len(judged.tried)} readings"
        reading = "; ".join(judged.holding) or "—"
        rows.append(Score(claim, SAID[claim], ours, reading, verdict.verdict))
        of_claim = [x for x in numbers if x.claim == claim]
        rows += [Score("", x.published, x.value, x.reading, x.outcome) for x in of_claim]
    return rows
