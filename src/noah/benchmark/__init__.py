"""Measuring one way of doing something against another, in turns, on one machine."""
