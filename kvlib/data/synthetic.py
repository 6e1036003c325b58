"""Keys, values and queries drawn from synthetic families."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kvlib.checks import (
    check_choice,
    check_dim,
    check_fraction,
    check_int,
    check_positive,
    check_rng,
    keep_checked,
)

# Synthetic families ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Family:
    """A distribution of vectors, as data; see :func:`family` for the kinds.

    Parameters
    ----------
    kind : {"gaussian", "student_t", "low_rank", "low_rank_t", "spike", "common_mean"}
    nu : float, optional
        Degrees of freedom, > 0; for ``student_t`` and ``low_rank_t``.
    rank : int, optional
        For ``low_rank`` and ``low_rank_t``.
    energy : float, optional
        Share of energy, in (0, 1); for ``spike`` and ``common_mean``.
    """

    kind: str
    nu: float | None = None
    rank: int | None = None
    energy: float | None = None

    def __post_init__(self) -> None:
        needed = _PARAMETERS[check_choice(self.kind, "kind", tuple(_PARAMETERS))]
        for name in ("nu", "rank", "energy"):
            value = getattr(self, name)
            if (value is not None) != (name in needed):
                takes = f"takes {', '.join(needed)}" if needed else "takes no parameter"
                raise ValueError(f"family {self.kind!r} {takes}, got {name}={value}")
        if self.nu is not None:
            keep_checked(self, nu=check_positive(self.nu, "nu"))
        if self.rank is not None:
            keep_checked(self, rank=check_int(self.rank, "rank", low=1))
        if self.energy is not None:
            keep_checked(self, energy=check_fraction(self.energy, "energy"))

    @property
    def label(self) -> str:
        """Name with parameters, such as ``student_t(nu=3)``."""
        given = [f"{p}={getattr(self, p):g}" for p in _PARAMETERS[self.kind]]
        return f"{self.kind}({', '.join(given)})" if given else self.kind


_PARAMETERS: dict[str, tuple[str, ...]] = {
    "gaussian": (),
    "student_t": ("nu",),
    "low_rank": ("rank",),
    "low_rank_t": ("rank", "nu"),
    "spike": ("energy",),
    "common_mean": ("energy",),
}

GAUSSIAN = Family("gaussian")
"""Independent standard normal coordinates."""


def student_t(nu: float) -> Family:
    """Independent Student-t coordinates, not rescaled: below nu = 2 there is no variance."""
    return Family("student_t", nu=nu)


def low_rank(rank: int) -> Family:
    """Gaussian (tokens x rank) times Gaussian (rank x d) over sqrt(rank): unit mean square."""
    return Family("low_rank", rank=rank)


def low_rank_t(rank: int, nu: float) -> Family:
    """As :func:`low_rank`, with Student-t token factors: a heavy-tailed cloud in a subspace."""
    return Family("low_rank_t", rank=rank, nu=nu)


def spike(energy: float) -> Family:
    """One coordinate a vector, at a random place and of random sign, holds ``energy``.

    The others are Gaussian; the share is exact in every vector, the mean square one.
    """
    return Family("spike", energy=energy)


def common_mean(energy: float) -> Family:
    """Gaussian vectors around one mean vector that holds ``energy`` of the mean square, one."""
    return Family("common_mean", energy=energy)


def family(name: str, **params: float) -> Family:
    """Build a family from its name and parameters, as read from a notebook or command line.

    Names are ``gaussian``, ``student_t`` (nu), ``low_rank`` (rank), ``low_rank_t`` (rank, nu),
    ``spike`` (energy) and ``common_mean`` (energy).

    Raises
    ------
    TypeError, ValueError
        If the name is unknown, or a parameter is missing, unknown or out of range.
    """
    allowed = _PARAMETERS[check_choice(name, "name", tuple(_PARAMETERS))]
    unknown = [p for p in params if p not in allowed]
    missing = [p for p in allowed if p not in params]
    if unknown or missing:
        takes = f"takes {', '.join(allowed)}" if allowed else "takes no parameter"
        raise ValueError(f"family {name!r} {takes}, got {', '.join(params) or 'none'}")
    return Family(name, **params)  # type: ignore[arg-type]


def draw(
    family: Family,
    tokens: int,
    dim: int,
    *,
    rng: np.random.Generator,
    heads: tuple[int, ...] = (),
) -> NDArray[np.float64]:
    """Draw vectors of a family.

    Parameters
    ----------
    family : Family
    tokens, dim : int
    rng : numpy.random.Generator
    heads : tuple of int
        Leading axes. What the tokens of a head share, the subspace of ``low_rank`` and the mean
        of ``common_mean``, is drawn anew for every head.

    Returns
    -------
    ndarray, shape (*heads, tokens, dim)

    Raises
    ------
    ValueError
        If a size is out of range, or nu is so small that a draw overflows.
    """
    if not isinstance(family, Family):
        raise TypeError(f"family must be a Family, such as student_t(3), got {family!r}")
    count, d = check_int(tokens, "tokens", low=1), check_dim(dim)
    if not isinstance(heads, (tuple, list)):
        raise TypeError(f"heads must be a tuple of integers >= 1, got {heads!r}")
    lead = tuple(check_int(n, "heads", low=1) for n in heads)
    check_rng(rng)
    if family.rank is not None and family.rank > d:
        raise ValueError(f"rank must be at most dim, got rank {family.rank} and dim {d}")
    with np.errstate(over="ignore", invalid="ignore"):
        x = _DRAWS[family.kind](family, lead, count, d, rng)
    if not np.isfinite(x).all():
        raise ValueError(f"{family.label} overflows float64; use a larger nu")
    return x


def _draw_entries(
    family: Family, lead: tuple[int, ...], tokens: int, dim: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Independent entries: Student-t if the family has a nu, normal otherwise."""
    if family.nu is None:
        return rng.standard_normal((*lead, tokens, dim))
    return rng.standard_t(family.nu, (*lead, tokens, dim))


def _draw_low_rank(
    family: Family, lead: tuple[int, ...], tokens: int, dim: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    assert family.rank is not None
    basis = rng.standard_normal((*lead, family.rank, dim))
    factors = _draw_entries(family, lead, tokens, family.rank, rng)
    return np.asarray(factors @ basis / math.sqrt(family.rank))


def _draw_spike(
    family: Family, lead: tuple[int, ...], tokens: int, dim: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    assert family.energy is not None
    x = rng.standard_normal((*lead, tokens, dim))
    place = rng.integers(0, dim, (*lead, tokens, 1))
    sign = rng.choice([-1.0, 1.0], place.shape)
    np.put_along_axis(x, place, 0, axis=-1)
    rest = np.square(x).sum(-1, keepdims=True)
    odds = family.energy / (1 - family.energy)
    np.put_along_axis(x, place, sign * np.sqrt(odds * rest), axis=-1)
    return np.asarray(x * math.sqrt((1 - family.energy) * dim / (dim - 1)))


def _draw_common_mean(
    family: Family, lead: tuple[int, ...], tokens: int, dim: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    assert family.energy is not None
    mean = rng.standard_normal((*lead, 1, dim))
    mean *= math.sqrt(dim * family.energy) / np.linalg.norm(mean, axis=-1, keepdims=True)
    noise = rng.standard_normal((*lead, tokens, dim))
    return np.asarray(mean + math.sqrt(1 - family.energy) * noise)


_DRAWS = {
    "gaussian": _draw_entries,
    "student_t": _draw_entries,
    "low_rank": _draw_low_rank,
    "low_rank_t": _draw_low_rank,
    "spike": _draw_spike,
    "common_mean": _draw_common_mean,
}
