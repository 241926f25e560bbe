"""Scores as uncertainties and uncertainties as smoothing: what annotating and training share."""
