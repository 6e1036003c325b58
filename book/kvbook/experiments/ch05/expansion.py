"""The fourth order of T12 by computer algebra, held against a formula term by term."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import sympy  # type: ignore[import-untyped]

Formula = Callable[[Any, Any], Any]
"""(S2, S3) to the coefficient of sigma^4, in sympy's numbers."""

NORMAL_MOMENTS = (1, 0, 1, 0, 3)


def derived_formula(S2: Any, S3: Any) -> Any:
    """S3 - S2/4 - 3/4 S2^2, as T12 has it."""
    return S3 - S2 / 4 - sympy.Rational(3, 4) * S2**2


def shorter_formula(S2: Any, S3: Any) -> Any:
    """S3 - S2/4: the control, a condition without the last term."""
    return S3 - S2 / 4


def terms_that_differ(formula: Formula, keys: int = 4) -> int:
    """Coefficients in which the expansion of E KL and a formula differ, any row of so many keys.

    Both are polynomials in the weights of all keys but the last, whose weight is one minus the
    rest. The expansion is that of log Z in cumulants of the errors under p, averaged over
    independent standard normal errors.
    """
    weights = _weights(keys)
    S2, S3 = (sum(p**r for p in weights) for r in (2, 3))
    difference = sympy.expand(_fourth_order(keys) - formula(S2, S3))
    return len([c for c in sympy.Poly(difference, *weights[:-1]).coeffs() if c != 0])


def _weights(keys: int) -> list[Any]:
    free = list(sympy.symbols(f"p1:{keys}", positive=True))
    return [*free, 1 - sum(free)]


@lru_cache(maxsize=4)
def _fourth_order(keys: int) -> Any:
    """Mean of the fourth cumulant under p over 4!, for errors of variance one."""
    errors = sympy.symbols(f"x1:{keys + 1}")
    m = {r: sum(p * e**r for p, e in zip(_weights(keys), errors, strict=True)) for r in range(1, 5)}
    cumulant = m[4] - 4 * m[3] * m[1] - 3 * m[2] ** 2 + 12 * m[2] * m[1] ** 2 - 6 * m[1] ** 4
    terms = sympy.Poly(sympy.expand(cumulant), *errors).terms()
    mean = sum(c * sympy.prod([NORMAL_MOMENTS[e] for e in powers]) for powers, c in terms)
    return sympy.expand(mean / 24)
