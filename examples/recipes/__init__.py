"""Recipes as package data: what `axolotl-ual recipes` lists, shows and copies."""
