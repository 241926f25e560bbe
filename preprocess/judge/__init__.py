"""A capable model as the judge of a sample."""
