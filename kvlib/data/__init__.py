"""Queries, keys and values: captured from models, or drawn from synthetic families."""
