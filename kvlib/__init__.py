"""Quantizers and metrics for the KV cache of transformers.

The modules form a stream; each imports only from those before it:

``sphere`` -> ``rotations`` -> ``codebooks`` -> ``packing`` -> ``sketches`` -> ``schemes``
-> ``attention`` -> ``metrics`` -> ``inference`` -> ``caches`` -> ``sweeps`` -> ``theory``
-> ``splitting`` -> ``claims`` -> ``plotting``.

``theory`` and ``splitting`` hold what is derived and import ``sphere`` only; nothing that measures
imports them, so that every number can be had in two independent ways.

Import the module you need (``from kvlib import schemes``); this package file imports none of
them, so that importing kvlib costs nothing and a chapter depends on exactly what it names.
"""

__version__ = "0.1.0"
