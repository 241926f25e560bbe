"""The documentation as package data: what `axolotl-ual agent-docs` prints."""
