"""Named schemes: what sweeps, figures and the command line know a pair of quantizers by.

A :class:`Format` is a name, a function that builds the :class:`~kvlib.quantize.api.Scheme`, what
it is like (traits), and how figures show it. Those of the book:

========  ====================================  ====================================
name      keys                                  values
========  ====================================  ====================================
KV        scalar, no rotation                   scalar, no rotation
WHT       rotated scalar                        rotated scalar
KQV       rotated scalar                        rotated scalar + sign sketch
QKV       rotated scalar + sign sketch          rotated scalar
QKQV      rotated scalar + sign sketch          rotated scalar + sign sketch
EDEN      rotated scalar, unbiased scale        rotated scalar, unbiased scale
C-EDEN    the same of key minus mean key        the same of value minus mean value
MINMAX    each token's range in equal steps     each token's range in equal steps
KIVI      each channel's range over 32 tokens   each token's range over 32 coordinates
========  ====================================  ====================================

KV, KQV and QKQV are D'Alberto's (arXiv:2605.08114); WHT and QKV complete the factorial. EDEN is
Vargaftik et al. (arXiv:2108.08842); C-EDEN encodes deviations from the mean over tokens, which the
softmax cannot see in a key and which costs d numbers a cache. KIVI is Liu et al.
(arXiv:2402.02750), without its window of recent tokens in full precision. At budget n every
coordinate costs n bits, an n-bit code, or an (n-1)-bit code and one sketched sign, besides what a
vector or a group stores once.

To add one of your own, see :func:`register`, or name it ``"module:function"``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from kvlib.catalogue import Catalogue, check_name
from kvlib.checks import check_bits, check_choice
from kvlib.quantize.api import Scheme
from kvlib.quantize.blocks import BlockQuantizer
from kvlib.quantize.rotated import RotatedQuantizer

FACTORIAL = ("KV", "WHT", "KQV", "QKV", "QKQV")
UNBIASED = ("EDEN", "C-EDEN")
TRAITS = ("rotated", "sketched", "centred", "unbiased", "grouped")

Builder = Callable[..., Scheme]


@dataclass(frozen=True)
class Format:
    """One row of the registry.

    Attributes
    ----------
    name : str
    build : callable
        ``build(bits, **options)`` returns the scheme.
    summary : str
        One line for lists.
    traits : frozenset of str
        Some of :data:`TRAITS`.
    options : tuple of str
        Options that change what is built; a sweep crosses its axes with these only.
    color, marker : str
        Matplotlib's, the same in every figure.
    module : str
        Where ``build`` is defined: a worker process imports it to know the name, too.
    """

    name: str
    build: Builder
    summary: str
    traits: frozenset[str]
    options: tuple[str, ...]
    color: str
    marker: str
    module: str

    @property
    def keywords(self) -> tuple[str, ...]:
        """All options that the builder takes, also those that change nothing here."""
        return _keywords(self.build)


def _unregistered(name: str, build: Builder, module: str) -> Format:
    return Format(name, build, "", frozenset(), _keywords(build), "#555555", "o", module)


_FORMATS: Catalogue[Format] = Catalogue(lambda entry: entry.build, _unregistered)


def register(
    name: str,
    *,
    summary: str = "",
    traits: Iterable[str] = (),
    options: Iterable[str] | None = None,
    color: str = "#555555",
    marker: str = "o",
) -> Callable[[Builder], Builder]:
    """Give a builder a name, as a decorator.

    Parameters
    ----------
    name : str
        Not yet taken by another builder, without a colon.
    summary, traits, options, color, marker
        See :class:`Format`. The options are the builder's keyword parameters by default.

    Raises
    ------
    TypeError, ValueError
        If the name is no string or taken, or a trait is unknown.

    Examples
    --------
    >>> from kvlib import BlockQuantizer, RotatedQuantizer, Scheme, named
    >>> @register("CHANNEL-K", color="#7A5", marker="v", traits=("grouped",))
    ... def channel_keys(bits):
    ...     key = BlockQuantizer(bits, along="tokens", size=32)
    ...     return Scheme("CHANNEL-K", key, RotatedQuantizer(bits, scale="unbiased"))
    >>> named("CHANNEL-K", 4).key.along
    'tokens'
    """
    given = check_name(name)
    chosen = frozenset(check_choice(trait, "traits", TRAITS) for trait in traits)

    def enter(build: Builder) -> Builder:
        keywords = _keywords(build) if options is None else tuple(options)
        module = build.__module__
        _FORMATS.enter(Format(given, build, summary, chosen, keywords, color, marker, module))
        return build

    return enter


@lru_cache(maxsize=256)
def _keywords(build: Builder) -> tuple[str, ...]:
    """Parameters of a builder after the first, which is the budget."""
    parameters = list(inspect.signature(build).parameters.values())[1:]
    return tuple(p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD))


def formats() -> dict[str, Format]:
    """All registered formats by name, the book's first."""
    return dict(_FORMATS.rows)


