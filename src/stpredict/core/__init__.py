"""Checks, settings, devices, files: nothing here knows a container or a network."""
