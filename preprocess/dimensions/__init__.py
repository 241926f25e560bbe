"""Uncertainty of a sampled response: semantic, factual, value."""
