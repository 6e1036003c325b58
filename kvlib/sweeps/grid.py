"""The axes of a sweep: which draws, which quantizers, which row is which."""

from __future__ import annotations

import functools
import itertools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from kvlib import files, quantize
from kvlib.checks import (
    check_bits,
    check_choice,
    check_dim,
    check_int,
    check_positive,
)
from kvlib.data import captured, synthetic
from kvlib.measure import registry
from kvlib.quantize import rotations, sketches

QUERY_LAWS = ("gaussian", "keys")
LOGIT_UNITS = ("nats", "spread")
DTYPES = ("float64", "float32")

COORDINATES = (
    "family",
    "rank",
    "query_law",
    "cache",
    "layer",
    "head",
    "window",
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
"""Columns that say which row it is; what a draw or a scheme does not have is null."""

DEFAULT_METRICS = (
    "kl_mean",
    "kl_median",
    "kl_p95",
    "mse_k",
    "mse_v",
    "mse_t",
    "rate_k",
    "angle_k",
    "rate_v",
    "angle_v",
    "rate_t",
    "angle_t",
    "top1_agreement",
    "bits_per_coordinate",
)
"""What a sweep measures unless told otherwise, see :mod:`kvlib.measure.registry`."""

_RANKED = ("low_rank", "low_rank_t")
_MAX_DRAWS_PER_SHARD = 256
# A small grid is still cut into pieces enough to keep several workers busy.
_MIN_SHARDS = 32


@dataclass(frozen=True)
class Treatment:
    """One scheme with its options and budget, as coordinates of a row; None where it has none."""

    scheme: str
    rotation: str | None
    sketch: str | None
    sketch_scale: str | None
    scale: str | None
    bits: int

    def build(self, side_dtype: str = "float16") -> quantize.Scheme:
        """The scheme itself; ``side_dtype`` where it has that option."""
        given = {name: getattr(self, name) for name in ("rotation", "sketch", "sketch_scale")}
        entry = quantize.format_of(self.scheme)
        if "scale" in entry.options:
            given["scale"] = self.scale
        if "side_dtype" in entry.keywords:
            given["side_dtype"] = side_dtype
        chosen = {name: value for name, value in given.items() if value is not None}
        return quantize.named(self.scheme, self.bits, **chosen)


@dataclass(frozen=True)
class Cell:
    """Coordinates of one head: drawn from a family, or captured (``family`` None)."""

    dim: int
    tokens: int
    repetition: int
    family: synthetic.Family | None = None
    query_law: str | None = None
    cache: str | None = None
    layer: int | None = None
    head: int | None = None
    window: int | None = None

    @property
    def row(self) -> dict[str, Any]:
        """The first columns of its rows."""
        row = {name: getattr(self, name) for name in _OF_A_CELL}
        return {**row, "family": None, "rank": None, **(_family_columns(self.family))}


_OF_A_CELL = (
    "query_law", "cache", "layer", "head", "window", "dim", "tokens", "repetition"
)  # fmt: skip


def _family_columns(family: synthetic.Family | None) -> dict[str, Any]:
    if family is None:
        return {}
    numbers = {n: getattr(family, n) for n in ("nu", "energy") if getattr(family, n) is not None}
    return {"family": spell(family.kind, numbers), "rank": family.rank}


@dataclass(frozen=True)
class Grid:
    """The axes of a sweep; a row for every combination that makes sense.

    Axes take lists and tuples, without repeated values. Options that a scheme does not have
    (sketches of KV, ranks of a Gaussian) do not multiply its rows.

    Parameters
    ----------
    schemes : sequence of str
        Names of registered formats, or functions named ``"module:function"``, see
        :mod:`kvlib.quantize.registry`.
    bits : sequence of int
        Budgets n a coordinate, 1 to 8.
    rotations, sketches, sketch_scales, scales : sequence of str
        Options of :func:`kvlib.quantize.named`, crossed with the schemes that have them.
    families : sequence of str
        Names as in :func:`kvlib.data.synthetic.family` with parameters: ``"gaussian"``,
        ``"student_t:nu=3"``, ``"spike:energy=0.5"``, ``"common_mean:energy=0.5"``,
        ``"low_rank"``, ``"low_rank_t:nu=3"``. May be empty where there are caches.
    ranks : sequence of int
        For the low-rank families; empty if there is none.
    caches : sequence of path-like
        Captured caches, see :func:`kvlib.load`. Every head is a draw; its dimension, number of
        tokens and mask are the cache's, and repetition r is measured on its window r modulo the
        number of windows. A cluster needs the files under the same paths.
    dims, tokens : sequence of int
        Of the families.
    logit_scales : sequence of float
        Factors on the queries.
    metrics : sequence of str
        Names of registered metrics, or functions named ``"module:function"``.
    repetitions : int
        Independent draws: of data, rotation and sketch, or of the latter two for a captured head.
    queries : int
        Queries a head (of a captured one: the last of the window under a causal mask, else evenly
        spaced).
    query_laws : sequence of {"gaussian", "keys"}
        Standard normal queries, or queries of the keys' family that share with them the subspace
        or the mean. Not used for caches.
    logit_unit : {"nats", "spread"}
        Whether a logit scale multiplies the queries as they are, or queries of which the logits of
        a head have standard deviation one over its keys (each query's mean removed).
    dtype : {"float64", "float32"}
        Of queries, keys and values; float32 is what the compiled kernels take.
    side_dtype : {"float16", "float32"}
        Storage of scales and norms, for the schemes that have the option.
    seed : int
        Root of all randomness.

    Raises
    ------
    TypeError, ValueError, OSError
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
    caches: Sequence[str | os.PathLike[str]] = ()
    dims: Sequence[int] = (64,)
    tokens: Sequence[int] = (256,)
    logit_scales: Sequence[float] = (1.0,)
    metrics: Sequence[str] = DEFAULT_METRICS
    repetitions: int = 1
    queries: int = 64
    query_laws: Sequence[str] = ("gaussian",)
    logit_unit: str = "nats"
    dtype: str = "float64"
    side_dtype: str = "float16"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, check in _AXES.items():
            self._normalise(name, check)
        check_choice(self.logit_unit, "logit_unit", LOGIT_UNITS)
        check_choice(self.dtype, "dtype", DTYPES)
        check_choice(self.side_dtype, "side_dtype", quantize.SIDE_DTYPES)
        for name, low in (("repetitions", 1), ("queries", 1), ("seed", 0)):
            object.__setattr__(self, name, check_int(getattr(self, name), name, low=low))
        if not self.families and not self.caches:
            raise ValueError("families must hold at least one value unless there are caches")
        self._check_ranks()
        self._check_caches()
        _ = self.modules

    def _normalise(self, name: str, check: Callable[[Any, str], Any]) -> None:
        given = getattr(self, name)
        if isinstance(given, (str, bytes, Set, Mapping)) or not isinstance(given, Iterable):
            # The order of a set changes from run to run, and with it the rows of the table.
            raise TypeError(f"{name} must be a sequence of values in order, got {given!r}")
        values = tuple(check(value, name) for value in given)
        if not values and name not in _MAY_BE_EMPTY:
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

    def _check_caches(self) -> None:
        names = [load_cache(path).name for path in self.caches]
        repeated = [name for name in names if names.count(name) > 1]
        if repeated:
            raise ValueError(f"caches must have different names, got {repeated[0]!r} twice")
        for path in self.caches:
            cache = load_cache(path)
            if cache.mask is not None:
                raise ValueError(
                    f"caches must have no padding, which errors would count, got a mask in {path}: "
                    "capture each text by itself"
                )
            if self.queries > cache.q.shape[-2]:
                raise ValueError(
                    f"queries must be at most the {cache.q.shape[-2]} of a window of {path}, "
                    f"got {self.queries}"
                )

    # What is measured ------------------------------------------------------------------------

    @functools.cached_property
    def treatments(self) -> tuple[Treatment, ...]:
        """Schemes with options and budget, in the order of the rows of a cell."""
        combinations = itertools.product(
            self.schemes, self.rotations, self.sketches, self.sketch_scales, self.scales, self.bits
        )
        return tuple(dict.fromkeys(_treatment(*values) for values in combinations))

    @functools.cached_property
    def modules(self) -> tuple[str, ...]:
        """Modules outside kvlib that define formats or metrics of the grid: workers import them.

        Found out when the grid is made: a worker knows their names only after importing them.
        """
        modules = [quantize.format_of(name).module for name in self.schemes]
        modules += [registry.metric_of(name).module for name in self.metrics]
        found = dict.fromkeys(modules)
        return tuple(module for module in found if module.partition(".")[0] != "kvlib")

    # On what -----------------------------------------------------------------------------------

    @functools.cached_property
    def sources(self) -> tuple[tuple[synthetic.Family, str], ...]:
        """Families crossed with the ranks of those that have one, and with the query laws."""
        made = []
        for spec in self.families:
            name, parameters = _parse_family(spec)
            ranks = [{"rank": rank} for rank in self.ranks] if name in _RANKED else [{}]
            made += [synthetic.family(name, **parameters, **rank) for rank in ranks]
        return tuple(itertools.product(made, self.query_laws))

    @property
    def _synthetic_draws(self) -> int:
        shapes = len(self.dims) * len(self.tokens) if self.families else 0
        return shapes * self.repetitions

    @functools.cached_property
    def _heads(self) -> tuple[tuple[str, int, int], ...]:
        """Path and place of every captured head."""
        return tuple(
            (os.fspath(path), layer, head)
            for path in self.caches
            for layer, head in itertools.product(*map(range, load_cache(path).k.shape[:2]))
        )

    @property
    def draw_count(self) -> int:
        """Number of independent draws of a rotation: all families of a shape share one."""
        return self._synthetic_draws + len(self._heads) * self.repetitions

    @property
    def cell_count(self) -> int:
        """Number of heads measured."""
        return self._synthetic_draws * len(self.sources) + len(self._heads) * self.repetitions

    @property
    def rows_per_cell(self) -> int:
        """Number of measurements on one head."""
        return len(self.treatments) * len(self.logit_scales)

    @property
    def row_count(self) -> int:
        """Number of rows of the table."""
        return self.cell_count * self.rows_per_cell

    def draw(self, index: int) -> tuple[Cell, ...]:
        """The cells of a draw below ``draw_count``, repetitions running fastest."""
        if index >= self._synthetic_draws:
            place, repetition = divmod(index - self._synthetic_draws, self.repetitions)
            return (self._captured_cell(*self._heads[place], repetition),)
        shape, repetition = divmod(index, self.repetitions)
        dim, tokens = divmod(shape, len(self.tokens))
        return tuple(
            Cell(self.dims[dim], self.tokens[tokens], repetition, family, law)
            for family, law in self.sources
        )

    def _captured_cell(self, path: str, i: int, j: int, repetition: int) -> Cell:
        cache = load_cache(path)
        return Cell(
            cache.dim,
            cache.tokens,
            repetition,
            cache=cache.name,
            layer=cache.layers[i],
            head=cache.heads[j],
            window=repetition % cache.windows,
        )

    def cells(self) -> Iterator[Cell]:
        """Every cell in the order of the rows."""
        for index in range(self.draw_count):
            yield from self.draw(index)

    @property
    def draws_per_shard(self) -> int:
        """Draws stored together: about a second of work, so that little is lost when killed."""
        sizes = [(max(self.tokens), max(self.dims), len(self.sources))] if self.families else []
        sizes += [(load_cache(p).tokens, load_cache(p).dim, 1) for p in self.caches]
        seconds = max(
            self.rows_per_cell
            * (1e-3 + heads * (8 * tokens * dim * (20 + dim) + self._attend(tokens, dim)) / 1e10)
            for tokens, dim, heads in sizes
        )
        size = min(_MAX_DRAWS_PER_SHARD, max(1, int(1 / seconds)))
        return min(size, math.ceil(self.draw_count / _MIN_SHARDS))

    def _attend(self, tokens: int, dim: int) -> int:
        return 10 * tokens * (dim + 20) * self.queries

    def as_dict(self) -> dict[str, Any]:
        """The axes in JSON types."""
        axes = {field.name: getattr(self, field.name) for field in fields(self)}
        return {**axes, "caches": [os.fspath(path) for path in self.caches]}

    def identity(self) -> dict[str, Any]:
        """What decides the numbers: the axes, with the contents of caches for their paths."""
        digests = {load_cache(path).name: files.sha256(path) for path in self.caches}
        return {**self.as_dict(), "caches": digests}


def load_cache(path: str | os.PathLike[str]) -> captured.KVCache:
    """A captured cache, read once for each state of its file."""
    return _load_cache(os.fspath(path), Path(path).stat().st_mtime_ns)


@functools.lru_cache(maxsize=8)
def _load_cache(path: str, _: int) -> captured.KVCache:
    return captured.load(path)


def _treatment(
    scheme: str, rotation: str, sketch: str, sketch_scale: str, scale: str, bits: int
) -> Treatment:
    entry = quantize.format_of(scheme)
    own = "unbiased" if "unbiased" in entry.traits else None
    return Treatment(
        scheme,
        rotation if "rotation" in entry.options else None,
        sketch if "sketch" in entry.options else None,
        sketch_scale if "sketch_scale" in entry.options else None,
        scale if "scale" in entry.options else own,
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
        if not equals or f"{key}=" in rest.partition(item)[2]:
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
    """``name:parameter=number,...``, the one way to write a family."""
    numbers = [f"{key}={parameters[key]!r}".removesuffix(".0") for key in sorted(parameters)]
    return f"{name}:{','.join(numbers)}" if numbers else name


def _check_scheme(name: object, axis: str) -> str:
    try:
        return _named(quantize.format_of, name)
    except ValueError as error:
        raise ValueError(f"{axis}: {error}") from None


def _check_metric(name: object, axis: str) -> str:
    if name in (*COORDINATES, "error"):
        raise ValueError(f"{axis} must not have the name of another column, got {name!r}")
    try:
        return _named(registry.metric_of, name)
    except ValueError as error:
        raise ValueError(f"{axis}: {error}") from None


def _named(lookup: Callable[[str], Any], name: Any) -> str:
    """A name that something can be found by, as it was given."""
    lookup(name)
    return str(name)


def _check_cache(path: object, axis: str) -> str:
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"{axis} must hold paths of captured caches, got {path!r}")
    load_cache(path)
    return os.fspath(path)


def _choice_check(allowed: Sequence[str]) -> Callable[[Any, str], str]:
    return lambda value, name: check_choice(value, name, allowed)


_AXES: dict[str, Callable[[Any, str], Any]] = {
    "schemes": _check_scheme,
    "bits": lambda value, name: check_bits(value, name, low=1),
    "rotations": _choice_check(rotations.KINDS),
    "sketches": _choice_check(sketches.KINDS),
    "sketch_scales": _choice_check(sketches.SCALES),
    "scales": _choice_check(quantize.SCALES),
    "families": _check_family,
    "caches": _check_cache,
    "metrics": _check_metric,
    "query_laws": _choice_check(QUERY_LAWS),
    "ranks": lambda value, name: check_int(value, name, low=1),
    "dims": check_dim,
    "tokens": lambda value, name: check_int(value, name, low=1),
    "logit_scales": check_positive,
}
_MAY_BE_EMPTY = ("ranks", "caches", "families")
