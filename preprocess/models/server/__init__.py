"""One OpenAI-compatible server: its wire, its dialect, its limits."""
