"""Measuring trained models: accuracy from prediction records (`metrics`), time and memory (`cost`)."""
