"""Experiments of the chapters: draw, predict, measure.

Some centre short caches on purpose, to see what a mean is worth: they are not warned of it.
"""

import warnings

from kvlib.quantize import FewTokensWarning

warnings.filterwarnings("ignore", category=FewTokensWarning)
