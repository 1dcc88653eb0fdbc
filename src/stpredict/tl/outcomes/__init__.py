"""Outcomes of patients from maps of their slides."""
