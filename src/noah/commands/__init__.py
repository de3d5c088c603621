"""The verbs of `noah`, by what they work on: each parses, calls one function and prints."""
