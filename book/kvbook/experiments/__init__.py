"""Experiments of the chapters: draw, predict, measure."""
