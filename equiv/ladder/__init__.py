"""Rungs of the ladder: each takes two callables and returns evidence."""
