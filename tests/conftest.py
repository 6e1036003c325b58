"""Hypothesis draws the same examples in every run, and a slow machine is not a failure."""

import signal

from hypothesis import settings

settings.register_profile("reproducible", derandomize=True, deadline=None)
settings.load_profile("reproducible")

# A shell starts background jobs deaf to Ctrl-C, and so would be the commands that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config):
    """Tests centre a handful of vectors all the time."""
    config.addinivalue_line("filterwarnings", "ignore::kvlib.quantize.FewTokensWarning")
