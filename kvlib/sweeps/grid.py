"""The axes of a sweep: which draws, which quantizers, which row is which."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from kvlib import quantize
from kvlib.checks import (
    check_bits,
    check_choice,
    check_dim,
    check_int,
    check_positive,
    check_power_of_two,
)
from kvlib.data import synthetic
from kvlib.quantize import rotations, sketches

QUERY_LAWS = ("gaussian", "keys")

COORDINATES = (
    "family",
    "rank",
    "dim",
    "tokens",
    "repetition",
    "scheme",
    "rotation",
    "sketch",
    "sketch_scale",
    "scale",
    "bits",
    "logit_scale",
)
"""Columns that say which row it is; ``rank`` and the options a scheme lacks are null."""
_RANKED = ("low_rank", "low_rank_t")
_MAX_CELLS_PER_SHARD = 256
# A small grid is still cut into pieces enough to keep several workers busy.
_MIN_SHARDS = 32


# The grid --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Treatment:
    """One scheme with its options and budget, as coordinates of a row; None where it has none."""

    scheme: str
    rotation: str | None
    sketch: str | None
    sketch_scale: str | None
    scale: str
    bits: int

    def build(self) -> quantize.Scheme:
        """The scheme itself."""
        given = {
            name: value
            for name in ("rotation", "sketch", "sketch_scale")
            if (value := getattr(self, name)) is not None
        }
        return quantize.named(self.scheme, self.bits, scale=self.scale, **given)


@dataclass(frozen=True)
class Cell:
    """Coordinates of one draw."""

    family: synthetic.Family
    dim: int
    tokens: int
    repetition: int


@dataclass(frozen=True)
class Grid:
    """The axes of a sweep; a row for every combination that makes sense.

    Axes take any sequence, without repeated values. Options that a scheme does not have
    (sketches of KV, ranks of a Gaussian) do not multiply its rows.

    Parameters
    ----------
    schemes : sequence of str
        Names from :data:`kvlib.quantize.NAMES`.
    bits : sequence of int
        Budgets n a coordinate, 1 to 8.
    rotations, sketches, sketch_scales, scales : sequence of str
        Options of :func:`kvlib.quantize.named`.
    families : sequence of str
        Names as in :func:`kvlib.synthetic.family` with parameters: ``"gaussian"``,
        ``"student_t:nu=3"``, ``"spike:energy=0.5"``, ``"common_mean:energy=0.5"``,
        ``"low_rank"``, ``"low_rank_t:nu=3"``.
    ranks : sequence of int
        For the low-rank families; empty if there is none.
    dims, tokens : sequence of int
    logit_scales : sequence of float
        Factors on the queries.
    repetitions : int
        Independent draws of each cell.
    queries : int
        Queries a cell.
    query_law : {"gaussian", "keys"}
        Standard normal queries, or queries of the keys' family that share with them the subspace
        or the mean.
    seed : int
        Root of all randomness.

    Raises
    ------
    TypeError, ValueError
        If an axis is empty, repeats a value or holds an impossible one; the message names it.
    """

    schemes: Sequence[str] = quantize.FACTORIAL
    bits: Sequence[int] = (2, 3, 4)
    rotations: Sequence[str] = ("hadamard",)
    sketches: Sequence[str] = ("gaussian",)
    sketch_scales: Sequence[str] = ("unbiased",)
    scales: Sequence[str] = ("norm",)
    families: Sequence[str] = ("gaussian",)
    ranks: Sequence[int] = ()
    dims: Sequence[int] = (64,)
    tokens: Sequence[int] = (256,)
    logit_scales: Sequence[float] = (1.0,)
    repetitions: int = 1
    queries: int = 64
    query_law: str = "gaussian"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, check in _AXES.items():
            self._normalise(name, check)
        check_choice(self.query_law, "query_law", QUERY_LAWS)
        for name, low in (("repetitions", 1), ("queries", 1), ("seed", 0)):
            object.__setattr__(self, name, check_int(getattr(self, name), name, low=low))
        self._check_ranks()
        if any(t.rotation == "hadamard" or t.sketch == "hadamard" for t in self.treatments):
            for dim in self.dims:
                check_power_of_two(dim, "dims")

    def _normalise(self, name: str, check: Callable[[Any, str], Any]) -> None:
        given = getattr(self, name)
        if isinstance(given, str) or not isinstance(given, Iterable):
            raise TypeError(f"{name} must be a sequence of values, got {given!r}")
        values = tuple(check(value, name) for value in given)
        if not values and name != "ranks":
            raise ValueError(f"{name} must hold at least one value, got none")
        repeated = [value for value in dict.fromkeys(values) if values.count(value) > 1]
        if repeated:
            raise ValueError(f"{name} must not repeat a value, got {repeated[0]!r} twice")
        object.__setattr__(self, name, values)

    def _check_ranks(self) -> None:
        ranked = [spec for spec in self.families if spec.partition(":")[0] in _RANKED]
        if ranked and not self.ranks:
            raise ValueError(f"ranks must hold at least one value for {ranked[0]!r}, got none")
        if self.ranks and not ranked:
            raise ValueError(
                f"ranks must be empty unless families holds one of {', '.join(_RANKED)}, "
                f"got {list(self.ranks)}"
            )
        if self.ranks and max(self.ranks) > min(self.dims):
            raise ValueError(
                f"ranks must be at most the smallest of dims, {min(self.dims)}, "
                f"got {max(self.ranks)}"
            )

    @functools.cached_property
    def treatments(self) -> tuple[Treatment, ...]:
        """Schemes with options and budget, in the order of the rows of a cell."""
        combinations = itertools.product(
            self.schemes, self.rotations, self.sketches, self.sketch_scales, self.scales, self.bits
        )
        return tuple(dict.fromkeys(_treatment(*values) for values in combinations))

    @functools.cached_property
    def sources(self) -> tuple[synthetic.Family, ...]:
        """Families crossed with the ranks of those that have one."""
        made = []
        for spec in self.families:
            name, parameters = _parse_family(spec)
            if name in _RANKED:
                made += [synthetic.family(name, **parameters, rank=rank) for rank in self.ranks]
            else:
                made.append(synthetic.family(name, **parameters))
        return tuple(made)

    @property
    def cell_count(self) -> int:
        """Number of draws."""
        return len(self.sources) * len(self.dims) * len(self.tokens) * self.repetitions

    @property
    def rows_per_cell(self) -> int:
        """Number of measurements on one draw."""
        return len(self.treatments) * len(self.logit_scales)

    @property
    def row_count(self) -> int:
        """Number of rows of the table."""
        return self.cell_count * self.rows_per_cell

    def cell(self, index: int) -> Cell:
        """The cell of an index below ``cell_count``, repetitions running fastest."""
        index, repetition = divmod(index, self.repetitions)
        index, token = divmod(index, len(self.tokens))
        source, dim = divmod(index, len(self.dims))
        return Cell(self.sources[source], self.dims[dim], self.tokens[token], repetition)

    @property
    def cells_per_shard(self) -> int:
        """Cells stored together: about a second of work, so that little is lost when killed."""
        tokens, dim = max(self.tokens), max(self.dims)
        encode = 8 * tokens * dim * (20 + dim)
        attend = 10 * tokens * (dim + 20) * self.queries
        seconds = self.rows_per_cell * (1e-3 + (encode + attend) / 1e10)
        size = min(_MAX_CELLS_PER_SHARD, max(1, int(1 / seconds)))
        return min(size, math.ceil(self.cell_count / _MIN_SHARDS))

    def as_dict(self) -> dict[str, Any]:
        """The axes in JSON types."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def _treatment(
    scheme: str, rotation: str, sketch: str, sketch_scale: str, scale: str, bits: int
) -> Treatment:
    sketched = scheme in ("KQV", "QKV", "QKQV")
    return Treatment(
        scheme,
        None if scheme == "KV" else rotation,
        sketch if sketched else None,
        sketch_scale if sketched else None,
        "unbiased" if scheme in quantize.UNBIASED else scale,
        bits,
    )


