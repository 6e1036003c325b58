"""Quantizers of keys and values: what is stored, counted in bytes, and how it is read back."""

from kvlib.quantize.api import EncodedCache, Scheme
from kvlib.quantize.registry import FACTORIAL, NAMES, UNBIASED, named
from kvlib.quantize.rotated import SCALES, SIDE_DTYPES, RotatedEncoded, RotatedQuantizer

__all__ = [
    "FACTORIAL",
    "NAMES",
    "SCALES",
    "SIDE_DTYPES",
    "UNBIASED",
    "EncodedCache",
    "RotatedEncoded",
    "RotatedQuantizer",
    "Scheme",
    "named",
]
