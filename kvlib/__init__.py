"""Quantizers and metrics for the KV cache of transformers.

The rooms form a stream; each imports only from those before it:

``checks``, ``files``, ``sources`` -> ``laws`` (closed forms) -> ``quantize`` -> ``measure`` ->
``stats`` -> ``data`` -> ``sweeps`` -> ``bench`` -> ``cli``.

``laws`` holds what is derived; nothing that measures imports it (but for the law of the sphere,
which codebooks are made for), so that every number can be had in two independent ways.

The names that are typed most can be had from here, ``from kvlib import named, attention_kl``; they
are imported when first used, so that importing kvlib costs nothing.
"""

from typing import TYPE_CHECKING

from kvlib.lazy import lazy_names

__version__ = "0.1.0"

LAZY = {
    "BlockQuantizer": "kvlib.quantize",
    "EncodedCache": "kvlib.quantize",
    "Family": "kvlib.data.synthetic",
    "KVCache": "kvlib.data.captured",
    "Quantizer": "kvlib.quantize",
    "RotatedQuantizer": "kvlib.quantize",
    "Scheme": "kvlib.quantize",
    "attention_kl": "kvlib.measure.attention",
    "attention_output": "kvlib.measure.attention",
    "attention_weights": "kvlib.measure.attention",
    "load": "kvlib.data.captured",
    "mean_interval": "kvlib.stats",
    "named": "kvlib.quantize",
    "register": "kvlib.quantize",
    "relative_mse": "kvlib.measure.metrics",
    "save": "kvlib.data.captured",
}

if TYPE_CHECKING:
    from kvlib.data.captured import KVCache, load, save
    from kvlib.data.synthetic import Family
    from kvlib.measure.attention import attention_kl, attention_output, attention_weights
    from kvlib.measure.metrics import relative_mse
    from kvlib.quantize import (
        BlockQuantizer,
        EncodedCache,
        Quantizer,
        RotatedQuantizer,
        Scheme,
        named,
        register,
    )
    from kvlib.stats import mean_interval

__all__ = [
    "BlockQuantizer",
    "EncodedCache",
    "Family",
    "KVCache",
    "Quantizer",
    "RotatedQuantizer",
    "Scheme",
    "__version__",
    "attention_kl",
    "attention_output",
    "attention_weights",
    "load",
    "mean_interval",
    "named",
    "register",
    "relative_mse",
    "save",
]

__getattr__, __dir__ = lazy_names(__name__, LAZY)
