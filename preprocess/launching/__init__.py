"""A recipe as a chain of cluster jobs: annotate, then train, then evaluate."""
