"""From a recipe to samples and prompts: the only reader of datasets."""
