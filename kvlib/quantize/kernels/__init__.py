"""Compiled code for float32 vectors, and the threads that run it."""
