"""Measures of a trained model: likelihood and calibration."""
