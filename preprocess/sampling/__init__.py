"""Several responses to each prompt, from a server or a local model."""
