"""Which row is trained when."""
