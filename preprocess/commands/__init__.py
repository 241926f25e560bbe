"""One file a command: the order of its steps, and nothing else."""
