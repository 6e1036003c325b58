"""Tables of chapter 11."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
from numpy.random import SeedSequence

from kvbook.experiments.ch07.regimes import REGIMES
from kvbook.experiments.ch11 import (
    BITS,
    BUDGETS,
    COUNTS,
    KQV_VALUES,
    LENGTHS,
    PUBLISHED_CORRELATIONS,
    PUBLISHED_DIRECTIONS,
    SKETCHES,
    BestSchemes,
    Bridge,
    KeyKl,
    Lengths,
    Pipeline,
    Planes,
    ReadingC08,
    ReadingC14,
    ReadingC15,
    Reproduction,
    SchemeErrors,
    Score,
    Search,
    ValuePoints,
    WideSearch,
    c18,
)
from kvbook.experiments.ch11.baselines import Books
from kvbook.experiments.ch11.c08 import MEASURES as MEASURES_C08
from kvbook.experiments.ch11.c08 import SKETCH_SCALES
from kvbook.experiments.ch11.c13 import LEFT_PANEL, LINKS
from kvbook.experiments.ch11.c15 import NATURAL
from kvbook.experiments.ch11.c16 import READINGS as READINGS_C16
from kvbook.experiments.ch11.c18 import MEASURES, THREE
from kvbook.experiments.ch11.planes import FAT
from kvbook.experiments.ch11.summary import interval_text
from kvbook.ledger.render import badge
from kvbook.page import shown, table

BY_BITS = [f"n={n}" for n in BITS]
BY_BUDGET = [f"n={n}" for n in BUDGETS]


def scale_name(scale: str) -> str:
    """How the page calls a sketch's scale."""
    return {"mmse": "least squares"}.get(scale, scale)


def set_of(budgets: Sequence[int]) -> str:
    """Budgets as a set: {2,3,5}."""
    return "{" + ",".join(str(n) for n in budgets) + "}" if budgets else "∅"


def codebook_errors(books: Mapping[int, Books], shown: Sequence[tuple[int, str]]) -> Any:
    """D(n) of some codebooks, given by dimension and name."""
    rows = [
        [f"{name}, d={dim}", *(f"{books[dim][name][n].distortion:.3g}" for n in BITS)]
        for dim, name in shown
    ]
    caption = "Relative squared error of a uniformly random direction"
    return table(["codebook", *BY_BITS], rows, caption)


# ------------------------------------------------------------------------------------- C08

SHOWN_C08 = {
    "QKQV, Gaussian": MEASURES_C08,
    "QKQV, orthogonal": MEASURES_C08,
    "KV": (*MEASURES_C08[:2], "V squared error", MEASURES_C08[2]),
}


def ratios_by_family(measured: SchemeErrors) -> Any:
    """KQV over QKQV and over KV, by measure and family."""
    rows = [
        [rival, m, *(f"{x.estimate:.2g}" for x in measured.ratio_by_family(rival, m))]
        for rival, measures in SHOWN_C08.items()
        for m in measures
    ]
    caption = f"KQV over its rival, n=4, d=128, {measured.draws} draws; below one: KQV is better"
    return table(["over", "measure", *measured.families], rows, caption)


def ratio_and_r(measured: KeyKl) -> Any:
    """KL ratio and r by sketch of QKQV and queries a draw."""
    rows = [["published", "", "2.25", "−0.983"]]
    for name, count in product(SKETCHES, COUNTS):
        ratio, r = measured.ratio(name, count), measured.r(name, count)
        rows.append([name, str(count), shown(ratio), shown(r, 3)])
    header = ["sketch of QKQV", "queries a draw", "KL ratio", "r, pooled"]
    caption = "KL at n=4: four families with light tails (gaussian, rank 1, 4, 32), d=128"
    return table(header, rows, caption)


def readings_of_c08(search: Search[ReadingC08]) -> Any:
    """Readings and matches by codebook, sketch and scale."""
    ratio_hits = search.marginal([0], lambda x: x).hits
    rows = []
    for book, (sketch, scale) in product(("Lloyd-Max", "dead levels"), SKETCH_SCALES):
        at = np.array([(x.book, x.sketch, x.scale) == (book, sketch, scale) for x in search.labels])
        rows.append(
            [
                book,
                sketch,
                scale_name(scale),
                str(at.sum()),
                f"{search.values[at, 0].min():.2f}",
                f"{search.values[at, 0].max():,.1f}",
                str((at & ratio_hits).sum()),
                str((at & search.hits).sum()),
            ]
        )
    header = ["codebook", "sketch", "scale", "readings", "ratio from", "to", "ratio matches"]
    caption = f"Readings of C08: {len(search)} tried, {search.found} match both numbers"
    return table([*header, "both match"], rows, caption)


