"""Loss functions: pure torch, formula at the top of each file."""
