"""Figures of the chapters: each draws what an experiment measured."""