# ------------------------------------------------------------------------------------- C13


def bridge(measured: Bridge) -> Any:
    """Means of the three clouds, and the ratios to KQV at equal abscissa."""
    rows = [
        [label, *(f"{x.mean():.4f}" for x in measured.of(name))]
        for name, label in (
            ("direction", "direction error of K"),
            ("KL", "KL (nats)"),
            ("routing", "misrouted weight"),
            ("output", "output error, relative"),
        )
    ]
    rivals = [name for name in measured.clouds if name != "KQV"]
    for (x, y), label in (
        (LEFT_PANEL, "KL at equal direction error"),
        (LINKS["KL to routing"], "misrouted weight at equal KL"),
        (LINKS["KL to output"], "output error at equal KL"),
    ):
        rows.append(
            [f"{label}, over KQV", "1", *(shown(measured.at_equal(r, (x, y))) for r in rivals)]
        )
    caption = f"Student-t ν=3, n=4, d=128, {measured.tops.shape[-1]} draws"
    return table(["", *measured.clouds], rows, caption)


# ------------------------------------------------------------------------------------- C15


def natural_directions(planes: Planes) -> Any:
    """Direction errors of K at two and four bits in two natural readings, beside the published."""
    rows = []
    for scheme, n in (("KQV", 2), ("KQV", 4), ("KV", 2), ("KV", 4)):
        published = PUBLISHED_DIRECTIONS.get(f"{scheme}, n={n}")
        found = planes.of_cache(FAT, scheme, n, "K")
        rows.append(
            [
                f"{scheme}, n={n}",
                "“stable”" if published is None else f"{published:.3f}",
                *(f"{found[j].mean():.4f}" for j in NATURAL.values()),
            ]
        )
    caption = f"Natural quantizers: Lloyd–Max codebooks, d=128, {planes.kl.shape[-1]} draws"
    return table(["t, ν=1.05, direction error of K", "published", *NATURAL], rows, caption)


def searches_of_c15(
    first: Search[ReadingC15], chance: float, wide: Sequence[WideSearch], stream: SeedSequence
) -> Any:
    """Both searches: pairs of readings tried, matches, and what a match is worth."""
    rows = [["first", f"{len(first):,}", str(first.found), f"{chance:.0%}", "—"]]
    again = wide[::-1]
    for name, search, other in zip(("wider", "wider, new draws"), wide, again, strict=True):
        of_made_up, of_right = search.chance(stream), search.power(other)
        row = [name, f"{len(search):,}", str(search.found), f"{of_made_up:.0%}", f"{of_right:.0%}"]
        rows.append(row)
    header = ["search", "combinations", "give all three", "chance of a match", "power"]
    caption = "Readings of C15's three direction errors, tolerance 5%"
    return table(header, rows, caption)


def nearest_of_c15(search: Search[ReadingC15], chosen: Sequence[int]) -> Any:
    """Chosen readings of the three direction errors."""
    rows = [["0.027", "0.645", "0.202", "published", "", "", ""]]
    for i in chosen:
        x = search.labels[i]
        rows.append(
            [
                *(f"{value:.3f}" for value in search.values[i]),
                f"{x.keys}, d={x.dim}",
                f"{x.kqv}, {x.rotation}",
                x.kv,
                f"{x.direction}, {x.over}",
            ]
        )
    header = ["KQV, n=4", "KV, n=2", "KV, n=4", "keys", "KQV", "KV", "direction error"]
    caption = f"The nearest of {len(search)} readings; {search.found} match within 5%"
    return table(header, rows, caption)


# ------------------------------------------------------------------------------------- C16


def distances_to_line(values: ValuePoints) -> Any:
    """Distance of the mean point of V from the Lloyd-Max line, by budget."""
    names = {f"KV, {reading}": name for reading, name in READINGS_C16.items()}
    names |= {name: name for name in KQV_VALUES}
    rows = [
        [label, *(f"{values.distance(name, n):.5f}" for n in BUDGETS)]
        for label, name in names.items()
    ]
    caption = "Distance of the mean point of V from the Lloyd–Max line (angle/π), t ν=1.05"
    return table(["V of", *BY_BUDGET], rows, caption)


# ------------------------------------------------------------------------------------- C14


