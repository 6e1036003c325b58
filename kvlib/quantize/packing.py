"""Pack small integer codes into bytes and back: storage is real, so its bytes can be counted.

Each vector starts on a byte boundary, so that any token can be decoded alone. For d * bits not a
multiple of eight (small d only) the padding is stored, and counted.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kvlib.checks import as_bytes, check_bits, check_int

ByteArray = NDArray[np.uint8]


def bytes_per_vector(dim: int, bits: int) -> int:
    """Bytes that ``dim`` codes of ``bits`` bits take."""
    return -(-check_int(dim, "dim", low=1) * check_bits(bits) // 8)


def pack(codes: ByteArray, bits: int) -> ByteArray:
    """Pack codes of ``bits`` bits each along the last axis.

    Parameters
    ----------
    codes : uint8 array, shape (..., dim)
        Each below 2**bits.
    bits : int
        0 to 8; zero bits pack into zero bytes.

    Returns
    -------
    uint8 array, shape (..., ceil(dim * bits / 8))
        Little-endian bit order within each byte and each code.
    """
    n, codes = check_bits(bits), as_bytes(codes, "codes")
    if codes.size and int(codes.max()) >= 2**n:
        raise ValueError(f"codes must be below {2**n} for bits={n}, got {int(codes.max())}")
    if n == 8:
        return codes.copy()
    planes = np.unpackbits(codes[..., None], axis=-1, count=n, bitorder="little")
    planes = planes.reshape(*codes.shape[:-1], codes.shape[-1] * n)
    return np.packbits(planes, axis=-1, bitorder="little")


def unpack(packed: ByteArray, bits: int, dim: int) -> ByteArray:
    """Inverse of :func:`pack`; ``packed`` has shape (..., ceil(dim * bits / 8)).

    Raises
    ------
    ValueError
        If the last axis of ``packed`` is not as long as ``dim`` codes of ``bits`` bits need.
    """
    n, dim, packed = check_bits(bits), check_int(dim, "dim", low=1), as_bytes(packed, "packed")
    expected = bytes_per_vector(dim, n)
    if packed.shape[-1] != expected:
        raise ValueError(
            f"packed must hold {expected} bytes a vector for dim={dim} and bits={n}, "
            f"got {packed.shape[-1]}"
        )
    if n == 8:
        return packed.copy()
    planes = np.unpackbits(packed, axis=-1, count=dim * n, bitorder="little")
    planes = planes.reshape(*packed.shape[:-1], dim, n)
    if n == 0:
        return np.zeros(planes.shape[:-1], dtype=np.uint8)
    return np.packbits(planes, axis=-1, bitorder="little")[..., 0]
