"""Means that are subtracted before vectors are encoded, and stored beside their codes."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kvlib.checks import FloatArray, as_booleans, as_finite


class FewTokensWarning(UserWarning):
    """A mean was taken of so few tokens that it costs more than it is worth.

    A mean of d numbers of 16 bits for fewer than 2 d tokens costs more than half of what their
    scales do, and of one token it is the vector itself: bits and error are then no longer those of
    the codes. Give a mean of more tokens (``mean=``), or grow from the whole prompt.
    """


def of_tokens(
    x: FloatArray, counted: NDArray[np.bool_] | None, block: int | None, dtype: str
) -> FloatArray:
    """Means over the tokens of each block that are counted, as they are stored.

    Parameters
    ----------
    x : array, shape (..., tokens, d)
    counted : array of bool, shape (..., tokens), or None for all
    block : int or None
        Tokens of a block, None for all in one.
    dtype : str
        Of the stored numbers.

    Returns
    -------
    array, shape (..., blocks, d)
        Zero where no token is counted.

    Raises
    ------
    ValueError
        If a mean would overflow, or every entry of a block is too small to store. Where the largest
        entry is a normal number, deviations that are not lose digits that no vector of that size
        has.
    """
    size = x.shape[-2] if block is None else block
    means = []
    for start in range(0, x.shape[-2], size):
        own = x[..., start : start + size, :]
        means.append(_mean(own, _cut(counted, start, start + size), dtype))
    return means[0] if len(means) == 1 else np.concatenate(means, axis=-2)


def _cut(counted: NDArray[np.bool_] | None, start: int, stop: int) -> NDArray[np.bool_] | None:
    return None if counted is None else counted[..., start:stop]


def _mean(x: FloatArray, counted: NDArray[np.bool_] | None, dtype: str) -> FloatArray:
    own = x if counted is None else np.where(counted[..., None], x, 0)
    check_peaks(np.abs(own).max(axis=(-2, -1)), dtype)
    if counted is None:
        return np.asarray(x.mean(axis=-2, keepdims=True, dtype=np.float64).astype(dtype))
    total = own.sum(axis=-2, keepdims=True, dtype=np.float64)
    count = np.maximum(counted.sum(axis=-1), 1)[..., None, None]
    return np.asarray((total / count).astype(dtype))


def given(mean: ArrayLike, x: FloatArray, dtype: str) -> FloatArray:
    """A mean of one's own as it is stored, shape (..., 1, d).

    Raises
    ------
    TypeError, ValueError
        If it is not finite, does not broadcast to that shape, or overflows when stored.
    """
    array = as_finite(mean, "mean")
    shape = (*x.shape[:-2], 1, x.shape[-1])
    try:
        full = np.broadcast_to(array, shape)
    except ValueError:
        raise ValueError(
            f"mean must broadcast to {shape}, one vector for all tokens, got shape {array.shape}"
        ) from None
    check_peaks(np.abs(full).max(axis=(-2, -1)), dtype)
    return np.array(full, dtype=dtype)


def over_tokens(mean: FloatArray, tokens: int, block: int | None) -> FloatArray:
    """The mean of each token, to broadcast against (..., tokens, d)."""
    if block is None:
        return mean
    return np.repeat(mean, block, axis=-2)[..., :tokens, :]


def counted_tokens(mask: ArrayLike | None, x: FloatArray) -> NDArray[np.bool_] | None:
    """The mask of the tokens of ``x`` that count, shape (..., tokens); None for all."""
    if mask is None:
        return None
    array = as_booleans(mask, "mask")
    try:
        return np.broadcast_to(array, x.shape[:-1])
    except ValueError:
        raise ValueError(
            f"mask must broadcast to {x.shape[:-1]}, the axes of x before the last, got shape "
            f"{array.shape}"
        ) from None


def warn_of_few(tokens: int, dim: int) -> None:
    """Warn where a mean is taken of fewer than 2 d tokens."""
    if tokens < 2 * dim:
        warnings.warn(
            f"center takes the mean of {tokens} tokens, fewer than 2 d = {2 * dim}: its {dim} "
            "numbers, stored beside the codes, take in much of what the codes should hold. Give a "
            "mean of more tokens (mean=), or grow from the whole prompt",
            FewTokensWarning,
            stacklevel=4,
        )


def check_peaks(peaks: FloatArray, dtype: str) -> None:
    """Refuse largest entries that their stored type cannot hold."""
    limits = np.finfo(dtype)
    if ((peaks > limits.max) | ((peaks > 0) & (peaks < limits.smallest_normal))).any():
        raise cannot_hold("the mean of entries", peaks, dtype)


def cannot_hold(what: str, numbers: FloatArray, dtype: str) -> ValueError:
    """The error of numbers beyond their stored type."""
    remedy = "rescale the vectors"
    if dtype == "float16":
        remedy = f"use side_dtype='float32' or {remedy}"
    return ValueError(
        f"side_dtype={dtype!r} cannot hold {what} from {numbers.min():.3g} to "
        f"{numbers.max():.3g}; {remedy}"
    )