def readings_of_c14(search: Search[ReadingC14], chosen: Sequence[int]) -> Any:
    """Chosen readings of the five correlations."""
    published = [f"{r:+.3f}" for r in PUBLISHED_CORRELATIONS.values()]
    rows = [[*published, "published", "", ""]]
    for i in chosen:
        x = search.labels[i]
        rows.append(
            [
                *(f"{r:+.2f}" for r in search.values[i]),
                f"d={x.dim}, {x.kv}",
                f"{x.book}, {x.sketch} {scale_name(x.scale)}",
                f"{x.one_number} of {x.size}, {x.direction}",
            ]
        )
    caption = (
        "Readings of C14: intact codebooks, one damaged codebook in both, and the nearest of "
        f"{len(search)}"
    )
    return table([*BY_BUDGET, "KV", "KQV", "one number"], rows, caption)


# -------------------------------------------------------------------------------- C04, C18


def lengths(measured: Lengths) -> Any:
    """KL with lengths as drawn, and what a sketch in place of the fourth bit does to it."""
    rows = []
    for keys in LENGTHS:
        nats = measured.nats(keys)
        ratios = (shown(measured.sketch_ratio(keys, kind)) for kind in ("gaussian", "hadamard"))
        rows.append([keys, interval_text(nats), *ratios])
    header = ["keys and queries, as drawn", "KL, four bits (nats)", "3+1 over 4 bits: Gaussian"]
    caption = f"d=1024, n=4, scale 1/√d, {len(measured.kl)} draws"
    return table([*header, "Hadamard"], rows, caption)


def tallies(best: BestSchemes) -> Any:
    """In how many cells each scheme is the best of three or tied, open, and behind."""
    rows = []
    for measure, sketch in product(MEASURES, c18.SKETCHES):
        ranking = best.ranking(measure, sketch)
        counts = (ranking.tally([name]).values() for name in THREE)
        rows.append([f"{measure}, {sketch} sketch", *(" / ".join(map(str, c)) for c in counts)])
    header = ["50 cells: best or tied / open / behind", *THREE]
    return table(header, rows, f"d=128, moderate logit spread, {best.draws} draws")


def margins(best: BestSchemes, measure: str, sketch: str) -> Any:
    """Ratio of each rival to KQV, by regime and budget."""
    ranking = best.ranking(measure, sketch)
    rows = []
    for (f, name), rival in product(enumerate(REGIMES), ("KV", "QKQV")):
        cells = (ranking.ratio(rival, "KQV", (b, f)) for b in range(len(BUDGETS)))
        rows.append([f"{name}: {rival}", *(interval_text(x, 2) for x in cells)])
    return table(["", *BY_BUDGET], rows, f"{measure} over KQV's, {sketch} sketch, d=128")


# ------------------------------------------------------------------------ several claims


def pipelines(found: Sequence[Pipeline]) -> Any:
    """Whole pipelines beside the published facts."""
    row = "+1.0 +0.7 +0.1 +1.0 −0.9"
    rows = [["<i>published</i>", "{2,3,5}", "2.25", "−0.983", row, "0.027", "0.027"]]
    for x in found:
        rows.append(
            [
                f"{x.book}, {scale_name(x.scale)} {x.sketch}",
                set_of(x.crossover),
                f"{x.ratio:.2f}",
                f"{x.r:.3f}",
                " ".join(f"{r:+.1f}" for r in x.by_budget),
                f"{x.angle:.3f}",
                f"{x.cosine:.3f}",
            ]
        )
    header = ["pipeline", "C10: QKQV ahead", "C08: ratio", "C08: r", "C14: r by budget"]
    caption = "Whole pipelines at d=256 against five published facts"
    return table([*header, "C15: KQV, θ/π", "1 − cos"], rows, caption)


def scoreboard(scores: Sequence[Score]) -> Any:
    """Statements and published numbers, what is found here, by which reading, and the verdict."""
    rows = [
        [_to_box(x.claim), x.published, x.ours, x.reading, badge(x.verdict)]
        if x.claim
        else ["", x.published, x.ours, x.reading, x.verdict]
        for x in scores
    ]
    found = table(["", "the paper", "here", "reading", "verdict"], rows)
    # Outside the output of a cell only the theme's own tables have lines and room.
    found.data = found.data.replace('class="dataframe"', 'class="table"')
    return found


def _to_box(claim: str) -> str:
    """A claim's id, with a link to the box of its verdict."""
    return f'<a href="#verdict-{claim.lower()}">{claim}</a>'


def reproductions(found: Sequence[Reproduction]) -> Any:
    """How many readings were tried for each published number, and what a match is worth."""
    rows = [
        [
            f"{x.claim}: {x.published}",
            x.outcome,
            "—" if x.tried is None else f"{x.tried:,}",
            "—" if x.matches is None else f"{x.matches:,}",
            "—" if x.chance is None else f"{x.chance:.0%}",
        ]
        for x in found
    ]
    header = ["published", "reproduced?", "readings tried", "matches", "chance of a match"]
    return table(header, rows, "The published numbers of this page, and the searches behind them")