def format_of(name: str) -> Format:
    """The format of a name, or of a function named ``"module:function"``, which is imported.

    Raises
    ------
    TypeError, ValueError
        If nothing has that name, or the module or its function is not there.
    """
    return _FORMATS.find(name)


def named(name: str, bits: int, **options: Any) -> Scheme:
    """The scheme of a name at budget ``bits`` a coordinate (see the module's table).

    Parameters
    ----------
    name : str
        A registered name, or ``"module:function"``.
    bits : int
        n, 1 to 8, for keys and for values alike.
    **options
        Of the book's rotated schemes: ``rotation`` ("hadamard", "haar", "none") and ``rounds``;
        KV has none. ``sketch`` ("gaussian", "haar", "hadamard") and ``sketch_scale`` ("unbiased",
        "mmse") of the sketched caches. ``scale`` ("norm", "matched", "unbiased") and
        ``side_dtype`` of every quantizer that can have them: a sketched 1-bit budget has no
        codebook to rescale and keeps its residual norm only. EDEN and C-EDEN are unbiased whatever
        ``scale``; ``block`` gives C-EDEN a mean for every so many tokens. Options that a scheme of
        this family has no use for are checked and change nothing.

    Raises
    ------
    TypeError, ValueError
        If name, budget or an option is unknown.

    Examples
    --------
    >>> named("QKQV", 4, sketch="hadamard").key.codebook_bits
    3

    Notes
    -----
    C-EDEN keeps the unbiased scale for its values, too. Let g be the energy of an attention
    output's deviation from the mean value over what it would be if the attended deviations were
    uncorrelated, and D the codebook's distortion. The output's relative error is then
    D (1 - D + D g) with the norm as scale, D / (1 - D) with the unbiased one: at g = 1 the norm is
    better by 1 / (1 - D) and no more, past g = (2 - D) / (1 - D), about 2, it is worse without
    limit. (Where D < 3 / d the unbiased scale has the smaller error even at g = 1.)
    """
    entry = format_of(name)
    known = entry.keywords
    unknown = [option for option in options if option not in known]
    if unknown:
        takes = f"takes {', '.join(known)}" if known else "takes no option"
        raise TypeError(f"{name} {takes}, got {', '.join(unknown)}")
    scheme = entry.build(check_bits(bits, low=1), **options)
    if not isinstance(scheme, Scheme):
        raise TypeError(f"{name} must build a Scheme, got {scheme!r}")
    return scheme


# The book's ------------------------------------------------------------------------------------


