"""The CLI half: how uncertain is each sample? Installed as `axolotl_ual.preprocess`."""
