"""Fit, cross-validate and predict."""
