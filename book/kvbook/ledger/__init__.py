"""The ledger: what is claimed, what was predicted, what was measured, and the verdict by rule."""

from kvbook.ledger.rules import *  # noqa: F403
