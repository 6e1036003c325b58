"""Tables of chapter 7b."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
from numpy.random import SeedSequence

from kvbook.experiments.ch11 import (
    BITS,
    BUDGETS,
    JUDGED_VALUES,
    PUBLISHED_CORRELATIONS,
    PUBLISHED_DIRECTIONS,
    SKETCHES,
    SUBJECTS,
    Bridge,
    FatTails,
    Pipeline,
    Planes,
    ReadingC08,
    ReadingC14,
    ReadingC15,
    Reproduction,
    SchemeErrors,
    Search,
    WideSearch,
    distance_to_line,
)
from kvbook.experiments.ch11.baselines import Books
from kvbook.experiments.ch11.c08 import SKETCH_SCALES
from kvbook.experiments.ch11.c13 import LEFT_PANEL, LINKS
from kvbook.experiments.ch11.c15 import NATURAL
from kvbook.experiments.ch11.planes import FAT
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
    "QKQV, orthogonal": ("KL", "K squared error", "K direction", "T squared error", "6-D norm"),
    "KV": (
        "KL",
        "K squared error",
        "K direction",
        "V squared error",
        "T squared error",
        "6-D norm",
    ),
}


def r_by_family(measured: SchemeErrors) -> Any:
    """r of KQV against QKQV and KV, by measure and family."""
    rows = [
        [rival.split(",")[0], m, *(f"{x.r:+.2f}" for x in measured.r_by_family(rival, m))]
        for rival, measures in SHOWN_C08.items()
        for m in measures
    ]
    caption = (
        f"Rank-biserial r, n=4, d=128, {measured.kl.shape[-1]} draws, unpaired; negative: KQV is "
        "better (orthogonal sketch)"
    )
    return table(["KQV against", "measure", *measured.families], rows, caption)


def ratio_and_r(measured: SchemeErrors) -> Any:
    """KL ratio and r by sketch of QKQV."""
    rows = [["published", "2.25", "−0.983", "—", "—"]]
    for name in SKETCHES:
        pooled = measured.pooled_r(name)
        inside = [x.r for x in measured.r_by_family(f"QKQV, {name}", "KL")]
        rows.append(
            [
                name,
                shown(measured.kl_ratio(name)),
                shown(pooled.interval, 3),
                f"{measured.pooled_r(name, paired=True).r:.3f}",
                f"{min(inside):.2f} to {max(inside):.2f}",
            ]
        )
    header = ["sketch of QKQV", "KL ratio", "r, pooled", "r, paired", "r inside one family"]
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
                f"{search.values[at, 0].min():.3g}",
                f"{search.values[at, 0].max():,.3g}",
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


def distances_to_line(planes: Planes) -> Any:
    """Distance of the mean point of V from the Lloyd-Max line, by budget."""
    rows = [
        [
            name,
            *(f"{distance_to_line(planes.of_cache(FAT, scheme, n, 'V')):.5f}" for n in BUDGETS),
        ]
        for name, scheme in JUDGED_VALUES.items()
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


# ------------------------------------------------------------------------------------- C17


def fat_tails(tails: FatTails, rotations: Sequence[str]) -> Any:
    """Errors over D(n) by kind of keys and rotation."""
    rows = [
        [subject, turn, *(f"{x:.2f}" for x in tails.of(subject, turn).mean(axis=0))]
        for subject in SUBJECTS
        for turn in rotations
    ]
    caption = "Relative squared error of KQV's keys over D(n), d=128"
    return table(["", "rotation", *BY_BITS], rows, caption)


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


def reproductions(found: Sequence[Reproduction]) -> Any:
    """What became of each published number."""
    rows = [
        [
            x.published,
            x.outcome,
            x.reading,
            x.value,
            "—" if x.tried is None else str(x.tried),
            "—" if x.matches is None else str(x.matches),
            "—" if x.chance is None else f"{x.chance:.0%}",
        ]
        for x in found
    ]
    header = ["published", "reproduced?", "reading", "value here", "readings tried", "matches"]
    caption = "The published numbers of this page"
    return table([*header, "chance of a match"], rows, caption)
