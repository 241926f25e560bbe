"""Models on held-out data: what is read, generated, compared and written down."""