def _rotated_scheme(name: str, *, key_sketched: bool, value_sketched: bool) -> Builder:
    """Builder of a scheme of two rotated scalar quantizers, with the options of the family."""

    def build(
        bits: int,
        *,
        rotation: str = "hadamard",
        rounds: int = 1,
        sketch: str = "gaussian",
        sketch_scale: str = "unbiased",
        scale: str = "norm",
        side_dtype: str = "float16",
        block: int | None = None,
    ) -> Scheme:
        # Check what this scheme does not use, too: a misspelt option must not pass in silence.
        RotatedQuantizer(
            8,
            rotation=rotation,
            rounds=rounds,
            sketch=sketch,
            sketch_scale=sketch_scale,
            scale=scale,
            side_dtype=side_dtype,
            center=True,
            block=block,
        )

        def quantizer(sketched: bool) -> RotatedQuantizer:
            chosen = "unbiased" if name in UNBIASED else scale
            return RotatedQuantizer(
                bits,
                rotation="none" if name == "KV" else rotation,
                rounds=1 if name == "KV" else rounds,
                sketch=sketch if sketched else None,
                sketch_scale=sketch_scale,
                scale="norm" if sketched and bits == 1 else chosen,
                side_dtype=side_dtype,
                center=name == "C-EDEN",
                block=block if name == "C-EDEN" else None,
            )

        return Scheme(name, quantizer(key_sketched), quantizer(value_sketched))

    build.__qualname__ = f"named[{name}]"
    return build


def _register_rotated() -> None:
    """The factorial and the unbiased schemes.

    Hues of D'Alberto's figure 3: KQV red, QKQV purple, KV green. The shades keep apart under
    protanopia, deuteranopia and tritanopia, and each has a contrast above 3 on white.
    """
    for name, key_sketched, value_sketched, color, marker in (
        ("KV", False, False, "#0A6853", "s"),
        ("WHT", False, False, "#429BCC", "D"),
        ("KQV", False, True, "#AA1F10", "o"),
        ("QKV", True, False, "#D17F04", "v"),
        ("QKQV", True, True, "#5F3B91", "^"),
        ("EDEN", False, False, "#0F213D", "P"),
        ("C-EDEN", False, False, "#242DF3", "*"),
    ):
        sketched = key_sketched or value_sketched
        traits = {
            "rotated": name != "KV",
            "sketched": sketched,
            "centred": name == "C-EDEN",
            "unbiased": name in UNBIASED,
        }
        options = {
            "rotation": name != "KV",
            "sketch": sketched,
            "sketch_scale": sketched,
            "scale": name not in UNBIASED,
        }
        register(
            name,
            summary=_SUMMARIES[name],
            traits=[trait for trait, has in traits.items() if has],
            options=[option for option, has in options.items() if has],
            color=color,
            marker=marker,
        )(_rotated_scheme(name, key_sketched=key_sketched, value_sketched=value_sketched))


_SUMMARIES = {
    "KV": "scalar codes, no rotation",
    "WHT": "rotated scalar codes",
    "KQV": "rotated scalar codes, values sketched",
    "QKV": "rotated scalar codes, keys sketched",
    "QKQV": "rotated scalar codes, both sketched",
    "EDEN": "rotated scalar codes, unbiased scale",
    "C-EDEN": "the same of deviations from the tokens' mean",
}
_register_rotated()


@register(
    "MINMAX",
    summary="each token's range in equal steps",
    traits=("grouped",),
    options=(),
    color="#889966",
    marker="X",
)
def min_max(bits: int, *, size: int | None = None, side_dtype: str = "float16") -> Scheme:
    """Groups of ``size`` coordinates of a token (all of them by default), keys and values alike."""
    quantizer = BlockQuantizer(bits, size=size, side_dtype=side_dtype)
    return Scheme("MINMAX", quantizer, quantizer)


@register(
    "KIVI",
    summary="keys by channel over 32 tokens, values by token over 32 coordinates",
    traits=("grouped",),
    options=(),
    color="#BB66FF",
    marker="h",
)
def kivi(bits: int, *, size: int = 32, side_dtype: str = "float16") -> Scheme:
    """Keys in groups of ``size`` tokens of a channel, values in groups of their coordinates."""
    key = BlockQuantizer(bits, along="tokens", size=size, side_dtype=side_dtype)
    return Scheme("KIVI", key, BlockQuantizer(bits, size=size, side_dtype=side_dtype))
