"""Named metrics: a metric is a name, a unit and a function of a comparison.

Sweeps measure those they are told by name. To add one of your own, see :func:`register_metric`,
or name it ``"module:function"``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kvlib.catalogue import Catalogue, check_name
from kvlib.measure import metrics
from kvlib.measure.comparison import Comparison

Measure = Callable[[Comparison], NDArray[np.float64]]


@dataclass(frozen=True)
class Metric:
    """One row of the registry.

    Attributes
    ----------
    name : str
        Also the column of a sweep's table.
    unit : str
        For axes and tables; empty for a plain number.
    measure : callable
        One number for each head of a comparison, shape (heads,).
    module : str
        Where ``measure`` is defined: a worker process imports it to know the name, too.
    """

    name: str
    unit: str
    measure: Measure
    module: str


_METRICS: Catalogue[Metric] = Catalogue(
    lambda entry: entry.measure, lambda name, measure, module: Metric(name, "", measure, module)
)


def register_metric(name: str, unit: str = "") -> Callable[[Measure], Measure]:
    """Give a measure a name, as a decorator.

    Raises
    ------
    ValueError
        If the name is no string or taken.

    Examples
    --------
    >>> @register_metric("kl_worst", "nats")
    ... def worst_row(comparison):
    ...     return comparison.kl.max(-1)
    >>> metric_of("kl_worst").unit
    'nats'
    """
    given = check_name(name)

    def enter(measure: Measure) -> Measure:
        _METRICS.enter(Metric(given, unit, measure, measure.__module__))
        return measure

    return enter


def known_metrics() -> dict[str, Metric]:
    """All registered metrics by name."""
    return dict(_METRICS.rows)


def metric_of(name: str) -> Metric:
    """The metric of a name, or of a function named ``"module:function"``, which is imported.

    Raises
    ------
    TypeError, ValueError
        If nothing has that name, or the module or its function is not there.
    """
    return _METRICS.find(name)


@register_metric("kl_mean", "nats")
def kl_mean(c: Comparison) -> NDArray[np.float64]:
    """Mean divergence of the attention rows."""
    return np.asarray(c.kl.mean(-1))


@register_metric("kl_median", "nats")
def kl_median(c: Comparison) -> NDArray[np.float64]:
    """Median divergence of the attention rows."""
    return np.asarray(np.median(c.kl, axis=-1))


@register_metric("kl_p95", "nats")
def kl_p95(c: Comparison) -> NDArray[np.float64]:
    """95th percentile of the divergence of the attention rows."""
    return np.asarray(np.quantile(c.kl, 0.95, axis=-1))


@register_metric("mse_k")
def mse_k(c: Comparison) -> NDArray[np.float64]:
    """Mean relative squared error of the keys."""
    return c.decoded.k_errors[0]


@register_metric("mse_v")
def mse_v(c: Comparison) -> NDArray[np.float64]:
    """Mean relative squared error of the values."""
    return c.decoded.v_errors[0]


@register_metric("mse_t")
def mse_t(c: Comparison) -> NDArray[np.float64]:
    """Mean relative squared error of the attention outputs."""
    return c.t_errors[0]


@register_metric("rate_k", "bits")
def rate_k(c: Comparison) -> NDArray[np.float64]:
    """Shannon rate of the mean error of the keys."""
    return metrics.shannon_rate(c.decoded.k_errors[0])


@register_metric("angle_k", "π")
def angle_k(c: Comparison) -> NDArray[np.float64]:
    """Mean angle between keys and their reconstructions, over pi."""
    return c.decoded.k_errors[1]


@register_metric("rate_v", "bits")
def rate_v(c: Comparison) -> NDArray[np.float64]:
    """Shannon rate of the mean error of the values."""
    return metrics.shannon_rate(c.decoded.v_errors[0])


@register_metric("angle_v", "π")
def angle_v(c: Comparison) -> NDArray[np.float64]:
    """Mean angle between values and their reconstructions, over pi."""
    return c.decoded.v_errors[1]


@register_metric("rate_t", "bits")
def rate_t(c: Comparison) -> NDArray[np.float64]:
    """Shannon rate of the mean error of the attention outputs."""
    return metrics.shannon_rate(c.t_errors[0])


@register_metric("angle_t", "π")
def angle_t(c: Comparison) -> NDArray[np.float64]:
    """Mean angle between attention outputs, over pi."""
    return c.t_errors[1]


@register_metric("top1_agreement")
def top1_agreement(c: Comparison) -> NDArray[np.float64]:
    """Share of rows whose largest attention weight stays at the same key."""
    return np.asarray((c.exact.largest(c.decoded.k) == c.exact.top_keys).mean(-1))


@register_metric("bits_per_coordinate", "bits")
def stored_bits(c: Comparison) -> NDArray[np.float64]:
    """Stored bits a coordinate, keys and values together, counted from the bytes."""
    return np.full(len(c.exact.k), c.decoded.bits)
