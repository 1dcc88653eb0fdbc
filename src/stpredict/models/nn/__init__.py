"""Layers and blocks that networks are built of."""
