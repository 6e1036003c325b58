"""Which published numbers are reproduced, said by rule."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from kvbook.experiments.ch11 import c15
from kvbook.experiments.ch11.c08 import (
    PUBLISHED_R,
    PUBLISHED_RATIO,
    ReadingC08,
    SchemeErrors,
    sample_sizes,
)
from kvbook.experiments.ch11.c13 import LOGIT_SCALES, Bridge
from kvbook.experiments.ch11.c14 import ReadingC14
from kvbook.experiments.ch11.c15 import EnergyReading, ReadingC15
from kvbook.experiments.ch11.planes import Planes
from kvbook.experiments.ch11.readings import Search
from kvlib.stats import Interval

NEAREST_SKETCH = "Gaussian, least squares"


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
        return "yes, natural reading"
    return "by some readings" if hits else "by none tried"


def interval_text(x: Interval, digits: int = 3) -> str:
    """Estimate and interval to some significant digits."""
    return f"{x.estimate:.{digits}g} [{x.low:.{digits}g}, {x.high:.{digits}g}]"


def _near(x: Interval, target: float, tolerance: float) -> bool:
    return abs(x.estimate - target) <= tolerance


def collect_reproductions(
    errors: SchemeErrors,
    bridge: Bridge,
    planes: Planes,
    searches: Searches,
    chances: Mapping[str, float],
    distance: Interval | None = None,
) -> list[Reproduction]:
    """A row for each published number; the energy distance comes from planes if left out."""
    named = searches.by_name()
    return [
        *_abstract(errors, named, chances),
        *_figure_3(bridge),
        _figure_5(searches.c14, chances["C14"]),
        *_figure_6_directions(planes, named, chances),
        _figure_6_distance(
            distance or c15.natural_energy(planes), searches.energy, chances["energy"]
        ),
    ]


def _abstract(
    errors: SchemeErrors, searches: Mapping[str, Search[Any]], chances: Mapping[str, float]
) -> Iterator[Reproduction]:
    sizes = "{} to {}".format(*sample_sizes(PUBLISHED_R, 1e-24, 1e-23, 2))
    yield Reproduction(
        "p &lt; 1e-23 at r = −0.983 (abstract)",
        "yes, arithmetic",
        "samples a scheme, two-sided",
        sizes,
    )
    ratio, both = searches["C08 ratio"], searches["C08"]
    natural = _near(errors.kl_ratio("orthogonal"), PUBLISHED_RATIO, 0.05 * PUBLISHED_RATIO)
    yield Reproduction(
        "KL ratio 2.25 (abstract)",
        outcome(natural, ratio.found),
        "least-squares Gaussian sketch",
        interval_text(errors.kl_ratio(NEAREST_SKETCH)),
        len(ratio),
        ratio.found,
        chances["C08 ratio"],
    )
    yield Reproduction(
        "with r = −0.983",
        outcome(False, both.found),
        "the same, families pooled",
        interval_text(errors.pooled_r(NEAREST_SKETCH).interval),
        len(both),
        both.found,
        chances["C08"],
    )


def _figure_3(bridge: Bridge) -> Iterator[Reproduction]:
    near = [abs(bridge.largest_kl(scale) - 4) <= 1 for scale in LOGIT_SCALES]
    yield Reproduction(
        "KL up to 4 nats (figure 3)",
        outcome(near[0], 0),
        "worst query of KV, logit scale 1",
        f"{bridge.largest_kl():.2f}",
        len(near),
        sum(near),
    )


def _figure_5(search: Search[ReadingC14], chance: float) -> Reproduction:
    return Reproduction(
        "r at n = 2..6, five values (figure 5)",
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
        "direction error 0.027 (figure 6)",
        outcome(_near(angle, published, 0.05 * published), kqv.found),
        "angle/π, one round, Lloyd–Max",
        interval_text(angle),
        len(kqv),
        kqv.found,
        chances["C15 KQV"],
    )
    yield Reproduction(
        "0.645 and 0.202 (figure 6)",
        outcome(False, kv.found),
        "several",
        "",
        len(kv),
        kv.found,
        chances["C15 KV"],
    )
    yield Reproduction(
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
        f"energy distance {c15.PUBLISHED_ENERGY} (figure 6)",
        outcome(natural, search.found),
        "natural: root, six errors",
        f"{distance.estimate:.2f}",
        len(search),
        search.found,
        chance,
    )
