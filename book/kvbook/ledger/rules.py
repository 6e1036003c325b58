"""The rules that judge a measured interval."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

from kvbook.ledger import render
from kvbook.ledger.words import MET, MISSED, UNDECIDED


class Estimate(Protocol):
    """A measured value with its interval; ``low == high == estimate`` for an exact one."""

    @property
    def estimate(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...


class Rule(Protocol):
    """Decides from an interval, never from a point."""

    def judge(self, low: float, high: float) -> str:
        """ "holds", "fails" or "undecided"."""

    def describe(self) -> str:
        """The predicted region in words."""

    def record(self) -> dict[str, Any]:
        """The predicted region in numbers: its lower and upper end, None where it has none."""


@dataclass(frozen=True)
class Within:
    """The value lies within ``tolerance`` of ``target``."""

    target: float
    tolerance: float

    def __post_init__(self) -> None:
        check_finite(target=self.target, tolerance=self.tolerance)
        if self.tolerance < 0:
            raise ValueError(f"tolerance must be non-negative, got {self.tolerance}")

    def judge(self, low: float, high: float) -> str:
        """Holds when the whole interval lies inside, fails when all of it lies outside."""
        bottom, top = self.target - self.tolerance, self.target + self.tolerance
        if bottom <= low and high <= top:
            return MET
        return MISSED if high < bottom or low > top else UNDECIDED

    def describe(self) -> str:
        """Target and tolerance."""
        return f"{render.number(self.target)} ± {render.number(self.tolerance)}"

    def record(self) -> dict[str, Any]:
        """Both ends of the region."""
        return _region("within", self.target - self.tolerance, self.target + self.tolerance)


@dataclass(frozen=True)
class Below:
    """The value is at most ``bound``."""

    bound: float

    def __post_init__(self) -> None:
        check_finite(bound=self.bound)

    def judge(self, low: float, high: float) -> str:
        """Holds when the whole interval lies at or below the bound."""
        if high <= self.bound:
            return MET
        return MISSED if low > self.bound else UNDECIDED

    def describe(self) -> str:
        """The bound."""
        return f"≤ {render.number(self.bound)}"

    def record(self) -> dict[str, Any]:
        """The upper end of the region."""
        return _region("below", None, self.bound)


@dataclass(frozen=True)
class Above:
    """The value is at least ``bound``."""

    bound: float

    def __post_init__(self) -> None:
        check_finite(bound=self.bound)

    def judge(self, low: float, high: float) -> str:
        """Holds when the whole interval lies at or above the bound."""
        if low >= self.bound:
            return MET
        return MISSED if high < self.bound else UNDECIDED

    def describe(self) -> str:
        """The bound."""
        return f"≥ {render.number(self.bound)}"

    def record(self) -> dict[str, Any]:
        """The lower end of the region."""
        return _region("above", self.bound, None)


def tie(margin: float = 0.05) -> Within:
    """The rule for "as good as": a ratio of one, with the whole interval within the margin.

    A difference that is merely not shown is no tie: the interval has to exclude all ratios
    beyond the margin, so that fewer draws make a tie harder to claim, not easier.
    """
    return Within(1.0, margin)


def check_finite(**numbers: float) -> None:
    """Refuse NaN and infinity, by name."""
    for name, number in numbers.items():
        if not math.isfinite(number):
            raise ValueError(f"{name} must be finite, got {number}")


def _region(rule: str, bottom: float | None, top: float | None) -> dict[str, Any]:
    ends = {"region_low": bottom, "region_high": top}
    return {"rule": rule} | {k: None if v is None else float(f"{v:.6g}") for k, v in ends.items()}
