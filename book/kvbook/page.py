"""Page furniture: tables, numbers for the text, intervals in words.

A chapter begins with ``page = Page("ch03")``; what it keeps with ``page.keep(name, value)`` the
prose shows with ``{glue:text}`ch03-name` ``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kvbook import plotting
from kvlib.stats import Interval


@dataclass(frozen=True)
class Page:
    """A chapter's page.

    Parameters
    ----------
    prefix : str
        Starts the name of every number kept: "ch03", "a1".
    digits : int
        Significant digits kept, few enough for other machines to agree.
    """

    prefix: str
    digits: int = 4

    def __post_init__(self) -> None:
        plotting.use_style()

    def keep(self, name: str, value: float) -> None:
        """Store a number under ``prefix-name`` for the text, rounded; an int as it is."""
        from myst_nb import glue  # type: ignore[import-untyped]

        exact = isinstance(value, int) and not isinstance(value, bool)
        kept = value if exact else float(f"{value:.{self.digits}g}")
        glue(f"{self.prefix}-{name}", kept, display=False)

    def keep_all(self, **values: float) -> None:
        """Store several numbers, named as the keywords with "-" for "_"."""
        for name, value in values.items():
            self.keep(name.replace("_", "-"), value)


def table(header: Sequence[str], rows: Sequence[Sequence[object]], caption: str = "") -> Any:
    """A table of ready HTML cells, one sequence of them a row; scrolls where it is too wide."""
    from IPython.display import HTML

    head = "".join(f"<th>{cell}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{c}</td>" for c in row) + "</tr>" for row in rows)
    title = f"<caption>{caption}</caption>" if caption else ""
    return HTML(  # type: ignore[no-untyped-call]
        '<div style="overflow-x: auto"><table class="dataframe">'
        f"{title}<thead><tr>{head}</tr></thead>{body}</table></div>"
    )


def shown(interval: Interval, digits: int = 2) -> str:
    """An interval in words: ``1.23 [1.10, 1.40]``."""
    low, estimate, high = (
        f"{x:.{digits}f}" for x in (interval.low, interval.estimate, interval.high)
    )
    return f"{estimate} [{low}, {high}]"