def _parse_family(spec: str) -> tuple[str, dict[str, float]]:
    """Split ``name:parameter=number,...``."""
    name, _, rest = spec.partition(":")
    parameters = {}
    for item in filter(None, rest.split(",")):
        key, equals, number = item.partition("=")
        try:
            parameters[key] = float(number)
        except ValueError:
            equals = ""
        if not equals:
            raise ValueError(f"families must read name:parameter=number, got {spec!r}")
    return name, parameters


def _check_family(spec: object, axis: str) -> str:
    """Return the one spelling of a family, which is what the table's column holds."""
    if not isinstance(spec, str):
        raise TypeError(f"{axis} must hold names such as 'student_t:nu=3', got {spec!r}")
    name, parameters = _parse_family(spec)
    if "rank" in parameters:
        raise ValueError(f"{axis} must leave the rank to the axis ranks, got {spec!r}")
    try:
        synthetic.family(name, **parameters, **({"rank": 1} if name in _RANKED else {}))
    except ValueError as error:
        raise ValueError(f"{axis}: {error}") from None
    return spell(name, parameters)


def spell(name: str, parameters: dict[str, float]) -> str:
    numbers = [f"{key}={parameters[key]!r}".removesuffix(".0") for key in sorted(parameters)]
    return f"{name}:{','.join(numbers)}" if numbers else name


def _choice_check(allowed: Sequence[str]) -> Callable[[Any, str], str]:
    return lambda value, name: check_choice(value, name, allowed)


_AXES: dict[str, Callable[[Any, str], Any]] = {
    "schemes": _choice_check(quantize.NAMES),
    "bits": lambda value, name: check_bits(value, name, low=1),
    "rotations": _choice_check(rotations.KINDS),
    "sketches": _choice_check(sketches.KINDS),
    "sketch_scales": _choice_check(sketches.SCALES),
    "scales": _choice_check(quantize.SCALES),
    "families": _check_family,
    "ranks": lambda value, name: check_int(value, name, low=1),
    "dims": check_dim,
    "tokens": lambda value, name: check_int(value, name, low=1),
    "logit_scales": check_positive,
}
