"""Models on this machine: loading, likelihood, generation, classification."""
