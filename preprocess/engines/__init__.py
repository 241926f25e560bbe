"""How rows are worked off: in this process, or elsewhere."""
