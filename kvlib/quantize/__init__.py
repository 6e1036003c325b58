"""Quantizers of keys and values: what is stored, counted in bytes, and how it is read back."""

from kvlib.quantize.api import (
    Encoded,
    EncodedCache,
    GrowingCache,
    Quantizer,
    Scheme,
    bits_per_coordinate,
)
from kvlib.quantize.blocks import BlockEncoded, BlockQuantizer
from kvlib.quantize.growing import Growing
from kvlib.quantize.means import FewTokensWarning
from kvlib.quantize.registry import (
    FACTORIAL,
    TRAITS,
    UNBIASED,
    Format,
    format_of,
    formats,
    named,
    register,
)
from kvlib.quantize.rotated import SCALES, SIDE_DTYPES, RotatedEncoded, RotatedQuantizer
from kvlib.quantize.storage import load, save, storable

NAMES = FACTORIAL + UNBIASED
"""The seven schemes of rotated scalar codes that the book judges."""

__all__ = [
    "FACTORIAL",
    "NAMES",
    "SCALES",
    "SIDE_DTYPES",
    "TRAITS",
    "UNBIASED",
    "BlockEncoded",
    "BlockQuantizer",
    "Encoded",
    "EncodedCache",
    "FewTokensWarning",
    "Format",
    "Growing",
    "GrowingCache",
    "Quantizer",
    "RotatedEncoded",
    "RotatedQuantizer",
    "Scheme",
    "bits_per_coordinate",
    "format_of",
    "formats",
    "load",
    "named",
    "register",
    "save",
    "storable",
]
