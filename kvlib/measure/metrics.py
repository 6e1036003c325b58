"""Error of reconstructed vectors: size, direction, and both as a point in six dimensions.

Vectors ``x`` and reconstructions ``x_hat`` have shape (..., tokens, d); leading axes broadcast,
so that several reconstructions can be measured against the same vectors at once.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kvlib.checks import as_real, as_vectors, check_choice, check_nonzero_norms

READINGS = ("one-minus-cosine", "angle", "chord")
"""The three plausible readings of "direction error"."""


def relative_mse(x: ArrayLike, x_hat: ArrayLike) -> NDArray[np.float64]:
    """Relative squared error ``|x - x_hat|^2 / |x|^2`` of each vector.

    Parameters
    ----------
    x, x_hat : array, shape (..., tokens, d)

    Returns
    -------
    ndarray, shape (..., tokens)
        Zero for an exact reconstruction, one for ``x_hat = 0``; not bounded above.

    Raises
    ------
    ValueError
        If the shapes differ, an entry is not finite, or some ``x`` is zero.
    """
    return _relative_mse(*_pair(x, x_hat, "x"), "x")


def aggregate_relative_mse(x: ArrayLike, x_hat: ArrayLike) -> NDArray[np.float64]:
    """Energy ratio ``sum |x - x_hat|^2 / sum |x|^2`` over the tokens, shape (...).

    Long vectors weigh more than in the mean of :func:`relative_mse`; single zero vectors are
    allowed, an all-zero set of them is refused.
    """
    x, x_hat = _pair(x, x_hat, "x")
    # As in relative_mse: dividing by the largest entry first keeps squares within range.
    peak = np.abs(x).max((-2, -1), keepdims=True)
    check_nonzero_norms(peak, "x")
    energy = np.square(x / peak).sum((-2, -1))
    return np.asarray(np.square((x - x_hat) / peak).sum((-2, -1)) / energy)


def direction_error(x: ArrayLike, x_hat: ArrayLike, reading: str = "angle") -> NDArray[np.float64]:
    """Error in direction of each vector, whatever the lengths of the two.

    Parameters
    ----------
    x, x_hat : array, shape (..., tokens, d)
        Nonzero vectors.
    reading : {"angle", "one-minus-cosine", "chord"}
        ``"angle"``: the angle over pi, in [0, 1]; ``"one-minus-cosine"``: in [0, 2];
        ``"chord"``: the distance of the two unit vectors, in [0, 2].

    Returns
    -------
    ndarray, shape (..., tokens)

    Raises
    ------
    ValueError
        If some ``x`` or ``x_hat`` is the zero vector, which has no direction; a 0-bit quantizer
        reconstructs nothing else.

    Notes
    -----
    The paper's direction error is not defined in the parts available to us, hence the three
    readings. All are computed from the chord: ``1 - cos`` by subtraction has no correct digit
    for angles below 1e-8. The angle is Kahan's ``2 atan2(|u - w|, |u + w|)``, accurate also for
    opposite vectors, where the arcsine of half the chord is not.
    """
    return _direction_error(*_pair(x, x_hat, "x"), reading, "x")


def shannon_rate(relative_mse: ArrayLike) -> NDArray[np.float64]:
    """Bits per coordinate at which an ideal Gaussian code has this relative squared error.

    Parameters
    ----------
    relative_mse : array
        Positive. Values above one give a negative rate: worse than sending nothing.

    Returns
    -------
    ndarray
        ``-log2(relative_mse) / 2``.

    Notes
    -----
    Inverse of the distortion-rate function ``D(R) = 4^-R`` of a memoryless Gaussian source of
    unit variance (Shannon, 1948; Cover and Thomas, theorem 10.3.2).
    """
    distortion = np.asarray(as_real(relative_mse, "relative_mse"), dtype=np.float64)
    if not (np.isfinite(distortion).all() and (distortion > 0).all()):
        raise ValueError(
            "relative_mse must be finite and > 0 (an exact reconstruction has no finite rate), "
            f"got minimum {distortion.min():.6g}"
        )
    return np.asarray(-np.log2(distortion) / 2)


def error_vector_6d(
    k: ArrayLike,
    k_hat: ArrayLike,
    v: ArrayLike,
    v_hat: ArrayLike,
    t: ArrayLike,
    t_hat: ArrayLike,
    reading: str = "angle",
) -> NDArray[np.float64]:
    """Six numbers a head: Shannon rate and direction error of keys, values and output.

    Parameters
    ----------
    k, k_hat, v, v_hat : array, shape (..., tokens, d)
        Keys and values with their reconstructions.
    t, t_hat : array, shape (..., queries, d)
        Attention output with exact and with quantized keys and values.
    reading : str
        Reading of the direction error, see :func:`direction_error`.

    Returns
    -------
    ndarray, shape (..., 6)
        ``(rate_K, phi_K, rate_V, phi_V, rate_T, phi_T)``: the rate in bits per coordinate of the
        mean relative squared error over the tokens, and the mean direction error.

    Notes
    -----
    This definition is ours. The paper compares schemes in a "6D" error space and draws a
    Shannon-phi plane, but its definition of the six coordinates is not available to us. The
    rate is taken of the mean error, not averaged over tokens, so that one token reconstructed
    exactly does not make it infinite.
    """
    columns = []
    for name, x, x_hat in (("k", k, k_hat), ("v", v, v_hat), ("t", t, t_hat)):
        exact, noisy = _pair(x, x_hat, name)
        columns.append(shannon_rate(_relative_mse(exact, noisy, name).mean(-1)))
        columns.append(_direction_error(exact, noisy, reading, name).mean(-1))
    return np.stack(np.broadcast_arrays(*columns), axis=-1)


def _pair(x: ArrayLike, x_hat: ArrayLike, name: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Check that ``x_hat`` can be a reconstruction of ``x``; return both in float64."""
    exact, noisy = as_vectors(x, name), as_vectors(x_hat, f"{name}_hat")
    if exact.shape[-2:] != noisy.shape[-2:]:
        raise ValueError(
            f"{name}_hat must have the tokens and coordinates of {name}, "
            f"got {noisy.shape} against {exact.shape}"
        )
    return exact.astype(np.float64), noisy.astype(np.float64)


def _relative_mse(x: NDArray[Any], x_hat: NDArray[Any], name: str) -> NDArray[np.float64]:
    peak = _peak(x, name)
    error, exact = (x - x_hat) / peak, x / peak
    return np.asarray(np.square(error).sum(-1) / np.square(exact).sum(-1))


def _direction_error(
    x: NDArray[Any], x_hat: NDArray[Any], reading: str, name: str
) -> NDArray[np.float64]:
    check_choice(reading, "reading", READINGS)
    u, w = _unit(x, name), _unit(x_hat, f"{name}_hat")
    chord = np.linalg.norm(u - w, axis=-1)
    if reading == "chord":
        return np.asarray(chord)
    if reading == "one-minus-cosine":
        return np.asarray(chord**2 / 2)
    return np.asarray(2 / np.pi * np.arctan2(chord, np.linalg.norm(u + w, axis=-1)))


def _unit(x: NDArray[Any], name: str) -> NDArray[Any]:
    scaled = x / _peak(x, name)
    return np.asarray(scaled / np.linalg.norm(scaled, axis=-1, keepdims=True))


def _peak(x: NDArray[Any], name: str) -> NDArray[Any]:
    """Largest absolute coordinate: dividing by it first keeps squares within range."""
    peak = np.asarray(np.abs(x).max(-1, keepdims=True))
    check_nonzero_norms(peak, name)
    return peak
