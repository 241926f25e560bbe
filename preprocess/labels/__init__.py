"""Uncertainty as labels: pure functions over arrays."""
