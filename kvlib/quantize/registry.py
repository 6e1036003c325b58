"""Schemes for compressing keys and values, as data: encode to packed bytes, decode, count bits.

A :class:`RotatedQuantizer` says how one kind of vector is stored; a :class:`Scheme` pairs one for
the keys with one for the values. :func:`named` builds the seven of the book:

======  ===================================  ===================================
name    keys                                 values
======  ===================================  ===================================
KV      scalar, no rotation                  scalar, no rotation
WHT     rotated scalar                       rotated scalar
KQV     rotated scalar                       rotated scalar + sign sketch
QKV     rotated scalar + sign sketch         rotated scalar
QKQV    rotated scalar + sign sketch         rotated scalar + sign sketch
EDEN    rotated scalar, unbiased scale       rotated scalar, unbiased scale
C-EDEN  the same of key minus mean key       the same of value minus mean value
======  ===================================  ===================================

KV, KQV and QKQV are D'Alberto's (arXiv:2605.08114); WHT and QKV complete the factorial. EDEN is
Vargaftik et al. (arXiv:2108.08842); C-EDEN, the book's own, encodes deviations from the mean over
tokens, which the softmax cannot see in a key and which costs d numbers a cache. At budget n every
coordinate costs n bits: an n-bit code, or an (n-1)-bit code and one sketched sign.
"""

from __future__ import annotations

from kvlib.checks import check_bits, check_choice
from kvlib.quantize.api import Scheme
from kvlib.quantize.rotated import RotatedQuantizer

FACTORIAL = ("KV", "WHT", "KQV", "QKV", "QKQV")
UNBIASED = ("EDEN", "C-EDEN")
NAMES = FACTORIAL + UNBIASED


def named(
    name: str,
    bits: int,
    *,
    rotation: str = "hadamard",
    rounds: int = 1,
    sketch: str = "gaussian",
    sketch_scale: str = "unbiased",
    scale: str = "norm",
    side_dtype: str = "float16",
) -> Scheme:
    """One of the book's seven schemes at budget ``bits`` a coordinate (see the module's table).

    Parameters
    ----------
    name : {"KV", "WHT", "KQV", "QKV", "QKQV", "EDEN", "C-EDEN"}
    bits : int
        n, 1 to 8, for keys and for values alike.
    rotation, rounds
        Of the rotated schemes; KV has none.
    sketch, sketch_scale
        Of the sketched caches.
    scale, side_dtype
        Of every quantizer that can have them: a sketched 1-bit budget has no codebook to rescale
        and keeps its residual norm only. EDEN and C-EDEN are unbiased whatever ``scale``.

    Notes
    -----
    C-EDEN keeps the unbiased scale for its values, too. Let g be the energy of an attention
    output's deviation from the mean value over what it would be if the attended deviations were
    uncorrelated, and D the codebook's distortion. The output's relative error is then
    D (1 - D + D g) with the norm as scale, D / (1 - D) with the unbiased one: at g = 1 the norm is
    better by 1 / (1 - D) and no more, past g = (2 - D) / (1 - D), about 2, it is worse without
    limit. (Where D < 3 / d the unbiased scale has the smaller error even at g = 1.)
    """
    check_choice(name, "name", NAMES)
    check_bits(bits, low=1)
    # Check what this scheme does not use, too: a misspelt option must not pass in silence.
    RotatedQuantizer(
        8,
        rotation=rotation,
        rounds=rounds,
        sketch=sketch,
        sketch_scale=sketch_scale,
        scale=scale,
        side_dtype=side_dtype,
    )

    if name in UNBIASED:
        scale = "unbiased"

    def quantizer(sketched: bool) -> RotatedQuantizer:
        return RotatedQuantizer(
            bits,
            rotation="none" if name == "KV" else rotation,
            rounds=1 if name == "KV" else rounds,
            sketch=sketch if sketched else None,
            sketch_scale=sketch_scale,
            scale="norm" if sketched and bits == 1 else scale,
            side_dtype=side_dtype,
            center=name == "C-EDEN",
        )

    return Scheme(name, quantizer(name in ("QKV", "QKQV")), quantizer(name in ("KQV", "QKQV")))
