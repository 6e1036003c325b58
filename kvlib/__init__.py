"""Quantizers and metrics for the KV cache of transformers.

The modules form a stream; each imports only from those above it:

``sphere`` -> ``rotations`` -> ``codebooks`` -> ``sketches`` -> ``schemes`` -> ``attention``
-> ``metrics`` -> ``inference`` -> ``caches`` -> ``theory`` -> ``claims`` -> ``plotting``.

Import the module you need (``from kvlib import schemes``); this package file imports none of
them, so that importing kvlib costs nothing and a chapter depends on exactly what it names.
"""

__version__ = "0.1.0"
