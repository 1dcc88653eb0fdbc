"""Targets and predictions in the slots of an object: one file per kind of target."""
