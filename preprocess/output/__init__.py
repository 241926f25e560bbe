"""The folder that a command leaves: tables, manifest, card."""
