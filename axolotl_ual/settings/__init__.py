"""What the `ual:` block of a recipe may say, and what is refused."""
