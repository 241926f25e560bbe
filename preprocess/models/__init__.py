"""Models that are asked: behind a server, or on this machine."""
