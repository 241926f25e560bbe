"""Trainers of Axolotl with our loss, order and metrics."""
